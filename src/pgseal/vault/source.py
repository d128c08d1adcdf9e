"""The vault as the verifier reads it: every row, by leaf index or by trail, none left out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from pgseal.postgres import Connection, connect, copy_lines, copy_messages, translated_errors


@dataclass
class VaultRows:
    """A ``VaultSource``. Connects when it is first asked; a pickled copy connects anew.

    ``columns`` is what the verifier wants of each row in binary COPY (its ``rows.VAULT_COLUMNS``). ``copy_trail`` has a
    connection of its own, because single rows are asked for while it is read.
    """

    dsn: str
    columns: LiteralString
    role: LiteralString = "pgseal_sealer"

    def __post_init__(self) -> None:
        self._connections: dict[str, Connection] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"dsn": self.dsn, "columns": self.columns, "role": self.role, "_connections": {}}

    def __repr__(self) -> str:
        return "VaultRows(vault)"  # the connection string may hold a password

    def copy_rows(self, begin: int, end: int) -> Iterator[bytes]:
        """Yield the binary COPY messages of rows with begin <= leaf_index < end, in that order."""
        return self._copy_binary(
            sql.SQL("leaf_index >= {} AND leaf_index < {}").format(sql.Literal(begin), sql.Literal(end)),
        )

    def copy_outside(self, tree_size: int) -> Iterator[bytes]:
        """Yield every other row likewise: leaf_index below 0, from ``tree_size`` on, or NULL."""
        return self._copy_binary(
            sql.SQL("leaf_index < 0 OR leaf_index >= {} OR leaf_index IS NULL").format(sql.Literal(tree_size)),
        )

    def _copy_binary(self, condition: sql.Composable) -> Iterator[bytes]:
        query = sql.SQL("SELECT {} FROM vault.record WHERE {} ORDER BY leaf_index").format(
            sql.SQL(self.columns),
            condition,
        )
        return copy_messages(self._connect("rows"), query, side="vault", role=self.role, binary=True)

    def count_leaves(self, trail: str, incarnation: int, begin: int, end: int, leaving_out: Sequence[int]) -> int:
        """Return how many rows of one incarnation of a trail have begin <= leaf_index < end, some left out."""
        connection = self._connect("rows")
        with translated_errors("vault", role=self.role):
            row = connection.execute(
                "SELECT count(*) FROM vault.record WHERE leaf_index >= %s AND leaf_index < %s AND trail = %s "
                "AND incarnation = %s AND leaf_index <> ALL (%s::bigint[])",
                [begin, end, trail, incarnation, list(leaving_out)],
            ).fetchone()
        return row[0] if row else 0

    def copy_leaf_indexes(
        self, trail: str, incarnation: int, begin: int, end: int, *, or_earlier: bool = False
    ) -> Iterator[int]:
        """Yield the leaf indexes of these rows, rising; ``or_earlier``: and of those of earlier incarnations."""
        query = sql.SQL(
            "SELECT leaf_index FROM vault.record WHERE leaf_index >= {} AND leaf_index < {} AND trail = {} "
            "AND incarnation {} {} ORDER BY leaf_index"
        ).format(
            sql.Literal(begin), sql.Literal(end), sql.Literal(trail),
            sql.SQL("<=" if or_earlier else "="), sql.Literal(incarnation),
        )  # fmt: skip
        return map(int, copy_lines(self._connect("rows"), query, side="vault", role=self.role))

    def copy_times(
        self, trail: str, begin: int, end: int, earliest: int | None, latest: int | None
    ) -> Iterator[tuple[int, int]]:
        """Yield leaf index and time of a trail's rows that are before ``earliest`` or after ``latest``, rising."""
        query = sql.SQL(
            "SELECT leaf_index, micros FROM (SELECT leaf_index, (extract(epoch FROM time) * 1000000)::bigint AS micros "
            "FROM vault.record WHERE trail = {} AND leaf_index >= {} AND leaf_index < {} AND isfinite(time)) AS t "
            "WHERE micros < {} OR micros > {} ORDER BY leaf_index"
        ).format(*map(sql.Literal, (trail, begin, end, earliest, latest)))
        for line in copy_lines(self._connect("rows"), query, side="vault", role=self.role):
            leaf, micros = line.split(b"\t")
            yield int(leaf), int(micros)

    def find_left_of_transactions(
        self,
        trail: str,
        bases: Mapping[int, int],
        gone: Sequence[tuple[int, int]],
        explained: Sequence[tuple[int, int]],
    ) -> tuple[int, int, int] | None:
        """Find a transaction with rows in the leaf ranges ``gone`` and others neither there nor in ``explained``.

        ``bases`` has every incarnation, and up to which id xids in it are another server's. Returns id and leaf index
        of one that is gone, and the id of one that is left; None if there is no such.
        """
        query = """
            WITH base AS (
                SELECT * FROM unnest(%(incarnations)s::int[], %(bases)s::bigint[]) AS b(incarnation, base_id)),
            gone AS MATERIALIZED (
                SELECT r.incarnation, r.xid, r.id <= base.base_id AS is_foreign, min(r.id) AS id,
                    min(r.leaf_index) AS leaf
                FROM unnest(%(gone)s::int8multirange) AS g
                JOIN vault.record AS r ON r.leaf_index >= lower(g) AND r.leaf_index < upper(g)
                JOIN base USING (incarnation) WHERE r.trail = %(trail)s GROUP BY 1, 2, 3)
            SELECT gone.id, gone.leaf, r.id FROM gone JOIN vault.record AS r USING (incarnation, xid)
            JOIN base USING (incarnation)
            WHERE r.trail = %(trail)s AND (r.id <= base.base_id) = gone.is_foreign
                AND NOT r.leaf_index <@ %(gone)s::int8multirange AND NOT r.leaf_index <@ %(explained)s::int8multirange
            ORDER BY gone.leaf LIMIT 1
        """
        values = {
            "trail": trail,
            "incarnations": list(bases),
            "bases": list(bases.values()),
            "gone": _multirange(gone),
            "explained": _multirange(explained),
        }
        with translated_errors("vault", role=self.role):
            return self._connect("rows").execute(query, values).fetchone()

    def copy_places(self, trail: str) -> Iterator[tuple[int, int, int]]:
        """Yield leaf index, incarnation and id of every row of a trail, by leaf index."""
        query = sql.SQL("SELECT leaf_index, incarnation, id FROM vault.record WHERE trail = {} ORDER BY leaf_index")
        for line in copy_lines(self._connect("rows"), query.format(sql.Literal(trail)), side="vault", role=self.role):
            leaf, incarnation, id_ = map(int, line.split(b"\t"))
            yield leaf, incarnation, id_

    def copy_trail(self, trail: str, incarnation: int, ids: tuple[int, int] | None = None) -> Iterator[bytes]:
        """Yield COPY lines of a trail up to an incarnation: leaf_index, id, time to relation, actor, data; by id.

        A part that was erased reads as what an erasure leaves in a trail (``pgseal.core.erasure``).
        With ``ids`` only those from the first to the second.
        """
        within = sql.SQL(" AND id >= {} AND id <= {}").format(*map(sql.Literal, ids)) if ids else sql.SQL("")
        query = sql.SQL(
            "SELECT leaf_index, id, time, xid, source, category, action, outcome, relation, "
            "coalesce(actor, 'null'), coalesce(data, 'null') FROM vault.record "
            "WHERE trail = {} AND incarnation {} {}{} ORDER BY id{}",
        ).format(
            sql.Literal(trail),
            # With one incarnation the index gives the order; with several there is something to sort.
            sql.SQL("=") if incarnation == 1 else sql.SQL("<="),
            sql.Literal(incarnation),
            within,
            sql.SQL("") if incarnation == 1 else sql.SQL(", incarnation"),
        )
        return copy_lines(self._connect("trail"), query, side="vault", role=self.role)

    def _connect(self, purpose: str) -> Connection:
        connection = self._connections.get(purpose)
        if connection is None:
            connection = self._connections[purpose] = connect(self.dsn, side="vault", role=self.role)
            # A policy must be an error and not a filter.
            connection.execute("SET row_security = off")
        return connection

    def close(self) -> None:
        """Close the connections there are."""
        while self._connections:
            self._connections.popitem()[1].close()


def _multirange(ranges: Sequence[tuple[int, int]]) -> str:
    return "{" + ",".join(f"[{begin},{end})" for begin, end in ranges) + "}"
