"""What of capture is not as it should be: triggers, tables that were altered, partitions that run out. Reads only."""

import json
from dataclasses import dataclass

from pgseal.postgres import Connection
from pgseal.trail.capture import TRIGGERS


def read_disabled_triggers(connection: Connection) -> set[str]:
    """Return the tracked relations of which a capture trigger is not there or not enabled as it should be."""
    rows = connection.execute(
        """
        SELECT DISTINCT t.relation
        FROM audit.tracked t CROSS JOIN jsonb_each_text(%s::jsonb -> t.mode) AS expected(name, state)
        WHERE NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = t.table_oid
                          AND g.tgname = expected.name AND g.tgenabled = expected.state)
        """,
        [json.dumps(TRIGGERS)],
    ).fetchall()
    return {row[0] for row in rows}


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


def read_partition_end(connection: Connection) -> float | None:
    """Return for how many more days the trail has partitions; None if its bounds cannot be read."""
    row = connection.execute(
        """
        SELECT extract(epoch FROM max(b.upper::timestamptz) - now())::float8 / 86400
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        CROSS JOIN LATERAL substring(pg_get_expr(c.relpartbound, c.oid) FROM $$TO \\('([^']+)'\\)$$) AS b(upper)
        WHERE i.inhparent = 'audit.record'::regclass
        """,
    ).fetchone()
    return row[0] if row else None
