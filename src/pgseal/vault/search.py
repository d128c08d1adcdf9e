"""Reads the vault: the history of one row, search over everything, one record by its id. Changes nothing.

Connections come from ``pgseal.postgres.connect``. Nothing here looks at a source: the vault answers, also when
production is down.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from pgseal.core.record import parse_relation
from pgseal.errors import ConfigError, FormatError
from pgseal.postgres import Connection, translated_errors
from pgseal.vault.records import COLUMNS, Record
from pgseal.vault.values import format_json, parse_part

_SIDE = "vault"
_BATCH = 1000
_SHOWN = 8
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Filters:
    """What ``search`` looks for; everything given must hold.

    ``since`` and ``until`` are times as PostgreSQL reads them, with a zone; ``until`` is exclusive. ``actor`` is a role
    or a claimed actor, in full; ``text`` a part of any value, upper and lower case alike.
    """

    actor: str | None = None
    relation: str | None = None
    action: str | None = None
    category: str | None = None
    since: str | None = None
    until: str | None = None
    text: str | None = None
    trail: str | None = None


def resolve_relation(connection: Connection, text: str) -> str:
    """Return the relation of sealed records that a person means: ``patients``, ``public.patients``, ``"Odd"."Name"``.

    Raises ``ConfigError`` if no or more than one relation answers to the name.
    """
    try:
        parse_relation(text)
    except FormatError:
        name = text
        if not text.startswith('"') and not _BARE.fullmatch(text):
            name = '"' + text.replace('"', '""') + '"'
    else:
        return text
    name = name.lower() if _BARE.fullmatch(name) else name
    with translated_errors(_SIDE):
        found = [
            row[0]
            for row in connection.execute(
                "SELECT DISTINCT relation FROM vault.record WHERE relation LIKE %s ORDER BY relation",
                ["%." + _escape_like(name)],
            )
        ]
    # A name with a dot in it ends like another relation.
    candidates = [relation for relation in found if _name_of(relation) == name]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise ConfigError(f"{text!r} could be {_list(candidates)}: write the schema, too")
    raise ConfigError(
        f"no sealed record is about a table {text!r}; pgseal status lists the tables, "
        "and pgseal seal --once seals what waits"
    )


def find_history(connection: Connection, relation: str, key: str, *, trail: str | None = None) -> list[Record]:
    """Return every sealed record of one row, oldest first, each trail for itself.

    Args:
        connection: to the vault.
        relation: as ``resolve_relation`` returns it.
        key: the key's value, or a JSON object with every column of the key.
        trail: of this trail only.

    A key that was changed is followed to the new one; a TRUNCATE that removed the row belongs to its history.
    Raises ``ConfigError`` for a relation without records, or without a key, or with another one.
    """
    with translated_errors(_SIDE):
        candidates = _expand_key(connection, relation, key)
        records = _follow(connection, relation, candidates, trail)
        truncates = _read_row_records(connection, relation, ["null"], trail, action="TRUNCATE") if records else []
    return _add_truncates(records, truncates)


def find_record(connection: Connection, trail: str | None, record_id: int) -> Record:
    """Return the record ``record_id`` of ``trail`` (None: whichever trail has one), of its newest incarnation.

    Raises ``ConfigError`` if there is none, or if several trails have one.
    """
    with translated_errors(_SIDE):
        records = _fetch(
            connection,
            # The index begins with trail and incarnation, and the feeds know which there are.
            sql.SQL(
                "SELECT DISTINCT ON (r.trail) {columns} FROM vault.feed AS f "
                "CROSS JOIN LATERAL generate_series(1, f.incarnation) AS i(incarnation) "
                "JOIN vault.record AS r ON r.trail = f.trail AND r.incarnation = i.incarnation AND r.id = %(id)s "
                "WHERE %(trail)s::text IS NULL OR f.trail = %(trail)s ORDER BY r.trail, r.incarnation DESC"
            ).format(columns=COLUMNS),
            {"id": record_id, "trail": trail},
        )
        trails = [row[0] for row in connection.execute("SELECT trail FROM vault.feed ORDER BY trail")]
    if len(records) > 1:
        choices = _list([f"{record.trail}/{record.id}" for record in records])
        raise ConfigError(f"several trails have a record {record_id}: say which, {choices}")
    if records:
        return records[0]
    if trail is not None and trail not in trails:
        raise ConfigError(f"the vault has no trail {trail!r}; it has {_list(trails) or 'none yet: pgseal seal --once'}")
    raise ConfigError(
        f"no sealed record {'' if trail is None else trail + '/'}{record_id}; if it is new, pgseal seal --once seals it"
    )


def search(
    connection: Connection, filters: Filters, *, limit: int = 100, cursor: str | None = None
) -> tuple[list[Record], str | None]:
    """Return up to ``limit`` records, newest leaf first, and the cursor to go on from (None: there are no more).

    Raises ``ConfigError`` for a cursor that ``search`` did not give, or a time PostgreSQL cannot read.
    """
    if limit < 1:
        raise ConfigError(f"expected a limit of at least 1, got {limit}")
    before = _parse_cursor(cursor)
    found: list[Record] = []
    for record in _iter_matches(connection, filters, before, limit):
        if len(found) == limit:
            return found, str(found[-1].leaf_index)
        found.append(record)
    return found, None


# -- one row


def _expand_key(connection: Connection, relation: str, key: str) -> list[str]:
    """Return the keys, as JSON texts, that ``key`` may stand for."""
    columns = _read_key_columns(connection, relation)
    given = _parse_object(key)
    if given is not None:
        if set(given) != set(columns):
            raise ConfigError(
                f"{relation} has the key {_list(columns)}: expected a JSON object with these, got {key!r}"
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
        return _fetch(
            connection,
            query.format(columns=COLUMNS),
            {"keys": list(keys), "relation": relation, "trail": trail, "action": action},
        )
    except psycopg.DataError as error:
        raise ConfigError(f"{relation} cannot have such a key: PostgreSQL does not take it as JSON") from error


def _follow(connection: Connection, relation: str, keys: Sequence[str], trail: str | None) -> list[Record]:
    """Return the records under ``keys``, and under what UPDATEs made of them from then on."""
    records = {record.leaf_index: record for record in _read_row_records(connection, relation, keys, trail)}
    # (key, from where on): a later row may have taken the old key, so only what follows belongs to this one.
    waiting = [change for record in records.values() if (change := _find_key_change(record))]
    seen = {text for text, _ in waiting}
    while waiting:
        text, change = waiting.pop()
        for record in _read_row_records(connection, relation, [text], change.trail):
            if _place(record) > _place(change) and record.leaf_index not in records:
                records[record.leaf_index] = record
                further = _find_key_change(record)
                if further and further[0] not in seen:
                    seen.add(further[0])
                    waiting.append(further)
    return sorted(records.values(), key=lambda record: (record.trail, _place(record)))


def _find_key_change(record: Record) -> tuple[str, Record] | None:
    """Return the new key, as JSON text, if an UPDATE changed it."""
    key, new = record.key, record.new
    if record.action != "UPDATE" or not key or not new or not set(key) & set(record.changed):
        return None
    return format_json({column: new.get(column) for column in key}), record


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


# -- everything


def _iter_matches(connection: Connection, filters: Filters, before: int | None, limit: int) -> Iterator[Record]:
    """Yield matching records, newest leaf first, reading on for as long as the caller wants more."""
    conditions, values = _translate(filters)
    accept = _make_check(filters)
    # What PostgreSQL only narrows down is decided here, so ask for more than the limit.
    batch = min(_BATCH, limit + 1)
    while True:
        keyset = sql.SQL("r.leaf_index < {}").format(sql.Literal(before)) if before is not None else sql.SQL("true")
        query = sql.SQL(
            "SELECT {columns} FROM vault.record AS r WHERE {where} ORDER BY r.leaf_index DESC LIMIT {batch}"
        ).format(columns=COLUMNS, where=sql.SQL(" AND ").join([keyset, *conditions]), batch=sql.Literal(batch))
        with translated_errors(_SIDE):
            records = _fetch(connection, query, values)
        yield from filter(accept, records)
        if len(records) < batch:
            return
        before, batch = records[-1].leaf_index, _BATCH


def _translate(filters: Filters) -> tuple[list[sql.SQL], dict[str, str]]:
    """Return conditions on ``vault.record AS r`` that every match fulfils, and their parameters."""
    values = {
        "trail": filters.trail,
        "relation": filters.relation,
        "action": filters.action,
        "category": filters.category,
        "since": filters.since,
        "until": filters.until,
        "actor": None if filters.actor is None else _like_json(filters.actor, quoted=True),
        "text": None if filters.text is None else _like_json(filters.text),
    }
    conditions = {
        "trail": "r.trail = %(trail)s",
        "relation": "r.relation = %(relation)s",
        "action": "r.action = %(action)s",
        "category": "r.category = %(category)s",
        "since": "r.time >= %(since)s::timestamptz",
        "until": "r.time < %(until)s::timestamptz",
        "actor": "r.actor LIKE %(actor)s",
        "text": "(r.data ILIKE %(text)s OR r.actor ILIKE %(text)s)",
    }
    given = {name: value for name, value in values.items() if value is not None}
    return [sql.SQL(conditions[name]) for name in given], given  # pyright: ignore[reportArgumentType]


def _make_check(filters: Filters) -> Callable[[Record], bool]:
    """Return the exact test of what PostgreSQL can only narrow down: it sees the JSON, quotes and names included."""
    wanted = None if filters.text is None else filters.text.casefold()

    def accept(record: Record) -> bool:
        if filters.actor is not None and filters.actor not in names_of_actor(record.who):
            return False
        return wanted is None or any(wanted in text.casefold() for text in _iter_texts([record.who, record.what]))

    return accept


def names_of_actor(actor: Mapping[str, Any]) -> set[str]:
    """Return the names under which an actor may be looked for: roles, and who the application says it is."""
    claimed = actor.get("claimed")
    names = [actor.get("role"), actor.get("set_role"), claimed.get("actor") if isinstance(claimed, dict) else None]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return {str(name) for name in names if name is not None}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _iter_texts(value: Any) -> Iterator[str]:
    """Yield every value inside a JSON value as text; names of members are not looked at."""
    if isinstance(value, Mapping):
        for inner in value.values():  # pyright: ignore[reportUnknownVariableType]
            yield from _iter_texts(inner)
    elif isinstance(value, list):
        for inner in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _iter_texts(inner)
    elif isinstance(value, str):
        yield value
    elif value is not None:
        yield json.dumps(value)


def _parse_cursor(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", cursor):
        raise ConfigError(f"expected a cursor from the 'next' of an earlier search, got {cursor!r}")
    return int(cursor)


# -- helpers


def _fetch(connection: Connection, query: sql.Composed, values: Mapping[str, object]) -> list[Record]:
    return [Record(*row) for row in connection.execute(query, values)]


def _like_json(text: str, *, quoted: bool = False) -> str:
    """Return the LIKE pattern of a text inside JSON; ``quoted``: of a whole string."""
    inside = json.dumps(text, ensure_ascii=False)
    return f"%{_escape_like(inside if quoted else inside[1:-1])}%"


def _escape_like(text: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", text)


def _name_of(relation: str) -> str:
    """Return the second part of a relation, quotes included where it has them."""
    match = re.search(r'\.([a-z_][a-z0-9_]*|"(?:[^"]|"")+")$', relation)
    return match[1] if match else relation


def _list(names: Sequence[str]) -> str:
    more = f", … ({len(names):,} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
