"""Whether ``audit.record`` is the table that records go to and are read from, with nothing in between.

A view or another table in its place, a rule, a trigger, a row security policy on it or on a partition: each lets
somebody decide which records the sealer gets to see, and none of them can be told from the rows. Only a superuser or an
administrator of the trail can put such a thing there.
"""

from pgseal.errors import AlteredRecordError
from pgseal.postgres import Connection


def find_trail_faults(connection: Connection) -> list[str]:
    """Return what stands between the records and their reader, in words; nothing if all is as it was made."""
    return [row[0] for row in connection.execute(_QUERY).fetchall()]


def check_trail_shape(connection: Connection, *, side: str, trail: str) -> None:
    """Check that nothing stands between the records and their reader; raises ``AlteredRecordError``."""
    if faults := find_trail_faults(connection):
        raise AlteredRecordError(
            f"{side}: {'; '.join(faults)}; records may be hidden by it; find out who did it, "
            "then undo it: pgseal plan has the details",
            where="trail",
            trail=trail,
        )


_QUERY = """
WITH trail AS (
    SELECT c.*, 'audit.' || quote_ident(c.relname) AS name
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'audit' AND c.relname = 'record'
), place AS (
    SELECT * FROM trail
    UNION ALL
    SELECT c.*, c.oid::regclass::text
    FROM trail t JOIN pg_inherits i ON i.inhparent = t.oid JOIN pg_class c ON c.oid = i.inhrelid
)
SELECT 'audit.record is not there' WHERE NOT EXISTS (SELECT FROM trail)
UNION ALL
SELECT p.name || CASE p.relkind WHEN 'v' THEN ' is a view' WHEN 'm' THEN ' is a materialized view'
    WHEN 'f' THEN ' is a foreign table' ELSE ' is not the partitioned table that it was' END
FROM place p WHERE p.relkind <> CASE WHEN p.oid IN (SELECT oid FROM trail) THEN 'p' ELSE 'r' END
UNION ALL
SELECT p.name || ' has row security' FROM place p WHERE p.relrowsecurity
UNION ALL
SELECT p.name || ' has rule ' || quote_ident(r.rulename) FROM place p JOIN pg_rewrite r ON r.ev_class = p.oid
WHERE p.relkind <> 'v'
UNION ALL
SELECT p.name || ' has trigger ' || quote_ident(g.tgname) FROM place p JOIN pg_trigger g ON g.tgrelid = p.oid
WHERE NOT g.tgisinternal AND g.tgparentid = 0
UNION ALL
SELECT p.name || ' loses its rows in a crash' FROM place p WHERE p.relpersistence <> 'p'
UNION ALL
SELECT p.name || ' does not belong to pgseal_owner' FROM place p WHERE p.relowner <> (
    SELECT oid FROM pg_roles WHERE rolname = 'pgseal_owner')
ORDER BY 1
"""
