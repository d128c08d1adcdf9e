"""Replays history into tables, and compares them with the ones it is the history of.

Written from FORMATS.md §1 alone; shares nothing with the product but PostgreSQL and a part's text. What a record says:

    INSERT, SNAPSHOT    `new` is the row
    UPDATE              `new` is the row after, `old` the former values of what changed, `key` the former key
    DELETE              `old` is the row
    TRUNCATE            no row is left
    TRUNCATE_PARTITION  no row is left in the partition `part`
    DETACH              neither, it is no partition any more
    ATTACH              the rows in the partition `part` are those of the SNAPSHOT records that follow

Records about rows of a partitioned table name the partition in `part`. Of one with an ATTACH, nothing before counts.

Every old image must be a row that stands there: nothing may be missing in between. In the order of `id` it does, except
that triggers nest: a record may then come before the one that it starts from, in the same transaction. It is held back,
and may have to be inserted in between; at the end of the transaction nothing may be left over.
"""

import json
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import psycopg
from psycopg import sql

from pgseal.trail.rows import DATA_TEXT

Image = dict[str, Any]
Row = tuple[str | None, str]

REDACTED = "[redacted]"


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


@dataclass(frozen=True)
class _Step:
    """What one record does: takes a row away, puts one there, or both. A row is the partition and the image."""

    before: Row | None
    after: Row | None
    what: str


@dataclass
class ReplayedTable:
    """The rows of one table so far. `held_back` counts the records that came before what they start from."""

    images: Counter[Row] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    held_back: int = 0
    _keys: dict[Row, str | None] = field(default_factory=dict)
    _transaction: Hashable = None
    _waiting: list[_Step] = field(default_factory=list)
    _seen: set[Row] = field(default_factory=set)

    def apply(self, action: str, data: Image, transaction: Hashable) -> None:
        """Apply one record; AssertionError if what stands there is not what the record starts from."""
        if transaction != self._transaction:
            self.settle()
            self._transaction = transaction
        key, new, old = data["key"], data["new"], data["old"]
        part = format_json(data["part"]) if "part" in data else None
        self.actions[action] += 1
        if action in {"TRUNCATE", "TRUNCATE_PARTITION", "ATTACH", "DETACH"}:
            assert (key, new, old) == (None, None, None)
            assert (part is None) == (action == "TRUNCATE")
            self.settle()
            for row in [row for row in self.images if action == "TRUNCATE" or row[0] == part]:
                del self.images[row]
        elif action in {"INSERT", "SNAPSHOT"}:
            assert old is None
            self._step(part, None, new, key, key, action)
        elif action == "DELETE":
            assert new is None
            self._step(part, old, None, key, None, action)
        else:
            assert action == "UPDATE"
            before = {**new, **old}
            assert before.keys() == new.keys(), "old names a column that new does not have"
            # What changed is told by the values themselves; redacted, they look alike.
            same = [name for name, value in old.items() if new[name] == value and value != REDACTED]
            assert not same, f"old names a column that did not change: {same}"
            self._step(part, before, new, key, key and {name: new[name] for name in key}, action)

    def settle(self) -> None:
        """End a transaction: nothing waits any more, and no two rows have one key."""
        if self._waiting:
            # Rows that went round in a circle: it must hang together with what happened, and change nothing.
            what = "; ".join(step.what for step in self._waiting)
            assert any(step.before in self._seen for step in self._waiting), f"no such row: {what}"
            ends = [Counter(map(end, self._waiting)) for end in (attrgetter("before"), attrgetter("after"))]
            assert ends[0] == ends[1], f"no such row: {what}"
            self._waiting.clear()
        keys = Counter(self._keys[image] for image in self._seen for _ in range(self.images[image]))
        del keys[None]
        assert not keys or max(keys.values()) == 1, f"two rows have one key: {keys.most_common(1)}"
        self._seen.clear()

    def rows(self) -> Iterator[str]:
        """The rows as JSON texts."""
        self.settle()
        yield from (image for _, image in self.images.elements())

    def _step(
        self,
        part: str | None,
        before: Image | None,
        after: Image | None,
        old_key: Image | None,
        new_key: Image | None,
        action: str,
    ) -> None:
        rows: list[Row | None] = []
        for image, key in ((before, old_key), (after, new_key)):
            if image is None:
                rows.append(None)
                continue
            assert key is None or {name: image[name] for name in key} == key, f"{key} is not the key of {image}"
            row = (part, format_json(image))
            rows.append(row)
            self._keys[row] = key and format_json(key)
        step = _Step(rows[0], rows[1], f"{action} {old_key} of {before}")
        if not self._take(step):
            self.held_back += 1
            self._waiting.append(step)
            return
        while any(self._take(step) and not self._waiting.remove(step) for step in list(self._waiting)):
            pass

    def _take(self, step: _Step) -> bool:
        if step.before is not None:
            if not self.images[step.before]:
                return False
            self.images[step.before] -= 1
            self._seen.add(step.before)
        if step.after is not None:
            self.images[step.after] += 1
            self._seen.add(step.after)
        return True


def replay_vault(vault: psycopg.Connection, trail: str) -> dict[str, ReplayedTable]:
    """Replay the row records of a trail as the vault has them, in order of (incarnation, id)."""
    statement = (
        "SELECT id, action, relation, data, (incarnation, xid)::text FROM vault.record "
        "WHERE trail = %s AND source = 'row' ORDER BY incarnation, id"
    )
    return _replay(vault.execute(statement, (trail,)))


def replay_trail(source: psycopg.Connection) -> dict[str, ReplayedTable]:
    """Replay the row records of a source's own trail, in order of id."""
    return _replay(
        source.execute(
            sql.SQL("SELECT r.id, r.action, r.relation, {}, r.xid::text FROM audit.record AS r ").format(
                sql.SQL(DATA_TEXT)
            )
            + sql.SQL("WHERE r.source = 'row' ORDER BY r.id")
        )
    )


def _replay(records: Iterable[tuple[Any, ...]]) -> dict[str, ReplayedTable]:
    parsed = [(*head, parse_json(data), transaction) for *head, data, transaction in records]
    attached = {
        (relation, data["part"]): position
        for position, (_, action, relation, data, _) in enumerate(parsed)
        if action == "ATTACH"
    }
    tables: dict[str, ReplayedTable] = {}
    for position, (record_id, action, relation, data, transaction) in enumerate(parsed):
        table = tables.setdefault(relation, ReplayedTable())
        if position < attached.get((relation, data.get("part")), 0):
            continue
        try:
            table.apply(action, data, transaction)
        except AssertionError as error:
            error.add_note(f"at record {record_id}: {action} of {relation}")
            raise
    for table in tables.values():
        table.settle()
    return tables


def find_differences(
    source: psycopg.Connection, relation: str, table: ReplayedTable, hidden: Collection[str] = ()
) -> list[tuple[Any, ...]]:
    """Compare with the table's current rows by output text; differing rows, marked `replayed` or `current`.

    PostgreSQL reads the JSON values as the columns' types and prints both sides. `hidden` columns, which are masked or
    left out, are not compared.
    """
    columns = source.execute(
        "SELECT attname, atttypid::regtype::text, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = %s::text::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated <> 'v' "
        "AND attname <> ALL (%s) ORDER BY attnum",
        (relation, list(hidden)),
    ).fetchall()
    replayed, current = [], []
    for name, type_name, full_type in columns:
        form = _JSONB if type_name == "jsonb" else "image ->> {}"
        value = sql.SQL(form).format(sql.Literal(name))
        replayed.append(_output(sql.SQL("({})::{}").format(value, sql.SQL(full_type))))
        current.append(_output(sql.Identifier(name)))
    parts = source.execute("SELECT parse_ident(%s)", (relation,)).fetchone()
    assert parts
    is_tree = source.execute(
        "SELECT relkind = 'p' FROM pg_class WHERE oid = %s::text::regclass", (relation,)
    ).fetchone()
    only = sql.SQL("" if is_tree == (True,) else "ONLY ")
    replayed_rows = sql.SQL("SELECT {} FROM replayed").format(sql.SQL(", ").join(replayed))
    current_rows = sql.SQL("SELECT {} FROM {}{}").format(sql.SQL(", ").join(current), only, sql.Identifier(*parts[0]))
    with source.transaction(force_rollback=True):
        source.execute("SET LOCAL session_replication_role = origin")
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


# JSON null, which is not SQL NULL, and objects that look like this encoding are marked.
_JSONB = (
    "CASE image -> {0} -> 'pgseal' WHEN '\"null\"' THEN 'null' WHEN '\"value\"' THEN image -> {0} -> 'value' "
    "ELSE nullif(image -> {0}, 'null') END"
)


def _output(value: sql.Composable) -> sql.Composed:
    # Not a cast: to text, that of char(n) would drop trailing blanks. And a composite IS NULL if all its fields are.
    return sql.SQL("CASE WHEN num_nulls({0}) = 0 THEN format('%s', {0}) END").format(value)
