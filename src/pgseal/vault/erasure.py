"""Erasure in the vault: text and salt of single parts are destroyed; the row, and the leaf it stands for, stay.

Without its salt a commitment says nothing of the text any more, whatever one guesses.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from psycopg import sql

from pgseal.core.ranges import LeafRanges
from pgseal.postgres import OWNER, Connection, connect, translated_errors
from pgseal.postgres.blanking import may_update, vacuum

_SIDE = "vault"
_TABLE = sql.Identifier("vault", "record")
_LEAVES_AT_ONCE = 5_000
_MEANT = sql.SQL(
    "SELECT leaf_index, trail, id, xid::text, time::text, relation, {content} AS has_content FROM vault.record "
    "WHERE leaf_index >= %s AND leaf_index < %s AND source <> 'system'"
)


class Meant(NamedTuple):
    """A record that an ERASE record speaks of: where it stands, and whether the vault has what should be gone."""

    leaf_index: int
    trail: str
    id: int
    xid: str
    time: str
    relation: str | None
    has_content: bool


def iter_meant(connection: Connection, leaves: LeafRanges, parts: Sequence[str]) -> Iterator[list[Meant]]:
    """Yield the records of ``leaves``, some at a time; none of pgseal's own acts."""
    query = _MEANT.format(content=_format_has_content(parts))
    for begin, end in leaves.ranges:
        for first in range(begin, end, _LEAVES_AT_ONCE):
            with translated_errors(_SIDE):
                rows = connection.execute(query, [first, min(first + _LEAVES_AT_ONCE, end)]).fetchall()
            if rows:
                yield [Meant(*row) for row in rows]


class VaultEraser:
    """The vault over a connection of its owner's. Not safe for concurrent use."""

    def __init__(self, dsn: str) -> None:
        """Connect as pgseal_owner; raises ``ConfigError`` or ``UnavailableError``."""
        self._connection: Connection = connect(dsn, side=_SIDE, role=OWNER)
        self._is_changed = False
        with translated_errors(_SIDE, role=OWNER):
            self._connection.execute("SET row_security = off")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def blank(self, leaves: Sequence[int], parts: Sequence[str]) -> int:
        """Destroy ``parts`` (actor, data) of records; returns how many had some left. Durable when it returns."""
        columns = [column for part in parts for column in (part, f"{part}_salt")]
        query = sql.SQL("UPDATE vault.record SET {} WHERE leaf_index = ANY (%s) AND source <> 'system' AND {}").format(
            sql.SQL(", ").join(sql.SQL("{} = NULL").format(sql.Identifier(column)) for column in columns),
            _format_has_content(parts),
        )
        count = 0
        with may_update(self._connection, _TABLE, columns, side=_SIDE):
            for first in range(0, len(leaves), _LEAVES_AT_ONCE):
                some = list(leaves[first : first + _LEAVES_AT_ONCE])
                count += max(self._connection.execute(query, [some]).rowcount, 0)
        self._is_changed = self._is_changed or count > 0
        return count

    def vacuum(self, *, rewrite: bool) -> int:
        """Remove what erasing left in files and indexes; see ``pgseal.postgres.blanking``."""
        changed = ["vault.record"] if self._is_changed or rewrite else []
        return vacuum(self._connection, "vault.record", changed, rewrite=rewrite, side=_SIDE)


def _format_has_content(parts: Sequence[str]) -> sql.Composable:
    columns = [column for part in parts for column in (part, f"{part}_salt")]
    return sql.SQL("NOT ({})").format(
        sql.SQL(" AND ").join(sql.SQL("{} IS NULL").format(sql.Identifier(column)) for column in columns)
    )
