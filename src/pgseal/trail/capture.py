"""Generates the trigger function that captures one table. Pure: catalog facts in, SQL out.

Why generated, and why like this (DESIGN.md, "Capture"):

- The function is SECURITY DEFINER, so nothing a user can define may run inside it. Only values of the built-in
  types of FORMATS.md §1 meet ``to_jsonb``; all others are printed by their output function. Columns are listed by
  name: ``to_jsonb(NEW)`` would run a cast to json that came with a column added later.
- One INSERT … SELECT per row and nothing else; the calls that PL/pgSQL would make beside it cost more than they say.
- ``new`` is the whole row. For UPDATE ``old`` holds the former values of the columns that changed; the whole old row
  is ``new || old``. Whether a column changed is decided on text, not on the type's equality, for which 1.0 is 1.00.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from psycopg import sql

from pgseal.postgres import OUTPUT_SETTINGS
from pgseal.trail.catalog import Column, Encoding, Table, TablePart

ROW_TRIGGER = "pgseal_capture"
TRUNCATE_TRIGGER = "pgseal_capture_truncate"
MASKS = ("hash", "redact")
REDACTED = "[redacted]"
_ARGUMENTS_LIMIT = 90  # a function takes at most 100 arguments

_OUTPUT = frozenset({Encoding.OUTPUT, Encoding.OUTPUT_ROW})


def capture_name(relation: str) -> str:
    """Name the capture function of a relation: readable, unique, at most 63 bytes."""
    digest = hashlib.sha256(relation.encode()).hexdigest()[:10]
    return f"capture_{re.sub('[^a-z0-9_]', '_', relation.lower())[:40]}_{digest}"


@dataclass(frozen=True, slots=True)
class TableRule:
    """How one table is to be captured: columns to leave out, columns to mask (``hash`` or ``redact``)."""

    exclude: Sequence[str] = ()
    mask: Mapping[str, str] = field(default_factory=dict[str, str])


def format_capture_function(table: Table, rule: TableRule) -> sql.Composed:
    """Write the CREATE FUNCTION statement that captures INSERT, UPDATE and DELETE of ``table``."""
    mask = rule.mask
    columns = [column for column in table.columns if column.name not in rule.exclude]
    key = [column for column in table.columns if column.name in table.key]
    settings = sql.SQL(" ").join(
        sql.SQL("SET {} = {}").format(sql.Identifier(name.lower()), sql.Literal(value))
        for name, value in OUTPUT_SETTINGS.items()
    )
    body = _BODY.format(
        update=_capture(table, "UPDATE", _Images(key, "old", columns, "new"), mask, old=_changes(columns, mask)),
        insert=_capture(table, "INSERT", _Images(key, "new", columns, "new"), mask),
        delete=_capture(table, "DELETE", _Images(key, "old", columns, "old"), mask),
    )
    return _FUNCTION.format(
        name=sql.Identifier("audit", capture_name(table.relation)),
        settings=settings,
        body=sql.Literal(body.as_string()),  # a dollar quote could occur in a column's name
    )


def format_snapshot_insert(
    table: Table, part: TablePart, rule: TableRule, *, first_id: int, first_page: int, end_page: int
) -> sql.Composed:
    """Write the INSERT that records the rows on pages [first_page, end_page) of ``part`` as SNAPSHOT records."""
    columns = [column for column in table.columns if column.name not in rule.exclude]
    key = [column for column in table.columns if column.name in table.key]
    images = _Images(key, "new", columns, "new")
    return sql.SQL(
        "INSERT INTO audit.record ({columns}) SELECT {first_id} + row_number() OVER () - 1, {values} "
        'FROM ONLY {table} AS "new" {images} WHERE "new".ctid >= {begin}::tid AND "new".ctid < {end}::tid',
    ).format(
        columns=_COLUMNS,
        first_id=sql.Literal(first_id),
        values=_values(table.relation, "SNAPSHOT", images, claim=_NULL),
        table=part.identifier,
        images=sql.SQL("").join(sql.SQL("CROSS JOIN LATERAL {} ").format(item) for item in images.items(rule.mask)),
        begin=sql.Literal(f"({first_page},0)"),
        end=sql.Literal(f"({end_page},0)"),
    )


@dataclass(frozen=True, slots=True)
class _Images:
    """The key and the row as subqueries of built-in values, which ``to_jsonb`` prints whole.

    Subqueries in FROM are flattened into the statement; in the SELECT list each would run as a plan of its own.
    (``jsonb_build_object`` stops at 50 pairs and costs more.)
    """

    key: Sequence[Column]
    key_row: str
    columns: Sequence[Column]
    row: str

    def items(self, mask: Mapping[str, str]) -> Iterable[sql.Composed]:
        if self.key:
            yield _subquery(self.key, self.key_row, {}, "key_image")
        yield _subquery(self.columns, self.row, mask, "row_image")

    @property
    def key_value(self) -> sql.Composable:
        return sql.SQL("to_jsonb(key_image)") if self.key else _NULL


_ROW_VALUE = sql.SQL("to_jsonb(row_image)")


def _subquery(columns: Sequence[Column], row: str, mask: Mapping[str, str], alias: str) -> sql.Composed:
    values = sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(_value(column, row, mask), sql.Identifier(column.name)) for column in columns
    )
    return sql.SQL("(SELECT {}) AS {}").format(values, sql.Identifier(alias))


_NULL = sql.SQL("NULL")
_COLUMNS = sql.SQL(
    "id, recorded_at, xid, pid, source, category, action, outcome, relation, key, old, new, "
    "session_role, effective_role, application, address, claimed",
)

_FUNCTION = sql.SQL("""\
CREATE OR REPLACE FUNCTION {name}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp {settings}
AS {body}""")

_BODY = sql.SQL("""\
-- Generated by pgseal from the table's columns and the policy; pgseal track writes it anew.
DECLARE
    context text := current_setting('pgseal.context', true);
    claim   jsonb;
BEGIN
    IF context <> '' THEN
        claim := audit.claimed(context);
    END IF;
    IF TG_OP = 'UPDATE' THEN
        {update}
    ELSIF TG_OP = 'INSERT' THEN
        {insert}
    ELSE
        {delete}
    END IF;
    RETURN NULL;
END
""")


def _capture(
    table: Table, action: str, images: _Images, mask: Mapping[str, str], old: sql.Composable | None = None
) -> sql.Composed:
    # The CASE draws the id after the transaction has its xid, also where nothing local was written before
    # (foreign tables): the feed relies on it.
    return sql.SQL(
        "INSERT INTO audit.record ({columns}) SELECT "
        "CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('audit.record_id_seq') END, {values} FROM {images};",
    ).format(
        columns=_COLUMNS,
        values=_values(table.relation, action, images, claim=sql.SQL("claim"), old=old),
        images=sql.SQL(", ").join(images.items(mask)),
    )


def _values(
    relation: str, action: str, images: _Images, *, claim: sql.Composable, old: sql.Composable | None = None
) -> sql.Composed:
    is_delete = action == "DELETE"
    return sql.SQL(
        "clock_timestamp(), pg_current_xact_id(), pg_backend_pid(), 'row', 'data_modification', {action}, 'success', "
        "{relation}, {key}, {old}, {new}, session_user, nullif(current_setting('role'), 'none'), "
        "nullif(current_setting('application_name'), ''), inet_client_addr(), {claim}",
    ).format(
        action=sql.Literal(action),
        relation=sql.Literal(relation),
        key=images.key_value,
        old=_ROW_VALUE if is_delete else old or _NULL,
        new=_NULL if is_delete else _ROW_VALUE,
        claim=claim,
    )


def _changes(columns: Sequence[Column], mask: Mapping[str, str]) -> sql.Composable:
    pieces = [
        sql.SQL("CASE WHEN {differs} THEN {name} || coalesce({value}, 'null') END").format(
            differs=_differs(column),
            name=sql.Literal(json.dumps(column.name, ensure_ascii=False) + ": "),
            value=_json_text(column, mask),
        )
        for column in columns
    ]
    return sql.SQL("('{{' || {} || '}}')::jsonb").format(_concatenated(pieces))


def _concatenated(pieces: Sequence[sql.Composable]) -> sql.Composable:
    while len(pieces) > _ARGUMENTS_LIMIT:
        # concat_ws skips NULLs but not empty strings, so an empty group must become NULL.
        pieces = [
            sql.SQL("nullif({}, '')").format(_concatenated(pieces[start : start + _ARGUMENTS_LIMIT]))
            for start in range(0, len(pieces), _ARGUMENTS_LIMIT)
        ]
    if not pieces:
        return sql.Literal("")
    return sql.SQL("concat_ws(', ', {})").format(sql.SQL(", ").join(pieces))


def _value(column: Column, row: str, mask: Mapping[str, str]) -> sql.Composable:
    """A column's value as a built-in type; NULL stays NULL."""
    reference = sql.Identifier(row, column.name)
    rule = mask.get(column.name)
    if rule == "redact":
        return sql.SQL("CASE WHEN {} THEN {}::text END").format(_is_present(column, row), sql.Literal(REDACTED))
    if rule == "hash":
        return sql.SQL("CASE WHEN {} THEN audit.mask_hash({}) END").format(_is_present(column, row), _output(reference))
    if column.encoding in _OUTPUT:
        return sql.SQL("CASE WHEN {} THEN {} END").format(_is_present(column, row), _output(reference))
    return reference


def _output(reference: sql.Composable) -> sql.Composable:
    return sql.SQL("format('%s', {})").format(reference)


def _is_present(column: Column, row: str) -> sql.Composable:
    # A composite IS NULL when all its fields are; num_nulls looks at the value itself.
    form = "num_nulls({}) = 0" if column.encoding is Encoding.OUTPUT_ROW else "{} IS NOT NULL"
    return sql.SQL(form).format(sql.Identifier(row, column.name))


def _json_text(column: Column, mask: Mapping[str, str]) -> sql.Composable:
    value = _value(column, "old", mask)
    return sql.SQL("to_json({})::text").format(value)


def _differs(column: Column) -> sql.Composable:
    if column.encoding is Encoding.IMAGE:
        return _distinct(*(sql.Identifier(row, column.name) for row in ("old", "new")))
    if column.encoding in {Encoding.TEXT, Encoding.CHARACTER}:
        casts = (sql.SQL('{}::text COLLATE "C"').format(sql.Identifier(row, column.name)) for row in ("old", "new"))
        return _distinct(*casts)
    texts = (
        sql.SQL('CASE WHEN {} THEN {} COLLATE "C" END').format(
            _is_present(column, row),
            _output(sql.Identifier(row, column.name)),
        )
        for row in ("old", "new")
    )
    return _distinct(*texts)


def _distinct(left: sql.Composable, right: sql.Composable) -> sql.Composable:
    return sql.SQL("{} IS DISTINCT FROM {}").format(left, right)


def format_triggers(table: Table) -> Iterable[sql.Composed]:
    """Write the statements that attach capture to ``table``, fired whatever session_replication_role says."""
    function = sql.Identifier("audit", capture_name(table.relation))
    rows = sql.SQL("INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW EXECUTE FUNCTION {}()").format(
        table.identifier, function
    )
    truncation = sql.SQL("TRUNCATE ON {} FOR EACH STATEMENT EXECUTE FUNCTION audit.capture_truncate({})").format(
        table.identifier, sql.Literal(table.relation)
    )
    for trigger, event in ((ROW_TRIGGER, rows), (TRUNCATE_TRIGGER, truncation)):
        yield sql.SQL("CREATE OR REPLACE TRIGGER {} AFTER {}").format(sql.Identifier(trigger), event)
        yield sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(table.identifier, sql.Identifier(trigger))
