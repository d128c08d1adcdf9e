"""Generates the trigger function that captures one table. Pure: catalog facts in, SQL out.

Why generated, and why like this (DESIGN.md, "Capture"):

- The function is SECURITY DEFINER, so nothing a user can define may run inside it; ``images`` says how.
- ``new`` is the whole row. For UPDATE ``old`` holds the former values of the columns that changed; the whole old row
  is ``new || old``. Whether a column changed is decided on text, not on the type's equality, for which 1.0 is 1.00.
- Every setting that changes the text of one of the table's types is pinned on the function. Each pin costs every row
  something, so a table without, say, floats does not pay for them.
- Images are computed by PL/pgSQL expressions, which stay prepared for the whole transaction; the INSERT, which does
  not, gets them as variables.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import LiteralString

from psycopg import sql

from pgseal.postgres import OUTPUT_SETTINGS
from pgseal.trail.catalog import Column, Encoding, Table, TablePart
from pgseal.trail.images import Images, image_type, object_name

ROW_TRIGGER = "pgseal_capture"
TRUNCATE_TRIGGER = "pgseal_capture_truncate"
MASKS = ("hash", "redact")

#: The built-in types that meet ``to_jsonb`` and whose text depends on a setting.
_SETTING_OF_TYPE = {"timestamptz": "TimeZone", "interval": "IntervalStyle"}


def capture_name(relation: str) -> str:
    """Name the capture function of a relation."""
    return object_name("capture", relation)


@dataclass(frozen=True, slots=True)
class TableRule:
    """How one table is to be captured: columns to leave out, columns to mask (``hash`` or ``redact``)."""

    exclude: Sequence[str] = ()
    mask: Mapping[str, str] = field(default_factory=dict[str, str])

    def format_options(self) -> str:
        """Write the rule as options of ``pgseal track``; empty if it hides nothing."""
        words = [word for column in self.exclude for word in ("--exclude", column)]
        words += [word for column, how in self.mask.items() for word in ("--mask", f"{column}={how}")]
        return shlex.join(words)


def format_capture(table: Table, rule: TableRule) -> Iterable[sql.Composed]:
    """Write the statements that make the image type and the function that captures INSERT, UPDATE and DELETE."""
    columns = _captured(table, rule)
    images = Images(table, columns, rule.mask)
    yield sql.SQL("DROP TYPE IF EXISTS {}").format(image_type(table))
    yield images.format_type()
    body = _BODY.format(
        has_change_from_null=images.has_change_from_null(),
        changes=images.changes(),
        all_changes=images.all_changes(),
        new_image=images.image("new"),
        old_image=images.image("old"),
        other_types_new=images.has_other_types("new"),
        other_types_old=images.has_other_types("old"),
        refusal=_REFUSAL.format(
            message=sql.Literal(f"pgseal: the type of a column of {table.relation} has changed since it was tracked"),
            way_out=sql.Literal(f"pgseal untrack {table.relation}, then pgseal track it again"),
        ),
        insert_update=_insert(table, "UPDATE", images.key("old")),
        insert_insert=_insert(table, "INSERT", images.key("new")),
        insert_delete=_insert(table, "DELETE", images.key("old")),
    )
    yield _FUNCTION.format(
        name=sql.Identifier("audit", capture_name(table.relation)),
        settings=sql.SQL(" ").join(
            sql.SQL("SET {} = {}").format(sql.Identifier(name.lower()), sql.Literal(value))
            for name, value in _settings_for(columns, rule).items()
        ),
        body=sql.Literal(body.as_string()),  # a dollar quote could occur in a column's name
    )


def format_removal(relation: str) -> Iterable[sql.Composed]:
    """Write the statements that drop what ``format_capture`` made; the triggers must be gone."""
    yield sql.SQL("DROP FUNCTION IF EXISTS {}()").format(sql.Identifier("audit", capture_name(relation)))
    yield sql.SQL("DROP TYPE IF EXISTS {}").format(sql.Identifier("audit", object_name("image", relation)))


def format_snapshot_insert(
    table: Table, part: TablePart, rule: TableRule, *, first_id: int, first_page: int, end_page: int
) -> sql.Composed:
    """Write the INSERT that records the rows on pages [first_page, end_page) of ``part`` as SNAPSHOT records."""
    images = Images(table, _captured(table, rule), rule.mask)
    return sql.SQL(
        "INSERT INTO audit.record ({columns}) SELECT {first_id} + row_number() OVER () - 1, {values} "
        'FROM ONLY {table} AS "new" WHERE "new".ctid >= {begin}::tid AND "new".ctid < {end}::tid',
    ).format(
        columns=_COLUMNS,
        first_id=sql.Literal(first_id),
        values=_values(table.relation, "SNAPSHOT", images.key("new"), sql.SQL("NULL"), images.image("new"), "NULL"),
        table=part.identifier,
        begin=sql.Literal(f"({first_page},0)"),
        end=sql.Literal(f"({end_page},0)"),
    )


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


def _captured(table: Table, rule: TableRule) -> list[Column]:
    return [column for column in table.columns if column.name not in rule.exclude]


def _settings_for(columns: Sequence[Column], rule: TableRule) -> Mapping[str, str]:
    """Return the settings that change what the values of ``columns`` look like; of a type we do not know, all.

    A hash is one of output text, too.
    """
    if "hash" in rule.mask.values() or any(
        column.encoding in {Encoding.OUTPUT, Encoding.OUTPUT_ROW} for column in columns
    ):
        return OUTPUT_SETTINGS
    needed = {_SETTING_OF_TYPE.get(column.type_name) for column in columns}
    return {name: value for name, value in OUTPUT_SETTINGS.items() if name in needed}


_COLUMNS = sql.SQL(
    "id, recorded_at, xid, pid, source, category, action, outcome, relation, key, old, new, "
    "session_role, effective_role, application, address, claimed",
)

_FUNCTION = sql.SQL("""\
CREATE OR REPLACE FUNCTION {name}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp {settings}
AS {body}""")

_REFUSAL = sql.SQL("RAISE EXCEPTION USING ERRCODE = 'datatype_mismatch', MESSAGE = {message}, HINT = {way_out};")

# What changed is computed the quick way, which leaves out columns that were NULL, unless there is such a column.
_BODY = sql.SQL("""\
-- Generated by pgseal from the table's columns and the policy; pgseal track writes it anew.
DECLARE
    context   text := current_setting('pgseal.context', true);
    claim     jsonb;
    old_image jsonb;
    new_image jsonb;
BEGIN
    IF context <> '' THEN
        claim := audit.claimed(context);
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF {other_types_new} THEN
            {refusal}
        END IF;
        new_image := {new_image};
        old_image := {changes};
        IF NOT (OLD IS NOT NULL) THEN
            IF {has_change_from_null} THEN
                old_image := {all_changes};
            END IF;
        END IF;
        {insert_update}
    ELSIF TG_OP = 'INSERT' THEN
        IF {other_types_new} THEN
            {refusal}
        END IF;
        new_image := {new_image};
        {insert_insert}
    ELSE
        IF {other_types_old} THEN
            {refusal}
        END IF;
        old_image := {old_image};
        {insert_delete}
    END IF;
    RETURN NULL;
END
""")


def _insert(table: Table, action: str, key: sql.Composable) -> sql.Composed:
    # The CASE draws the id after the transaction has its xid, also where nothing local was written before
    # (foreign tables): the feed relies on it.
    return sql.SQL(
        "INSERT INTO audit.record ({columns}) VALUES ("
        "CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('audit.record_id_seq') END, {values});",
    ).format(
        columns=_COLUMNS,
        values=_values(table.relation, action, key, sql.SQL("old_image"), sql.SQL("new_image"), "claim"),
    )


def _values(
    relation: str, action: str, key: sql.Composable, old: sql.Composable, new: sql.Composable, claim: LiteralString
) -> sql.Composed:
    return sql.SQL(
        "clock_timestamp(), pg_current_xact_id(), pg_backend_pid(), 'row', 'data_modification', {action}, 'success', "
        "{relation}, {key}, {old}, {new}, session_user, nullif(current_setting('role'), 'none'), "
        "nullif(current_setting('application_name'), ''), inet_client_addr(), {claim}",
    ).format(
        action=sql.Literal(action),
        relation=sql.Literal(relation),
        key=key,
        old=old,
        new=new,
        claim=sql.SQL(claim),
    )
