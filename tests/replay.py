"""Replays sealed history into tables, and compares them with the ones it is the history of.

Written from FORMATS.md §1 alone; shares nothing with the product but PostgreSQL. What a record says:

    INSERT, SNAPSHOT    `new` is the row
    UPDATE              `new` is the row after, `old` the former values of what changed, `key` the former key
    DELETE              `old` is the row
    TRUNCATE            no row is left

Along the chain every old image must be the very row that stands there: nothing may be missing in between.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

Image = dict[str, Any]


@dataclass(frozen=True)
class Number:
    """A JSON number as it was written: 1.0 is not 1.00."""

    text: str


def parse_json(text: str) -> Any:
    return json.loads(text, parse_int=Number, parse_float=Number)


def format_json(value: Any) -> str:
    """One text for one value: members sorted, numbers as they were."""
    if isinstance(value, Number):
        return value.text
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{format_json(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(format_json, value)) + "]"
    return json.dumps(value)


@dataclass
class ReplayedTable:
    """The rows of one table so far: by key where it has one, otherwise counted."""

    by_key: dict[str, Image] = field(default_factory=dict)
    counted: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)

    def apply(self, action: str, data: Image) -> None:
        """Apply one record; AssertionError if what stands there is not what the record starts from."""
        key, new, old = data["key"], data["new"], data["old"]
        self.actions[action] += 1
        if action == "TRUNCATE":
            assert (key, new, old) == (None, None, None)
            self.by_key.clear()
            self.counted.clear()
        elif action in {"INSERT", "SNAPSHOT"}:
            assert old is None
            self._add(key, new)
        elif action == "DELETE":
            assert new is None
            self._remove(key, old)
        else:
            assert action == "UPDATE"
            before = {**new, **old}
            assert before.keys() == new.keys(), "old names a column that new does not have"
            assert all(new[name] != value for name, value in old.items()), "old names a column that did not change"
            self._remove(key, before)
            self._add(key and {name: new[name] for name in key}, new)

    def _add(self, key: Image | None, image: Image) -> None:
        if key is None:
            self.counted[format_json(image)] += 1
            return
        assert {name: image[name] for name in key} == key
        assert format_json(key) not in self.by_key, f"there is a row with key {key} already"
        self.by_key[format_json(key)] = image

    def _remove(self, key: Image | None, image: Image) -> None:
        if key is None:
            text = format_json(image)
            assert self.counted[text] > 0, f"no such row: {text}"
            self.counted[text] -= 1
            return
        assert self.by_key.pop(format_json(key), None) == image, f"the row with key {key} is another"

    def rows(self) -> Iterator[str]:
        """The rows as JSON texts."""
        yield from map(format_json, self.by_key.values())
        yield from self.counted.elements()


def replay_vault(vault: psycopg.Connection, trail: str) -> dict[str, ReplayedTable]:
    """Replay the row records of a trail as the vault has them, in order of (incarnation, id)."""
    tables: dict[str, ReplayedTable] = {}
    statement = (
        "SELECT id, action, relation, data FROM vault.record WHERE trail = %s AND source = 'row' "
        "ORDER BY incarnation, id"
    )
    for record_id, action, relation, data in vault.execute(statement, (trail,)):
        try:
            tables.setdefault(relation, ReplayedTable()).apply(action, parse_json(data))
        except AssertionError as error:
            error.add_note(f"at record {trail}/{record_id}: {action} of {relation}")
            raise
    return tables


def find_differences(source: psycopg.Connection, relation: str, table: ReplayedTable) -> list[tuple[Any, ...]]:
    """Compare with the table's current rows by output text; differing rows, marked `replayed` or `current`.

    PostgreSQL reads the JSON values as the columns' types and prints both sides. (A jsonb null is told from an SQL NULL
    by nothing in a record: keep it out of the data.)
    """
    columns = source.execute(
        "SELECT attname, atttypid::regtype::text, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = %s::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        (relation,),
    ).fetchall()
    replayed, current = [], []
    for name, type_name, full_type in columns:
        value = sql.SQL("image ->> {}").format(sql.Literal(name))
        if type_name == "jsonb":
            value = sql.SQL("nullif(image -> {}, 'null')").format(sql.Literal(name))
        replayed.append(_output(sql.SQL("({})::{}").format(value, sql.SQL(full_type))))
        current.append(_output(sql.Identifier(name)))
    replayed_rows = sql.SQL("SELECT {} FROM replayed").format(sql.SQL(", ").join(replayed))
    current_rows = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(current), sql.SQL(relation))
    with source.transaction(force_rollback=True):
        source.execute("CREATE TEMPORARY TABLE replayed (image jsonb)")
        with source.cursor().copy("COPY replayed FROM STDIN") as copy:
            for row in table.rows():
                copy.write_row((row,))
        return source.execute(
            sql.SQL(
                "(SELECT 'replayed', only_replayed FROM ({0} EXCEPT ALL {1}) AS only_replayed) "
                "UNION ALL (SELECT 'current', only_current FROM ({1} EXCEPT ALL {0}) AS only_current)",
            ).format(replayed_rows, current_rows),
        ).fetchall()


def _output(value: sql.Composable) -> sql.Composed:
    # Not a cast: to text, that of char(n) would drop trailing blanks.
    return sql.SQL("CASE WHEN {0} IS NOT NULL THEN format('%s', {0}) END").format(value)
