"""Random tables, random changes, random ALTER TABLE in between: replaying the records always gives the table.

A few examples in `make test`; `make fuzz ARGS=tests/postgres/test_replay_property.py` runs FUZZ_EXAMPLES / 5 of them.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import psycopg
import pytest
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st
from psycopg import sql
from tests.replay import ReplayedTable, find_differences, parse_json
from tests.values import ODD_NAMES, TYPES, VALUES, usable

from pgseal.trail.capture import TableRule
from pgseal.trail.health import read_drift
from pgseal.trail.rows import DATA_TEXT
from pgseal.trail.track import track, untrack

EXAMPLES = max(1, settings.default.max_examples // 5) if settings.default else 20
numbers = count(1)

TRIGGERS = {
    "none": "",
    "self": "UPDATE {table} AS x SET {column} = x.{column} WHERE x.id = NEW.id;",
    "sibling": "UPDATE {table} SET id = id WHERE id BETWEEN NEW.id - 2 AND NEW.id + 1;",
    "gone": "DELETE FROM {table} WHERE id = NEW.id AND id % 5 = 3;",
}


@pytest.fixture
def source(source: psycopg.Connection) -> psycopg.Connection:
    source.execute(TYPES)  # pyright: ignore[reportArgumentType]
    return source


@dataclass
class Model:
    """A table as far as the test knows it; `columns` besides id, by name with their types."""

    name: str
    columns: dict[str, str]
    hidden: set[str] = field(default_factory=set)

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier("public", self.name)

    @property
    def relation(self) -> str:
        return f"public.{self.name}"


type_names = st.sampled_from(sorted(VALUES))
column_names = st.sampled_from([name for name in ODD_NAMES if name != "id"])
ids = st.integers(0, 12)


@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_replay_gives_the_table(source: psycopg.Connection, data: st.DataObject):
    model, rule, when = make_table(source, data)
    try:
        change(source, data, model, st.integers(0, 3))
        if when == "before":
            make_trigger(source, data, model)
        track(source.info.dsn, "public", model.name, rule, side="source")
        if when == "after":
            make_trigger(source, data, model)
        change(source, data, model, st.integers(1, 8))
        check(source, model, newest_track(source, model), 0)
        while data.draw(st.booleans(), "alter"):
            source.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(model.identifier))
            source.execute(sql.SQL("DROP TRIGGER IF EXISTS touch ON {}").format(model.identifier))
            enable_capture(source, model)
            alter(source, data, model)
            rows = source.execute(sql.SQL("SELECT count(*) FROM {}").format(model.identifier)).fetchone()
            assert rows
            since = last_id(source)
            # The altered table's own images are where replay begins from now on.
            source.execute(sql.SQL("UPDATE {} SET id = id").format(model.identifier))
            change(source, data, model, st.integers(1, 5))
            check(source, model, since, rows[0])
            if data.draw(st.booleans(), "track again") and is_altered(source, model):
                track(source.info.dsn, "public", model.name, TableRule(), side="source")
                change(source, data, model, st.integers(1, 5))
                check(source, model, newest_track(source, model), 0)
    finally:
        untrack_all(source)
        source.execute(sql.SQL("DROP TABLE {}").format(model.identifier))
        source.execute("DROP FUNCTION IF EXISTS touch()")


def make_table(source: psycopg.Connection, data: st.DataObject) -> tuple[Model, TableRule, str]:
    types = usable(source, VALUES)
    names = data.draw(st.lists(column_names, max_size=6, unique=True), "columns")
    columns = {name: data.draw(type_names.filter(types.__contains__), "type") for name in names}
    model = Model(f"t{next(numbers)}", columns)
    parts = [sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in columns.items()]
    parts.insert(data.draw(st.integers(0, len(parts)), "place of id"), sql.SQL("id int NOT NULL"))
    key = data.draw(st.sampled_from(["", "PRIMARY KEY (id)", "PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED"]), "key")
    partitioned = data.draw(st.sampled_from(["", "", "RANGE", "HASH"]), "partitions")
    if partitioned and "DEFERRABLE" in key:
        key = "PRIMARY KEY (id)"
    tail = sql.SQL(f" PARTITION BY {partitioned} (id)" if partitioned else "")
    body = sql.SQL(", ").join([*parts, *([sql.SQL(key)] if key else [])])
    source.execute(sql.SQL("CREATE TABLE {} ({})").format(model.identifier, body) + tail)
    bounds = {"RANGE": ["FROM (0) TO (5)", "FROM (5) TO (10)"], "HASH": ["WITH (MODULUS 2, REMAINDER 0)",
              "WITH (MODULUS 2, REMAINDER 1)"]}.get(partitioned, [])  # fmt: skip
    for number, bound in enumerate(bounds):
        leaf = sql.Identifier("public", f"{model.name}_{number}")
        source.execute(
            sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES {}").format(leaf, model.identifier, sql.SQL(bound))
        )
    if partitioned == "RANGE":
        leaf = sql.Identifier("public", f"{model.name}_rest")
        source.execute(sql.SQL("CREATE TABLE {} PARTITION OF {} DEFAULT").format(leaf, model.identifier))
    exclude = data.draw(st.lists(st.sampled_from(names), max_size=1) if names else st.just([]), "exclude")
    masked = [name for name in names if name not in exclude]
    mask = {
        name: data.draw(st.sampled_from(["hash", "redact"]), "mask")
        for name in data.draw(st.lists(st.sampled_from(masked), max_size=1) if masked else st.just([]), "masked")
    }
    model.hidden = {*exclude, *mask}
    when = data.draw(st.sampled_from(["never", "never", "before", "after"]), "trigger")
    event(f"partitioned: {partitioned}, trigger: {when}")
    return model, TableRule(exclude, mask, data.draw(st.sampled_from(["count", "rows"]), "truncate")), when


def make_trigger(source: psycopg.Connection, data: st.DataObject, model: Model) -> None:
    action = TRIGGERS[data.draw(st.sampled_from(sorted(TRIGGERS)), "trigger does")]
    body = sql.SQL("BEGIN IF pg_trigger_depth() < 3 THEN {} END IF; RETURN NULL; END").format(
        sql.SQL(action).format(
            table=model.identifier, column=sql.Identifier(next(iter(model.columns), "id"))
        ) if action else sql.SQL("")
    )  # fmt: skip
    source.execute(
        sql.SQL("CREATE OR REPLACE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS {}").format(
            sql.Literal(body.as_string())
        )
    )
    source.execute(
        sql.SQL("CREATE TRIGGER touch AFTER INSERT OR UPDATE ON {} FOR EACH ROW EXECUTE FUNCTION touch()").format(
            model.identifier
        )
    )


def enable_capture(source: psycopg.Connection, model: Model) -> None:
    """Put back what DISABLE TRIGGER USER has switched off of ours."""
    rows = source.execute(
        "SELECT c.oid::regclass::text, t.tgname, s.state FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
        "CROSS JOIN LATERAL (SELECT CASE WHEN t.tgname = 'pgseal_capture' AND EXISTS (SELECT FROM audit.tracked k "
        "WHERE k.table_oid = c.oid AND k.mode = 'statement') THEN 'REPLICA' "
        "WHEN t.tgname = 'pgseal_untrack_before_attach' THEN '' ELSE 'ALWAYS' END AS state) AS s "
        "WHERE t.tgname LIKE 'pgseal%%' AND (c.oid = %s::text::regclass OR c.oid IN "
        "(SELECT relid FROM pg_partition_tree(%s::text::regclass)))",
        [model.relation, model.relation],
    ).fetchall()
    for table, name, state in rows:
        source.execute(f"ALTER TABLE {table} ENABLE {state} TRIGGER {name}")  # pyright: ignore[reportArgumentType]


def change(source: psycopg.Connection, data: st.DataObject, model: Model, counts: st.SearchStrategy[int]) -> None:
    """Run some statements, alone or in transactions; what fails is rolled back."""
    for _ in range(data.draw(counts, "statements")):
        role = data.draw(st.sampled_from(["origin", "origin", "origin", "replica"]), "role")
        rolled_back = data.draw(st.sampled_from([False, False, False, True]), "rolled back")
        with source.transaction(force_rollback=rolled_back):
            source.execute(sql.SQL("SET LOCAL session_replication_role = {}").format(role))
            for _ in range(data.draw(st.integers(1, 3), "in the transaction")):
                statement = draw_statement(data, model)
                note(statement.as_string())
                with refused(), source.transaction():
                    source.execute(statement)
                    source.execute("SET CONSTRAINTS ALL IMMEDIATE")


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """Go on after a statement that PostgreSQL, and not pgseal, had reason to refuse."""
    try:
        yield
    except (
        psycopg.errors.UniqueViolation,
        psycopg.errors.ObjectNotInPrerequisiteState,  # ON CONFLICT with a deferrable key
        psycopg.errors.ObjectInUse,  # TRUNCATE with events of deferred triggers pending
        psycopg.errors.InvalidColumnReference,  # ON CONFLICT without a key
        psycopg.errors.TriggeredDataChangeViolation,  # MERGE and a trigger change one row
    ) as error:
        assert "pgseal" not in str(error)  # noqa: PT017  what else it is does not matter


def draw_statement(data: st.DataObject, model: Model) -> sql.Composed:
    table = model.identifier
    low, high = sorted((data.draw(ids, "from"), data.draw(ids, "to")))
    where = sql.SQL("id BETWEEN {} AND {}").format(low, high)
    names = [*model.columns]
    chosen = data.draw(st.lists(st.sampled_from(names), max_size=3, unique=True) if names else st.just([]), "changed")
    values = [draw_value(data, model.columns[name]) for name in chosen]
    kind = data.draw(st.sampled_from(["insert", "insert", "insert", "update", "update", "noop", "key", "delete",
                                      "truncate", "upsert", "merge", "cte", "swap"]), "kind")  # fmt: skip
    columns = sql.SQL(", ").join(map(sql.Identifier, ["id", *chosen]))
    fill = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM generate_series({}, {}) AS i").format(
        table, columns, sql.SQL(", ").join([sql.SQL("i"), *values]), low, high
    )
    assign = sql.SQL(", ").join(
        [sql.SQL("{} = {}").format(sql.Identifier(name), hole) for name, hole in zip(chosen, values, strict=True)]
        or [sql.SQL("id = {}.id").format(sql.Identifier(model.name))]
    )
    update = sql.SQL("UPDATE {} SET {} WHERE {}").format(table, assign, where)
    statements = {
        "insert": sql.SQL("{} ON CONFLICT DO NOTHING").format(fill),
        "update": update,
        "noop": sql.SQL("UPDATE {} SET id = id WHERE {}").format(table, where),
        "key": sql.SQL("UPDATE {} SET id = id + 4 WHERE {}").format(table, where),
        "swap": sql.SQL("UPDATE {} SET id = {} - id WHERE {}").format(table, low + high, where),
        "delete": sql.SQL("DELETE FROM {} WHERE {}").format(table, where),
        "truncate": sql.SQL("TRUNCATE {}").format(table),
        "upsert": sql.SQL("{} ON CONFLICT (id) DO UPDATE SET {}").format(fill, assign),
        "merge": sql.SQL(
            "MERGE INTO {} USING (SELECT i FROM generate_series({}, {}) AS i) AS s ON s.i = id "
            "WHEN MATCHED AND s.i % 2 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET {} "
            "WHEN NOT MATCHED AND s.i % 3 = 0 THEN INSERT (id) VALUES (s.i)"
        ).format(table, low, high, assign),
        "cte": sql.SQL("WITH one AS (DELETE FROM {0} WHERE id = {1}), two AS ({2} AND id <> {1}) SELECT 1").format(
            table, low, update
        ),
    }
    return statements[kind]


def draw_value(data: st.DataObject, type_name: str) -> sql.Composed:
    value = data.draw(st.none() | st.sampled_from(VALUES[type_name]), "value")
    return sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(type_name))


def alter(source: psycopg.Connection, data: st.DataObject, model: Model) -> None:
    kind = data.draw(st.sampled_from(["add", "drop", "rename", "retype", "key"]), "how")
    event(f"alter: {kind}")
    unused = [name for name in ODD_NAMES if name != "id" and name not in model.columns]
    fresh = data.draw(st.sampled_from(unused), "new name")
    names = sorted(model.columns)
    if kind == "add" or (kind in {"drop", "rename", "retype"} and not names):
        types = usable(source, VALUES)
        type_name = data.draw(type_names.filter(types.__contains__), "type")
        action = sql.SQL("ADD {} {}").format(sql.Identifier(fresh), sql.SQL(type_name))
        model.columns[fresh] = type_name
    elif kind == "key":
        key = source.execute(
            "SELECT conname FROM pg_constraint WHERE contype = 'p' AND conrelid = %s::text::regclass", [model.relation]
        ).fetchone()
        if key is None:
            return
        action = sql.SQL("DROP CONSTRAINT {}").format(sql.Identifier(key[0]))
    else:
        name = data.draw(st.sampled_from(names), "column")
        if kind == "drop":
            action = sql.SQL("DROP {}").format(sql.Identifier(name))
            del model.columns[name]
            model.hidden.discard(name)
        elif kind == "rename":
            action = sql.SQL("RENAME {} TO {}").format(sql.Identifier(name), sql.Identifier(fresh))
            model.columns[fresh] = model.columns.pop(name)
            if name in model.hidden:
                model.hidden = {*model.hidden - {name}, fresh}
        else:
            action = sql.SQL("ALTER {0} TYPE text USING {0}::text").format(sql.Identifier(name))
            model.columns[name] = "text"
    note(f"ALTER {action.as_string()}")
    source.execute(sql.SQL("ALTER TABLE {} {}").format(model.identifier, action))


def is_altered(source: psycopg.Connection, model: Model) -> bool:
    return model.relation in {drift.relation for drift in read_drift(source)}


# -- replay ------------------------------------------------------------------------------------------------------------


def last_id(source: psycopg.Connection) -> int:
    row = source.execute("SELECT max(id) FROM audit.record").fetchone()
    assert row
    return row[0]


def newest_track(source: psycopg.Connection, model: Model) -> int:
    row = source.execute(
        "SELECT max(id) FROM audit.record WHERE action = 'TRACK' AND relation = %s", [model.relation]
    ).fetchone()
    assert row
    return row[0]


def check(source: psycopg.Connection, model: Model, since: int, first: int) -> None:
    """Replay what was recorded after `since`, of which the first records are taken for a baseline, and compare."""
    rows = source.execute(
        sql.SQL(
            "SELECT r.id, r.action, {}, r.xid::text FROM audit.record AS r "
            "WHERE r.source = 'row' AND r.relation = %s AND r.id > %s ORDER BY r.id"
        ).format(sql.SQL(DATA_TEXT)),
        [model.relation, since],
    ).fetchall()
    table = ReplayedTable()
    for position, (record_id, action, text, transaction) in enumerate(rows):
        record = parse_json(text)
        if position < first:
            assert (action, record["old"]) == ("UPDATE", {})
            action, record["old"] = "SNAPSHOT", None  # noqa: PLW2901
        note(f"{record_id} {action} {text}")
        table.apply(action, record, transaction)
    assert find_differences(source, model.relation, table, model.hidden) == []


def untrack_all(source: psycopg.Connection) -> None:
    for (relation,) in source.execute("SELECT relation FROM audit.tracked").fetchall():
        untrack(source.info.dsn, relation, side="source")
