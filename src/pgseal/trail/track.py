"""Starts and stops capturing tables.

``track`` installs the triggers in one short transaction and then records the rows that stood before as SNAPSHOT
records. The rows are read in a snapshot that is exported while the installing lock is held, so writers wait for the
DDL only, however large the table; everything written after the lock is captured by the triggers.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal, LiteralString

import psycopg
from psycopg import sql

from pgseal.errors import CaptureError, ConfigError
from pgseal.postgres import Connection, connect, quote_name, translated_errors
from pgseal.trail.capture import (
    MASKS,
    TRIGGERS,
    TableRule,
    capture_name,
    format_capture,
    format_removal,
    format_snapshot_insert,
    format_triggers,
)
from pgseal.trail.catalog import Table, TablePart, read_parts, read_table

Progress = Callable[[int, int], None]

_LOCK_TIMEOUT = "3s"
_PAGES_AT_ONCE = 1024
# Upper bound of rows on a page of 32 KiB, the largest: each takes a line pointer and a header, 28 bytes.
_ROWS_ON_A_PAGE = 1170
# Ids that others could draw between the two halves of one expression: far more than anyone can.
_ID_MARGIN = 1 << 20


@dataclass(frozen=True, slots=True)
class TrackedTable:
    """One tracked table as the registry has it; ``rows`` is the number of SNAPSHOT records just made."""

    relation: str
    rule: TableRule
    baseline: str
    rows: int = 0


@dataclass(frozen=True, slots=True)
class _Baseline:
    """Where the rows that stood before are, and the block of ids reserved for them."""

    parts: Sequence[TablePart]
    first_id: int


def check_rule(table: Table, rule: TableRule) -> None:
    """Refuse a rule that the table cannot follow.

    Raises:
        ConfigError: unknown column or mask, or a mask or exclusion on a key column.
    """
    names = {column.name for column in table.columns}
    for column in (*rule.exclude, *rule.mask):
        if column not in names:
            raise ConfigError(f"{table.relation} has no column {column!r}; it has: {', '.join(sorted(names))}")
        if column in table.key:
            raise ConfigError(
                f"{table.relation}: {column!r} is part of the key, which every record names; it cannot be hidden"
            )
    for column, mask in rule.mask.items():
        if mask not in MASKS:
            raise ConfigError(f"{table.relation}.{column}: unknown mask {mask!r}; expected {' or '.join(MASKS)}")


def track(
    dsn: str,
    schema: str,
    name: str,
    rule: TableRule,
    *,
    side: str,
    baseline: bool = True,
    progress: Progress | None = None,
) -> TrackedTable:
    """Start capturing a table and record the rows it holds now.

    A crash or Ctrl-C before the triggers are committed changes nothing; after it, capture is on and the registry says
    that the baseline is pending; calling again records it. Of a table that was altered since it was tracked, calling
    again renews capture and baseline, under the rule it had where ``rule`` hides nothing.

    Args:
        dsn: how to connect as a role that owns the table and is a member of pgseal_owner.
        schema: the table's schema, exactly as in the catalog.
        name: the table, likewise.
        rule: exclusions and masks.
        side: words for errors.
        baseline: False records a TRACK record without SNAPSHOT records: a stated gap.
        progress: called with pages done and pages in all.

    Raises:
        CaptureError: not a table that can be captured, or already tracked.
        ConfigError: unknown column, missing privilege.
        UnavailableError: the connection broke, or the table is locked by others.
    """
    with (
        closing(connect(dsn, side=side)) as writer,
        closing(connect(dsn, side=side)) as reader,
        translated_errors(side),
    ):
        table = read_table(writer, schema, name)
        known = _read_registered(writer, table)
        if known is not None:
            if known.baseline != "pending" and not known.is_altered:
                raise CaptureError(
                    f"{table.relation} is already tracked; to change how: pgseal untrack, then pgseal track"
                )
            if rule == TableRule():
                rule = known.rule
            if known.oid == table.oid:
                # The other mode's triggers could only be dropped with a lock that the baseline's reader keeps away.
                table = replace(table, mode=known.mode)
        check_rule(table, rule)
        _check_owner(writer, table, side)
        found = _install_capture(writer, reader, table, rule, known, baseline=baseline)
        if not baseline:
            return TrackedTable(table.relation, rule, "none")
        rows = _record_rows(reader, table, rule, found, progress or (lambda _done, _total: None))
        # Only now, and not in the reader's snapshot: a crash in between leaves "pending", and a second baseline is
        # as good as the first.
        with writer.transaction():
            as_owner(
                writer,
                sql.SQL("UPDATE audit.tracked SET baseline = 'done' WHERE relation = {}").format(
                    sql.Literal(table.relation)
                ),
            )
    return TrackedTable(table.relation, rule, "done", rows)


def _check_owner(connection: Connection, table: Table, side: str) -> None:
    row = connection.execute(
        "SELECT pg_get_userbyid(relowner) FROM pg_class "
        "WHERE oid = %s AND NOT pg_has_role(session_user, relowner, 'USAGE')",
        [table.oid],
    ).fetchone()
    if row is not None:
        user = connection.info.user
        raise ConfigError(
            f"{side}: only the owner of {table.relation} may attach triggers, {user!r} is not; "
            f"connect as {row[0]!r} (admin_dsn), or: GRANT {quote_name(row[0])} TO {quote_name(user)}"
        )


@dataclass(frozen=True, slots=True)
class _Registered:
    """What the registry says of a table, by its name or its oid."""

    oid: int
    relation: str
    mode: Literal["row", "statement"]
    baseline: str
    rule: TableRule
    is_altered: bool


def _read_registered(connection: Connection, table: Table) -> _Registered | None:
    # A hidden column is known by its number, so it is found under its new name, too; a table made anew has other ones.
    row = connection.execute(
        """
        SELECT t.table_oid::bigint, t.relation, t.mode, t.baseline, audit.layout(t.table_oid) IS DISTINCT FROM t.layout,
            CASE WHEN t.table_oid <> %(oid)s THEN t.exclude ELSE ARRAY(
                SELECT c.name FROM audit.live_columns(%(oid)s) c WHERE c.number = ANY (t.exclude_numbers)) END,
            CASE WHEN t.table_oid <> %(oid)s THEN t.mask ELSE coalesce((
                SELECT jsonb_object_agg(c.name, t.mask_numbers -> c.number::text) FROM audit.live_columns(%(oid)s) c
                WHERE t.mask_numbers ? c.number::text), '{}') END
        FROM audit.tracked t WHERE t.table_oid = %(oid)s OR t.relation = %(relation)s
        ORDER BY t.table_oid = %(oid)s DESC LIMIT 1
        """,
        {"oid": table.oid, "relation": table.relation},
    ).fetchone()
    return None if row is None else _Registered(row[0], row[1], row[2], row[3], TableRule(row[5], row[6]), row[4])


def _install_capture(
    writer: Connection,
    reader: Connection,
    table: Table,
    rule: TableRule,
    known: _Registered | None,
    *,
    baseline: bool,
) -> "_Baseline":
    """Create function and triggers; leave ``reader`` in a transaction on the lock's snapshot, with its xid drawn."""
    timeout = sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(_LOCK_TIMEOUT))
    with writer.transaction():
        writer.execute(timeout)
        try:
            if baseline:
                # The reader's lock comes first and stays: between the writer's commit and the reader's first look
                # nobody may change what the columns are, or empty the table.
                reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                reader.execute(timeout)
                reader.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(table.identifier))
                reader.execute("SET LOCAL lock_timeout = 0")
            # What CREATE TRIGGER takes, but before anything is read: writers are out from here to the commit.
            writer.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(table.identifier))
        except psycopg.errors.LockNotAvailable as error:
            raise CaptureError(
                f"{table.relation} is locked by another transaction for more than {_LOCK_TIMEOUT}; try again later",
            ) from error
        if replace(read_table(writer, table.schema, table.name), mode=table.mode) != table:
            raise CaptureError(f"{table.relation} was changed by somebody in this very moment; try again")
        layout = _scalar(writer, "SELECT audit.layout({oid}::regclass)", oid=table.oid)
        for statement in format_capture(table, rule, layout):
            as_owner(writer, statement)
        for statement in format_triggers(table):
            writer.execute(statement)
        if known is not None and known.relation != table.relation:
            for statement in format_removal(known.relation):
                as_owner(writer, statement)
        _register(writer, table, rule, layout, baseline="pending" if baseline else "none")
        record_act(writer, "TRACK", table.relation, {
            "baseline": "snapshot" if baseline else "none",
            "columns": [column.name for column in table.columns],
            "exclude": list(rule.exclude),
            "key": list(table.key),
            "mask": dict(rule.mask),
        })  # fmt: skip
        if not baseline:
            return _Baseline((), 0)
        snapshot = _scalar(writer, "SELECT pg_export_snapshot()")
        reader.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
        # The feed relies on ids being younger than the xid of the transaction that writes them, and replay on the
        # baseline standing before everything captured since the lock: so first the xid, then a block of ids for
        # every row that can be there, both while writers are out.
        reader.execute("SELECT pg_current_xact_id()")
        parts = read_parts(writer, table)
        return _Baseline(parts, _reserve_ids(writer, sum(part.pages for part in parts) * _ROWS_ON_A_PAGE))


def _register(connection: Connection, table: Table, rule: TableRule, layout: str, *, baseline: str) -> None:
    """Enter the table in the registry, in place of what stood there under its name or its oid."""
    owner = sql.SQL("DELETE FROM audit.tracked WHERE relation = {} OR table_oid = {}")
    as_owner(connection, owner.format(sql.Literal(table.relation), sql.Literal(table.oid)))
    numbers = {column.name: column.number for column in table.columns}
    values: dict[str, object] = {
        "relation": table.relation,
        "table_oid": table.oid,
        "capture": capture_name(table.relation),
        "mode": table.mode,
        "layout": layout,
        "exclude": list(rule.exclude),
        "mask": json.dumps(dict(rule.mask)),
        "exclude_numbers": [numbers[name] for name in rule.exclude],
        "mask_numbers": json.dumps({numbers[name]: how for name, how in rule.mask.items()}),
        "baseline": baseline,
    }
    as_owner(
        connection,
        sql.SQL("INSERT INTO audit.tracked ({}) VALUES ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(map(sql.Literal, values.values()))
        ),
    )


def _reserve_ids(writer: Connection, count: int) -> int:
    """Take ``count`` ids out of the sequence at once and return the first."""
    last = _scalar(
        writer,
        "SELECT setval('audit.record_id_seq', nextval('audit.record_id_seq') + {gap})",
        gap=_ID_MARGIN + count,
        owner=True,
    )
    return int(last) - count


def _record_rows(reader: Connection, table: Table, rule: TableRule, baseline: _Baseline, progress: Progress) -> int:
    # A row security policy must be an error here, not a filter.
    reader.execute("SET LOCAL row_security = off")
    total = sum(part.pages for part in baseline.parts)
    rows = done = 0
    for part in baseline.parts:
        for begin in range(0, part.pages, _PAGES_AT_ONCE):
            end = begin + _PAGES_AT_ONCE
            rows += reader.execute(
                format_snapshot_insert(
                    table,
                    part,
                    rule,
                    first_id=baseline.first_id + rows,
                    first_page=begin,
                    end_page=end,
                ),
            ).rowcount
            progress(done + min(end, part.pages), total)
        done += part.pages
    reader.execute("COMMIT")
    return rows


def untrack(dsn: str, relation: str, *, side: str) -> None:
    """Stop capturing a table; its records stay. The table may have been renamed or dropped since.

    Args:
        dsn: how to connect as a role that owns the table and is a member of pgseal_owner.
        relation: the table's name in records, as ``list_tracked`` gives it.
        side: words for errors.

    Raises:
        ConfigError: the table is not tracked, or a missing privilege.
        CaptureError: the table is locked by others.
    """
    with closing(connect(dsn, side=side)) as connection, translated_errors(side), connection.transaction():
        row = connection.execute(
            "SELECT t.table_oid, n.nspname, c.relname FROM audit.tracked t LEFT JOIN (pg_class c "
            "JOIN pg_namespace n ON n.oid = c.relnamespace) ON c.oid = t.table_oid WHERE t.relation = %s",
            [relation],
        ).fetchone()
        if row is None:
            raise ConfigError(f"{relation} is not tracked; pgseal status lists what is")
        oid, schema, name = row
        if name is not None:
            _check_owner(connection, Table(oid, schema, name, (), ()), side)
            _drop_triggers(connection, sql.Identifier(schema, name), relation)
        record_act(connection, "UNTRACK", relation, {})
        as_owner(connection, sql.SQL("DELETE FROM audit.tracked WHERE relation = {}").format(sql.Literal(relation)))
        for statement in format_removal(relation):
            as_owner(connection, statement)


def _drop_triggers(connection: Connection, table: sql.Identifier, relation: str) -> None:
    connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(_LOCK_TIMEOUT)))
    try:
        for trigger in TRIGGERS["statement"]:
            connection.execute(sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(trigger), table))
    except psycopg.errors.LockNotAvailable as error:
        raise CaptureError(f"{relation} is locked by another transaction; try again later") from error


def list_tracked(connection: Connection) -> list[TrackedTable]:
    """List the registry, by name."""
    rows = connection.execute(
        "SELECT relation, exclude, mask, baseline FROM audit.tracked ORDER BY relation"
    ).fetchall()
    return [TrackedTable(relation, TableRule(exclude, mask), baseline) for relation, exclude, mask, baseline in rows]


def record_act(connection: Connection, action: str, relation: str | None, data: Mapping[str, object]) -> None:
    """Record an act of pgseal's own in the transaction at hand."""
    as_owner(
        connection,
        sql.SQL("SELECT audit.record_act({}, {}::jsonb, relation => {})").format(
            sql.Literal(action),
            sql.Literal(json.dumps(data, ensure_ascii=False)),
            sql.Literal(relation),
        ),
    )


def as_role(connection: Connection, role: LiteralString | None) -> None:
    """Take a role until the end of the transaction; None goes back to the login."""
    connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role) if role else sql.SQL("NONE")))


def as_owner(connection: Connection, statement: sql.SQL | sql.Composed) -> None:
    """Run one statement in the name of the schema's owner."""
    as_role(connection, "pgseal_owner")
    connection.execute(statement)
    as_role(connection, None)


def _scalar(connection: Connection, query: LiteralString, *, owner: bool = False, **values: int) -> str:
    if owner:
        as_role(connection, "pgseal_owner")
    row = connection.execute(
        sql.SQL(query).format(**{name: sql.Literal(value) for name, value in values.items()}),
    ).fetchone()
    if owner:
        as_role(connection, None)
    assert row is not None  # noqa: S101  the queries here always give a row
    return str(row[0])
