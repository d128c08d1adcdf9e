"""Starts and stops capturing single tables."""

from collections.abc import Callable, Container, Mapping
from contextlib import closing
from dataclasses import replace

from psycopg import sql

from pgseal.errors import CaptureError, ConfigError
from pgseal.postgres import Connection, connect, quote_name, translated_errors
from pgseal.trail.apply import apply_steps
from pgseal.trail.capture import CHOICES, MASKS, TableRule
from pgseal.trail.catalog import Table, read_table
from pgseal.trail.conditions import check_filter
from pgseal.trail.filter import parse_filter
from pgseal.trail.health import read_trigger_faults
from pgseal.trail.registry import Registered, TrackedTable, find_registered
from pgseal.trail.repartition import Repartition, find_gone, read_repartition
from pgseal.trail.steps import Track, Untrack


def check_rule(table: Table, rule: TableRule) -> None:
    """Refuse a rule that the table cannot follow.

    Raises:
        ConfigError: unknown column or mask, a mask or exclusion on a key column, or a filter that does not fit.
    """
    names = {column.name for column in table.columns}
    for column in (*rule.exclude, *rule.mask):
        if column not in names:
            raise ConfigError(f"{table.relation} has no column {column!r}; it has: {', '.join(sorted(names))}")
        if column in table.key:
            raise ConfigError(
                f"{table.relation}: {column!r} is part of the key, which every record names; it cannot be hidden"
            )
    for name, choices in CHOICES.items():
        if (value := getattr(rule, name)) not in choices:
            raise ConfigError(f"{table.relation}: {name}: expected {' or '.join(choices)}, got {value!r}")
    for column, mask in rule.mask.items():
        if mask not in MASKS:
            raise ConfigError(f"{table.relation}.{column}: unknown mask {mask!r}; expected {' or '.join(MASKS)}")
    if rule.where:
        check_filter(parse_filter(rule.where), table.relation, table.columns, [*rule.exclude, *rule.mask])


def plan_track(
    connection: Connection, table: Table, rule: TableRule, *, side: str, has_baseline: bool = True
) -> Track | Repartition:
    """Return the step that captures a table or, if it was altered since, renews its capture.

    Renewed, a table keeps the rule it had unless ``rule`` hides something. Where only partitions came, went or changed,
    nothing else is renewed.

    Raises:
        CaptureError: it is tracked and needs nothing.
        ConfigError: unknown column, or the login does not own the table.
    """
    known = find_stale(connection, table)
    if known is not None:
        if rule == TableRule():
            rule = known.rule
        if known.oid == table.oid:
            # The other mode's triggers could only be dropped with a lock that the baseline's reader keeps away.
            table = replace(table, mode=known.mode)
    check_rule(table, rule)
    check_owners(connection, {table.oid: table.relation}, side)
    if known is None or known.oid != table.oid:
        return Track(table, rule, has_baseline, None if known is None else known.relation)
    is_as_it_was = known.relation == table.relation and known.baseline != "pending" and not known.is_altered
    if is_as_it_was and rule.is_same(known.rule):
        local = read_repartition(connection, table, rule, has_baseline=has_baseline)
        if local is not None:
            return local
    return Track(table, rule, has_baseline, known.relation, find_gone(connection, known.relation))


def find_stale(connection: Connection, table: Table, faulty: Container[str] | None = None) -> Registered | None:
    """Return what the registry says of a table whose capture wants renewing; None if it is not registered.

    ``faulty`` are the relations with trigger faults, read here if not given.

    Raises ``CaptureError`` if it is tracked and needs nothing.
    """
    known = find_registered(connection, table)
    if known is None or known.baseline == "pending" or known.is_altered:
        return known
    if known.relation not in (read_faulty(connection) if faulty is None else faulty):
        raise CaptureError(f"{table.relation} is already tracked; to change how: change pgseal.toml, then pgseal apply")
    return known


def read_faulty(connection: Connection) -> set[str]:
    """Return the tracked relations of which a trigger is not as it should be."""
    return {fault.relation for fault in read_trigger_faults(connection)}


def track(
    dsn: str,
    schema: str,
    name: str,
    rule: TableRule,
    *,
    side: str,
    baseline: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> TrackedTable:
    """Start capturing a table and record the rows it holds now; of an altered one, renew both.

    Args:
        dsn: how to connect as a role that owns the table and is a member of pgseal_owner.
        schema: the table's schema, exactly as in the catalog.
        name: the table, likewise.
        rule: exclusions and masks.
        side: words for errors.
        baseline: False records a TRACK record without SNAPSHOT records: a stated gap.
        progress: called with pages done and pages in all.

    Raises:
        CaptureError: not a table that can be captured, already tracked, or locked by others.
        ConfigError: unknown column, missing privilege.
        UnavailableError: the connection broke.
    """
    with closing(connect(dsn, side=side)) as connection, translated_errors(side):
        step = plan_track(connection, read_table(connection, schema, name), rule, side=side, has_baseline=baseline)

    def report(_relation: str, done: int, total: int) -> None:
        if progress is not None:
            progress(done, total)

    return apply_steps(dsn, [step], side=side, progress=report)[0]


def plan_untrack(connection: Connection, relation: str, *, side: str) -> Untrack:
    """Return the step that stops capturing ``relation``, which may have been renamed or dropped since.

    Raises:
        ConfigError: it is not tracked, or the login does not own the table.
    """
    row = connection.execute(
        "SELECT t.table_oid::bigint, n.nspname, c.relname, c.relkind, "
        "ARRAY(SELECT ARRAY[pn.nspname, pc.relname]::text[] FROM pg_partition_tree(t.table_oid) p "
        "JOIN pg_class pc ON pc.oid = p.relid "
        "JOIN pg_namespace pn ON pn.oid = pc.relnamespace WHERE pc.relkind IN ('r', 'f') AND p.relid <> t.table_oid) "
        "FROM audit.tracked t LEFT JOIN (pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace) ON c.oid = t.table_oid WHERE t.relation = %s",
        [relation],
    ).fetchone()
    if row is None:
        raise ConfigError(f"{relation} is not tracked; pgseal status lists what is")
    oid, schema, name, kind, parts = row
    if name is None:
        return Untrack(relation, None)
    check_owners(connection, {oid: relation}, side)
    return Untrack(relation, sql.Identifier(schema, name), kind != "f", [sql.Identifier(*part) for part in parts])


def untrack(dsn: str, relation: str, *, side: str) -> None:
    """Stop capturing a table; its records stay.

    Args:
        dsn: how to connect as a role that owns the table and is a member of pgseal_owner.
        relation: the table's name in records, as ``list_tracked`` gives it.
        side: words for errors.

    Raises:
        ConfigError: the table is not tracked, or a missing privilege.
        CaptureError: the table is locked by others.
    """
    with closing(connect(dsn, side=side)) as connection, translated_errors(side):
        step = plan_untrack(connection, relation, side=side)
    apply_steps(dsn, [step], side=side)


def check_owners(connection: Connection, tables: Mapping[int, str], side: str) -> None:
    """Refuse tables (oid → relation) on which the login may not create triggers; raises ``ConfigError`` naming all."""
    rows = connection.execute(
        "SELECT oid::bigint, pg_get_userbyid(relowner) FROM pg_class "
        "WHERE oid = ANY (%s) AND NOT pg_has_role(session_user, relowner, 'USAGE')",
        [list(tables)],
    ).fetchall()
    if not rows:
        return
    user = connection.info.user
    relations = sorted(tables[oid] for oid, _ in rows)
    owners = sorted({owner for _, owner in rows})
    raise ConfigError(
        f"{side}: only the owner of {', '.join(relations)} may attach triggers, {user!r} is not; "
        f"connect as {' or '.join(map(repr, owners))} (admin_dsn), or: "
        f"GRANT {', '.join(map(quote_name, owners))} TO {quote_name(user)}"
    )
