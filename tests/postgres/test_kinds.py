"""Every kind of table, name, column and value: what is recorded, and that replay gives the table by output text."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from tests.clusters import Cluster
from tests.conftest import NewDatabase
from tests.deployments import open_trail
from tests.replay import find_differences, replay_trail
from tests.values import ODD_NAMES, TYPES, VALUES, usable

from pgseal.errors import CaptureError
from pgseal.trail.capture import TableRule
from pgseal.trail.track import track


def run(source: psycopg.Connection, statement: str) -> None:
    source.execute(statement)  # pyright: ignore[reportArgumentType]


def follow(source: psycopg.Connection, name: str = "t", rule: TableRule | None = None) -> None:
    track(source.info.dsn, "public", name, rule or TableRule(), side="source")


def changes(source: psycopg.Connection) -> list[tuple[Any, ...]]:
    return source.execute(
        "SELECT action, key, old, new FROM audit.record WHERE source = 'row' AND action <> 'SNAPSHOT' ORDER BY id"
    ).fetchall()


def check_replay(source: psycopg.Connection) -> None:
    tables = replay_trail(source)
    assert tables
    for relation, table in tables.items():
        assert find_differences(source, relation, table) == [], relation
        assert table.held_back == 0


# -- keys and names ------------------------------------------------------------------------------------------------


def test_a_table_without_a_key_with_equal_rows(source: psycopg.Connection):
    run(source, "CREATE TABLE t (v int, w text)")
    run(source, "INSERT INTO t VALUES (1, 'a'), (1, 'a')")
    follow(source)
    run(source, "INSERT INTO t VALUES (1, 'a'), (2, NULL)")
    run(source, "UPDATE t SET w = 'b' WHERE ctid = '(0,1)'")
    run(source, "UPDATE t SET v = v + 1")
    run(source, "DELETE FROM t WHERE ctid = (SELECT max(ctid) FROM t WHERE w = 'a')")
    assert {key for _, key, _, _ in changes(source)} == {None}
    check_replay(source)


def test_a_composite_key(source: psycopg.Connection):
    run(source, 'CREATE TABLE t (v text, b date, a numeric, "C d" uuid, PRIMARY KEY (a, "C d", b))')
    follow(source)
    run(source, "INSERT INTO t SELECT 'x', '2026-01-01', i, gen_random_uuid() FROM generate_series(1, 3) AS i")
    run(source, "UPDATE t SET a = a + 0.50 WHERE a = 1")
    run(source, "UPDATE t SET b = b + 1, v = NULL")
    run(source, "DELETE FROM t WHERE a = 2")
    assert {frozenset(key) for _, key, _, _ in changes(source)} == {frozenset({"a", "b", "C d"})}
    check_replay(source)


@pytest.mark.parametrize("mode", ["statement", "row"])
def test_columns_with_odd_names(source: psycopg.Connection, mode: str):
    names = ODD_NAMES
    columns = sql.SQL(", ").join(sql.SQL("{} int DEFAULT 0").format(sql.Identifier(name)) for name in names)
    tail = sql.SQL(" PARTITION BY RANGE (old)" if mode == "row" else "")
    source.execute(sql.SQL('CREATE TABLE t ({}, PRIMARY KEY (old, new, "n"))').format(columns) + tail)
    if mode == "row":
        run(source, "CREATE TABLE t1 PARTITION OF t DEFAULT")
    follow(source)
    run(source, "INSERT INTO t (old) VALUES (1)")
    run(source, "INSERT INTO t (old) VALUES (2), (3)")
    for name in names[3:]:
        source.execute(sql.SQL("UPDATE t SET {0} = {0} + 1").format(sql.Identifier(name)))
        assert changes(source)[-1][2] == {name: 0}
    run(source, "UPDATE t SET old = 9 WHERE old = 1")
    run(source, "DELETE FROM t WHERE old > 1 AND old < 9")
    assert set(changes(source)[-1][2]) == set(names)
    check_replay(source)
    run(source, "ALTER TABLE t ADD added int")  # captured the other way from now on
    for name in (*names[3:6], "added"):
        source.execute(sql.SQL("UPDATE t SET {0} = coalesce({0}, 0) + 7").format(sql.Identifier(name)))
        assert set(changes(source)[-1][2]) == {name}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_tables_and_schemas_with_odd_names(source: psycopg.Connection, name: str):
    table = sql.Identifier(name, name)
    source.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    source.execute(sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, v int)").format(table))
    track(source.info.dsn, name, name, TableRule(), side="source")
    source.execute(sql.SQL("INSERT INTO {} VALUES (1, 1), (2, 2)").format(table))
    source.execute(sql.SQL("UPDATE {} SET v = 3 WHERE id = 1").format(table))
    source.execute(sql.SQL("TRUNCATE {}").format(table))
    assert [change[0] for change in changes(source)] == ["INSERT", "INSERT", "UPDATE", "TRUNCATE"]
    check_replay(source)


# -- kinds of tables -----------------------------------------------------------------------------------------------


def test_unlogged_and_temporary_tables(source: psycopg.Connection):
    run(source, "CREATE UNLOGGED TABLE t (id int PRIMARY KEY)")
    follow(source)
    run(source, "INSERT INTO t VALUES (1)")
    check_replay(source)
    run(source, "CREATE TEMPORARY TABLE mine (id int)")
    schema = source.execute("SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()").fetchone()
    assert schema
    with pytest.raises(CaptureError, match="temporary table"):
        track(source.info.dsn, schema[0], "mine", TableRule(), side="source")


def test_a_typed_table(source: psycopg.Connection):
    run(source, "CREATE TYPE shape AS (id int, v text)")
    run(source, "CREATE TABLE t OF shape (PRIMARY KEY (id))")
    follow(source)
    run(source, "INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    run(source, "UPDATE t SET v = 'c'")
    check_replay(source)


@pytest.fixture
def tree(source: psycopg.Connection) -> psycopg.Connection:
    """Table t, partitioned by range of id; t2 by list of v below it, with other column orders; some rows."""
    run(source, "CREATE TABLE t (id int, v text, n numeric, PRIMARY KEY (id, v)) PARTITION BY RANGE (id)")
    run(source, "CREATE TABLE t1 (n numeric, gone int, v text NOT NULL, id int NOT NULL)")
    run(source, "ALTER TABLE t1 DROP gone")
    run(source, "ALTER TABLE t ATTACH PARTITION t1 FOR VALUES FROM (0) TO (10)")
    run(source, "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20) PARTITION BY LIST (v)")
    run(source, "CREATE TABLE t2a PARTITION OF t2 FOR VALUES IN ('a')")
    run(source, "CREATE TABLE t2x PARTITION OF t2 DEFAULT")
    run(source, "INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2), (11, 'a', 3), (12, 'b', 4)")
    follow(source)
    return source


def test_partitions_through_the_parent_and_straight(tree: psycopg.Connection):
    run(tree, "INSERT INTO t VALUES (3, 'c', 5), (13, 'a', 6), (14, 'z', 7)")
    run(tree, "INSERT INTO t1 (id, v, n) VALUES (4, 'd', 8)")
    run(tree, "INSERT INTO t2 VALUES (15, 'a', 9)")
    run(tree, "INSERT INTO t2x VALUES (16, 'q', 9)")
    with tree.cursor().copy("COPY t (id, v, n) FROM STDIN") as copy:
        copy.write("5\te\t1\n17\ta\t2\n")
    run(tree, "UPDATE t SET n = n + 0.5")
    run(tree, "UPDATE t2a SET n = 0")
    run(tree, "INSERT INTO t VALUES (1, 'a', 1) ON CONFLICT (id, v) DO UPDATE SET n = 77")
    run(tree, "MERGE INTO t USING (VALUES (2)) AS s (id) ON t.id = s.id WHEN MATCHED THEN UPDATE SET n = -1")
    run(tree, "DELETE FROM t1 WHERE id = 4")
    relations = tree.execute("SELECT DISTINCT relation FROM audit.record WHERE source = 'row'").fetchall()
    assert relations == [("public.t",)]
    check_replay(tree)


def test_a_row_that_moves_between_partitions(tree: psycopg.Connection):
    run(tree, "UPDATE t SET id = 19 WHERE id = 1")
    run(tree, "UPDATE t2 SET v = 'moved' WHERE id = 11")
    assert changes(tree) == [
        ("DELETE", {"id": 1, "v": "a"}, {"id": 1, "v": "a", "n": 1}, None),
        ("INSERT", {"id": 19, "v": "a"}, None, {"id": 19, "v": "a", "n": 1}),
        ("DELETE", {"id": 11, "v": "a"}, {"id": 11, "v": "a", "n": 3}, None),
        ("INSERT", {"id": 11, "v": "moved"}, None, {"id": 11, "v": "moved", "n": 3}),
    ]
    check_replay(tree)


def test_partitions_made_later(tree: psycopg.Connection):
    run(tree, "CREATE TABLE t3 PARTITION OF t FOR VALUES FROM (20) TO (30)")
    run(tree, "INSERT INTO t VALUES (21, 'a', 1)")
    run(tree, "INSERT INTO t3 VALUES (22, 'b', 2)")
    run(tree, "CREATE TABLE t4 (LIKE t INCLUDING ALL)")
    run(tree, "ALTER TABLE t ATTACH PARTITION t4 FOR VALUES FROM (30) TO (40)")
    run(tree, "UPDATE t SET id = 31 WHERE id = 21")
    check_replay(tree)
    run(tree, "ALTER TABLE t DETACH PARTITION t4")
    run(tree, "UPDATE t4 SET n = 5")
    run(tree, "INSERT INTO t3 VALUES (23, 'b', 2)")
    assert changes(tree)[-1][1] == {"id": 23, "v": "b"}


def test_inheritance(source: psycopg.Connection):
    run(source, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    run(source, "CREATE TABLE child (extra int, PRIMARY KEY (id)) INHERITS (t)")
    run(source, "INSERT INTO t VALUES (1, 'a')")
    run(source, "INSERT INTO child VALUES (2, 'b', 3)")
    follow(source)
    follow(source, "child")
    run(source, "UPDATE t SET v = v || '!'")
    run(source, "INSERT INTO child VALUES (4, 'd', 5), (6, 'f', 7)")
    run(source, "DELETE FROM t WHERE id IN (1, 4)")
    run(source, "UPDATE child SET extra = 0")
    assert ("UPDATE", {"id": 2}, {"v": "b"}, {"id": 2, "v": "b!", "extra": 3}) in changes(source)
    check_replay(source)


@pytest.fixture
def far_source(new_database: NewDatabase, contrib_cluster: Cluster) -> Iterator[psycopg.Connection]:
    """A source with a foreign server `far`, which has tables t, with two rows, and t2."""
    far = psycopg.conninfo.conninfo_to_dict(new_database(contrib_cluster))
    with psycopg.connect(**far, autocommit=True) as remote:  # pyright: ignore[reportArgumentType]
        run(remote, "CREATE TABLE t (id int PRIMARY KEY, v text, f float8)")
        run(remote, "INSERT INTO t VALUES (1, 'a', 0.1), (2, 'b', 0.2)")
        run(remote, "CREATE TABLE t2 (id int, v text)")
    with open_trail(new_database(contrib_cluster)) as source:
        run(source, "CREATE EXTENSION postgres_fdw")
        server = "CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host {}, port {}, dbname {})"
        source.execute(sql.SQL(server).format(far["host"], far["port"], far["dbname"]))
        run(source, "CREATE USER MAPPING FOR CURRENT_USER SERVER far OPTIONS (user 'postgres')")
        yield source


def test_foreign_tables(far_source: psycopg.Connection):
    source = far_source
    run(source, "CREATE FOREIGN TABLE t (id int, v text, f float8) SERVER far")
    has_truncate_triggers = source.info.server_version >= 160000
    if not has_truncate_triggers:
        with pytest.raises(CaptureError, match="truncatable"):
            follow(source)
        run(source, "ALTER FOREIGN TABLE t OPTIONS (ADD truncatable 'false')")
    follow(source)
    run(source, "INSERT INTO t VALUES (3, 'c', 'NaN'), (4, NULL, NULL)")
    run(source, "UPDATE t SET v = v || '!', f = f + 1")
    run(source, "UPDATE t SET id = 9 WHERE id = 1")
    run(source, "DELETE FROM t WHERE id = 2")
    actions = source.execute("SELECT action FROM audit.record WHERE source = 'row' ORDER BY id").fetchall()
    assert [action for (action,) in actions] == [*["SNAPSHOT"] * 2, *["INSERT"] * 2, *["UPDATE"] * 5, "DELETE"]
    assert changes(source)[-1] == ("DELETE", None, {"id": 2, "v": "b!", "f": "1.2"}, None)
    check_replay(source)
    if not has_truncate_triggers:
        with pytest.raises(psycopg.Error, match="truncat"):
            run(source, "TRUNCATE t")
        return
    run(source, "TRUNCATE t")
    said = source.execute("SELECT data FROM audit.record WHERE action = 'TRUNCATE'").fetchall()
    assert said == [({"key": None, "new": None, "old": None, "rows": None, "incomplete": "foreign table"},)]
    check_replay(source)


def test_foreign_tables_with_large_values_and_a_filter(far_source: psycopg.Connection):
    source = far_source
    big = "repeat('x', 1000001)"
    run(source, "CREATE FOREIGN TABLE t (id int, v text, f float8) SERVER far OPTIONS (truncatable 'false')")
    run(source, f"INSERT INTO t VALUES (3, {big}, NULL), (4, {big}, 1)")
    with pytest.raises(CaptureError, match=r"column 'v' in row"):
        follow(source, rule=TableRule(oversize="reject"))
    follow(source, rule=TableRule(oversize="digest", where="f is not null"))
    run(source, f"INSERT INTO t VALUES (5, {big}, NULL)")
    run(source, f"INSERT INTO t VALUES (6, {big}, 1), (7, 'x', NULL)")
    run(source, "UPDATE t SET f = NULL WHERE id = 1")
    run(source, "DELETE FROM t WHERE id IN (1, 2, 3)")
    found = source.execute(
        "SELECT action, coalesce(new, old) ->> 'id', coalesce(new, old) -> 'v' ->> 'pgseal' FROM audit.record "
        "WHERE source = 'row' ORDER BY id"
    ).fetchall()
    assert found == [
        ("SNAPSHOT", "1", None), ("SNAPSHOT", "2", None), ("SNAPSHOT", "4", "digest"), ("INSERT", "6", "digest"),
        ("UPDATE", "1", None), ("DELETE", "2", None),
    ]  # fmt: skip


def test_foreign_partitions(far_source: psycopg.Connection):
    source = far_source
    run(source, "CREATE TABLE t (id int, v text) PARTITION BY RANGE (id)")
    run(source, "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10)")
    run(
        source,
        "CREATE FOREIGN TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20) SERVER far OPTIONS (truncatable 'false')",
    )
    run(source, "INSERT INTO t VALUES (1, 'a'), (11, 'b')")
    follow(source)
    run(source, "INSERT INTO t VALUES (2, 'c'), (12, 'd')")
    run(source, "UPDATE t SET v = v || '!'")
    run(source, "UPDATE t SET id = 13 WHERE id = 1")
    run(source, "DELETE FROM t2 WHERE id = 11")
    check_replay(source)


# -- many columns, big values -----------------------------------------------------------------------------------------


#: Each takes seconds on each server, so each server has one of them; the soak has all.
MODE_OF = {15: "statement", 16: "row"}
LARGE_OF = {15: "text", 16: "jsonb"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "type_name", "mode"),
    [
        (1000, "int", None),
        *(
            pytest.param(count, type_name, mode, marks=pytest.mark.soak)
            for count, type_name in ((1000, "int"), (1600, "bool"), (1000, "text"), (1000, "jsonb"))
            for mode in ("statement", "row")
        ),
    ],
)
def test_many_columns(source: psycopg.Connection, any_cluster: Cluster, count: int, type_name: str, mode: str | None):
    mode = mode or MODE_OF.get(any_cluster.major, "statement")
    columns = ", ".join(f"c{number} {type_name}" for number in range(1, count))
    tail = " PARTITION BY RANGE (id)" if mode == "row" else ""
    run(source, f"CREATE TABLE t (id int PRIMARY KEY, {columns}){tail}")
    if mode == "row":
        run(source, "CREATE TABLE t1 PARTITION OF t DEFAULT")
    one, two = {
        "int": ("1", "2"),
        "text": ("'x'", "'y'"),
        "jsonb": ("'{\"a\": null}'", "'2'"),
        "bool": ("true", "false"),
    }[type_name]
    follow(source)
    run(source, f"INSERT INTO t (id, c1, c{count - 1}) VALUES (1, {one}, {one})")
    run(source, f"INSERT INTO t (id, c1, c{count - 1}) VALUES (2, {one}, {one}), (3, NULL, {two})")
    run(source, f"UPDATE t SET c{count - 1} = {two}, c7 = {one} WHERE id = 1")
    run(source, f"UPDATE t SET c{count - 2} = {two}, c1 = NULL")
    run(source, "DELETE FROM t WHERE id > 1")
    assert set(changes(source)[3][2]) == {f"c{count - 1}", "c7"}
    check_replay(source)
    run(source, "ALTER TABLE t DROP c2")
    run(source, f"UPDATE t SET c3 = {one} WHERE id = 1")
    run(source, "INSERT INTO t (id) VALUES (8), (9)")
    run(source, f"UPDATE t SET c3 = {two}")
    assert set(changes(source)[-1][2]) == {"c3"}
    assert len(changes(source)[-1][3]) == count - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "type_name",
    [
        None,
        *(pytest.param(name, marks=pytest.mark.soak) for name in ("text", "bytea", "json", "jsonb", "xml", "text[]")),
    ],
)
def test_values_of_20_mb(source: psycopg.Connection, any_cluster: Cluster, type_name: str | None):
    type_name = type_name or LARGE_OF.get(any_cluster.major, "bytea")
    if type_name not in usable(source, {type_name: None}):
        pytest.skip("this server was built without xml")
    run(source, f"CREATE TABLE t (id int PRIMARY KEY, v {type_name})")
    follow(source)
    big = "string_agg(md5(i::text), '')"
    value = {
        "text": big,
        "bytea": f"convert_to({big}, 'UTF8')",
        "json": f"json_build_object('a', {big})",
        "jsonb": f"jsonb_build_object('a', {big})",
        "xml": f"('<a>' || {big} || '</a>')::xml",
        "text[]": f"ARRAY[{big}, NULL]",
    }[type_name]
    run(source, f"INSERT INTO t SELECT 1, {value} FROM generate_series(1, 625000) AS i")
    run(source, f"UPDATE t SET v = (SELECT {value} FROM generate_series(2, 625000) AS i)")
    run(source, "DELETE FROM t")
    size = source.execute(
        "SELECT min(length(coalesce(new, old) ->> 'v')) FROM audit.record WHERE source = 'row'"
    ).fetchone()
    assert size
    assert size[0] >= 19_999_968
    check_replay(source)


# -- every built-in type ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["statement", "row", "altered"])
def test_every_type(source: psycopg.Connection, mode: str):
    run(source, TYPES)
    choices = usable(source, VALUES)
    types = list(choices)
    tail = sql.SQL(" PARTITION BY RANGE (id)" if mode == "row" else "")
    columns = sql.SQL(", ").join(sql.SQL(f"c{i} {name}") for i, name in enumerate(types))
    source.execute(sql.SQL("CREATE TABLE t (id int PRIMARY KEY, {})").format(columns) + tail)
    if mode == "row":
        run(source, "CREATE TABLE t1 PARTITION OF t DEFAULT")
    insert_values(source, choices, 1000)
    follow(source)
    if mode == "altered":
        run(source, "ALTER TABLE t DROP CONSTRAINT t_pkey")
    insert_values(source, choices, 0)
    run(source, "INSERT INTO t (id) VALUES (500)")
    # One by one and all at once: to the next row's values, to NULL and back.
    everything = ", ".join(f"c{i} = s.c{i}" for i in range(len(types)))
    nothing = ", ".join(f"c{i} = NULL" for i in range(len(types)))
    run(source, f"UPDATE t SET {everything} FROM t AS s WHERE t.id = 1 AND s.id = 2")
    run(source, f"UPDATE t SET {everything} FROM t AS s WHERE t.id < 10 AND s.id = t.id + 1")
    run(source, f"UPDATE t SET {nothing} WHERE id = 1000")
    run(source, f"UPDATE t SET {everything} FROM t AS s WHERE t.id IN (500, 1000) AND s.id = 0")
    run(source, f"UPDATE t SET {nothing} WHERE id < 2")
    run(source, "DELETE FROM t WHERE id IN (3, 1003, 1004)")
    check_replay(source)


def insert_values(source: psycopg.Connection, by_type: dict[str, list[str]], first: int) -> None:
    """Insert one row for each position in the lists of values; rows of shorter lists get NULL."""
    holes = sql.SQL(", ").join(sql.SQL(f"%s::{name}") for name in by_type)
    with source.cursor() as cursor:
        for row in range(max(map(len, by_type.values()))):
            values = [values[row] if row < len(values) else None for values in by_type.values()]
            cursor.execute(sql.SQL("INSERT INTO t SELECT {}, {}").format(first + row, holes), values)


def test_a_change_only_in_the_text_of_a_value(source: psycopg.Connection):
    pairs = {  # two texts, equal or nearly so
        "numeric": ("1.0", "1.00"), "interval": ("1 day", "24:00:00"), "jsonb": ('{"a": 1.0}', '{"a": 1.00}'),
        "float8": ("0", "-0"), "numeric[]": ("{1.0}", "{1.00}"), "json": ("[1]", "[1 ]"), "xml": ("<a/>", "<a></a>"),
        "char(5)": ("a", "a "), "timetz": ("12:00+00", "13:00+01"), "int4[]": ("{1}", "[0:0]={1}"),
        "whole_pair": ("(1,)", '(1,"")'), "pair": ("(,)", '(,"")'), "inet": ("10.0.0.1/8", "10.0.0.1"),
    }  # fmt: skip
    run(source, TYPES)
    pairs = usable(source, pairs)
    columns = ", ".join(f"c{i} {name}" for i, name in enumerate(pairs))
    run(source, f"CREATE TABLE t (id int PRIMARY KEY, {columns})")
    values = ", ".join(f"'{one}'" for one, _ in pairs.values())
    run(source, f"INSERT INTO t VALUES (1, {values}), (2, {values})")
    follow(source)
    others = ", ".join(f"c{i} = '{two}'" for i, (_, two) in enumerate(pairs.values()))
    run(source, f"UPDATE t SET {others} WHERE id = 1")
    run(source, f"UPDATE t SET {others}")
    expected = {f"c{i}" for i, name in enumerate(pairs) if name != "char(5)"}
    assert set(changes(source)[0][2]) == expected
    assert {frozenset(change[2]) for change in changes(source)[1:]} == {frozenset(expected), frozenset()}
    check_replay(source)


def test_null_of_jsonb_and_null_of_sql(source: psycopg.Connection):
    run(source, "CREATE TABLE t (id int PRIMARY KEY, v jsonb)")
    follow(source)
    run(source, "INSERT INTO t VALUES (1, 'null'), (2, NULL), (3, '{\"a\": null}')")
    run(source, "UPDATE t SET v = NULL WHERE id = 1")
    run(source, "UPDATE t SET v = 'null' WHERE id > 1")
    assert [change[2] for change in changes(source)[3:]] == [
        {"v": {"pgseal": "null"}}, {"v": None}, {"v": {"a": None}}
    ]  # fmt: skip
    check_replay(source)
