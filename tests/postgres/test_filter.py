"""Row filters: what they cover is recorded and replays exactly, what they do not is left out, whoever and however."""

from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.clusters import Cluster
from tests.replay import ReplayedTable, parse_json
from tests.replication import replicating, subscribe, wait_for

from pgseal.errors import ConfigError
from pgseal.trail.capture import TableRule
from pgseal.trail.filter import format_filter, parse_filter
from pgseal.trail.health import read_drift
from pgseal.trail.registry import list_tracked
from pgseal.trail.track import track

#: The oldest and the newest at hand: the suite is long.
pytestmark = pytest.mark.servers(15, 18)

COLUMNS = "id int PRIMARY KEY, tenant text, total numeric, v text"
KINDS = {
    "statement": [f"CREATE TABLE t ({COLUMNS})"],
    "row": [
        f"CREATE TABLE t ({COLUMNS}) PARTITION BY RANGE (id)",
        "CREATE TABLE t_1 (v text, gone int, total numeric, tenant text, id int NOT NULL)",
        "ALTER TABLE t_1 DROP gone",
        "ALTER TABLE t ATTACH PARTITION t_1 FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM (100) TO (1000)",
    ],
}
WHERE = "tenant = 'a' or total >= 100"


@pytest.fixture(params=KINDS)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def t(source: psycopg.Connection, mode: str) -> psycopg.Connection:
    """Table t with four rows, of which WHERE covers the first and the last."""
    run(source, *KINDS[mode], "INSERT INTO t VALUES (1, 'a', 1, 'x'), (2, 'b', 2, 'x'), (3, NULL, 3, 'x'), "
                              "(4, 'b', 100, 'x')")  # fmt: skip
    return source


def run(source: psycopg.Connection, *statements: str) -> None:
    for statement in statements:
        source.execute(statement)  # pyright: ignore[reportArgumentType]


def follow(source: psycopg.Connection, where: str = WHERE, **more: Any) -> None:
    baseline = more.pop("baseline", True)
    rule = TableRule(where=format_filter(parse_filter(where)), **more)
    track(source.info.dsn, "public", "t", rule, side="source", baseline=baseline)


def changes(source: psycopg.Connection) -> list[tuple[Any, ...]]:
    """Action and key of what was recorded since the baseline, in order."""
    return source.execute(
        "SELECT action, (key ->> 'id')::int FROM audit.record WHERE source = 'row' AND action <> 'SNAPSHOT' ORDER BY id"
    ).fetchall()


def check_replay(source: psycopg.Connection, covers: str = WHERE) -> None:
    """Check that replaying what is covered gives the covered rows: a row may come from outside, and go there again."""
    table = ReplayedTable()
    records = query(
        source,
        f"SELECT r.action, r.key::text, r.old::text, r.new::text, {_covered(covers, 'new || old')}, "
        f"{_covered(covers, 'new')}, r.xid::text, r.data ->> 'part' "
        "FROM audit.record AS r WHERE r.source = 'row' ORDER BY r.id",
    )
    for action, *images, was_covered, is_covered, transaction, part in records:
        key, old, new = (parse_json(image or "null") for image in images)
        if action == "UPDATE" and not was_covered:
            assert is_covered, "neither what was there nor what came of it is covered"
            action, key, old = "INSERT", key and {name: new[name] for name in key}, None  # noqa: PLW2901
        elif action == "UPDATE" and not is_covered:
            action, old, new = "DELETE", {**new, **old}, None  # noqa: PLW2901
        more = {} if part is None else {"part": part}
        table.apply(action, {"key": key, "old": old, "new": new, **more}, transaction)
    expected = ReplayedTable()
    for (row,) in query(source, f"SELECT to_jsonb(t)::text FROM t WHERE {covers}"):
        expected.apply("INSERT", {"key": None, "old": None, "new": parse_json(row)}, None)
    assert sorted(table.rows()) == sorted(expected.rows())


def query(source: psycopg.Connection, statement: str) -> list[tuple[Any, ...]]:
    return source.execute(statement).fetchall()  # pyright: ignore[reportArgumentType]


def _covered(covers: str, image: str) -> str:
    return f"(SELECT {covers} FROM jsonb_populate_record(NULL::t, {image}))"


# -- ways of changing data ---------------------------------------------------------------------------------------


def test_rows_that_match_before_or_after_are_recorded(t: psycopg.Connection):
    follow(t)
    baseline = t.execute("SELECT new FROM audit.record WHERE action = 'SNAPSHOT' ORDER BY id").fetchall()
    assert [new["id"] for (new,) in baseline] == [1, 4]
    run(t, "INSERT INTO t VALUES (5, 'a', 5, 'x')", "INSERT INTO t VALUES (6, 'b', 6, 'x')")
    run(t, "INSERT INTO t VALUES (7, 'a', 7, 'x'), (8, 'b', 8, 'x'), (9, NULL, 900, 'x')")
    assert changes(t) == [("INSERT", 5), ("INSERT", 7), ("INSERT", 9)]
    run(t, "UPDATE t SET v = 'y' WHERE id = 1", "UPDATE t SET v = 'y' WHERE id = 2", "UPDATE t SET v = 'z'")
    assert changes(t)[3] == ("UPDATE", 1)
    assert sorted(changes(t)[4:]) == [("UPDATE", row) for row in (1, 4, 5, 7, 9)]
    check_replay(t)
    run(t, "UPDATE t SET tenant = 'b' WHERE id = 1")  # leaves
    run(t, "UPDATE t SET v = 'unseen' WHERE id = 1", "DELETE FROM t WHERE id = 2")
    assert changes(t)[9:] == [("UPDATE", 1)]
    left = t.execute("SELECT old, new FROM audit.record ORDER BY id DESC LIMIT 1").fetchone()
    assert left == ({"tenant": "a"}, {"id": 1, "tenant": "b", "total": 1, "v": "z"})
    check_replay(t)
    run(t, "UPDATE t SET total = total + 100 WHERE id IN (1, 3)")  # enter, one after it left
    run(t, "UPDATE t SET id = id + 200, v = 'moved'")
    run(t, "DELETE FROM t WHERE id < 205", "DELETE FROM t WHERE id = 205")
    check_replay(t)
    assert "unseen" in str(t.execute("SELECT new FROM audit.record WHERE key = '{\"id\": 1}'").fetchall())


def test_other_ways_of_changing_data(t: psycopg.Connection):
    follow(t)
    with t.cursor().copy("COPY t FROM STDIN") as copy:
        copy.write("5\ta\t1\tx\n6\tb\t1\tx\n")
    run(
        t,
        "INSERT INTO t VALUES (5, 'b', 1, 'x'), (6, 'a', 1, 'x') "
        "ON CONFLICT (id) DO UPDATE SET tenant = excluded.tenant",
        "MERGE INTO t USING (VALUES (2, 'a'), (1, 'b'), (50, 'a'), (51, 'b')) AS s (id, tenant) ON t.id = s.id "
        "WHEN MATCHED THEN UPDATE SET tenant = s.tenant "
        "WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.tenant, 0, 'm')",
        "WITH gone AS (DELETE FROM t WHERE id IN (2, 3) RETURNING *) "
        "INSERT INTO t SELECT id + 20, tenant, total, v FROM gone",
    )
    with t.transaction():
        run(t, "SET LOCAL session_replication_role = replica", "UPDATE t SET v = 'r' WHERE id > 3")
        run(t, "UPDATE t SET tenant = 'a' WHERE id = 51")
    with t.transaction(force_rollback=True):
        run(t, "UPDATE t SET tenant = 'a'")
    check_replay(t)
    assert {("INSERT", 5), ("UPDATE", 5), ("UPDATE", 6), ("INSERT", 50), ("INSERT", 22)} <= set(changes(t))
    assert not {("INSERT", 6), ("INSERT", 51), ("INSERT", 23), ("DELETE", 3)} & set(changes(t))


def test_a_table_without_a_key_and_rows_that_are_equal(source: psycopg.Connection):
    run(source, "CREATE TABLE t (tenant text, v int)", "INSERT INTO t VALUES ('a', 1), ('a', 1), ('b', 1)")
    follow(source, "tenant = 'a'")
    run(source, "UPDATE t SET tenant = 'a' WHERE tenant = 'b'", "UPDATE t SET v = 2 WHERE ctid = '(0,1)'")
    run(source, "UPDATE t SET tenant = 'b' WHERE v = 2", "DELETE FROM t WHERE tenant = 'b'", "UPDATE t SET v = v + 1")
    check_replay(source, "tenant = 'a'")


@pytest.mark.parametrize("policy", ["count", "rows"])
def test_truncate_says_how_many_rows_went_and_how_many_of_them_are_covered(
    t: psycopg.Connection, policy: str, mode: str
):
    follow(t, truncate=policy)
    run(t, "TRUNCATE t")
    found = t.execute(
        "SELECT action, old ->> 'id', data -> 'rows', data -> 'covered' FROM audit.record "
        "WHERE action IN ('DELETE', 'TRUNCATE', 'TRUNCATE_PARTITION') ORDER BY id"
    ).fetchall()
    rows = [("DELETE", id_, None, None) for id_ in ("1", "4") if policy == "rows"]
    if mode == "statement":
        assert found == [*rows, ("TRUNCATE", None, 4, 2)]
    else:
        partitions = [("TRUNCATE_PARTITION", None, 4, 2), ("TRUNCATE_PARTITION", None, 0, 0)]
        assert found == [*rows, *partitions, ("TRUNCATE", None, None, None)]
    check_replay(t)


@pytest.mark.slow
def test_replay_gives_what_is_covered_whatever_is_done(source: psycopg.Connection, mode: str):
    """Random filters and random statements, on the table as it was tracked and after it was altered."""

    @settings(max_examples=15, suppress_health_check=list(HealthCheck))
    @given(filter_texts, st.lists(statements, min_size=3, max_size=12), st.integers(0, 12))
    def check(where: str, work: list[str], altered_after: int) -> None:
        run(source, "DROP TABLE IF EXISTS t", *KINDS[mode], "TRUNCATE audit.record")
        run(source, "INSERT INTO t SELECT i, CASE i % 3 WHEN 0 THEN 'a' WHEN 1 THEN 'b' END, i * 30, 'x' "
                    "FROM generate_series(1, 9) AS i")  # fmt: skip
        follow(source, where)
        for number, statement in enumerate(work):
            if number == altered_after:
                run(source, "ALTER TABLE t ALTER v SET STATISTICS 5", "ALTER TABLE t DROP CONSTRAINT t_pkey")
            run(source, statement)
        check_replay(source, where)

    check()


_tests = st.one_of(
    st.builds("tenant {} '{}'".format, st.sampled_from(["=", "<>", ">"]), st.sampled_from(["a", "b"])),
    st.builds("total {} {}".format, st.sampled_from(["<", ">=", "="]), st.sampled_from([0, 60.5, 150])),
    st.sampled_from(["tenant is null", "total is not null", "id in (1, 2, 3)", "v not in ('x', 'y')"]),
)
filter_texts = st.recursive(
    _tests,
    lambda inner: st.one_of(
        st.builds("not ({})".format, inner),
        st.builds("({}) {} ({})".format, inner, st.sampled_from(["and", "or"]), inner),
    ),
    max_leaves=4,
)
_values = st.sampled_from(["tenant = 'a'", "tenant = 'b'", "tenant = NULL", "total = NULL", "total = 60.5",
                           "total = total - 45", "v = 'y'", "v = v || '.'", "id = id + 100"])  # fmt: skip
_rows = st.sampled_from(["true", "id = 2", "id < 4", "id % 2 = 0", "tenant IS NULL", "total > 100", "false"])
statements = st.one_of(
    st.builds("UPDATE t SET {} WHERE id < 400 AND ({})".format, _values, _rows),
    st.builds("DELETE FROM t WHERE {} AND id % 4 = 3".format, _rows),
    st.builds(
        "INSERT INTO t SELECT coalesce(max(id), 0) + i, {}, i * 40, 'n' FROM t, generate_series(1, {}) AS i "
        "GROUP BY i HAVING coalesce(max(id), 0) < 900".format,
        st.sampled_from(["'a'", "'b'", "NULL"]), st.sampled_from([1, 3]),
    ),
)  # fmt: skip


# -- policies beside it --------------------------------------------------------------------------------------------


def test_whoever_names_no_actor_may_change_what_is_not_covered(t: psycopg.Connection):
    follow(t, require_actor="reject")
    for altered in (False, True):
        if altered:
            run(t, "ALTER TABLE t ADD later int")
        for statement in (
            "INSERT INTO t VALUES (9, 'a', 0, 'x')",
            "INSERT INTO t VALUES (9, 'b', 0, 'x'), (10, 'a', 0, 'x')",
            "UPDATE t SET v = 'y'",
            "UPDATE t SET tenant = 'a' WHERE id = 2",
            "UPDATE t SET tenant = 'b' WHERE id = 1",
            "DELETE FROM t WHERE id = 1",
            "DELETE FROM t WHERE id > 1",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="must name an actor"):
                run(t, statement)
        run(t, "INSERT INTO t VALUES (5, 'b', 5, 'x')", "INSERT INTO t VALUES (6, 'b', 6, 'x'), (7, NULL, 7, 'x')")
        run(t, "UPDATE t SET v = 'y' WHERE id = 2", "UPDATE t SET v = 'y' WHERE id IN (2, 3)")
        run(t, "DELETE FROM t WHERE id = 5", "DELETE FROM t WHERE id > 4")
    assert changes(t) == []
    with t.transaction():
        run(t, 'SELECT audit.set_context(\'{"actor": "alice"}\')', "UPDATE t SET v = 'z' WHERE id IN (1, 2)")
    assert changes(t) == [("UPDATE", 1)]


def test_large_values_of_rows_that_are_not_covered_are_nobodys_business(t: psycopg.Connection):
    follow(t, oversize="reject", baseline=False)
    big = "repeat('x', 1000001)"
    run(t, f"INSERT INTO t VALUES (5, 'b', 1, {big})", f"INSERT INTO t VALUES (6, 'b', 1, {big}), (7, 'b', 1, {big})")
    run(t, f"UPDATE t SET v = {big} WHERE id IN (2, 3)", "UPDATE t SET total = 0 WHERE tenant = 'b'")
    assert changes(t) == [("UPDATE", 4)]
    for statement in (f"UPDATE t SET v = {big} WHERE id IN (1, 2)", f"INSERT INTO t VALUES (9, 'a', 0, {big})"):
        with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="pgseal"):
            run(t, statement)


def test_what_the_records_do_not_show_cannot_be_filtered_by(t: psycopg.Connection):
    for rule in (TableRule(exclude=["tenant"], where=WHERE), TableRule(mask={"total": "redact"}, where=WHERE)):
        with pytest.raises(ConfigError, match="left out or masked"):
            track(t.info.dsn, "public", "t", rule, side="source")
    assert list_tracked(t) == []


# -- tables that were altered ---------------------------------------------------------------------------------------


def test_an_altered_table_is_filtered_on_and_one_without_the_column_is_not(t: psycopg.Connection):
    follow(t)
    run(t, "ALTER TABLE t ADD later int", "ALTER TABLE t RENAME tenant TO client", "UPDATE t SET v = 'y'")
    run(t, "INSERT INTO t VALUES (5, 'a', 0, 'x')", "UPDATE t SET v = 'z' WHERE id = 2", "DELETE FROM t WHERE id = 4")
    assert sorted(changes(t)) == [("DELETE", 4), ("INSERT", 5), ("UPDATE", 1), ("UPDATE", 4)]
    assert [drift.lost_filter for drift in read_drift(t)] == [None]
    before = len(changes(t))
    with t.transaction(force_rollback=True):
        run(t, "ALTER TABLE t ALTER total TYPE text", "UPDATE t SET v = '1'")
        assert len(changes(t)) == before + 4
        assert [drift.lost_filter for drift in read_drift(t)] == [WHERE]
    run(t, "UPDATE t SET v = '2' WHERE id = 2")
    assert len(changes(t)) == before
    run(t, "ALTER TABLE t DROP client", "UPDATE t SET v = '1'", "UPDATE t SET v = '2' WHERE id = 2")
    run(t, "INSERT INTO t (id) VALUES (7)", "DELETE FROM t WHERE id = 3")
    assert changes(t)[before + 4 :] == [("UPDATE", 2), ("INSERT", 7), ("DELETE", 3)]
    assert [drift.lost_filter for drift in read_drift(t)] == [WHERE]


@pytest.mark.parametrize("type_name", ["mood", "temper"])
@pytest.mark.parametrize("altered", [False, True], ids=["generated", "altered"])
def test_a_label_that_is_renamed_or_swapped_loses_no_change(source: psycopg.Connection, type_name: str, altered: bool):
    """A filter on an enum's label covers everything where the label is not what it was."""
    run(source, "CREATE TYPE mood AS ENUM ('good', 'bad', 'so so')", "CREATE DOMAIN temper AS mood",
        f"CREATE TABLE t (id int PRIMARY KEY, c {type_name})")  # fmt: skip
    run(source, "INSERT INTO t VALUES (1, 'good'), (2, 'bad')")
    with pytest.raises(ConfigError, match=r"'c' with 'god', which is none of its type's labels: \['good', 'bad'"):
        follow(source, "c in ('good', 'god')")
    follow(source, "c = 'good'")
    if altered:
        run(source, "ALTER TABLE t ADD later int")
    run(source, "ALTER TYPE mood ADD VALUE 'worse'")
    drifted = [(None,)] if altered else []
    assert [(drift.lost_filter,) for drift in read_drift(source)] == drifted
    with source.transaction(force_rollback=True):
        run(source, "ALTER TYPE mood RENAME VALUE 'good' TO 'fine'")
    run(source, "UPDATE t SET id = id + 10", "UPDATE t SET c = 'worse' WHERE id = 12")
    assert changes(source) == [("UPDATE", 1)]
    run(source, "ALTER TYPE mood RENAME VALUE 'good' TO 'fine'")
    assert [drift.lost_filter for drift in read_drift(source)] == ["c = 'good'"]
    run(source, "UPDATE t SET id = id + 10", "UPDATE t SET id = id + 10 WHERE id = 21")
    assert sorted(changes(source)[1:]) == [("UPDATE", 11), ("UPDATE", 12), ("UPDATE", 21)]
    run(source, "ALTER TYPE mood RENAME VALUE 'bad' TO 'good'")
    assert [drift.lost_filter for drift in read_drift(source)] == ["c = 'good'"]
    run(source, "UPDATE t SET id = id + 10 WHERE id = 31", "DELETE FROM t")
    assert sorted(changes(source)[4:]) == [("DELETE", 22), ("DELETE", 41), ("UPDATE", 31)]


def test_a_renewed_table_keeps_its_filter_under_new_names(t: psycopg.Connection):
    follow(t)
    run(t, 'ALTER TABLE t RENAME tenant TO "The Client"', "ALTER TABLE t ADD later int")
    track(t.info.dsn, "public", "t", TableRule(), side="source")
    where = "\"The Client\" = 'a' or total >= 100"
    assert list_tracked(t)[0].rule.where == where
    assert read_drift(t) == []
    run(t, "UPDATE t SET v = 'y'")
    assert sorted(changes(t)) == [("UPDATE", 1), ("UPDATE", 4)]
    run(t, "ALTER TABLE t DROP total")
    with pytest.raises(ConfigError, match="no column 'total', which its 'where' tests"):
        track(t.info.dsn, "public", "t", TableRule(), side="source")


def test_truncate_of_an_altered_table(t: psycopg.Connection):
    follow(t, truncate="rows")
    run(t, "ALTER TABLE t RENAME tenant TO client", "ALTER TABLE t ADD later int", "TRUNCATE t")
    removed = "SELECT (old ->> 'id')::int FROM audit.record WHERE action = 'DELETE' ORDER BY id"
    assert t.execute(removed).fetchall() == [(1,), (4,)]
    run(t, "INSERT INTO t VALUES (7, 'b', 0, 'x')", "ALTER TABLE t DROP client", "TRUNCATE t")
    assert t.execute(removed).fetchall() == [(1,), (4,), (7,)]


# -- columns of every kind ------------------------------------------------------------------------------------------

#: Type, filter, values it covers and values it does not.
TYPES: list[tuple[str, str, list[str], list[str]]] = [
    ("bool", "c = true", ["true"], ["false"]),
    ("int2", "c > 5", ["6"], ["5"]),
    ("int4", "c in (1, -2)", ["1", "-2"], ["2"]),
    ("int8", "c <> 9000000000", ["1"], ["9000000000"]),
    ("numeric(9,2)", "c <= 1.5", ["1.50", "-3"], ["1.51", "NaN"]),
    ("text", "c >= 'b'", ["b", "é", "bb"], ["B", "a", ""]),
    ("text", "c = 'it''s \\ \"so\"'", ["it's \\ \"so\""], ["its"]),
    ("varchar(20)", "c not in ('x', 'y')", ["z", "X"], ["x", "y"]),
    ("char(5)", "c = 'ab'", ["ab", "ab "], ["abc"]),
    ("uuid", "c = 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
     ["b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    ("date", "c < '2026-11-23'", ["2026-11-22", "-infinity"], ["2026-11-23"]),
    ("timestamp", "c = '2026-11-23 09:14'", ["2026-11-23 09:14:00"], ["2026-11-23 09:14:00.000001"]),
    ("timestamptz", "c >= '2026-11-23T09:14:00+02:00'", ["2026-11-23 07:14:00Z"], ["2026-11-23 07:13:59Z"]),
    ("mood", "c in ('good', 'so so')", ["good", "so so"], ["bad"]),
    ("float8", "c = '0.1'", ["0.1"], ["0.10000000000000002"]),
    ("number", "not c = '7'", ["8"], ["7"]),
    ("interval", "c = '1 day'", ["1 day"], ["24:00:00"]),
    ("int4[]", "c = '{1,2}'", ["{1,2}"], ["{2,1}"]),
    ("pair", "c = '(1,x)'", ["(1,x)"], ["(2,x)", "(,)"]),
    ("pair", "c is null", [], ["(,)"]),
    ("jsonb", "c is not null", ["null", "{}"], []),
]  # fmt: skip


@pytest.mark.parametrize("altered", [False, True], ids=["generated", "altered"])
def test_columns_of_every_kind(source: psycopg.Connection, altered: bool):
    run(source, "CREATE TYPE mood AS ENUM ('good', 'bad', 'so so')", "CREATE DOMAIN number AS int",
        "CREATE TYPE pair AS (n int, v text)")  # fmt: skip
    for type_name, where, covered, left in TYPES:
        run(source, "DROP TABLE IF EXISTS t", f"CREATE TABLE t (id int, c {type_name})")
        values = [*covered, *left, None]
        follow(source, where, baseline=False)
        if altered:
            run(source, "ALTER TABLE t ADD later int")
        run(source, "TRUNCATE audit.record")
        run(source, "SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'; SET IntervalStyle = 'sql_standard'; "
                    "SET extra_float_digits = -15; SET standard_conforming_strings = off")  # fmt: skip
        for number, value in enumerate(values):
            statement = f"INSERT INTO t VALUES ({number}, %s::text::{type_name})"
            source.execute(statement, [value])  # pyright: ignore[reportArgumentType]
        run(source, f"INSERT INTO t SELECT * FROM t WHERE id < {len(values)}")
        run(source, "RESET ALL")
        found = source.execute("SELECT (new ->> 'id')::int FROM audit.record WHERE source = 'row'").fetchall()
        expected = list(range(len(covered))) + ([len(values) - 1] if where == "c is null" else [])
        assert sorted(number for (number,) in found) == sorted(expected * 2), (type_name, where)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("nope = 1", "has no column 'nope'"),
        ("tenant = 5", "compares 'tenant' with 5: expected a 'text'"),
        ("id = 1.5", "expected a whole number"),
        ("id = '1'", "expected a whole number"),
        ("id = 9223372036854775808", "expected a whole number"),
        ("total = 'NaN'", "expected a number"),
        ("total = true", "expected a number"),
        ("d = 'today'", "expected a date such as"),
        ("d = '1/2/2026'", "expected a date such as"),
        ("at > 'now'", "expected a time with its zone"),
        ("at > '2026-11-23 09:14:00'", "expected a time with its zone"),
        ("f > '1.5'", "by =, <>, in and is null only"),
        ("f = 1.5", "expected a 'text'"),
    ],
)
def test_what_could_mean_one_thing_today_and_another_tomorrow_is_refused(
    source: psycopg.Connection, where: str, words: str
):
    run(source, f"CREATE TABLE t ({COLUMNS}, d date, at timestamptz, f float8)")
    with pytest.raises(ConfigError) as caught:
        follow(source, where)
    assert words in str(caught.value)
    assert list_tracked(source) == []


# -- what is sealed -------------------------------------------------------------------------------------------------


def test_the_record_of_tracking_says_what_is_not_covered(t: psycopg.Connection):
    follow(t)
    run(t, "CREATE TABLE u (id int)")
    track(t.info.dsn, "public", "u", TableRule(), side="source")
    found = t.execute("SELECT data ->> 'where' FROM audit.record WHERE action = 'TRACK' ORDER BY id").fetchall()
    assert found == [(WHERE,), (None,)]
    assert "format_filter" not in str(t.execute("SELECT prosrc FROM pg_proc WHERE proname ~ '^capture_u_'").fetchall())


@pytest.mark.slow
def test_a_logical_replication_worker(new_cluster: Any, any_cluster: Cluster, mode: str):
    with replicating(new_cluster, any_cluster.major) as (original, copy):
        run(original, f"CREATE TABLE t ({COLUMNS})")
        run(copy, *KINDS[mode])
        follow(copy)
        subscribe(original, copy)
        run(original, "INSERT INTO t VALUES (1, 'a', 1, 'x'), (2, 'b', 2, 'x'), (3, 'b', 3, 'x')")
        run(original, "UPDATE t SET tenant = 'b' WHERE id = 1", "UPDATE t SET v = 'y'")
        run(original, "UPDATE t SET tenant = 'a' WHERE id = 2", "DELETE FROM t WHERE id > 1")
        wait_for(lambda: copy.execute("SELECT count(*) FROM t").fetchone() == (1,))
        assert changes(copy) == [("INSERT", 1), ("UPDATE", 1), ("UPDATE", 2), ("DELETE", 2)]
        check_replay(copy)
