"""TRUNCATE: how many rows went, or which, by policy; and it never fails because of us."""

from typing import Any

import psycopg
import pytest
from psycopg import sql
from tests.replay import find_differences, replay_trail

from pgseal.trail.capture import TableRule
from pgseal.trail.health import read_trigger_faults
from pgseal.trail.track import track, untrack

POLICIES = ("count", "rows")


def run(source: psycopg.Connection, statement: str) -> None:
    source.execute(statement)  # pyright: ignore[reportArgumentType]


def follow(source: psycopg.Connection, name: str, policy: str, **rule: Any) -> None:
    track(source.info.dsn, "public", name, TableRule(truncate=policy, **rule), side="source")


def truncations(source: psycopg.Connection) -> list[tuple[Any, ...]]:
    """What was recorded since the baseline: action, relation, and the removed row or what the event says."""
    return source.execute(
        "SELECT action, relation, coalesce(old, data - '{key,new,old,part}'::text[]) FROM audit.record "
        "WHERE source = 'row' AND action IN ('DELETE', 'TRUNCATE', 'TRUNCATE_PARTITION') ORDER BY id"
    ).fetchall()


def check_replay(source: psycopg.Connection, *relations: str) -> None:
    tables = replay_trail(source)
    for relation in relations:
        assert find_differences(source, relation, tables[relation]) == []


@pytest.mark.parametrize("policy", POLICIES)
def test_a_table(source: psycopg.Connection, policy: str):
    run(source, "CREATE TABLE t (id int PRIMARY KEY, v jsonb, secret text, photo bytea)")
    run(source, "INSERT INTO t VALUES (1, 'null', 's3cret', 'ph0to'), (2, '1.0', NULL, NULL)")
    follow(source, "t", policy, exclude=["photo"], mask={"secret": "redact"})
    run(source, "SET TimeZone = 'Asia/Tokyo'")
    run(source, "TRUNCATE t")
    rows = [
        ("DELETE", "public.t", {"id": 1, "v": {"pgseal": "null"}, "secret": "[redacted]"}),
        ("DELETE", "public.t", {"id": 2, "v": 1.0, "secret": None}),
    ]
    assert truncations(source) == [*(rows if policy == "rows" else []), ("TRUNCATE", "public.t", {"rows": 2})]
    check_replay(source, "public.t")
    run(source, "TRUNCATE t")
    assert truncations(source)[-1] == ("TRUNCATE", "public.t", {"rows": 0})
    run(source, "INSERT INTO t VALUES (1)")
    run(source, "TRUNCATE t RESTART IDENTITY")
    check_replay(source, "public.t")


@pytest.mark.parametrize("policy", POLICIES)
def test_several_tables_and_cascade(source: psycopg.Connection, policy: str):
    run(source, "CREATE TABLE a (id int PRIMARY KEY)")
    run(source, "CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a)")
    run(source, "CREATE TABLE c (id int, b int REFERENCES b)")
    run(source, "CREATE TABLE d (id int)")
    run(source, "INSERT INTO a VALUES (1), (2)")
    run(source, "INSERT INTO b VALUES (1, 1)")
    run(source, "INSERT INTO c VALUES (5, 1), (5, 1)")
    run(source, "INSERT INTO d VALUES (9)")
    for name in "abcd":
        follow(source, name, policy)
    run(source, "TRUNCATE a, d CASCADE")
    events = [event for event in truncations(source) if event[0] == "TRUNCATE"]
    assert sorted(events, key=str) == [
        ("TRUNCATE", f"public.{name}", {"rows": rows}) for name, rows in zip("abcd", (2, 1, 2, 1), strict=True)
    ]
    check_replay(source, *(f"public.{name}" for name in "abcd"))


def test_rolled_back(source: psycopg.Connection):
    run(source, "CREATE TABLE t (id int PRIMARY KEY)")
    run(source, "INSERT INTO t VALUES (1)")
    follow(source, "t", "rows")
    with source.transaction(force_rollback=True):
        run(source, "TRUNCATE t")
    assert truncations(source) == []
    with source.transaction():
        run(source, "INSERT INTO t VALUES (2)")
        run(source, "TRUNCATE t")
        run(source, "INSERT INTO t VALUES (2)")
    check_replay(source, "public.t")


@pytest.fixture
def tree(source: psycopg.Connection) -> psycopg.Connection:
    run(source, "CREATE TABLE t (id int, v text) PARTITION BY RANGE (id)")
    run(source, "CREATE TABLE t1 (v text, id int)")
    run(source, "ALTER TABLE t ATTACH PARTITION t1 FOR VALUES FROM (0) TO (10)")
    run(source, "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20) PARTITION BY LIST (v)")
    run(source, "CREATE TABLE t2a PARTITION OF t2 FOR VALUES IN ('a')")
    run(source, "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (11, 'a')")
    return source


@pytest.mark.parametrize("policy", POLICIES)
def test_a_partitioned_table(tree: psycopg.Connection, policy: str):
    follow(tree, "t", policy)
    run(tree, "TRUNCATE t")
    events = [event for event in truncations(tree) if event[0] != "DELETE"]
    assert events == [
        ("TRUNCATE_PARTITION", "public.t", {"rows": 2, "partition": "public.t1"}),
        ("TRUNCATE_PARTITION", "public.t", {"rows": 1, "partition": "public.t2a"}),
        ("TRUNCATE", "public.t", None),
    ]
    check_replay(tree, "public.t")


def test_a_partition(tree: psycopg.Connection):
    follow(tree, "t", "rows")
    run(tree, "TRUNCATE t1")
    assert truncations(tree) == [
        ("DELETE", "public.t", {"id": 1, "v": "a"}),
        ("DELETE", "public.t", {"id": 2, "v": "b"}),
        ("TRUNCATE_PARTITION", "public.t", {"rows": 2, "partition": "public.t1"}),
    ]
    check_replay(tree, "public.t")
    run(tree, "TRUNCATE t2")
    check_replay(tree, "public.t")


def test_a_partition_made_later_is_missed_until_it_is_tracked(tree: psycopg.Connection):
    follow(tree, "t", "rows")
    assert read_trigger_faults(tree) == []
    run(tree, "CREATE TABLE t3 PARTITION OF t FOR VALUES FROM (20) TO (30)")
    (fault,) = read_trigger_faults(tree)
    assert fault.describe("public.t") == "new partition public.t3: TRUNCATE of it alone is not captured yet"
    follow(tree, "t", "rows")
    assert read_trigger_faults(tree) == []
    run(tree, "INSERT INTO t VALUES (21, 'x')")
    run(tree, "TRUNCATE t3")
    assert truncations(tree)[0] == ("DELETE", "public.t", {"id": 21, "v": "x"})


def test_children_by_inheritance(source: psycopg.Connection):
    run(source, "CREATE TABLE t (id int)")
    run(source, "CREATE TABLE child (v int) INHERITS (t)")
    run(source, "INSERT INTO t VALUES (1)")
    run(source, "INSERT INTO child VALUES (2, 3), (4, 5)")
    for name in ("t", "child"):
        follow(source, name, "rows")
    run(source, "TRUNCATE t")
    assert [event for event in truncations(source) if event[0] == "TRUNCATE"] == [
        ("TRUNCATE", "public.t", {"rows": 1}),
        ("TRUNCATE", "public.child", {"rows": 2}),
    ]
    check_replay(source, "public.t", "public.child")


def test_an_altered_table(source: psycopg.Connection):
    run(source, "CREATE TABLE t (id int, secret text)")
    run(source, "INSERT INTO t VALUES (1, 's3cret')")
    follow(source, "t", "rows", mask={"secret": "redact"})
    run(source, "ALTER TABLE t RENAME secret TO other")
    run(source, "ALTER TABLE t RENAME TO u")
    run(source, "TRUNCATE u")
    assert truncations(source) == [
        ("DELETE", "public.u", {"id": 1, "other": "[redacted]"}), ("TRUNCATE", "public.u", {"rows": 1}),
    ]  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_an_old_snapshot_is_said_to_be_incomplete(source: psycopg.Connection, policy: str, level: str):
    run(source, "CREATE TABLE t (id int)")
    run(source, "INSERT INTO t VALUES (1)")
    follow(source, "t", policy)
    with psycopg.connect(source.info.dsn, autocommit=True) as other:
        run(other, f"BEGIN ISOLATION LEVEL {level}")
        run(other, "SELECT 1")
        run(source, "INSERT INTO t SELECT i FROM generate_series(2, 100) AS i")
        run(other, "TRUNCATE t")
        run(other, "COMMIT")
    said = truncations(source)[-1][2]
    assert said["rows"] == 1
    assert "snapshot" in said["incomplete"]
    check_replay(source, "public.t")


@pytest.mark.parametrize("policy", POLICIES)
def test_what_may_not_be_read_is_said(source: psycopg.Connection, policy: str):
    run(source, "CREATE SCHEMA closed")
    for name in ("public.revoked", "public.secured", "closed.hidden"):
        run(source, f"CREATE TABLE {name} (id int)")
        run(source, f"INSERT INTO {name} VALUES (1)")
        schema, table = name.split(".")
        track(source.info.dsn, schema, table, TableRule(truncate=policy), side="source")
    run(source, "REVOKE SELECT ON revoked FROM pgseal_owner")
    run(source, "ALTER TABLE secured ENABLE ROW LEVEL SECURITY")
    run(source, "REVOKE USAGE ON SCHEMA closed FROM pgseal_owner")
    run(source, "TRUNCATE revoked, secured, closed.hidden")
    assert [event[2]["incomplete"] for event in truncations(source)] == [
        "pgseal_owner may not read the table", "row level security", "pgseal_owner may not read the table",
    ]  # fmt: skip
    assert {event[2]["rows"] for event in truncations(source)} == {None}
    check_replay(source, "public.revoked", "public.secured", "closed.hidden")


def test_a_role_that_may_only_truncate(source: psycopg.Connection):
    role = sql.Identifier(f"wiper_{source.info.dbname}")
    run(source, "CREATE TABLE t (id int)")
    run(source, "INSERT INTO t VALUES (1)")
    follow(source, "t", "rows")
    source.execute(sql.SQL("CREATE ROLE {0}; GRANT TRUNCATE ON t TO {0}").format(role))
    try:
        source.execute(sql.SQL("SET ROLE {}").format(role))
        run(source, "TRUNCATE t")
    finally:
        run(source, "RESET ROLE")
        source.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))
    assert truncations(source) == [("DELETE", "public.t", {"id": 1}), ("TRUNCATE", "public.t", {"rows": 1})]


def test_untrack_leaves_nothing_behind(tree: psycopg.Connection):
    follow(tree, "t", "rows")
    untrack(tree.info.dsn, "public.t", side="source")
    left = tree.execute(
        "SELECT tgname::text FROM pg_trigger WHERE tgname LIKE 'pgseal%' UNION ALL SELECT relname::text FROM pg_class, "
        "aclexplode(relacl) AS a WHERE a.grantee = 'pgseal_owner'::regrole AND relnamespace = 'public'::regnamespace"
    ).fetchall()
    assert left == []
    run(tree, "TRUNCATE t")
    assert truncations(tree) == []
