"""Content that is destroyed in a table to which nobody has the right to write.

The owner gives itself the right to UPDATE the columns at hand, and takes it back, in the transaction that needs it:
nobody else ever sees it, and a crash leaves nothing of it. What an UPDATE leaves behind is removed by VACUUM.
"""

import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager

from psycopg import sql

from pgseal.postgres.connection import Connection, translated_errors
from pgseal.postgres.schema import OWNER

_FORCE_FLUSH_VERSION = 150000
_VACUUM_SECONDS = 5.0
_POLL_SECONDS = 0.2


@contextmanager
def may_update(connection: Connection, table: sql.Identifier, columns: Sequence[str], *, side: str) -> Generator[None]:
    """Let the owner, as whom ``connection`` acts, UPDATE these columns; in one transaction, durable at its end."""
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    change = sql.SQL("{} UPDATE ({}) ON {} {} {}")
    role = sql.Identifier(OWNER)
    with translated_errors(side, role=OWNER), connection.transaction():
        connection.execute("SET LOCAL synchronous_commit = on")
        connection.execute(change.format(sql.SQL("GRANT"), names, table, sql.SQL("TO"), role))
        yield
        connection.execute(change.format(sql.SQL("REVOKE"), names, table, sql.SQL("FROM"), role))


def vacuum(connection: Connection, relations: Iterable[str], *, rewrite: bool, side: str) -> int:
    """Remove what UPDATEs left in ``relations`` (as text, quoted where needed), indexes and statistics included.

    With ``rewrite`` the tables are written anew, which locks them meanwhile: otherwise freed space in their files
    keeps its bytes until something else is stored there. Returns how many old row versions could not be removed,
    because a transaction that is older still may see them.
    """
    names = list(relations)
    with translated_errors(side, role=OWNER):
        if connection.info.server_version >= _FORCE_FLUSH_VERSION:
            connection.execute("SELECT pg_stat_force_next_flush()")
        until = time.monotonic() + _VACUUM_SECONDS
        while True:
            for name in names:
                options = "FULL, ANALYZE" if rewrite else "ANALYZE"
                connection.execute(sql.SQL("VACUUM ({}) {}").format(sql.SQL(options), _name(connection, name)))
            left = sum(_count_dead(connection, name) for name in names)
            if not left or time.monotonic() > until:
                return left
            time.sleep(_POLL_SECONDS)


def find_dirty(connection: Connection, parent: str, *, side: str) -> list[str]:
    """Return the partitions of a table, or the table itself, that hold old row versions."""
    with translated_errors(side, role=OWNER):
        rows = connection.execute(
            "SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_partition_tree(%s::regclass) AS t "
            "JOIN pg_class AS c ON c.oid = t.relid JOIN pg_namespace AS n ON n.oid = c.relnamespace "
            "WHERE t.isleaf AND pg_stat_get_dead_tuples(c.oid) "
            "+ coalesce(pg_stat_get_dead_tuples(nullif(c.reltoastrelid, 0)), 0) > 0 "
            "UNION SELECT %s WHERE (SELECT relkind FROM pg_class WHERE oid = %s::regclass) = 'r' "
            "AND pg_stat_get_dead_tuples(%s::regclass) "
            "+ coalesce((SELECT pg_stat_get_dead_tuples(nullif(reltoastrelid, 0)) FROM pg_class "
            "WHERE oid = %s::regclass), 0) > 0 ORDER BY 1",
            [parent] * 5,
        ).fetchall()
    return [row[0] for row in rows]


def _count_dead(connection: Connection, name: str) -> int:
    row = connection.execute(
        "SELECT pg_stat_get_dead_tuples(c.oid) + coalesce(pg_stat_get_dead_tuples(nullif(c.reltoastrelid, 0)), 0) "
        "FROM pg_class AS c WHERE c.oid = %s::regclass",
        [name],
    ).fetchone()
    return int(row[0]) if row else 0


def _name(connection: Connection, name: str) -> sql.Identifier:
    row = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE c.oid = %s::regclass",
        [name],
    ).fetchone()
    assert row is not None  # noqa: S101  a cast to regclass raises otherwise
    return sql.Identifier(*row)
