"""What an evidence pack needs of the vault: the parts of a range of records, and pgseal's own acts."""

from collections.abc import Generator, Iterator
from contextlib import closing

from psycopg import sql

from pgseal.copybinary import iter_rows, split_fields
from pgseal.core.heartbeat import HEARTBEAT, parse_heartbeat
from pgseal.core.pack_bounds import VAULT_TRAIL, Heartbeat
from pgseal.errors import FormatError
from pgseal.postgres import Connection, copy_messages, translated_errors

_SIDE = "vault"
_COLUMNS = "leaf_index::bigint, actor_salt::bytea, actor::text, data_salt::bytea, data::text"
_COUNT = 5
# A HEARTBEAT is due every minute; one whose bounds are held back by a long transaction is one of few.
_CANDIDATES = 1000

#: Leaf index; salt and text of the actor part, salt and text of the data part. None: erased.
Parts = tuple[int, bytes | None, bytes | None, bytes | None, bytes | None]


class PackRows:
    """The vault over one connection, for packs. Not safe for concurrent use."""

    def __init__(self, connection: Connection) -> None:
        """Use ``connection``; a policy on the vault's tables is an error and not a filter."""
        self._connection = connection
        with translated_errors(_SIDE):
            connection.execute("SET row_security = off")

    def iter_parts(self, begin: int, end: int) -> Generator[Parts]:
        """Yield the parts of the records with begin <= leaf_index < end, in that order.

        Must be closed before the connection is, where it is not read to its end.
        """
        condition = sql.SQL("leaf_index >= {} AND leaf_index < {}").format(sql.Literal(begin), sql.Literal(end))
        return self._copy(condition)

    def iter_acts(self, action: str, tree_size: int) -> Generator[Parts]:
        """Yield the parts of pgseal's own sealed records of an action, oldest first."""
        condition = sql.SQL("source = 'system' AND trail = {} AND action = {} AND leaf_index < {}")
        return self._copy(condition.format(sql.Literal(VAULT_TRAIL), sql.Literal(action), sql.Literal(tree_size)))

    def _copy(self, condition: sql.Composable) -> Generator[Parts]:
        query = sql.SQL("SELECT {} FROM vault.record WHERE {} ORDER BY leaf_index").format(sql.SQL(_COLUMNS), condition)
        with closing(copy_messages(self._connection, query, side=_SIDE, binary=True)) as messages:
            for row in iter_rows(messages):
                leaf_index, actor_salt, actor, data_salt, data = split_fields(row[2:], _COUNT, source="vault row")
                yield int.from_bytes(leaf_index or b"", "big", signed=True), actor_salt, actor, data_salt, data

    def iter_heartbeats(self, tree_size: int, *, before: str | None = None, since: str | None = None
                        ) -> Iterator[Heartbeat]:  # fmt: skip
        """Yield HEARTBEAT records written before a time, newest first, or since a time, oldest first.

        What they say is not checked here.
        """
        order = "DESC" if before is not None else "ASC"
        condition = "time < %(time)s::timestamptz" if before is not None else "time >= %(time)s::timestamptz"
        query = sql.SQL(
            "SELECT leaf_index, data FROM vault.record WHERE source = 'system' AND action = %(action)s "
            "AND trail = %(trail)s AND leaf_index < %(size)s AND {} ORDER BY leaf_index {} LIMIT {}"
        ).format(sql.SQL(condition), sql.SQL(order), sql.Literal(_CANDIDATES))
        values = {"action": HEARTBEAT, "trail": VAULT_TRAIL, "size": tree_size, "time": before or since}
        with translated_errors(_SIDE):
            rows = self._connection.execute(query, values).fetchall()
        for leaf_index, data in rows:
            try:
                yield Heartbeat(leaf_index, parse_heartbeat((data or "").encode()))
            except FormatError:
                continue

    def find_times(self, since: str | None, until: str | None, tree_size: int) -> tuple[int, int] | None:
        """Return the first leaf of a time and the one after its last; None if there is none."""
        with translated_errors(_SIDE):
            row = self._connection.execute(
                "SELECT min(leaf_index), max(leaf_index) + 1 FROM vault.record WHERE leaf_index < %(size)s "
                "AND (%(since)s::timestamptz IS NULL OR time >= %(since)s) "
                "AND (%(until)s::timestamptz IS NULL OR time < %(until)s)",
                {"size": tree_size, "since": since, "until": until},
            ).fetchone()
        return None if row is None or row[0] is None else (int(row[0]), int(row[1]))
