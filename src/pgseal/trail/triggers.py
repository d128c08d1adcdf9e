"""The triggers of tracked tables: what each must look like, and the statements that make them. Pure.

Row triggers are cloned to partitions. TRUNCATE triggers are not: each partition that holds rows has its own.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, LiteralString, NamedTuple

from psycopg import sql

from pgseal.trail.capture import capture_function
from pgseal.trail.catalog import Column, Encoding, Table

ROW_TRIGGER = "pgseal_capture"
TRUNCATE_TRIGGER = "pgseal_capture_truncate"
#: Notes the rows that an UPDATE is about to move to another partition. Triggers before a change fire in order of name,
#: and the table's own may decide where a row goes.
MOVE_TRIGGER = "zz_pgseal_move"
_STATEMENT_TRIGGERS: Mapping[str, LiteralString] = {
    "pgseal_capture_insert": "INSERT",
    "pgseal_capture_update": "UPDATE",
    "pgseal_capture_delete": "DELETE",
}
#: Never fires. With a row trigger like this PostgreSQL refuses to make the table a partition or an inheritance child,
#: whose parent's statements would not fire its statement triggers. The name is what the error names.
ATTACH_GUARD = "pgseal_untrack_before_attach"


class Shape(NamedTuple):
    """What ``pg_trigger`` says of a trigger.

    ``state`` is when it is enabled (``A`` always, ``R`` in replica sessions only, ``O`` in all others), ``type`` the
    sum of 1 for each row, 2 before, 4 insert, 8 delete, 16 update, 32 truncate.
    """

    state: Literal["A", "R", "O"]
    type: int


#: The triggers of a tracked table, by the table's mode.
TRIGGERS: Mapping[str, Mapping[str, Shape]] = {
    "row": {ROW_TRIGGER: Shape("A", 1 + 4 + 8 + 16), TRUNCATE_TRIGGER: Shape("A", 2 + 32)},
    "statement": {
        ROW_TRIGGER: Shape("R", 1 + 4 + 8 + 16),
        TRUNCATE_TRIGGER: Shape("A", 2 + 32),
        ATTACH_GUARD: Shape("O", 1 + 8),
        "pgseal_capture_insert": Shape("A", 4),
        "pgseal_capture_update": Shape("A", 16),
        "pgseal_capture_delete": Shape("A", 8),
    },
}
#: The TRUNCATE trigger of a partitioned table, which fires when its partitions' have recorded what was in them.
ROOT_TRUNCATE = Shape("A", 32)
#: What a partitioned table has besides.
MOVE = Shape("A", 1 + 2 + 16)

_STATES = {"A": sql.SQL("ENABLE ALWAYS"), "R": sql.SQL("ENABLE REPLICA"), "O": sql.SQL("ENABLE")}
_TRANSITION = {
    "INSERT": sql.SQL("NEW TABLE AS new_rows"),
    "UPDATE": sql.SQL("OLD TABLE AS old_rows NEW TABLE AS new_rows"),
    "DELETE": sql.SQL("OLD TABLE AS old_rows"),
}


def format_triggers(table: Table) -> Iterable[sql.Composed]:
    """Write the statements that attach capture to ``table``, fired whatever session_replication_role says."""
    function = capture_function(table)
    rows = sql.SQL("AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW EXECUTE FUNCTION {}()")
    triggers = {ROW_TRIGGER: rows.format(table.identifier, function)}
    if table.mode == "statement":
        for trigger, event in _STATEMENT_TRIGGERS.items():
            statement = sql.SQL("AFTER {} ON {} REFERENCING {} FOR EACH STATEMENT EXECUTE FUNCTION {}()")
            triggers[trigger] = statement.format(sql.SQL(event), table.identifier, _TRANSITION[event], function)
        triggers[ATTACH_GUARD] = sql.SQL(
            "AFTER DELETE ON {} REFERENCING OLD TABLE AS old_rows FOR EACH ROW WHEN (false) EXECUTE FUNCTION {}()"
        ).format(table.identifier, function)
    for trigger, event in triggers.items():
        yield from _format_trigger(trigger, table.identifier, event, TRIGGERS[table.mode][trigger].state)
    if table.kind == "p":
        yield from format_move_trigger(table)
        yield from _format_truncate_trigger(table, table.identifier, "AFTER")
        for leaf in table.leaves:
            yield from format_leaf_trigger(table, leaf)
    elif table.has_truncate_trigger:
        yield from _format_truncate_trigger(table, table.identifier, "BEFORE")


def format_move_trigger(table: Table) -> Iterable[sql.Composed]:
    """Write the statements that have rows noticed which an UPDATE is about to move to another partition."""
    differs = sql.SQL(" OR ").join(_moves(column) for column in table.columns if column.name in table.moving)
    event = sql.SQL("BEFORE UPDATE ON {} FOR EACH ROW WHEN ({}) EXECUTE FUNCTION {}()").format(
        table.identifier, differs, capture_function(table)
    )
    yield from _format_trigger(MOVE_TRIGGER, table.identifier, event, MOVE.state)


def _moves(column: Column) -> sql.Composed:
    # Where a type's operator may be anywhere, or calls different texts equal, they are compared as they are printed.
    form = "{}" if column.encoding in {Encoding.IMAGE, Encoding.TEXT} else "format('%s', {}) COLLATE \"C\""
    old, new = (sql.SQL(form).format(sql.Identifier(row, column.name)) for row in ("old", "new"))
    return sql.SQL("{} IS DISTINCT FROM {}").format(old, new)


def format_leaf_trigger(table: Table, leaf: sql.Identifier) -> Iterable[sql.Composed]:
    """Write the statements that capture TRUNCATE of one partition of ``table``."""
    yield from _format_truncate_trigger(table, leaf, "BEFORE")


def format_grants(table: Table) -> Iterable[sql.Composed]:
    """Write the statements that let the TRUNCATE trigger read what is about to go, as far as the login may do that."""
    for place in (table.identifier, *table.leaves):
        yield format_leaf_grant(place)
    grant = sql.SQL("GRANT USAGE ON SCHEMA {} TO pgseal_owner").format(sql.Identifier(table.schema))
    body = sql.SQL(
        "BEGIN IF NOT has_schema_privilege('pgseal_owner', {schema}, 'USAGE') AND EXISTS (SELECT FROM pg_namespace "
        "WHERE nspname = {schema} AND pg_has_role(session_user, nspowner, 'USAGE')) THEN {grant}; END IF; END"
    ).format(schema=sql.Literal(table.schema), grant=grant)
    yield sql.SQL("DO {}").format(sql.Literal(body.as_string()))


def format_leaf_grant(place: sql.Identifier) -> sql.Composed:
    """Write the statement that lets the TRUNCATE trigger of one relation read it."""
    return sql.SQL("GRANT SELECT ON {} TO pgseal_owner").format(place)


def _format_trigger(name: str, place: sql.Identifier, event: sql.Composed, state: str) -> Iterable[sql.Composed]:
    yield sql.SQL("CREATE OR REPLACE TRIGGER {} {}").format(sql.Identifier(name), event)
    yield sql.SQL("ALTER TABLE {} {} TRIGGER {}").format(place, _STATES[state], sql.Identifier(name))


def _format_truncate_trigger(table: Table, place: sql.Identifier, when: LiteralString) -> Iterable[sql.Composed]:
    # Partitions before, while their rows are there; their root after all of them.
    event = sql.SQL("{} TRUNCATE ON {} FOR EACH STATEMENT EXECUTE FUNCTION audit.capture_truncate({})").format(
        sql.SQL(when), place, sql.Literal(table.relation)
    )
    yield from _format_trigger(TRUNCATE_TRIGGER, place, event, "A")
