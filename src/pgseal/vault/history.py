"""Reads the history of rows from the vault. Changes nothing.

A row begins with INSERT or SNAPSHOT (or unseen, before its table was tracked), may be given other keys, and ends with
DELETE or TRUNCATE, or when its partition is detached. The history of a key is that of every row that ever had it: all
their versions, under whatever keys. A row that only had a key which one of these had at another time does not belong to
it. ``chain`` says how the records of one row are told from those of another, and in what order they stand.

What happened at a key is found through an index. Where a row may have been given the key by an UPDATE that is not
known yet (the key is free now, or a row is suddenly there), the table's UPDATEs of that time are looked through.
"""

import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from psycopg import sql

from pgseal.errors import ConfigError, FormatError
from pgseal.postgres import Connection, translated_errors
from pgseal.vault.chain import ENDINGS, place_of
from pgseal.vault.keys import TypedKey
from pgseal.vault.lineage import Lineages, Row
from pgseal.vault.records import COLUMNS, Record, fetch_records, list_names
from pgseal.vault.row_records import RowReader, find_recorded, find_trails
from pgseal.vault.values import format_key, parse_part

_SIDE = "vault"


def find_history(connection: Connection, relation: str, key: str, *, trail: str | None = None) -> list[Row]:
    """Return every row that had a key, each as its records, oldest first; rows in order of trail and beginning.

    Args:
        connection: to the vault.
        relation: as ``resolve_relation`` returns it.
        key: the key's value, or a JSON object with every column of the key; ``keys`` says how it is compared.
        trail: of this trail only.

    If it finds nothing under the key that the table has now, it looks for one that the table had before.

    Raises ``ConfigError`` for a relation without records, or without a key, or with another one, or for a text that
    could be several keys.
    """
    with translated_errors(_SIDE):
        newest = _read_newest(connection, relation)
        refusal: ConfigError | None = None
        for sample in itertools.chain([newest], _iter_former(connection, newest)):
            try:
                typed = TypedKey(relation, key, _get_key(sample, relation))
            except ConfigError as error:
                refusal = error if sample is newest else refusal
                continue
            if rows := _find_rows(connection, typed, sample, trail):
                return rows
        if refusal is not None:
            raise refusal
        return []


def _find_rows(connection: Connection, typed: TypedKey, sample: Record, trail: str | None) -> list[Row]:
    relation = typed.relation
    recorded, likely = find_recorded(connection, relation, typed.spell()), typed.spell_likely()
    if not recorded:
        likely = typed.guess(connection)
        recorded = find_recorded(connection, relation, likely)
        if len({one for _, one in recorded}) > 1:
            choices = list_names([one for _, one in recorded])
            raise ConfigError(
                f"{typed.text!r} could be several keys of {relation}: write one as it is recorded, {choices}"
            )
    keys = list(dict.fromkeys(_parse_key(one) for one in [one for _, one in recorded] or likely))
    if trail is not None:
        trails = {trail}
    else:
        trails = {sample.trail, *(one for one, _ in recorded), *find_trails(connection, relation)}
    return [row for one in sorted(trails) for row in Lineages(RowReader(connection, relation, one)).find_rows(keys)]


def _iter_former(connection: Connection, newest: Record) -> Iterator[Record]:
    """Yield the newest record under each key of other columns that the table had when capture was made."""
    rows = connection.execute(
        "SELECT data::jsonb -> 'key' FROM vault.record WHERE relation = %s AND source = 'system' AND action = 'TRACK' "
        "AND data IS NOT NULL ORDER BY leaf_index DESC",
        [newest.relation],
    ).fetchall()
    seen = [set(newest.key or ())]
    for (columns,) in rows:
        if not columns or set(columns) in seen:
            continue
        seen.append(set(columns))
        # No index tells: the head of the content does, from the newest record on.
        query = sql.SQL(
            "SELECT {columns} FROM vault.record AS r WHERE r.relation = %(relation)s AND r.source = 'row' "
            "AND CASE WHEN starts_with(r.data, '{{\"key\": {{') THEN r.data::jsonb -> 'key' ?& %(names)s::text[] END "
            "ORDER BY r.leaf_index DESC LIMIT 1"
        )
        yield from fetch_records(
            connection, query.format(columns=COLUMNS), {"relation": newest.relation, "names": columns}
        )


def find_row(connection: Connection, record: Record) -> Row:
    """Return the records of the row that ``record`` is about, oldest first; ``[record]`` if it is about none."""
    if record.source != "row" or record.relation is None or record.key is None:
        return [record]
    with translated_errors(_SIDE):
        return Lineages(RowReader(connection, record.relation, record.trail)).find_row(record)


def merge_rows(rows: Sequence[Row]) -> list[tuple[Record, list[int]]]:
    """Return the records of several rows, oldest first, each trail for itself and each row in its own order.

    With each record come the numbers, from 1, of the rows that it belongs to: a TRUNCATE ends several.
    """
    merged: dict[int, tuple[Record, list[int]]] = {}
    heads = [((row[0].trail, place_of(row[0])), number, 0) for number, row in enumerate(rows)]
    heapq.heapify(heads)
    while heads:
        _, number, position = heapq.heappop(heads)
        row = rows[number]
        merged.setdefault(row[position].leaf_index, (row[position], []))[1].append(number + 1)
        if position + 1 < len(row):
            following = row[position + 1]
            heapq.heappush(heads, ((following.trail, place_of(following)), number, position + 1))
    return list(merged.values())


def find_key_columns(connection: Connection, relation: str) -> list[str]:
    """Return the columns of the key under which rows of ``relation`` are recorded; raises as ``find_history``."""
    with translated_errors(_SIDE):
        return list(_get_key(_read_newest(connection, relation), relation))


def _read_newest(connection: Connection, relation: str) -> Record:
    # The newest that was not erased and is about one row: a key may have been another once.
    query = sql.SQL(
        "SELECT {columns} FROM vault.record AS r WHERE r.relation = %(relation)s AND r.source = 'row' "
        "AND r.data IS NOT NULL AND r.action <> ALL (%(others)s::text[]) ORDER BY r.leaf_index DESC LIMIT 1"
    )
    values = {"relation": relation, "others": [*ENDINGS, "ATTACH"]}
    records = fetch_records(connection, query.format(columns=COLUMNS), values)
    if not records:
        raise ConfigError(
            f"no sealed record is about a row of {relation}; pgseal status lists the tables, "
            "and pgseal seal --once seals what waits"
        )
    return records[0]


def _get_key(record: Record, relation: str) -> Mapping[str, Any]:
    if record.key is None:
        raise ConfigError(
            f"{relation} has no primary key, so its rows have no history each: pgseal search --table {relation}"
        )
    return record.key


def _parse_key(text: str) -> str:
    try:
        return format_key(parse_part(text, source="key"))
    except FormatError as error:
        raise ConfigError(f"expected a key as JSON, got {text!r}") from error
