"""Reads the vault: search over everything, one record by its id. Changes nothing.

Connections come from ``pgseal.postgres.connect``. Nothing here looks at a source: the vault answers, also when
production is down.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import sql

from pgseal.core.actors import names_of_actor
from pgseal.core.record import parse_relation
from pgseal.errors import ConfigError, FormatError
from pgseal.postgres import Connection, translated_errors
from pgseal.vault.records import COLUMNS, Record, fetch_records, list_names

_SIDE = "vault"
_BATCH = 1000
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
        if _is_known(connection, text):
            return text
        raise _not_found(connection, text)
    name = name.lower() if _BARE.fullmatch(name) else name
    with translated_errors(_SIDE):
        # Capture begins with a TRACK record, and there is an index of these; all records are looked at in need only.
        candidates = _find_relations(connection, name, "source = 'system' AND action = 'TRACK'")
        candidates = candidates or _find_relations(connection, name, "true")
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise ConfigError(f"{text!r} could be {list_names(candidates)}: write the schema, too")
    raise _not_found(connection, text)


def _is_known(connection: Connection, relation: str) -> bool:
    # As above: the index of TRACK records first.
    with translated_errors(_SIDE):
        for condition in ("source = 'system' AND action = 'TRACK'", "true"):
            query = sql.SQL("SELECT FROM vault.record WHERE relation = %s AND {} LIMIT 1").format(sql.SQL(condition))
            if connection.execute(query, [relation]).fetchone() is not None:
                return True
    return False


def _not_found(connection: Connection, text: str) -> ConfigError:
    with translated_errors(_SIDE):
        row = connection.execute(
            "SELECT min(relation) FROM vault.record WHERE source = 'system' AND action = 'TRACK' "
            "AND (lower(replace(relation, '\"', '')) = lower(replace(%(text)s, '\"', '')) "
            "OR lower(replace(relation, '\"', '')) LIKE '%%.' || lower(replace(%(like)s, '\"', '')))",
            {"text": text, "like": _escape_like(text)},
        ).fetchone()
    if row and row[0]:
        return ConfigError(
            f"no sealed record is about a table {text!r}; names with capitals stand in double quotes: "
            f"{shlex.quote(row[0])}"
        )
    return ConfigError(
        f"no sealed record is about a table {text!r}; pgseal status lists the tables, "
        "and pgseal seal --once seals what waits"
    )


def _find_relations(connection: Connection, name: str, condition: LiteralString) -> list[str]:
    query = sql.SQL("SELECT DISTINCT relation FROM vault.record WHERE relation LIKE %s AND {} ORDER BY relation")
    rows = connection.execute(query.format(sql.SQL(condition)), ["%." + _escape_like(name)])
    # A name with a dot in it ends like another relation.
    return [row[0] for row in rows if _name_of(row[0]) == name]


def find_record(connection: Connection, trail: str | None, record_id: int, incarnation: int | None = None) -> Record:
    """Return the record ``record_id`` of ``trail`` (None: whichever trail has one), of its newest incarnation that has.

    With ``incarnation`` of that one: after a restore another record may have got the id.

    Raises ``ConfigError`` if there is none, or if several trails have one.
    """
    with translated_errors(_SIDE):
        records = fetch_records(
            connection,
            # The index begins with trail and incarnation, and the feeds know which there are.
            sql.SQL(
                "SELECT DISTINCT ON (r.trail) {columns} FROM vault.feed AS f "
                "CROSS JOIN LATERAL generate_series(1, f.incarnation) AS i(incarnation) "
                "JOIN vault.record AS r ON r.trail = f.trail AND r.incarnation = i.incarnation AND r.id = %(id)s "
                "WHERE (%(trail)s::text IS NULL OR f.trail = %(trail)s) "
                "AND (%(incarnation)s::int IS NULL OR r.incarnation = %(incarnation)s) "
                "ORDER BY r.trail, r.incarnation DESC"
            ).format(columns=COLUMNS),
            {"id": record_id, "trail": trail, "incarnation": incarnation},
        )
    if len(records) > 1:
        choices = list_names([f"{record.trail}/{record.id}" for record in records])
        raise ConfigError(f"several trails have a record {record_id}: say which, {choices}")
    if records:
        return records[0]
    if trail is not None:
        check_trail(connection, trail)
    raise ConfigError(
        f"no sealed record {'' if trail is None else trail + '/'}{record_id}; if it is new, pgseal seal --once seals it"
    )


def check_trail(connection: Connection, trail: str, configured: Iterable[str] = ()) -> None:
    """Raise ``ConfigError``, naming the trails there are, if ``trail`` has no sealed records and is not configured."""
    with translated_errors(_SIDE):
        sealed = [row[0] for row in connection.execute("SELECT trail FROM vault.feed ORDER BY trail")]
    trails = list(dict.fromkeys([*sealed, *configured]))
    if trail not in trails:
        raise ConfigError(
            f"there is no trail {trail!r}; there are {list_names(trails) or 'none yet: pgseal seal --once'}"
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
            records = fetch_records(connection, query, values)
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
        "actor": None if filters.actor is None else like_json(filters.actor, quoted=True),
        "text": None if filters.text is None else like_json(filters.text),
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


def like_json(text: str, *, quoted: bool = False) -> str:
    """Return the LIKE pattern of a text inside JSON; ``quoted``: of a whole string."""
    inside = json.dumps(text, ensure_ascii=False)
    return f"%{_escape_like(inside if quoted else inside[1:-1])}%"


def _escape_like(text: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", text)


def _name_of(relation: str) -> str:
    """Return the second part of a relation, quotes included where it has them."""
    match = re.search(r'\.([a-z_][a-z0-9_]*|"(?:[^"]|"")+")$', relation)
    return match[1] if match else relation
