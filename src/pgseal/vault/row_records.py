"""Reads the records about the rows of one table from the vault. Changes nothing.

A record stands under the key that its row had before the change, the leading member of its data, and is found by it
through an index. That an UPDATE gave a row its key is found by no index: keys hardly ever change, and an index would
cost every UPDATE that is sealed. So the table's UPDATEs are looked through, of the time in question only.
"""

import json
from collections.abc import Sequence
from typing import LiteralString

import psycopg
from psycopg import sql

from pgseal.errors import ConfigError
from pgseal.postgres import Connection
from pgseal.vault.chain import ENDINGS
from pgseal.vault.moves import is_departure, join_moves, read_departure
from pgseal.vault.records import COLUMNS, Record, fetch_records

# A record that was captured later is sealed later, but for those of one batch whose transactions were under way at the
# same time: further apart than this they are not.
_BATCH_LEAVES = 100_000
_LAST_LEAF = 2**63 - 1

# Both sides in jsonb's own text form; the hash finds, the head decides. An array of hashes, and no join: whatever the
# planner thinks, it has nothing better than the index.
_WANTED = sql.SQL(
    "WITH wanted AS MATERIALIZED (SELECT k::jsonb::text AS key, '{{\"key\": ' || k::jsonb::text AS head "
    "FROM unnest(%(keys)s::text[]) AS k) "
)
_UNDER_KEYS = sql.SQL(
    "r.source = 'row' AND r.relation = %(relation)s AND vault.row_hash(r.relation, r.data) "
    "= ANY (ARRAY(SELECT vault.row_hash(%(relation)s, head) FROM wanted)) "
)
_HEAD = sql.SQL("split_part(r.data, ', \"new\": ', 1)")
_RECORDS = sql.SQL(
    "{wanted} SELECT {columns} FROM vault.record AS r WHERE {under_keys} AND {head} IN (SELECT head FROM wanted) "
    "AND r.trail = %(trail)s AND (r.action = ANY (%(endings)s::text[])) = %(are_endings)s ORDER BY r.incarnation, r.id"
)
# The other halves of moves: the DELETE by its id; the INSERT comes a little later, in the same transaction.
_DEPARTURES = sql.SQL(
    "SELECT {columns} FROM vault.record AS r "
    "JOIN unnest(%(incarnations)s::int[], %(ids)s::bigint[]) AS d(incarnation, id) "
    "ON (r.incarnation, r.id) = (d.incarnation, d.id) "
    "WHERE r.trail = %(trail)s AND r.source = 'row' AND r.relation = %(relation)s"
)
_ARRIVAL = sql.SQL(
    "SELECT {columns} FROM vault.record AS r WHERE r.leaf_index > %(leaf)s AND r.leaf_index <= %(leaf)s + %(leaves)s "
    "AND r.trail = %(trail)s AND r.incarnation = %(incarnation)s AND r.xid = %(xid)s::xid8 AND r.source = 'row' "
    "AND r.action = 'INSERT' AND r.relation = %(relation)s "
    "AND CASE WHEN strpos(r.data, %(mentioned)s) > 0 THEN r.data::jsonb #>> '{{moved,record}}' = %(id)s::text END "
    "LIMIT 1"
)
_RECORDED = sql.SQL(
    "{wanted} SELECT DISTINCT r.trail, wanted.key FROM vault.record AS r JOIN wanted ON wanted.head = {head} "
    "WHERE {under_keys}"
)
# CASE, because PostgreSQL may look at conditions in any order: the text tells nearly all that are not meant, and only
# what is left is parsed.
_ARRIVALS = sql.SQL(
    "SELECT {columns} FROM vault.record AS r WHERE r.source = 'row' AND r.action = 'UPDATE' "
    "AND r.relation = %(relation)s AND r.trail = %(trail)s AND r.leaf_index BETWEEN %(first)s AND %(last)s "
    "AND CASE WHEN {mentions} THEN r.data::jsonb -> 'new' @> ANY (%(keys)s::jsonb[]) "
    "AND r.data::jsonb -> 'old' ?| %(columns)s::text[] END ORDER BY r.incarnation, r.id"
)
# How the first column of a key stands in an image.
_MENTIONED: LiteralString = (
    "SELECT DISTINCT to_json(name)::text || ': ' || value::text || ending FROM unnest(%s::text[]) AS k, "
    "LATERAL (SELECT name, value FROM jsonb_each(k::jsonb) AS e(name, value) LIMIT 1) AS first, "
    "unnest(ARRAY[',', '}']) AS ending"
)
_TRAILS: LiteralString = (
    "SELECT DISTINCT trail FROM vault.record WHERE source = 'system' AND action = 'TRACK' AND relation = %s"
)


def find_trails(connection: Connection, relation: str) -> list[str]:
    """Return the trails whose source tracks a relation, or did."""
    return [row[0] for row in connection.execute(_TRAILS, [relation])]


def find_recorded(connection: Connection, relation: str, keys: Sequence[str]) -> list[tuple[str, str]]:
    """Return (trail, key) for those of ``keys`` (JSON texts) under which something is recorded.

    Raises ``ConfigError`` if PostgreSQL cannot read a key.
    """
    query = _RECORDED.format(wanted=_WANTED.format(), head=_HEAD, under_keys=_UNDER_KEYS)
    try:
        return [(row[0], row[1]) for row in connection.execute(query, {"keys": list(keys), "relation": relation})]
    except psycopg.DataError as error:
        raise ConfigError(f"{relation} cannot have such a key: PostgreSQL does not take it as JSON") from error


class RowReader:
    """The records about the rows of ``relation`` in ``trail``; keys are JSON texts, records come in order of id."""

    def __init__(self, connection: Connection, relation: str, trail: str) -> None:
        """Read over ``connection``, to the vault."""
        self._connection = connection
        self._relation = relation
        self._trail = trail

    def read(self, key: str) -> list[Record]:
        """Return the records under ``key``."""
        return self.complete(self._read_under(key, are_endings=False))

    def complete(self, records: Sequence[Record]) -> list[Record]:
        """Return ``records`` with each half of a move made whole."""
        known = {(one.incarnation, one.id) for one in records}
        wanted = {(one.incarnation, number) for one in records if (number := read_departure(one)) is not None} - known
        named = {(one.incarnation, read_departure(one)) for one in records}
        others = self._read_departures(sorted(wanted)) if wanted else []
        for one in records:
            if is_departure(one) and (one.incarnation, one.id) not in named:
                others += self._read_arrival(one)
        return join_moves(records, others)

    def _read_departures(self, names: Sequence[tuple[int, int]]) -> list[Record]:
        incarnations, ids = zip(*names, strict=True)
        return self._fetch(_DEPARTURES.format(columns=COLUMNS), incarnations=list(incarnations), ids=list(ids))

    def _read_arrival(self, departure: Record) -> list[Record]:
        return self._fetch(
            _ARRIVAL.format(columns=COLUMNS),
            leaf=departure.leaf_index,
            leaves=_BATCH_LEAVES,
            incarnation=departure.incarnation,
            xid=departure.xid,
            mentioned=f'"record": "{departure.id}"',
            id=departure.id,
        )

    def read_endings(self) -> list[Record]:
        """Return every record that ends rows without naming them: TRUNCATE, and DETACH of a partition."""
        return self._read_under("null", are_endings=True)

    def read_arrivals(self, keys: Sequence[str], gaps: Sequence[tuple[int, int]]) -> list[Record]:
        """Return the UPDATEs that gave a row one of ``keys`` in one of the spans of leaves, and maybe some outside."""
        mentioned = [row[0] for row in self._connection.execute(_MENTIONED, [list(keys)])]
        tests = [sql.SQL("strpos(r.data, {}) > 0").format(sql.Literal(text)) for text in mentioned]
        query = _ARRIVALS.format(columns=COLUMNS, mentions=sql.SQL(" OR ").join(tests) if tests else sql.SQL("false"))
        return self._fetch(
            query,
            keys=list(keys),
            columns=list(json.loads(keys[0])),
            first=min(first for first, _ in gaps) - _BATCH_LEAVES,
            last=min(max(last for _, last in gaps) + _BATCH_LEAVES, _LAST_LEAF),
        )

    def _read_under(self, key: str, *, are_endings: bool) -> list[Record]:
        query = _RECORDS.format(columns=COLUMNS, wanted=_WANTED.format(), head=_HEAD, under_keys=_UNDER_KEYS)
        return self._fetch(query, keys=[key], endings=list(ENDINGS), are_endings=are_endings)

    def _fetch(self, query: sql.Composed, **values: object) -> list[Record]:
        return fetch_records(self._connection, query, {**values, "relation": self._relation, "trail": self._trail})
