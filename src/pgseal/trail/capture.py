"""Generates the functions that capture one table. Pure: catalog facts in, SQL out.

One function for each table, which captures in two ways:

- **Row by row.** The images are PL/pgSQL expressions (``images``), which stay prepared for the whole transaction; the
  INSERT, which does not, gets variables. This works for every kind of table and in apply workers.
- **All rows of a statement** with one INSERT … SELECT over the transition tables, at half the cost. Only ordinary
  tables can have it; there the row trigger is left to apply workers, in which statement triggers stay silent. A
  statement that changed one row goes row by row.

Why like this (DESIGN.md, "Capture"):

- The functions are SECURITY DEFINER, so nothing a user can define may run inside them; ``images`` says how.
- ``new`` is the whole row. For UPDATE ``old`` holds the former values of the columns that changed; the whole old row
  is ``new || old``. Whether a column changed is decided on text, not on the type's equality, for which 1.0 is 1.00.
- Every setting that changes the text of one of the table's types is pinned on the function. Each pin costs every row
  something, so a table without, say, floats does not pay for them.
- A table that was altered since is still captured: ``audit.has_layout`` says so at once and for nothing, and
  ``audit.format_insert`` writes the statement anew, for any columns and types (sql/0002_capture.sql).
- Records of a partitioned table say in which partition the row is, so that a partition can go with its rows.
"""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import LiteralString

from psycopg import sql

from pgseal.postgres import OUTPUT_SETTINGS
from pgseal.trail.catalog import Column, Encoding, Table
from pgseal.trail.conditions import format_condition, format_stored
from pgseal.trail.filter import parse_filter
from pgseal.trail.images import Images, image_type, object_name

MASKS = ("hash", "redact", "last4")
#: What a rule can say besides exclusions and masks; the first of each is the usual one.
CHOICES: Mapping[str, Sequence[str]] = {
    "truncate": ("count", "rows"),
    "oversize": ("keep", "digest", "reject"),
    "require_actor": ("flag", "off", "reject"),
}

#: The built-in types that meet ``to_jsonb`` and whose text depends on a setting.
_SETTING_OF_TYPE = {"timestamptz": "TimeZone", "interval": "IntervalStyle"}


def capture_name(relation: str) -> str:
    """Name the capture function of a relation."""
    return object_name("capture", relation)


@dataclass(frozen=True, slots=True)
class TableRule:
    """How one table is to be captured.

    ``exclude`` names columns to leave out, ``mask`` columns to mask (``MASKS``). ``truncate`` says what
    stands for the rows that a TRUNCATE removes: their ``count``, or a record each (``rows``). ``oversize`` says what
    becomes of values over a limit: recorded as they are as far as JSON can hold them (``keep``), replaced by their
    ``digest``, or the write fails (``reject``). ``require_actor`` says what becomes of a change that names no actor:
    status counts it (``flag``), or not (``off``), or it fails (``reject``). ``where`` is a filter as ``format_filter``
    writes it: a change is recorded if the row matches before it or after it; None: every change.
    """

    exclude: Sequence[str] = ()
    mask: Mapping[str, str] = field(default_factory=dict[str, str])
    truncate: str = "count"
    oversize: str = "keep"
    require_actor: str = "flag"
    where: str | None = None

    def is_same(self, other: "TableRule") -> bool:
        """Return whether ``other`` says the same, in whatever order."""
        rules = [replace(rule, exclude=sorted(rule.exclude), mask=dict(rule.mask)) for rule in (self, other)]
        return rules[0] == rules[1]

    def format_options(self) -> str:
        """Write the rule as options of ``pgseal track``; empty if it is the usual one."""
        words = [word for column in self.exclude for word in ("--exclude", column)]
        words += [word for column, how in self.mask.items() for word in ("--mask", f"{column}={how}")]
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) != choices[0]:
                words += [f"--{name.replace('_', '-')}", value]
        words += ["--where", self.where] if self.where else []
        return shlex.join(words)


def format_capture(table: Table, rule: TableRule, layout: str) -> Iterable[sql.Composed]:
    """Write the statements that make the image type and the functions; ``layout`` is what ``audit.layout`` says now."""
    columns = captured_columns(table, rule)
    images = Images(table, columns, rule.mask)
    yield sql.SQL("DROP TYPE IF EXISTS {}").format(image_type(table))
    yield images.format_type()
    body = _BODY.format(
        who_captures=_who_captures(table),
        count_rows=_COUNT_ROWS if table.mode == "statement" else sql.SQL(""),
        check_row=_check_row(table, rule, layout),
        find_move=_FIND_MOVE if table.kind == "p" else sql.SQL(""),
        find_large=_find_large(table, rule, layout),
        adapted=_adapted(table, rule, layout),
        whole_statement=_whole_statement(table, rule, Images(table, columns, rule.mask, old="o", new="n")),
        has_change_from_null=images.has_change_from_null(),
        changes=images.changes(),
        all_changes=images.all_changes(),
        new_image=images.image("new"),
        old_image=images.image("old"),
        insert_insert=_insert_row(table, "INSERT", images),
        insert_update=_insert_row(table, "UPDATE", images),
        insert_delete=_insert_row(table, "DELETE", images),
    )
    yield _FUNCTION.format(
        name=capture_function(table),
        settings=sql.SQL(" ").join(
            sql.SQL("SET {} = {}").format(sql.Identifier(name.lower()), sql.Literal(value))
            for name, value in _settings_for(columns, rule).items()
        ),
        body=sql.Literal(body.as_string()),  # a dollar quote could occur in a column's name
    )
    if table.kind == "p":
        # Whoever makes a partition makes its triggers, and has to have the right to.
        yield sql.SQL("GRANT EXECUTE ON FUNCTION {}() TO {}").format(
            capture_function(table), sql.Identifier(table.owner)
        )


def generated_names(relation: str) -> tuple[str, str]:
    """Name the function and the type in schema audit that belong to one relation."""
    return capture_name(relation), object_name("image", relation)


def format_removal(relation: str) -> Iterable[sql.Composed]:
    """Write the statements that drop what ``format_capture`` made; the triggers must be gone."""
    function, image = generated_names(relation)
    yield sql.SQL("DROP FUNCTION IF EXISTS {}()").format(sql.Identifier("audit", function))
    yield sql.SQL("DROP TYPE IF EXISTS {}").format(sql.Identifier("audit", image))


def capture_function(table: Table) -> sql.Identifier:
    """Name the capture function of a table as it stands in SQL."""
    return sql.Identifier("audit", capture_name(table.relation))


def _who_captures(table: Table) -> sql.Composable:
    if table.kind == "p":
        return _WHERE_IT_BELONGS.format(oid=sql.Literal(str(table.oid)))
    return _WHO_CAPTURES if table.mode == "statement" else sql.SQL("")


def _unused_name(table: Table) -> sql.Identifier:
    """Name a column that the table does not have."""
    name = "n"
    while any(column.name == name for column in table.columns):
        name += "_"
    return sql.Identifier(name)


def captured_columns(table: Table, rule: TableRule) -> list[Column]:
    """List the columns that the rule does not leave out."""
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


RECORD_COLUMNS = sql.SQL(
    "id, recorded_at, xid, pid, source, category, action, outcome, relation, key, old, new, data, "
    "session_role, effective_role, authenticated_role, backend_start, application, address, claimed",
)

_FUNCTION = sql.SQL("""\
CREATE OR REPLACE FUNCTION {name}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp {settings}
AS {body}""")

# Apply workers are left to the row trigger, everybody else to the statement triggers. That does not depend on
# session_replication_role alone, which can change in the middle of a statement.
_WHO_CAPTURES = sql.SQL("""\
IF (TG_LEVEL = 'ROW') <> (audit.is_worker() AND current_setting('session_replication_role') = 'replica') THEN
        RETURN NULL;
    END IF;
    """)

# The owner of a partitioned table may attach its function (format_capture): not to other tables, nor so that it fires
# for what then does not happen. Before an UPDATE is where MOVE_TRIGGER is; to have it more often changes nothing.
_WHERE_IT_BELONGS = sql.SQL("""\
IF pg_partition_root(TG_RELID) IS DISTINCT FROM {oid}::regclass THEN
        PERFORM audit.check_place(TG_RELID, {oid}::regclass);
    END IF;
    IF TG_WHEN <> 'AFTER' OR TG_LEVEL <> 'ROW' THEN
        IF TG_WHEN = 'BEFORE' AND TG_LEVEL = 'ROW' AND TG_OP = 'UPDATE' THEN
            INSERT INTO audit.moving (xid, place, spot) VALUES (pg_current_xact_id(), TG_RELID, OLD.ctid);
            RETURN NEW;
        END IF;
        RAISE EXCEPTION 'pgseal: a trigger with its function was made by somebody else'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('DROP TRIGGER %I ON %s', TG_NAME, TG_RELID::regclass);
    END IF;
    """)

# The label keeps our variables apart from the table's columns, which may have any name. What changed is computed the
# quick way, which leaves out columns that were NULL, unless there is such a column.
_BODY = sql.SQL("""\
-- Generated by pgseal from the table's columns and the policy; pgseal track writes it anew.
<<pgseal>>
DECLARE
    claim     jsonb;
    old_image jsonb;
    new_image jsonb;
    settings  jsonb;
    data      jsonb;
    is_large  boolean := false;
    row_count integer := 0;
BEGIN
    {who_captures}IF concat(current_setting('pgseal.context', true), current_setting('request.jwt.claims', true),
              current_setting('request.jwt.claim.sub', true), current_setting('hasura.user', true)) <> '' THEN
        claim := audit.claimed();
    END IF;
    {count_rows}{check_row}{find_move}{find_large}{adapted}
    {whole_statement}IF TG_OP = 'UPDATE' THEN
        new_image := {new_image};
        old_image := {changes};
        IF NOT (OLD IS NOT NULL) THEN
            IF {has_change_from_null} THEN
                old_image := {all_changes};
            END IF;
        END IF;
        {insert_update}
    ELSIF TG_OP = 'INSERT' THEN
        new_image := {new_image};
        {insert_insert}
    ELSE
        old_image := {old_image};
        {insert_delete}
    END IF;
    RETURN NULL;
END
""")

_COUNT_ROWS = sql.SQL("""\
IF TG_LEVEL = 'STATEMENT' THEN
        IF TG_OP = 'DELETE' THEN
            FOR OLD IN SELECT * FROM old_rows LIMIT 2 LOOP
                row_count := row_count + 1;
            END LOOP;
        ELSE
            FOR NEW IN SELECT * FROM new_rows LIMIT 2 LOOP
                row_count := row_count + 1;
            END LOOP;
        END IF;
        IF row_count = 0 THEN
            RETURN NULL;
        ELSIF row_count = 1 AND TG_OP = 'UPDATE' THEN
            SELECT * INTO OLD FROM old_rows;
        END IF;
    END IF;
    """)
_REQUIRE_ACTOR = sql.SQL("PERFORM audit.check_actor(claim, TG_RELID);\n    ")
# A row that the filter does not cover is none of ours, whoever changed it. Of several rows, and of an altered table's,
# the INSERT tells which are.
_CHECK_ROW = sql.SQL("""\
IF {single}audit.has_layout({oid}::regclass, {layout}) THEN
        IF TG_OP = 'INSERT' THEN
            IF {new} IS NOT TRUE THEN
                RETURN NULL;
            END IF;
        ELSIF TG_OP = 'DELETE' THEN
            IF {old} IS NOT TRUE THEN
                RETURN NULL;
            END IF;
        ELSIF ({old} OR {new}) IS NOT TRUE THEN
            RETURN NULL;
        END IF;
    {require_actor}END IF;
    """)
# Which partition it is about; and of a row that is moved, which record goes with which (sql/0002_capture.sql). Whether
# there is anything to look for, the statistics of this very transaction say, which nobody can set: rows noted and not
# seen again, rows deleted and not inserted again.
_FIND_MOVE = sql.SQL("""\
data := jsonb_build_object('part', TG_RELID::bigint);
    IF TG_OP = 'INSERT' THEN
        IF pg_stat_get_xact_tuples_inserted('audit.moved'::regclass)
            > pg_stat_get_xact_tuples_deleted('audit.moved'::regclass)
        THEN
            data := data
                || coalesce(audit.enter_partition(TG_RELID, audit.format_name(TG_TABLE_SCHEMA, TG_TABLE_NAME),
                                                  NEW.cmin::text::bigint, NEW.xmax::text = '0'), '{}');
        END IF;
    ELSIF pg_stat_get_xact_tuples_inserted('audit.moving'::regclass)
        > pg_stat_get_xact_tuples_deleted('audit.moving'::regclass)
    THEN
        IF TG_OP = 'DELETE' THEN
            data := data || coalesce(audit.leave_partition(
                TG_RELID, audit.format_name(TG_TABLE_SCHEMA, TG_TABLE_NAME), OLD.ctid), '{}');
        ELSE
            PERFORM audit.forget_move(TG_RELID, OLD.ctid);
        END IF;
    END IF;
    """)
_REQUIRE_ACTOR_OF_ROWS = sql.SQL("""
        GET DIAGNOSTICS row_count = ROW_COUNT;
        IF row_count > 0 THEN
            PERFORM audit.check_actor(claim, TG_RELID);
        END IF;""")
_WHOLE_STATEMENT = sql.SQL("""\
IF row_count > 1 THEN
        IF TG_OP = 'UPDATE' THEN
            {insert_update}
        ELSIF TG_OP = 'INSERT' THEN
            {insert_insert}
        ELSE
            {insert_delete}
        END IF;{require_actor}
        RETURN NULL;
    END IF;
    """)

# Values that may be too large for JSON, or for the policy, take the way of altered tables. They are told by what they
# take where they are stored, at worst 255 times less than they are; and only a table whose TOAST table is as large as
# that can have any.
_FIND_LARGE = sql.SQL("""\
IF audit.has_layout({oid}::regclass, {layout}) THEN
        {statement}IF TG_OP = 'INSERT' THEN
            is_large := {new};
        ELSIF TG_OP = 'DELETE' THEN
            is_large := {old};
        ELSE
            is_large := {new} OR {old};
        END IF;
    END IF;
    """)
_FIND_LARGE_IN_STATEMENT = sql.SQL("""\
IF row_count > 1 THEN
            IF pg_relation_size(audit.toast_of({oid}::regclass)) <= {limit} THEN
                is_large := false;
            ELSIF TG_OP = 'INSERT' THEN
                is_large := EXISTS (SELECT FROM new_rows AS n WHERE {n});
            ELSIF TG_OP = 'DELETE' THEN
                is_large := EXISTS (SELECT FROM old_rows AS o WHERE {o});
            ELSE
                is_large := EXISTS (SELECT FROM new_rows AS n WHERE {n})
                    OR EXISTS (SELECT FROM old_rows AS o WHERE {o});
            END IF;
        ELS""")
#: Stored bytes from which a value is looked at: as much as text of 255 MB takes at least, or of the policy's limit.
_LARGE = {"keep": 1_000_000, "digest": 4_000, "reject": 4_000}

# The transition tables have no other bond between the old and the new row than their order.
_PAIRED = sql.SQL(
    "(SELECT r.*, row_number() OVER () AS {number} FROM old_rows AS r) AS o "
    "JOIN (SELECT r.*, row_number() OVER () AS {number} FROM new_rows AS r) AS n "
    "ON o.{number} = n.{number}{where} ORDER BY o.{number}"
)

# format_insert stands there once for each case, with constants only, so that it is evaluated when the expression is
# planned.
_ADAPTED = sql.SQL("""\
IF is_large OR NOT audit.has_layout({oid}::regclass, {layout}) THEN
        PERFORM audit.check_place(TG_RELID, {oid}::regclass);
        settings := audit.swap_settings({settings});
        IF TG_LEVEL = 'ROW' THEN
            EXECUTE {row_insert} USING claim, OLD, NEW, data;
        ELSE
            EXECUTE {statement_insert} USING claim;
        END IF;{require_actor}
        PERFORM audit.swap_settings(settings);
        RETURN NULL;
    END IF;""")
_ADAPTED_INSERT = sql.SQL(
    "CASE TG_OP WHEN 'INSERT' THEN audit.format_insert({arguments}, 'INSERT', {more}) "
    "WHEN 'UPDATE' THEN audit.format_insert({arguments}, 'UPDATE', {more}) "
    "ELSE audit.format_insert({arguments}, 'DELETE', {more}) END"
)


def hidden_numbers(table: Table, rule: TableRule) -> tuple[list[int], dict[int, str]]:
    """Return what the rule leaves out and masks by attnum, which a column keeps under another name.

    By number, not as the rule has them: the function is compared with one made from the registry, whose jsonb has an
    order of its own.
    """
    numbers = {column.name: column.number for column in table.columns}
    masks = {numbers[name]: how for name, how in rule.mask.items()}
    return sorted(numbers[name] for name in rule.exclude), dict(sorted(masks.items()))


def stored_filter(table: Table, rule: TableRule) -> dict[str, object] | None:
    """Return the rule's filter with its columns by attnum; None if every row is recorded."""
    return format_stored(parse_filter(rule.where), table.columns) if rule.where else None


def _where(table: Table, rule: TableRule, *rows: str) -> sql.Composable:
    """Write WHERE: the filter covers one of these rows; nothing without a filter."""
    if rule.where is None:
        return sql.SQL("")
    found = parse_filter(rule.where)
    return sql.SQL(" WHERE {}").format(
        sql.SQL(" OR ").join(format_condition(found, table.columns, row) for row in rows)
    )


def _check_row(table: Table, rule: TableRule, layout: str) -> sql.Composable:
    require_actor = _REQUIRE_ACTOR if rule.require_actor == "reject" else sql.SQL("")
    if rule.where is None:
        return require_actor
    found = parse_filter(rule.where)
    return _CHECK_ROW.format(
        single=sql.SQL("row_count <= 1 AND " if table.mode == "statement" else ""),
        oid=sql.Literal(str(table.oid)),
        layout=sql.Literal(layout),
        old=format_condition(found, table.columns, "old"),
        new=format_condition(found, table.columns, "new"),
        require_actor=sql.SQL("    ") + require_actor if require_actor is _REQUIRE_ACTOR else sql.SQL(""),
    )


def _require_actor_of_rows(rule: TableRule) -> sql.SQL:
    return _REQUIRE_ACTOR_OF_ROWS if rule.where and rule.require_actor == "reject" else sql.SQL("")


def _adapted(table: Table, rule: TableRule, layout: str) -> sql.Composed:
    exclude, mask = hidden_numbers(table, rule)
    row_filter = stored_filter(table, rule)
    oid = sql.Literal(str(table.oid))
    row_insert, statement_insert = (
        _ADAPTED_INSERT.format(
            arguments=sql.SQL("{}::regclass").format(oid),
            more=sql.SQL("{}, {}::smallint[], {}, {}{}").format(
                sql.Literal(is_row),
                sql.Literal(exclude),
                sql.Literal(json.dumps(mask)),
                sql.Literal(rule.oversize),
                sql.SQL(", NULL, {}").format(sql.Literal(json.dumps(row_filter))) if row_filter else sql.SQL(""),
            ),
        )
        for is_row in (True, False)
    )
    return _ADAPTED.format(
        oid=oid,
        layout=sql.Literal(layout),
        settings=sql.Literal(json.dumps(dict(OUTPUT_SETTINGS))),
        row_insert=row_insert,
        statement_insert=statement_insert,
        require_actor=_require_actor_of_rows(rule),
    )


def find_limit(table: Table, rule: TableRule) -> tuple[list[Column], int]:
    """Return the columns whose values can be too large, and the stored bytes from which one has to be looked at."""
    columns = [column for column in captured_columns(table, rule) if column.name not in rule.mask and column.is_long]
    return columns, max(_LARGE[rule.oversize] // max(1, len(columns)), 4_000)


def _find_large(table: Table, rule: TableRule, layout: str) -> sql.Composable:
    columns, limit = find_limit(table, rule)
    images = Images(table, columns, {})
    tests = {row: test for row in ("old", "new", "o", "n") if (test := images.is_large(row, limit)) is not None}
    if not tests:
        return sql.SQL("")
    oid = sql.Literal(str(table.oid))
    statement = sql.SQL("")
    if table.mode == "statement":
        statement = _FIND_LARGE_IN_STATEMENT.format(oid=oid, limit=sql.Literal(limit), o=tests["o"], n=tests["n"])
    return _FIND_LARGE.format(
        oid=oid, layout=sql.Literal(layout), statement=statement, old=tests["old"], new=tests["new"]
    )


def _whole_statement(table: Table, rule: TableRule, images: Images) -> sql.Composable:
    if table.mode == "row":
        return sql.SQL("")
    rows = {
        "INSERT": sql.SQL("new_rows AS n{}").format(_where(table, rule, "n")),
        "UPDATE": _PAIRED.format(number=_unused_name(table), where=_where(table, rule, "o", "n")),
        "DELETE": sql.SQL("old_rows AS o{}").format(_where(table, rule, "o")),
    }
    return _WHOLE_STATEMENT.format(
        require_actor=_require_actor_of_rows(rule),
        **{f"insert_{action.lower()}": _insert_rows(table, action, images, source) for action, source in rows.items()},
    )


# The CASE draws the id after the transaction has its xid, also where nothing local was written before (foreign tables):
# the feed relies on it.

_ID: LiteralString = "CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('audit.record_id_seq') END"


def _insert_row(table: Table, action: str, images: Images) -> sql.Composed:
    key = images.key("new" if action == "INSERT" else "old")
    is_tree = table.kind == "p"
    values = format_values(
        table.relation,
        action,
        key,
        sql.SQL("old_image"),
        sql.SQL("new_image"),
        "claim",
        sql.SQL("data" if is_tree else "NULL"),
    )
    record_id = "audit.draw_id(data)" if is_tree and action == "DELETE" else _ID
    return sql.SQL("INSERT INTO audit.record ({columns}) VALUES ({id}, {values});").format(
        columns=RECORD_COLUMNS, id=sql.SQL(record_id), values=values
    )


def _insert_rows(table: Table, action: str, images: Images, rows: sql.Composable) -> sql.Composed:
    key = images.key("n" if action == "INSERT" else "o")
    old = {"INSERT": sql.SQL("NULL"), "UPDATE": images.complete_changes(), "DELETE": images.image("o")}[action]
    new = sql.SQL("NULL") if action == "DELETE" else images.image("n")
    return sql.SQL("INSERT INTO audit.record ({columns}) SELECT {id}, {values} FROM {rows};").format(
        columns=RECORD_COLUMNS,
        id=sql.SQL(_ID),
        values=format_values(table.relation, action, key, old, new, "pgseal.claim"),
        rows=rows,
    )


def format_values(
    relation: str,
    action: str,
    key: sql.Composable,
    old: sql.Composable,
    new: sql.Composable,
    claim: LiteralString,
    data: sql.Composable = sql.SQL("NULL"),  # noqa: B008  a constant
) -> sql.Composed:
    """Write the values of ``RECORD_COLUMNS`` but for the id."""
    return sql.SQL(
        "clock_timestamp(), pg_current_xact_id(), pg_backend_pid(), 'row', 'data_modification', {action}, 'success', "
        "{relation}, {key}, {old}, {new}, {data}, session_user, nullif(current_setting('role'), 'none'), "
        "audit.authenticated_role(), audit.backend_start(), "
        "nullif(current_setting('application_name'), ''), inet_client_addr(), {claim}",
    ).format(
        action=sql.Literal(action),
        relation=sql.Literal(relation),
        key=key,
        old=old,
        new=new,
        data=data,
        claim=sql.SQL(claim),
    )
