"""Brings capture of a partitioned table up to date with its partitions, and touches nothing of the others.

What is done to which partition follows from what became of it (``partitioned``). Rows that may have come or changed
without a record are recorded as they stand, of that partition only: an ATTACH record says that what was known of its
rows no longer counts, and SNAPSHOT records what they are. A DETACH record ends the rows of a partition that went.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from pgseal.errors import CaptureError
from pgseal.postgres import Connection
from pgseal.trail.capture import RECORD_COLUMNS, TableRule, format_values
from pgseal.trail.catalog import Table
from pgseal.trail.health import read_trigger_faults
from pgseal.trail.partitioned import Partition, list_marked
from pgseal.trail.registry import format_digest
from pgseal.trail.triggers import MOVE_TRIGGER, ROW_TRIGGER, format_leaf_grant, format_leaf_trigger, format_move_trigger

_NULL = sql.SQL("NULL")


@dataclass(frozen=True, slots=True)
class Repartition:
    """What is to be done about the partitions of ``table``, which is captured under ``rule``.

    ``present`` are the partitions whose triggers are made as they should be, ``gone`` the former ones. Without
    ``has_baseline``, rows that came unrecorded stay so. ``renews_moves``: partitions came that are partitioned by
    columns whose changes are not noticed. ``kept`` are the marks, as JSON, that all this was planned by.
    """

    table: Table
    rule: TableRule
    present: Sequence[Partition]
    gone: Sequence[Partition]
    renews_moves: bool
    kept: str
    has_baseline: bool = True

    @property
    def relation(self) -> str:
        """The name in records."""
        return self.table.relation

    @property
    def to_read(self) -> Sequence[Partition]:
        """The partitions whose rows are to be recorded as they stand."""
        return [one for one in self.present if one.state != "created"] if self.has_baseline else []

    @property
    def unread(self) -> Sequence[Partition]:
        """The partitions whose rows came or changed without a record, and stay so."""
        return [] if self.has_baseline else [one for one in self.present if one.state != "created"]


def read_repartition(
    connection: Connection, table: Table, rule: TableRule, *, has_baseline: bool = True
) -> Repartition | None:
    """Return what is to be done about the partitions of a table that is tracked under its name and this rule.

    None if that would not mend it: something else is wrong, or nothing.
    """
    faults = [fault for fault in read_trigger_faults(connection) if fault.relation == table.relation]
    found = [one for one in list_marked(connection) if one.relation == table.relation]
    if not faults or not found or not all(fault.is_local for fault in faults):
        return None
    marked = found[0]
    changes = {one.oid: one for one in marked.find_changes()}
    for fault in faults:
        if fault.trigger and fault.partition is not None and fault.partition not in changes:
            node = marked.nodes[str(fault.partition)]
            changes[fault.partition] = Partition(
                fault.partition,
                fault.place,
                "touched",
                fault.describe(table.relation),
                sql.Identifier(node["schema"], node["name"]),
                node["kind"] == "f",
            )
    return Repartition(
        table,
        rule,
        [one for one in changes.values() if one.is_there],
        [one for one in changes.values() if not one.is_there],
        any(fault.trigger == MOVE_TRIGGER and fault.partition is None for fault in faults),
        json.dumps(marked.kept),
        has_baseline,
    )


def find_gone(connection: Connection, relation: str) -> list[Partition]:
    """Return the former partitions of a tracked table of which it is not recorded that they went."""
    found = [one for one in list_marked(connection) if one.relation == relation]
    return [one for marked in found for one in marked.find_changes() if not one.is_there]


def check_unchanged(writer: Connection, step: Repartition) -> None:
    """Check that all is as it was planned for, with the partitions locked; raises ``CaptureError``.

    Nobody else can do the same until the transaction ends. The role has to be the schema's owner.
    """
    row = writer.execute(
        "SELECT true FROM audit.tracked WHERE relation = %s AND marks = %s::jsonb FOR UPDATE NOWAIT",
        [step.relation, step.kept],
    ).fetchone()
    now = read_repartition(writer, step.table, step.rule)
    if row is None or now is None or _outline(now) != _outline(step):
        raise CaptureError(f"{step.relation}: its partitions were changed by somebody in this very moment; try again")


def _outline(step: Repartition) -> tuple[object, ...]:
    return step.renews_moves, *sorted((one.oid, one.state) for one in (*step.present, *step.gone))


def format_partition_locks(step: Repartition) -> Iterator[sql.Composed]:
    """Write what keeps writers, and other DDL, from the partitions that are looked at."""
    lock = sql.SQL("LOCK TABLE ONLY {} IN SHARE ROW EXCLUSIVE MODE NOWAIT")
    if step.renews_moves:
        yield sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE NOWAIT").format(step.table.identifier)
    yield from (lock.format(one.identifier) for one in step.present if one.identifier and not one.is_foreign)


def format_partition_triggers(step: Repartition) -> Iterator[sql.Composed]:
    """Write the statements that make the triggers of the partitions as they should be; run by the table's owner."""
    leaves = {leaf.as_string() for leaf in step.table.leaves}
    if step.renews_moves:
        yield from format_move_trigger(step.table)
    for one in step.present:
        assert one.identifier is not None  # noqa: S101  it is there
        if one.state != "created":
            for trigger in (ROW_TRIGGER, MOVE_TRIGGER):
                yield sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(one.identifier, sql.Identifier(trigger))
        if one.identifier.as_string() in leaves:
            yield from format_leaf_trigger(step.table, one.identifier)
        yield format_leaf_grant(one.identifier)


def format_detach(relation: str, partition: Partition, rows: int | None) -> sql.Composed:
    """Write the statement that records that a partition went; ``rows`` is how many its table has, if there is one."""
    data = _describe(partition, rows) | {"dropped": partition.state == "dropped"}
    return sql.SQL("SELECT audit.append('row', 'data_modification', 'DETACH', 'success', {}, {}, NULL)").format(
        sql.Literal(relation), sql.Literal(json.dumps(data, ensure_ascii=False))
    )


def format_attach(relation: str, partition: Partition, rows: int, record_id: int) -> sql.Composed:
    """Write the INSERT that says that the SNAPSHOT records after ``record_id`` are all rows of a partition."""
    data = _describe(partition, rows) | {"why": partition.words}
    values = format_values(
        relation, "ATTACH", _NULL, _NULL, _NULL, "NULL", sql.Literal(json.dumps(data, ensure_ascii=False))
    )
    return sql.SQL("INSERT INTO audit.record ({}) VALUES ({}, {})").format(
        RECORD_COLUMNS, sql.Literal(record_id), values
    )


def _describe(partition: Partition, rows: int | None) -> dict[str, object]:
    return {"key": None, "new": None, "old": None, "part": partition.oid, "partition": partition.name, "rows": rows}


def format_registration(step: Repartition, marks: str | None) -> Iterator[sql.Composed]:
    """Write the statements that keep the marks, and record which partitions there are, with their digest.

    ``marks`` is what they were under the locks; None: the locks are held.
    """
    relation = sql.Literal(step.relation)
    yield sql.SQL("UPDATE audit.tracked SET marks = {} WHERE relation = {}").format(
        sql.SQL("audit.marks(table_oid)") if marks is None else sql.SQL("{}::jsonb").format(sql.Literal(marks)),
        relation,
    )
    data: Mapping[str, object] = {
        "created": [one.name for one in step.present if one.state == "created"],
        "unrecorded": [one.name for one in step.unread],
    }
    yield format_digest("TRACK_PARTITIONS", step.table, data)
