"""Erasure in a trail: the content of single rows is destroyed, the row and what the envelope says of it stay.

An erased part leaves a mark that no writer of the trail leaves (``pgseal.core.erasure.ERASED``): ``data`` is JSON
``null``, which is no object; ``session_role`` is empty, which no role's name is. Only rows that the caller names by id,
transaction and time are touched, and no record of pgseal's own acts, whoever asks.
"""

from collections.abc import Mapping, Sequence
from typing import LiteralString, NamedTuple

from psycopg import sql

from pgseal.postgres import OWNER, Connection, connect, translated_errors
from pgseal.postgres.blanking import may_update, vacuum

_TABLE = sql.Identifier("audit", "record")
_BLANK: Mapping[str, Mapping[str, LiteralString]] = {
    "data": {"key": "NULL", "old": "NULL", "new": "NULL", "data": "'null'"},
    "actor": {
        "session_role": "''",
        "effective_role": "NULL",
        "authenticated_role": "NULL",
        "application": "NULL",
        "address": "NULL",
        "claimed": "NULL",
        "backend_start": "NULL",
        "pid": "0",
    },
}
_ROWS_AT_ONCE = 5_000
# A partition is found by the time, the row in it by the id.
_MEANT: LiteralString = (
    "r.id = e.id AND r.xid = e.xid AND r.recorded_at = e.recorded_at AND r.source <> 'system' "
    "AND r.recorded_at BETWEEN %(first)s::timestamptz AND %(last)s::timestamptz"
)
_PLACES: LiteralString = (
    "unnest(%(ids)s::bigint[], %(xids)s::text[]::xid8[], %(times)s::timestamptz[]) AS e(id, xid, recorded_at)"
)


class Place(NamedTuple):
    """Which row of a trail is meant; ``time`` as PostgreSQL prints it."""

    id: int
    xid: str
    time: str


class TrailEraser:
    """A trail over a connection of its owner's. Not safe for concurrent use."""

    def __init__(self, dsn: str, *, side: str) -> None:
        """Connect as pgseal_owner; raises ``ConfigError`` or ``UnavailableError``."""
        self.side = side
        self._changed: set[str] = set()
        self._connection: Connection = connect(dsn, side=side, role=OWNER)
        with translated_errors(side, role=OWNER):
            # A policy must be an error and not a filter.
            self._connection.execute("SET row_security = off")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def blank(self, places: Sequence[Place], parts: Sequence[str]) -> int:
        """Destroy ``parts`` (actor, data) of rows; returns how many had some left. Durable when it returns."""
        changes = [change for part in parts for change in _BLANK[part].items()]
        query = sql.SQL(
            "UPDATE audit.record AS r SET {} FROM {} WHERE {} AND {} RETURNING r.tableoid::regclass::text"
        ).format(
            sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(name), sql.SQL(to)) for name, to in changes),
            sql.SQL(_PLACES),
            sql.SQL(_MEANT),
            _format_has_content(parts),
        )
        count = 0
        with may_update(self._connection, _TABLE, [name for name, _ in changes], side=self.side):
            for values in _batches(places):
                changed = [row[0] for row in self._connection.execute(query, values)]
                self._changed.update(changed)
                count += len(changed)
        return count

    def count_content(self, places: Sequence[Place], parts: Sequence[str]) -> int:
        """Return how many rows ``blank`` would change."""
        query = sql.SQL("SELECT count(*) FROM audit.record AS r, {} WHERE {} AND {}").format(
            sql.SQL(_PLACES), sql.SQL(_MEANT), _format_has_content(parts)
        )
        with translated_errors(self.side, role=OWNER):
            rows = [self._connection.execute(query, values).fetchone() for values in _batches(places)]
        return sum(int(row[0]) for row in rows if row)

    def vacuum(self, *, rewrite: bool) -> int:
        """Remove what erasing left in files and indexes; with ``rewrite`` whenever (``pgseal.postgres.blanking``)."""
        if rewrite:
            with translated_errors(self.side, role=OWNER):
                self._changed.update(
                    row[0]
                    for row in self._connection.execute(
                        "SELECT DISTINCT r.tableoid::regclass::text FROM audit.record AS r "
                        "WHERE r.data = 'null' OR r.session_role = ''"
                    )
                )
        return vacuum(self._connection, "audit.record", self._changed, rewrite=rewrite, side=self.side)


def _format_has_content(parts: Sequence[str]) -> sql.Composable:
    test = sql.SQL("r.{} IS DISTINCT FROM {}")
    tests = [test.format(sql.Identifier(name), sql.SQL(to)) for part in parts for name, to in _BLANK[part].items()]
    return sql.SQL("({})").format(sql.SQL(" OR ").join(tests))


def _batches(places: Sequence[Place]) -> list[dict[str, object]]:
    ordered = sorted(places, key=lambda place: place.time)
    batches = [ordered[first : first + _ROWS_AT_ONCE] for first in range(0, len(ordered), _ROWS_AT_ONCE)]
    return [
        {
            "ids": [place.id for place in batch],
            "xids": [place.xid for place in batch],
            "times": [place.time for place in batch],
            "first": batch[0].time,
            "last": batch[-1].time,
        }
        for batch in batches
    ]
