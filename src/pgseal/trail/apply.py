"""Makes the database as the policy wants it: all tables in one transaction, or none.

Locks come first, all of them, without waiting: a statement that waits for a lock holds up everybody who comes after it.
If one cannot be had, all are given back and tried again a little later, within a stated budget. Only then comes the
DDL, which takes milliseconds; the rows that stood before are recorded afterwards (``baseline``).
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgseal.errors import CaptureError
from pgseal.postgres import Connection, connect, translated_errors
from pgseal.trail import baseline
from pgseal.trail.capture import (
    TRIGGERS,
    TRUNCATE_TRIGGER,
    TableRule,
    format_capture,
    format_grants,
    format_removal,
    format_triggers,
)
from pgseal.trail.catalog import Table, read_parts, read_table
from pgseal.trail.registry import TrackedTable, format_act, format_entry, format_marks

#: For how long locks are tried for unless said otherwise.
LOCK_SECONDS = 3.0
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Track:
    """Capture a table, or renew its capture. ``former`` is the name under which it was registered, if another."""

    table: Table
    rule: TableRule
    has_baseline: bool = True
    former: str | None = None

    @property
    def relation(self) -> str:
        """The name in records."""
        return self.table.relation

    @property
    def can_lock(self) -> bool:
        """Whether LOCK TABLE takes such a table."""
        return self.table.kind != "f"


@dataclass(frozen=True, slots=True)
class Untrack:
    """Stop capturing what is registered as ``relation``; ``table`` is None if it was dropped.

    ``parts`` are its leaf partitions; ``can_lock`` says whether LOCK TABLE takes such a table.
    """

    relation: str
    table: sql.Identifier | None
    can_lock: bool = True
    parts: Sequence[sql.Identifier] = ()


def format_step(step: Track | Untrack, layout: str = "") -> Iterator[tuple[bool, sql.Composed]]:
    """Yield the statements of one step, each with whether it is run as pgseal_owner.

    ``layout`` is what ``audit.layout`` says of the table to track, under its lock.
    """
    if isinstance(step, Untrack):
        if step.table is not None:
            for name in TRIGGERS["statement"]:
                yield False, sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(name), step.table)
            for part in (step.table, *step.parts):
                trigger = sql.Identifier(TRUNCATE_TRIGGER)
                yield False, sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(trigger, part)
                yield False, sql.SQL("REVOKE SELECT ON {} FROM pgseal_owner").format(part)
        yield True, format_act("UNTRACK", step.relation, {})
        yield True, sql.SQL("DELETE FROM audit.tracked WHERE relation = {}").format(sql.Literal(step.relation))
        yield from ((True, statement) for statement in format_removal(step.relation))
        return
    table, rule = step.table, step.rule
    yield from ((True, statement) for statement in format_capture(table, rule, layout))
    yield from ((False, statement) for statement in (*format_triggers(table), *format_grants(table)))
    entry = format_entry(table, rule, layout, baseline="pending" if step.has_baseline else "none")
    yield from ((True, statement) for statement in entry)
    if step.former not in {None, table.relation}:
        yield from ((True, statement) for statement in format_removal(str(step.former)))
    act = format_marks(table, {
        "baseline": "snapshot" if step.has_baseline else "none",
        "columns": [column.name for column in table.columns],
        "exclude": list(rule.exclude),
        "key": list(table.key),
        "mask": dict(rule.mask),
        "oversize": rule.oversize,
        "require_actor": rule.require_actor,
        "truncate": rule.truncate,
        "where": rule.where,
    })  # fmt: skip
    yield from ((True, statement) for statement in act)


def format_repairs(repairs: Sequence[sql.Composed]) -> list[sql.Composed]:
    """Return the repairs and the record of them."""
    words = [statement.as_string().split("\n", 1)[0] for statement in repairs]
    note = sql.SQL("SELECT audit.note_marks()").format()
    return [*repairs, note, format_act("REPAIR", None, {"statements": words})] if repairs else []


def format_script(
    connection: Connection, steps: Sequence[Track | Untrack], repairs: Sequence[sql.Composed]
) -> list[str]:
    """Write what ``apply_steps`` would run as one transaction for ``psql``; the rows that stand now it leaves out."""
    if not steps and not repairs:
        return []
    lines = [
        "-- One transaction of its own: not to be run inside another.",
        "BEGIN;",
        "SET LOCAL search_path = pg_catalog, pg_temp;",
    ]
    lines += [f"{lock.as_string()};" for step in steps if (lock := _format_lock(step)) is not None]
    statements = [(True, statement) for statement in format_repairs(repairs)]
    for step in steps:
        layout = _read_layout(connection, step.table) if isinstance(step, Track) else ""
        statements += format_step(step, layout)
    for is_owner, statement in statements:
        lines.append(f"SET LOCAL ROLE {'pgseal_owner' if is_owner else 'NONE'};")
        lines.append(f"{statement.as_string()};")
    lines += ["COMMIT;", "-- Then: pgseal apply, which records the rows that stood before."]
    return lines


def apply_steps(
    dsn: str,
    steps: Sequence[Track | Untrack],
    *,
    repairs: Sequence[sql.Composed] = (),
    side: str,
    seconds: float = LOCK_SECONDS,
    progress: Progress | None = None,
) -> list[TrackedTable]:
    """Do all steps, or none, then record the baselines.

    A crash or Ctrl-C before the commit changes nothing; after it, capture is on and the registry says which baselines
    are pending.

    Args:
        dsn: how to connect as a role that owns the tables and is a member of pgseal_owner.
        steps: what to do, each table once.
        repairs: statements that mend schema audit, run as its owner in the same transaction.
        side: words for errors.
        seconds: for how long locks are tried for.
        progress: called with a relation, its pages done, and its pages in all.

    Returns:
        The tables tracked, in order.

    Raises:
        CaptureError: a table stayed locked by others, was changed meanwhile, holds a value that its rule rejects, or
            another pgseal is at it; nothing was done.
        ConfigError: a missing privilege; nothing was done.
        UnavailableError: the connection broke.
    """
    to_read = [step for step in steps if isinstance(step, Track) and step.has_baseline]
    with (
        closing(connect(dsn, side=side)) as writer,
        closing(connect(dsn, side=side)) as reader,
        translated_errors(side),
    ):
        _claim(writer, steps)
        for step in to_read:
            baseline.check_sizes(reader, step.table, step.rule)
        found = _install(writer, reader, steps, to_read, repairs, seconds)
        rows = {step.relation: 0 for step in steps}
        for step, place in zip(to_read, found, strict=True):
            report = _reporter(step.relation, progress)
            rows[step.relation] = baseline.record_rows(reader, step.table, step.rule, place, report)
        if to_read:
            reader.execute("COMMIT")
            # Only now, and not in the reader's snapshot: a crash in between leaves "pending", and a second baseline
            # is as good as the first.
            with writer.transaction():
                names = sql.Literal([step.relation for step in to_read])
                _as_owner(
                    writer, sql.SQL("UPDATE audit.tracked SET baseline = 'done' WHERE relation = ANY({})").format(names)
                )
    return [
        TrackedTable(step.relation, step.rule, "done" if step.has_baseline else "none", rows[step.relation])
        for step in steps
        if isinstance(step, Track)
    ]


def _claim(writer: Connection, steps: Sequence[Track | Untrack]) -> None:
    """Keep other pgseals from these tables until the connection is closed; raises ``CaptureError`` if one is there.

    The locks of tables end with the DDL, and a second baseline beside the first would make it unclear which is whose.
    """
    names = sorted({step.relation for step in steps})
    rows = writer.execute(
        "SELECT n FROM unnest(%s::text[]) n "
        "WHERE NOT pg_try_advisory_lock(hashtextextended('pgseal capture ' || n, 0))",
        [names],
    ).fetchall()
    if rows:
        raise CaptureError(
            f"another pgseal is at work on {', '.join(name for (name,) in rows)}; nothing was changed; "
            "try again when it has finished"
        )


def _reporter(relation: str, progress: Progress | None) -> baseline.Progress:
    return lambda done, total: progress(relation, done, total) if progress else None


def _install(
    writer: Connection,
    reader: Connection,
    steps: Sequence[Track | Untrack],
    to_read: Sequence[Track],
    repairs: Sequence[sql.Composed],
    seconds: float,
) -> list[baseline.Baseline]:
    """Try until the locks can be had; leave ``reader`` in a transaction on the locks' snapshot."""
    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE
    while True:
        try:
            with writer.transaction():
                _lock(writer, reader, steps, to_read)
                for statement in format_repairs(repairs):
                    _as_owner(writer, statement)
                return _do(writer, reader, steps, to_read)
        except psycopg.errors.LockNotAvailable as error:
            with contextlib.suppress(psycopg.Error):
                reader.execute("ROLLBACK")
            if time.monotonic() + pause > deadline:
                relation = str(error).split('"')[1] if '"' in str(error) else "a table"
                raise CaptureError(
                    f"{relation} was locked by another transaction whenever it was tried in {seconds:g} s; "
                    "nothing was changed; try again later"
                ) from error
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  spreads attempts, no secret
            pause = min(2 * pause, _LONGEST_PAUSE)


def _lock(writer: Connection, reader: Connection, steps: Sequence[Track | Untrack], to_read: Sequence[Track]) -> None:
    if to_read:
        # The reader's locks come first and stay: between the writer's commit and the reader's first look nobody may
        # change what the columns are, or empty a table.
        baseline.begin_reading(reader)
        for step in to_read:
            if step.table.kind == "f":  # LOCK TABLE refuses them, and would keep nobody from changing the rows
                continue
            reader.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE NOWAIT").format(step.table.identifier))
    for step in steps:
        if (lock := _format_lock(step)) is not None:
            writer.execute(lock)


def _format_lock(step: Track | Untrack) -> sql.Composed | None:
    if not step.can_lock:
        return None
    if isinstance(step, Track):
        # What CREATE TRIGGER takes, but before anything is read: writers are out from here to the commit.
        return sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE NOWAIT").format(step.table.identifier)
    if step.table is not None:
        return sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE NOWAIT").format(step.table)
    return None


def _do(
    writer: Connection, reader: Connection, steps: Sequence[Track | Untrack], to_read: Sequence[Track]
) -> list[baseline.Baseline]:
    for step in steps:
        layout = _read_layout(writer, step.table) if isinstance(step, Track) else ""
        for is_owner, statement in format_step(step, layout):
            if is_owner:
                _as_owner(writer, statement)
            else:
                writer.execute(statement)
    if not to_read:
        return []
    baseline.take_snapshot(writer, reader)
    parts = [read_parts(reader, step.table) for step in to_read]
    writer.execute("SET LOCAL ROLE pgseal_owner")
    found = [baseline.reserve(writer, places) for places in parts]
    writer.execute("SET LOCAL ROLE NONE")
    return found


def _read_layout(writer: Connection, table: Table) -> str:
    """Read the table's layout under its lock; refuse if the table is not the one that was planned for."""
    now = read_table(writer, table.schema, table.name)
    if (now.oid, now.columns, now.key) != (table.oid, table.columns, table.key):
        raise CaptureError(f"{table.relation} was changed by somebody in this very moment; try again")
    row = writer.execute("SELECT audit.layout(%s::oid)", [table.oid]).fetchone()
    return str(row[0]) if row else ""


def _as_owner(connection: Connection, statement: sql.Composed) -> None:
    connection.execute("SET LOCAL ROLE pgseal_owner")
    connection.execute(statement)
    connection.execute("SET LOCAL ROLE NONE")
