"""Makes the database as the policy wants it: all tables in one transaction, or none.

Locks come first, all of them, without waiting: a statement that waits for a lock holds up everybody who comes after it.
If one cannot be had, all are given back and tried again a little later, within a stated budget. Only then comes the
DDL, which takes milliseconds; the rows that stood before are recorded afterwards (``baseline``).
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeGuard

import psycopg
from psycopg import sql

from pgseal.errors import CaptureError
from pgseal.postgres import Connection, connect, translated_errors
from pgseal.trail import baseline
from pgseal.trail.catalog import Table, read_parts, read_table
from pgseal.trail.registry import TrackedTable
from pgseal.trail.repartition import Repartition, check_unchanged, format_attach, format_registration
from pgseal.trail.steps import Step, Track, Untrack, format_locks, format_repairs, format_step

#: For how long locks are tried for unless said otherwise.
LOCK_SECONDS = 3.0
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0

Progress = Callable[[str, int, int], None]


def format_script(connection: Connection, steps: Sequence[Step], repairs: Sequence[sql.Composed]) -> list[str]:
    """Write what ``apply_steps`` would run as one transaction for ``psql``; the rows that stand now it leaves out."""
    if not steps and not repairs:
        return []
    lines = [
        "-- One transaction of its own: not to be run inside another.",
        "BEGIN;",
        "SET LOCAL search_path = pg_catalog, pg_temp;",
    ]
    lines += [f"{lock.as_string()};" for step in steps for lock in format_locks(step)]
    statements = [(True, statement) for statement in format_repairs(repairs)]
    for step in steps:
        layout = _read_layout(connection, step.table) if isinstance(step, Track) else ""
        statements += format_step(step, layout, {} if isinstance(step, Untrack) else _count_gone(connection, step))
    for is_owner, statement in statements:
        lines.append(f"SET LOCAL ROLE {'pgseal_owner' if is_owner else 'NONE'};")
        lines.append(f"{statement.as_string()};")
    lines += ["COMMIT;", "-- Then: pgseal apply, which records the rows that stood before."]
    return lines


def apply_steps(
    dsn: str,
    steps: Sequence[Step],
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
    with (
        closing(connect(dsn, side=side)) as writer,
        closing(connect(dsn, side=side)) as reader,
        translated_errors(side),
    ):
        _claim(writer, steps)
        to_read = [step for step in steps if _is_to_be_read(step)]
        for step in to_read:
            baseline.check_sizes(reader, step.table, step.rule, _find_places(step))
        counts = {
            oid: rows
            for step in steps
            if not isinstance(step, Untrack)
            for oid, rows in _count_gone(reader, step).items()
        }
        readings = _install(writer, reader, steps, to_read, repairs, counts, seconds)
        rows = {step.relation: 0 for step in steps}
        for reading in readings:
            rows[reading.step.relation] = _read(reader, reading, progress)
        if readings:
            reader.execute("COMMIT")
            # Only now, and not in the reader's snapshot: a crash in between leaves "pending", or partitions of which
            # something is to be said, and to read rows a second time is as good as the first.
            with writer.transaction():
                for statement in (one for reading in readings for one in _format_end(reading)):
                    _as_owner(writer, statement)
    return [
        TrackedTable(step.relation, step.rule, "done" if step.has_baseline else "none", rows[step.relation])
        for step in steps
        if not isinstance(step, Untrack)
    ]


@dataclass(frozen=True, slots=True)
class _Reading:
    """A step whose rows are to be read, where they are, and the marks that there were under the locks."""

    step: Track | Repartition
    baseline: baseline.Baseline
    marks: str


def _is_to_be_read(step: Step) -> TypeGuard[Track | Repartition]:
    if isinstance(step, Repartition):
        return bool(step.to_read)
    return isinstance(step, Track) and step.has_baseline


def _find_places(step: Track | Repartition) -> list[int] | None:
    return [one.oid for one in step.to_read] if isinstance(step, Repartition) else None


def _count_gone(connection: Connection, step: Track | Repartition) -> dict[int, int | None]:
    """Count the rows in tables that were partitions; None where the login may not."""
    counts: dict[int, int | None] = {}
    for one in step.gone:
        counts[one.oid] = None
        if one.identifier is not None:
            with contextlib.suppress(psycopg.Error):
                row = connection.execute(sql.SQL("SELECT count(*) FROM ONLY {}").format(one.identifier)).fetchone()
                counts[one.oid] = int(row[0]) if row else None
    return counts


def _read(reader: Connection, reading: _Reading, progress: Progress | None) -> int:
    step = reading.step
    counts = baseline.record_rows(reader, step.table, step.rule, reading.baseline, _reporter(step.relation, progress))
    if isinstance(step, Repartition):
        by_part = dict(zip([part.partition for part in reading.baseline.parts], counts, strict=True))
        first_id = reading.baseline.first_id - len(step.to_read)
        for position, one in enumerate(step.to_read):
            reader.execute(format_attach(step.relation, one, by_part[one.oid], first_id + position))
    return sum(counts)


def _format_end(reading: _Reading) -> Iterator[sql.Composed]:
    if isinstance(reading.step, Repartition):
        yield from format_registration(reading.step, reading.marks)
    else:
        yield sql.SQL("UPDATE audit.tracked SET baseline = 'done' WHERE relation = {}").format(
            sql.Literal(reading.step.relation)
        )


def _claim(writer: Connection, steps: Sequence[Step]) -> None:
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
    steps: Sequence[Step],
    to_read: Sequence[Track | Repartition],
    repairs: Sequence[sql.Composed],
    counts: Mapping[int, int | None],
    seconds: float,
) -> list[_Reading]:
    """Try until the locks can be had; leave ``reader`` in a transaction on the locks' snapshot."""
    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE
    while True:
        try:
            with writer.transaction():
                _lock(writer, reader, steps, to_read)
                for statement in format_repairs(repairs):
                    _as_owner(writer, statement)
                return _do(writer, reader, steps, to_read, counts)
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


def _lock(
    writer: Connection, reader: Connection, steps: Sequence[Step], to_read: Sequence[Track | Repartition]
) -> None:
    if to_read:
        # The reader's locks come first and stay: between the writer's commit and the reader's first look nobody may
        # change what the columns are, or empty a table.
        baseline.begin_reading(reader)
        for place in (place for step in to_read for place in _find_readable(step)):
            reader.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE NOWAIT").format(place))
    for lock in (lock for step in steps for lock in format_locks(step)):
        writer.execute(lock)


def _find_readable(step: Track | Repartition) -> list[sql.Identifier]:
    """Return what the reader locks; foreign tables LOCK TABLE refuses, and would keep nobody from changing the rows."""
    if isinstance(step, Repartition):
        return [one.identifier for one in step.to_read if one.identifier and not one.is_foreign]
    return [step.table.identifier] if step.can_lock else []


def _do(
    writer: Connection,
    reader: Connection,
    steps: Sequence[Step],
    to_read: Sequence[Track | Repartition],
    counts: Mapping[int, int | None],
) -> list[_Reading]:
    for step in steps:
        layout = _read_layout(writer, step.table) if isinstance(step, Track) else ""
        if isinstance(step, Repartition):
            writer.execute("SET LOCAL ROLE pgseal_owner")
            check_unchanged(writer, step)
            writer.execute("SET LOCAL ROLE NONE")
        for is_owner, statement in format_step(step, layout, counts):
            if is_owner:
                _as_owner(writer, statement)
            else:
                writer.execute(statement)
    if not to_read:
        return []
    baseline.take_snapshot(writer, reader)
    parts = [read_parts(reader, step.table, _find_places(step)) for step in to_read]
    writer.execute("SET LOCAL ROLE pgseal_owner")
    readings = [
        _Reading(
            step,
            baseline.reserve(writer, places, len(step.to_read) if isinstance(step, Repartition) else 0),
            _read_marks(writer, step.table),
        )
        for step, places in zip(to_read, parts, strict=True)
    ]
    writer.execute("SET LOCAL ROLE NONE")
    return readings


def _read_marks(writer: Connection, table: Table) -> str:
    row = writer.execute("SELECT audit.marks(%s::oid)::text", [table.oid]).fetchone()
    return str(row[0]) if row else ""


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
