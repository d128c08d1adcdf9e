"""Reads the history of one row from the vault. Changes nothing.

The records of a row are found by its key, the leading member of their data. A row whose key was changed is followed to
the new key, and traced back from it.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql

from pgseal.errors import ConfigError, FormatError
from pgseal.postgres import Connection, translated_errors
from pgseal.vault.records import COLUMNS, Record, fetch_records, list_names
from pgseal.vault.values import format_json, parse_part

_SIDE = "vault"
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_BEGINNINGS = frozenset({"INSERT", "SNAPSHOT"})


def find_history(connection: Connection, relation: str, key: str, *, trail: str | None = None) -> list[Record]:
    """Return every sealed record of one row, oldest first, each trail for itself.

    Args:
        connection: to the vault.
        relation: as ``resolve_relation`` returns it.
        key: the key's value, or a JSON object with every column of the key.
        trail: of this trail only.

    A key that was changed is followed to the new one and from the old one; a TRUNCATE that removed the row belongs to
    its history.
    Raises ``ConfigError`` for a relation without records, or without a key, or with another one.
    """
    with translated_errors(_SIDE):
        candidates = _expand_key(connection, relation, key)
        records = _Rows(connection, relation, trail).collect(candidates)
        truncates = _read_row_records(connection, relation, ["null"], trail, action="TRUNCATE") if records else []
    return _add_truncates(records, truncates)


def _expand_key(connection: Connection, relation: str, key: str) -> list[str]:
    """Return the keys, as JSON texts, that ``key`` may stand for."""
    columns = _read_key_columns(connection, relation)
    given = _parse_object(key)
    if given is not None:
        if set(given) != set(columns):
            raise ConfigError(
                f"{relation} has the key {list_names(columns)}: expected a JSON object with these, got {key!r}"
            )
        return [format_json(given)]
    if len(columns) != 1:
        example = json.dumps(dict.fromkeys(columns, "…"), ensure_ascii=False)
        raise ConfigError(f"{relation} has a key of several columns: give it as a JSON object, {example}")
    # A number in the table's eyes may be a text in ours, and the other way round: look for both.
    values = [json.dumps(key, ensure_ascii=False)]
    if _UUID.fullmatch(key):
        values.append(json.dumps(key.lower()))
    if re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,4})?", key) or key in {"true", "false"}:
        values.append(key)
    name = json.dumps(columns[0], ensure_ascii=False)
    return [f"{{{name}: {value}}}" for value in dict.fromkeys(values)]


def _parse_object(text: str) -> Mapping[str, Any] | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        return parse_part(text, source="key")
    except FormatError:
        return None


def _read_key_columns(connection: Connection, relation: str) -> list[str]:
    # The newest that was not erased and is no TRUNCATE: a key may have been another once.
    row = connection.execute(
        "SELECT data FROM vault.record WHERE relation = %s AND source = 'row' AND data IS NOT NULL "
        "AND action <> 'TRUNCATE' ORDER BY leaf_index DESC LIMIT 1",
        [relation],
    ).fetchone()
    if row is None:
        raise ConfigError(
            f"no sealed record is about a row of {relation}; pgseal status lists the tables, "
            "and pgseal seal --once seals what waits"
        )
    key = parse_part(row[0], source=f"a record of {relation}").get("key")
    if not isinstance(key, dict):
        raise ConfigError(
            f"{relation} has no primary key, so its rows have no history each: pgseal search --table {relation}"
        )
    return list(key)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _read_row_records(
    connection: Connection, relation: str, keys: Sequence[str], trail: str | None, *, action: str | None = None
) -> list[Record]:
    """Return the records under any of ``keys`` (JSON texts), in order of trail, incarnation and id."""
    query = sql.SQL(
        "SELECT {columns} FROM (SELECT DISTINCT '{{\"key\": ' || k::jsonb::text || ', \"new\": ' AS prefix "
        "FROM unnest(%(keys)s::text[]) AS k) AS wanted "
        "JOIN vault.record AS r ON vault.row_hash(r.relation, r.data) = vault.row_hash(%(relation)s, wanted.prefix) "
        "WHERE r.source = 'row' AND r.relation = %(relation)s AND starts_with(r.data, wanted.prefix) "
        "AND (%(trail)s::text IS NULL OR r.trail = %(trail)s) AND (%(action)s::text IS NULL OR r.action = %(action)s) "
        "ORDER BY r.trail, r.incarnation, r.id"
    )
    try:
        # Both sides in jsonb's own text form; the hash finds, the prefix decides.
        return fetch_records(
            connection,
            query.format(columns=COLUMNS),
            {"keys": list(keys), "relation": relation, "trail": trail, "action": action},
        )
    except psycopg.DataError as error:
        raise ConfigError(f"{relation} cannot have such a key: PostgreSQL does not take it as JSON") from error


class _Rows:
    """Collects what happened to the rows that ever had a key, under whatever other keys they had."""

    def __init__(self, connection: Connection, relation: str, trail: str | None) -> None:
        self._connection = connection
        self._relation = relation
        self._trail = trail
        self._found: dict[int, Record] = {}

    def collect(self, keys: Sequence[str]) -> list[Record]:
        """Return the records, each trail for itself, oldest first."""
        own = self._add(self._read(keys))
        for record in own:
            if _find_key_change(record):
                self._follow(record)
        if _may_have_arrivals(own):
            for arrival in self._add(self._read_arrivals(keys)):
                self._trace_back(arrival)
        return sorted(self._found.values(), key=lambda record: (record.trail, _place(record)))

    def _follow(self, change: Record) -> None:
        """Add what became of a row after ``change`` gave it another key."""
        key: str | None = _find_key_change(change)
        while key is not None:
            later = [record for record in self._read([key], change.trail) if _place(record) > _place(change)]
            ends = [number for number, record in enumerate(later) if _is_end(record)]
            life = self._add(later[: ends[0] + 1] if ends else later)
            change, key = (life[-1], _find_key_change(life[-1])) if life else (change, None)

    def _trace_back(self, arrival: Record) -> None:
        """Add what a row was before ``arrival`` gave it its key."""
        before: Record | None = arrival
        while before is not None:
            former = [format_json(before.key)]
            earlier = [one for one in self._read(former, before.trail) if _place(one) < _place(before)]
            ends = [number for number, record in enumerate(earlier) if _is_end(record)]
            begin = ends[-1] + 1 if ends else 0
            life = self._add(earlier[begin:])
            if life and life[0].action in _BEGINNINGS:
                return
            since, until = (earlier[begin - 1] if begin else None), (life[0] if life else before)
            between = [
                one
                for one in self._read_arrivals(former, before.trail)
                if (since is None or _place(one) > _place(since)) and _place(one) < _place(until)
            ]
            before = self._add(between[-1:])[0] if between else None

    def _add(self, records: list[Record]) -> list[Record]:
        self._found.update((record.leaf_index, record) for record in records)
        return records

    def _read(self, keys: Sequence[str], trail: str | None = None) -> list[Record]:
        return _read_row_records(self._connection, self._relation, keys, trail or self._trail)

    def _read_arrivals(self, keys: Sequence[str], trail: str | None = None) -> list[Record]:
        """Return the UPDATEs that gave a row one of ``keys``, in order; there is no index for that question."""
        query = sql.SQL(
            # The text tells nearly all that are not meant; what is left is parsed.
            "SELECT {columns} FROM (SELECT k::jsonb AS wanted, (SELECT to_json(name)::text || ': ' || value::text "
            "FROM jsonb_each(k::jsonb) AS e(name, value) LIMIT 1) AS pair FROM unnest(%(keys)s::text[]) AS k) AS w "
            "JOIN vault.record AS r ON strpos(r.data, w.pair) > 0 "
            "WHERE r.source = 'row' AND r.action = 'UPDATE' AND r.relation = %(relation)s "
            "AND (%(trail)s::text IS NULL OR r.trail = %(trail)s) "
            "AND r.data::jsonb -> 'new' @> w.wanted AND r.data::jsonb -> 'key' <> w.wanted "
            "ORDER BY r.trail, r.incarnation, r.id"
        )
        values = {"keys": list(keys), "relation": self._relation, "trail": trail or self._trail}
        return fetch_records(self._connection, query.format(columns=COLUMNS), values)


def _may_have_arrivals(own: Sequence[Record]) -> bool:
    """Return whether an UPDATE may have given a row the key that ``own`` are about.

    Not if everything that happened begins with the row's beginning and the last row is still there.
    """
    is_there = dict.fromkeys((record.trail for record in own), False)
    for record in own:
        if not is_there[record.trail] and record.action not in _BEGINNINGS:
            return True
        is_there[record.trail] = not _is_end(record)
    return not all(is_there.values()) or not own


def _is_end(record: Record) -> bool:
    """Return whether the row no longer had its key afterwards."""
    return record.action == "DELETE" or _find_key_change(record) is not None


def _find_key_change(record: Record) -> str | None:
    """Return the new key, as JSON text, if an UPDATE changed it."""
    key, new = record.key, record.new
    if record.action != "UPDATE" or not key or not new or not set(key) & set(record.changed):
        return None
    return format_json({column: new.get(column) for column in key})


def _add_truncates(records: list[Record], truncates: Iterable[Record]) -> list[Record]:
    """Put those TRUNCATEs in their places that found the row there."""
    added: list[Record] = []
    for truncate in truncates:
        before = [record for record in records if record.trail == truncate.trail and _place(record) < _place(truncate)]
        if before and before[-1].action != "DELETE" and not any(_place(one) > _place(before[-1]) for one in added):
            added.append(truncate)
    return sorted([*records, *added], key=lambda record: (record.trail, _place(record)))


def _place(record: Record) -> tuple[int, int]:
    """Return where a record stands in its trail (FORMATS.md section 2: the history of one row follows id)."""
    return record.incarnation, record.id
