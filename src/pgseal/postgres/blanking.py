"""Content that is destroyed in a table to which nobody has the right to write.

The owner gives itself the right to UPDATE the columns at hand, and takes it back, in the transaction that needs it:
nobody else ever sees it, and a crash leaves nothing of it. What an UPDATE leaves behind is removed by VACUUM.
"""

import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import sql

from pgseal.errors import UnavailableError
from pgseal.postgres.connection import Connection, translated_errors
from pgseal.postgres.schema import OWNER

_FORCE_FLUSH_VERSION = 150000
_VACUUM_SECONDS = 5.0
_LOCK_SECONDS = 5
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


def vacuum(connection: Connection, parent: str, changed: Iterable[str], *, rewrite: bool, side: str) -> int:
    """Remove what UPDATEs left, indexes included.

    Of ``parent``, which may be partitioned, in the tables that were ``changed`` and in those that are known to hold old
    row versions: a run that was killed may not have come as far. (Names as text, quoted where needed.) With ``rewrite``
    the tables are written anew, which locks them meanwhile: otherwise freed space in their files keeps its bytes until
    something else is stored there.

    Returns how many old row versions could not be removed, because a transaction that is older still may see them.
    """
    with translated_errors(side, role=OWNER):
        if connection.info.server_version >= _FORCE_FLUSH_VERSION:
            # What this session has changed is told to others, and to itself, only now and then.
            connection.execute("SELECT pg_stat_force_next_flush()")
        names = sorted({*changed, *_find_dirty(connection, parent)})
        until = time.monotonic() + _VACUUM_SECONDS
        while True:
            for name in names:
                _vacuum(connection, _name(connection, name), rewrite=rewrite, side=side)
            left = sum(_count_dead(connection, name) for name in names)
            if not left or time.monotonic() > until:
                return left
            time.sleep(_POLL_SECONDS)


def _vacuum(connection: Connection, table: sql.Identifier, *, rewrite: bool, side: str) -> None:
    if not rewrite:
        connection.execute(sql.SQL("VACUUM {}").format(table))
        return
    try:
        # Whoever writes queues up behind us.
        connection.execute(sql.SQL("SET lock_timeout = {}").format(sql.Literal(f"{_LOCK_SECONDS}s")))
        connection.execute(sql.SQL("VACUUM (FULL) {}").format(table))
    except psycopg.errors.LockNotAvailable as error:
        raise UnavailableError(
            f"{side}: content was erased, but {table.as_string()} is in use and could not be written anew: "
            "pgseal erase --again --rewrite, at a quiet hour"
        ) from error
    finally:
        connection.execute("SET lock_timeout = 0")


def _find_dirty(connection: Connection, parent: str) -> list[str]:
    rows = connection.execute(
        "SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_class AS c "
        "JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE (c.oid = %(parent)s::regclass OR c.oid IN (SELECT relid FROM pg_partition_tree(%(parent)s::regclass))) "
        "AND c.relkind = 'r' AND pg_stat_get_dead_tuples(c.oid) "
        "+ coalesce(pg_stat_get_dead_tuples(nullif(c.reltoastrelid, 0)), 0) > 0",
        {"parent": parent},
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
