"""Which sealed records are about a data subject. Reads the vault, changes nothing.

- Rows: every record of every row that ever had the key, under whatever keys (``history``). A TRUNCATE or DETACH that
  ended it is about many rows and stays; what it recorded of each row goes.
- Application events and statements that are about such a row (``pgseal.core.mentions``).
- For a subject who acted: who, in every record that names it (``names_of_actor``). What was done is somebody else's.
- Records that are named one by one.

Rows of other tables that refer to it are none of these: they have to be named.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from psycopg import sql

from pgseal.core.actors import names_of_actor
from pgseal.core.erasure import PARTS, SYSTEM
from pgseal.core.mentions import RowName, is_event_about, is_statement_about, iter_values, mentions
from pgseal.errors import ConfigError
from pgseal.postgres import Connection, translated_errors
from pgseal.vault.chain import ENDINGS
from pgseal.vault.history import find_history, find_key_columns
from pgseal.vault.moves import Move
from pgseal.vault.records import COLUMNS, Record, fetch_records
from pgseal.vault.search import find_record, like_json, resolve_relation
from pgseal.vault.values import format_key, parse_part

_SIDE = "vault"
_BATCH = 1000
_SAID = ("app", "statement")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whom the records are about: rows as (table, key), actors, and single records as (trail, id, incarnation).

    ``parts`` are what is to go of the records about the rows, and of the single ones.
    """

    rows: Sequence[tuple[str, str]] = ()
    actors: Sequence[str] = ()
    records: Sequence[tuple[str | None, int, int | None]] = ()
    parts: Sequence[str] = PARTS


@dataclass
class Target:
    """A record, and which of its parts are to go. ``row`` is the table and keys of the row that it is about."""

    record: Record
    parts: set[str]
    relation: str | None = None
    keys: set[str] = field(default_factory=set[str])


@dataclass
class Subject:
    """What was found. ``targets`` by leaf index, without parts that are gone already.

    ``acts`` are records of pgseal's own that name an actor, which stay; ``mentioned`` events and statements that have
    the key's value somewhere, and do not say that they are about the row.
    """

    targets: dict[int, Target] = field(default_factory=dict[int, Target])
    acts: int = 0
    mentioned: list[Record] = field(default_factory=list[Record])


def find_subject(connection: Connection, wanted: Wanted) -> Subject:
    """Return the records about a subject.

    Raises ``ConfigError`` for a table without records or without keys, and for records that there are not.
    """
    subject = Subject()
    for table, key in wanted.rows:
        relation = resolve_relation(connection, table)
        rows = find_history(connection, relation, key)
        keys = {text for row in rows for record in row for text in keys_of(record)}
        for row in rows:
            for record in row:
                _add_row(subject, record, relation, keys, wanted.parts)
        with translated_errors(_SIDE):
            _find_said(connection, subject, relation, keys or _guess_keys(connection, relation, key), wanted.parts)
    for actor in wanted.actors:
        with translated_errors(_SIDE):
            _find_acted(connection, subject, actor)
    for trail, record_id, incarnation in wanted.records:
        record = find_record(connection, trail, record_id, incarnation)
        if record.source == SYSTEM:
            raise ConfigError(f"record {record.trail}/{record.id} is of pgseal's own acts, which are never erased")
        _add(subject, record, wanted.parts, record.relation, keys_of(record))
    subject.mentioned = [one for one in subject.mentioned if one.leaf_index not in subject.targets]
    return subject


def find_keys(connection: Connection, relation: str, key: str) -> set[str]:
    """Return every key that the rows with ``key`` have had, as ``format_key`` writes them; raises ``ConfigError``.

    For a row of which nothing is recorded, the key as it was given.
    """
    rows = find_history(connection, relation, key)
    return {text for row in rows for record in row for text in keys_of(record)} or _guess_keys(
        connection, relation, key
    )


def keys_of(record: Record) -> set[str]:
    """Return the keys, as ``format_key`` writes them, of the row that a record is about."""
    if record.source != "row" or record.data is None:
        return set()
    keys = {key for key in (record.key_before, record.key_after) if key is not None}
    if record.key is not None:
        keys.add(format_key(record.key))
    return keys


def _add_row(subject: Subject, record: Record, relation: str, keys: set[str], parts: Sequence[str]) -> None:
    if record.action in ENDINGS and record.key is None:
        return
    halves = [record.departure, _arrival_of(record)] if isinstance(record, Move) else [record]
    for half in halves:
        _add(subject, half, parts, relation, keys)


def _arrival_of(move: Move) -> Record:
    """Return the INSERT of a move: it has the move's place."""
    names = Record.__dataclass_fields__
    return replace(Record(**{name: getattr(move, name) for name in names}), action="INSERT")


def _add(
    subject: Subject, record: Record, parts: Iterable[str], relation: str | None = None, keys: Iterable[str] = ()
) -> None:
    left = {part for part in parts if getattr(record, part) is not None}
    if not left or record.source == SYSTEM:
        return
    target = subject.targets.setdefault(record.leaf_index, Target(record, set(), relation))
    target.parts |= left
    target.relation = target.relation or relation
    target.keys |= set(keys)


def _guess_keys(connection: Connection, relation: str, key: str) -> set[str]:
    """Return the key as it was given, for events about a row of which nothing is left."""
    columns = find_key_columns(connection, relation)
    if len(columns) == 1 and not key.lstrip().startswith("{"):
        return _write_keys(columns[0], key)
    return {format_key(parse_part(key, source="key"))}


def _find_said(connection: Connection, subject: Subject, relation: str, keys: set[str], parts: Sequence[str]) -> None:
    rows = [
        RowName(relation, {name: str(value) for name, value in parse_part(key, source="key").items()}) for key in keys
    ]
    for row in rows:
        for record in _iter_said(connection, row):
            is_about = (
                is_event_about(record.what, row)
                if record.source == "app"
                else is_statement_about(record.what, record.relation, row)
            )
            if is_about:
                _add(subject, record, parts, relation, keys | _keys_in(record, row))
            elif mentions(record.what, row):
                subject.mentioned.append(record)


def _keys_in(record: Record, row: RowName) -> set[str]:
    """Return the keys of the table's other rows that an event or statement may be about, for holds on these."""
    if len(row.key) != 1:
        return set()
    column = next(iter(row.key))
    return {key for value in set(iter_values(record.what)) for key in _write_keys(column, value)}


def _write_keys(column: str, value: str) -> set[str]:
    texts = [json.dumps(value, ensure_ascii=False), *([value] if _NUMBER.fullmatch(value) else [])]
    return {format_key(parse_part(f"{{{json.dumps(column)}: {text}}}", source="key")) for text in texts}


def _iter_said(connection: Connection, row: RowName) -> Iterator[Record]:
    """Yield the events and statements that have every value of a key somewhere."""
    names = [f"value{number}" for number in range(len(row.key))]
    condition = sql.SQL(" AND ").join(
        [
            sql.SQL("r.source = ANY (%(sources)s::text[])"),
            *(sql.SQL("r.data ILIKE {}").format(sql.Placeholder(name)) for name in names),
        ]
    )
    likes = {name: like_json(value) for name, value in zip(names, row.key.values(), strict=True)}
    return _iter_records(connection, condition, {"sources": list(_SAID), **likes})


def _find_acted(connection: Connection, subject: Subject, actor: str) -> None:
    condition = sql.SQL("r.actor LIKE %(actor)s")
    for record in _iter_records(connection, condition, {"actor": like_json(actor, quoted=True)}):
        if actor not in names_of_actor(record.who):
            continue
        if record.source == SYSTEM:
            subject.acts += 1
        else:
            _add(subject, record, ("actor",), record.relation, keys_of(record))


def _iter_records(connection: Connection, condition: sql.Composable, values: dict[str, object]) -> Iterator[Record]:
    after = -1
    query = sql.SQL(
        "SELECT {columns} FROM vault.record AS r WHERE {condition} AND r.leaf_index > %(after)s "
        "ORDER BY r.leaf_index LIMIT {batch}"
    ).format(columns=COLUMNS, condition=condition, batch=sql.Literal(_BATCH))
    while True:
        records = fetch_records(connection, query, {**values, "after": after})
        yield from records
        if len(records) < _BATCH:
            return
        after = records[-1].leaf_index
