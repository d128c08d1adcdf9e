"""What can be done to a table's capture, and the statements that do it. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from pgseal.trail.capture import TableRule, format_capture, format_removal
from pgseal.trail.catalog import Table
from pgseal.trail.partitioned import Partition
from pgseal.trail.registry import format_act, format_entry, format_marks
from pgseal.trail.repartition import (
    Repartition,
    format_detach,
    format_partition_locks,
    format_partition_triggers,
    format_registration,
)
from pgseal.trail.triggers import MOVE_TRIGGER, TRIGGERS, TRUNCATE_TRIGGER, format_grants, format_triggers


@dataclass(frozen=True, slots=True)
class Track:
    """Capture a table, or renew its capture.

    ``former`` is the name under which it was registered, if another; ``gone`` are partitions that it had.
    """

    table: Table
    rule: TableRule
    has_baseline: bool = True
    former: str | None = None
    gone: Sequence[Partition] = ()

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


Step = Track | Untrack | Repartition


def format_step(
    step: Step, layout: str = "", counts: Mapping[int, int | None] | None = None
) -> Iterator[tuple[bool, sql.Composed]]:
    """Yield the statements of one step, each with whether it is run as pgseal_owner.

    ``layout`` is what ``audit.layout`` says of the table to track, under its lock. ``counts`` are the rows in tables
    that were partitions, by oid. What is read first is registered afterwards.
    """
    if not isinstance(step, Untrack):
        for one in step.gone:
            yield True, format_detach(step.relation, one, (counts or {}).get(one.oid))
    if isinstance(step, Repartition):
        yield from ((False, statement) for statement in format_partition_triggers(step))
        if not step.to_read:
            yield from ((True, statement) for statement in format_registration(step, None))
        return
    if isinstance(step, Untrack):
        if step.table is not None:
            for name in (*TRIGGERS["statement"], MOVE_TRIGGER):
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


def format_locks(step: Step) -> Iterator[sql.Composed]:
    """Write the locks that a step needs, none of which is waited for."""
    if isinstance(step, Repartition):
        yield from format_partition_locks(step)
    elif not step.can_lock:
        return
    elif isinstance(step, Track):
        # What CREATE TRIGGER takes, but before anything is read: writers are out from here to the commit.
        yield sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE NOWAIT").format(step.table.identifier)
    elif step.table is not None:
        yield sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE NOWAIT").format(step.table)


def format_repairs(repairs: Sequence[sql.Composed]) -> list[sql.Composed]:
    """Return the repairs and the record of them."""
    words = [statement.as_string().split("\n", 1)[0] for statement in repairs]
    note = sql.SQL("SELECT audit.note_marks()").format()
    return [*repairs, note, format_act("REPAIR", None, {"statements": words})] if repairs else []
