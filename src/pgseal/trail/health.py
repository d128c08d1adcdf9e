"""What of capture is not as it should be: triggers, tables that were altered, partitions that run out. Reads only."""

import json
from collections.abc import Container, Iterator
from dataclasses import dataclass

from pgseal.postgres import Connection
from pgseal.trail.marks import compare_marks
from pgseal.trail.partitioned import MarkedTable, find_unwatched, list_marked
from pgseal.trail.triggers import (
    ATTACH_GUARD,
    MOVE,
    MOVE_TRIGGER,
    ROOT_TRUNCATE,
    ROW_TRIGGER,
    TRIGGERS,
    TRUNCATE_TRIGGER,
)


@dataclass(frozen=True, slots=True)
class TriggerFault:
    """Capture that is not as it should be; ``place`` is the table or the partition whose trigger it is.

    Where it is something else that is wrong, ``trigger`` is empty. ``is_local``: it concerns one partition, its oid, or
    none, and is mended without a new baseline of the table. ``is_capturing``: what is wrong is past, and changes are
    recorded now. ``is_routine``: it comes of making and dropping partitions.
    """

    relation: str
    place: str
    trigger: str
    fault: str
    is_local: bool = False
    partition: int | None = None
    is_capturing: bool = False
    is_routine: bool = False

    def describe(self, subject: str) -> str:
        """Say what is wrong, to someone who knows that it is about ``subject``."""
        if self.trigger:
            place = "" if self.place == subject else f" of {self.place}"
            return f"trigger {self.trigger}{place} {self.fault}"
        return self.fault if self.place == subject else f"{self.place} {self.fault}"


def read_trigger_faults(connection: Connection) -> list[TriggerFault]:
    """Return what is wrong with the capture of tracked tables that are there, partitions included."""
    expected = {
        mode: {name: {"state": shape.state, "type": shape.type} for name, shape in shapes.items()}
        for mode, shapes in {**TRIGGERS, "row": {**TRIGGERS["row"], MOVE_TRIGGER: MOVE}}.items()
    }
    rows = connection.execute(
        _FAULTS,
        {
            "expected": json.dumps(expected),
            "row": ROW_TRIGGER,
            "move": MOVE_TRIGGER,
            "guard": ATTACH_GUARD,
            "truncate": TRUNCATE_TRIGGER,
            "root_truncate": ROOT_TRUNCATE.type,
        },
    ).fetchall()
    faults = [TriggerFault(*row) for row in rows]
    marked = list_marked(connection)
    came = {one.oid for table in marked for one in table.find_changes() if one.state in {"created", "attached"}}
    # A partition that came later has no TRUNCATE trigger: that says it all.
    faults = [one for one in faults if one.partition not in came or one.trigger != TRUNCATE_TRIGGER]
    seen = {(fault.place, fault.trigger) for fault in faults if fault.trigger}
    faulty = {fault.partition for fault in faults}
    for table in marked:
        faults += [fault for fault in _read_moved(table, faulty) if (fault.place, fault.trigger) not in seen]
    faults += [
        TriggerFault(relation, relation, MOVE_TRIGGER, f"does not notice moves by {', '.join(columns)}", is_local=True)
        for relation, columns in find_unwatched(connection).items()
    ]
    return faults + [TriggerFault(*row) for row in connection.execute(_CHILDREN, {"fault": HAS_CHILDREN}).fetchall()]


#: A fault that ``apply`` does not mend: it keeps the table's mode.
HAS_CHILDREN = "has got child tables: its capture would record their rows as its own; untrack it, and track it again"


def _read_moved(table: MarkedTable, faulty: Container[int | None]) -> Iterator[TriggerFault]:
    whole = list(compare_marks(table.kept, table.now, table.oid, is_altered=table.is_altered))
    for moved in whole:
        yield TriggerFault(table.relation, table.name, moved.trigger, moved.fault, is_capturing=True)
    for partition in table.find_changes():
        if partition.state == "touched" and (whole or partition.oid in faulty):
            continue
        yield TriggerFault(
            table.relation,
            table.name,
            "",
            partition.words,
            is_local=True,
            partition=partition.oid,
            is_capturing=True,
            is_routine=partition.state in {"created", "dropped"},
        )


# Statement triggers record the rows of a child among those of its parent, row triggers do not fire for them.
_CHILDREN = """
SELECT t.relation, audit.format_relation(t.table_oid), '',
    %(fault)s
FROM audit.tracked t WHERE t.mode = 'statement' AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = t.table_oid)
ORDER BY 1
"""


# Row triggers are cloned to partitions, where each can be disabled by itself; TRUNCATE triggers are not: a partition
# that holds rows has its own. Foreign tables can have them since PostgreSQL 16.
_FAULTS = """
WITH place AS (
    SELECT t.relation, t.capture, t.mode, r.oid, true AS is_root, r.relkind = 'p' AS is_tree
    FROM audit.tracked t JOIN pg_class r ON r.oid = t.table_oid
    UNION ALL
    SELECT t.relation, t.capture, t.mode, p.relid, false, true
    FROM audit.tracked t CROSS JOIN pg_partition_tree(t.table_oid) p WHERE p.relid <> t.table_oid
), wanted AS (
    SELECT p.*, e.key AS name, e.value ->> 'state' AS state,
        CASE WHEN e.key = %(truncate)s AND c.relkind = 'p' THEN %(root_truncate)s
            ELSE (e.value ->> 'type')::int END AS type
    FROM place p JOIN pg_class c ON c.oid = p.oid CROSS JOIN jsonb_each(%(expected)s::jsonb -> p.mode) e
    WHERE CASE WHEN e.key = %(row)s THEN true
        WHEN e.key = %(move)s THEN p.is_tree
        WHEN e.key = %(truncate)s THEN (p.is_root OR c.relkind <> 'p')
            AND (c.relkind <> 'f' OR current_setting('server_version_num')::int >= 160000)
        ELSE p.is_root END
)
SELECT w.relation, audit.format_relation(c.oid), w.name, f.fault, l.is_local,
    CASE WHEN NOT w.is_root THEN c.oid::bigint END
FROM wanted w JOIN pg_class c ON c.oid = w.oid LEFT JOIN pg_trigger g ON g.tgrelid = w.oid AND g.tgname = w.name
LEFT JOIN pg_proc p ON p.oid = g.tgfoid LEFT JOIN pg_namespace n ON n.oid = p.pronamespace
CROSS JOIN LATERAL (SELECT CASE
    WHEN g.oid IS NULL THEN 'is missing'
    WHEN g.tgenabled = 'D' THEN 'is disabled'
    WHEN g.tgenabled <> w.state THEN 'is not enabled for every session'
    WHEN n.nspname <> 'audit' OR p.proname <> CASE w.name WHEN %(truncate)s THEN 'capture_truncate' ELSE w.capture END
        THEN 'calls another function'
    WHEN g.tgtype <> w.type OR g.tgattr <> ''::int2vector OR (g.tgqual IS NULL) = (w.name IN (%(guard)s, %(move)s))
        THEN 'fires for less than it should'
END) f(fault)
CROSS JOIN LATERAL (SELECT NOT w.is_root AND c.relkind <> 'p' AND (
    w.name = %(truncate)s OR f.fault IN ('is disabled', 'is not enabled for every session'))) l(is_local)
WHERE f.fault IS NOT NULL
UNION ALL
SELECT p.relation, audit.format_relation(p.oid), g.tgname, 'calls pgseal''s function, and is not pgseal''s', false, NULL
FROM place p JOIN pg_trigger g ON g.tgrelid = p.oid JOIN pg_proc f ON f.oid = g.tgfoid
WHERE f.pronamespace = 'audit'::regnamespace AND g.tgparentid = 0
    AND g.tgname <> ALL (SELECT jsonb_object_keys(%(expected)s::jsonb -> p.mode))
ORDER BY 1, 2, 3
"""


@dataclass(frozen=True, slots=True)
class Drift:
    """A tracked table that was altered since its capture was made; ``name_now`` is None if it was dropped.

    ``is_anew``: it was dropped, and there is another one of its name.

    ``lost_filter`` is its filter, if a column that it tests is gone or has another type, or a label of an enum that it
    tests for is not what it was: all rows are recorded.
    """

    relation: str
    name_now: str | None
    lost_filter: str | None = None
    is_anew: bool = False


def read_drift(connection: Connection) -> list[Drift]:
    """Return the tracked tables that are not what their capture was made for, by name."""
    rows = connection.execute(
        """
        SELECT t.relation, audit.format_relation(t.table_oid), (
            SELECT t.row_filter ->> 'where' WHERE l.is_lost OR EXISTS (
                SELECT FROM jsonb_to_recordset(t.row_filter -> 'columns') f(number smallint, type oid)
                WHERE NOT EXISTS (
                    SELECT FROM pg_attribute a WHERE a.attrelid = t.table_oid AND a.attnum = f.number
                    AND a.atttypid = f.type AND NOT a.attisdropped))),
            audit.format_relation(t.table_oid) IS NULL AND EXISTS (
                SELECT FROM pg_class c WHERE c.relkind IN ('r', 'p', 'f')
                AND audit.format_relation(c.oid) = t.relation)
        FROM audit.tracked t CROSS JOIN LATERAL (SELECT EXISTS (
            SELECT FROM jsonb_to_recordset(t.row_filter -> 'columns') f(labels jsonb)
            CROSS JOIN jsonb_each_text(f.labels) AS used(label, number)
            LEFT JOIN pg_enum e ON e.oid = used.number::oid AND e.enumlabel = used.label
            WHERE e.oid IS NULL)) l(is_lost)
        WHERE l.is_lost OR audit.layout(t.table_oid) IS DISTINCT FROM t.layout ORDER BY t.relation
        """,
    ).fetchall()
    return [Drift(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class Untracked:
    """A table that inherits from a tracked one, and is not tracked: its rows are the parent's, too."""

    relation: str
    parent: str


def read_untracked_children(connection: Connection) -> list[Untracked]:
    """Return the tables of which a change shows in a tracked table, and is not recorded."""
    rows = connection.execute(
        """
        WITH RECURSIVE child AS (
            SELECT i.inhrelid AS oid, t.relation FROM audit.tracked t JOIN pg_inherits i ON i.inhparent = t.table_oid
            UNION
            SELECT i.inhrelid, child.relation FROM child JOIN pg_inherits i ON i.inhparent = child.oid
        )
        SELECT audit.format_relation(c.oid), min(child.relation)
        FROM child JOIN pg_class c ON c.oid = child.oid
        WHERE NOT c.relispartition AND c.oid NOT IN (SELECT table_oid FROM audit.tracked) GROUP BY c.oid ORDER BY 1
        """
    ).fetchall()
    return [Untracked(*row) for row in rows]
