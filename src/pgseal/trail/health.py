"""What of capture is not as it should be: triggers, tables that were altered, partitions that run out. Reads only."""

import json
from dataclasses import dataclass

from pgseal.postgres import Connection
from pgseal.trail.capture import ATTACH_GUARD, ROOT_TRUNCATE, ROW_TRIGGER, TRIGGERS, TRUNCATE_TRIGGER


@dataclass(frozen=True, slots=True)
class TriggerFault:
    """A capture trigger that is not as it should be; ``place`` is the table or the partition that has it."""

    relation: str
    place: str
    trigger: str
    fault: str


def read_trigger_faults(connection: Connection) -> list[TriggerFault]:
    """Return what is wrong with the triggers of tracked tables that are there, partitions included."""
    expected = {
        mode: {name: {"state": shape.state, "type": shape.type} for name, shape in shapes.items()}
        for mode, shapes in TRIGGERS.items()
    }
    rows = connection.execute(
        _FAULTS,
        {
            "expected": json.dumps(expected),
            "row": ROW_TRIGGER,
            "guard": ATTACH_GUARD,
            "truncate": TRUNCATE_TRIGGER,
            "root_truncate": ROOT_TRUNCATE.type,
        },
    ).fetchall()
    return [TriggerFault(*row) for row in rows]


# Row triggers are cloned to partitions, where each can be disabled by itself; TRUNCATE triggers are not: a partition
# that holds rows has its own. Foreign tables can have them since PostgreSQL 16.
_FAULTS = """
WITH place AS (
    SELECT t.relation, t.capture, t.mode, t.table_oid AS oid, true AS is_root FROM audit.tracked t
    UNION ALL
    SELECT t.relation, t.capture, t.mode, p.relid, false
    FROM audit.tracked t CROSS JOIN pg_partition_tree(t.table_oid) p WHERE p.relid <> t.table_oid
), wanted AS (
    SELECT p.*, e.key AS name, e.value ->> 'state' AS state,
        CASE WHEN e.key = %(truncate)s AND c.relkind = 'p' THEN %(root_truncate)s
            ELSE (e.value ->> 'type')::int END AS type
    FROM place p JOIN pg_class c ON c.oid = p.oid CROSS JOIN jsonb_each(%(expected)s::jsonb -> p.mode) e
    WHERE CASE WHEN e.key = %(row)s THEN true
        WHEN e.key = %(truncate)s THEN (p.is_root OR c.relkind <> 'p')
            AND (c.relkind <> 'f' OR current_setting('server_version_num')::int >= 160000)
        ELSE p.is_root END
)
SELECT w.relation, audit.format_relation(c.oid), w.name, f.fault
FROM wanted w JOIN pg_class c ON c.oid = w.oid LEFT JOIN pg_trigger g ON g.tgrelid = w.oid AND g.tgname = w.name
LEFT JOIN pg_proc p ON p.oid = g.tgfoid LEFT JOIN pg_namespace n ON n.oid = p.pronamespace
CROSS JOIN LATERAL (SELECT CASE
    WHEN g.oid IS NULL THEN 'is missing'
    WHEN g.tgenabled = 'D' THEN 'is disabled'
    WHEN g.tgenabled <> w.state THEN 'is not enabled for every session'
    WHEN n.nspname <> 'audit' OR p.proname <> CASE w.name WHEN %(truncate)s THEN 'capture_truncate' ELSE w.capture END
        THEN 'calls another function'
    WHEN g.tgtype <> w.type OR g.tgattr <> ''::int2vector OR (g.tgqual IS NULL) = (w.name = %(guard)s)
        THEN 'fires for less than it should'
END) f(fault)
WHERE f.fault IS NOT NULL
ORDER BY 1, 2, 3
"""


@dataclass(frozen=True, slots=True)
class Drift:
    """A tracked table that was altered since its capture was made; ``name_now`` is None if it was dropped."""

    relation: str
    name_now: str | None


def read_drift(connection: Connection) -> list[Drift]:
    """Return the tracked tables that are not what their capture was made for, by name."""
    rows = connection.execute(
        """
        SELECT t.relation, audit.format_relation(t.table_oid) FROM audit.tracked t
        WHERE audit.layout(t.table_oid) IS DISTINCT FROM t.layout ORDER BY t.relation
        """,
    ).fetchall()
    return [Drift(*row) for row in rows]
