"""Rows that move between partitions: the INSERT's record names the DELETE's exactly where one UPDATE did both."""

import random
from typing import Any

import psycopg
import pytest
from psycopg import sql
from tests.replay import find_differences, replay_trail

from pgseal.trail.capture import TableRule
from pgseal.trail.track import track

MOVES = """
    SELECT d.old ->> 'v', i.new ->> 'v', d.data -> 'moved' ->> 'from', i.data -> 'moved' ->> 'to'
    FROM audit.record AS i JOIN audit.record AS d ON d.id = (i.data -> 'moved' ->> 'record')::bigint
    WHERE i.action = 'INSERT' AND d.action = 'DELETE' AND d.xid = i.xid AND d.relation = i.relation AND d.id < i.id
    ORDER BY i.id
"""
NAMED = "SELECT count(*) FROM audit.record WHERE data -> 'moved' ? 'record'"
LEFT = "SELECT old ->> 'v' FROM audit.record WHERE data -> 'moved' ? 'from' ORDER BY id"
ONE_TO_TWO = ("public.t1", "public.t2")


def run(source: psycopg.Connection, *statements: str) -> None:
    for statement in statements:
        source.execute(statement)  # pyright: ignore[reportArgumentType]


def follow(source: psycopg.Connection, name: str = "t", **rule: Any) -> None:
    track(source.info.dsn, "public", name, TableRule(**rule), side="source")


def moves(source: psycopg.Connection) -> list[tuple[str, ...]]:
    """The moves that were recorded: v before and after, partition before and after."""
    found = source.execute(MOVES).fetchall()
    assert source.execute(NAMED).fetchone() == (len(found),)
    return found


def changes(source: psycopg.Connection) -> list[tuple[str, str]]:
    """Action and v of what was recorded since the baseline."""
    return source.execute(
        "SELECT action, coalesce(new, old) ->> 'v' FROM audit.record "
        "WHERE source = 'row' AND action <> 'SNAPSHOT' ORDER BY id"
    ).fetchall()


def check_replay(source: psycopg.Connection) -> None:
    for relation, table in replay_trail(source).items():
        assert find_differences(source, relation, table) == [], relation


def check_empty(source: psycopg.Connection) -> None:
    """Nothing waits any more for the other half of a move."""
    assert source.execute("SELECT (SELECT count(*) FROM audit.moving), count(*) FROM audit.moved").fetchone() == (0, 0)


@pytest.fixture
def t(source: psycopg.Connection) -> psycopg.Connection:
    """Table t, partitioned by list of p, which is half of its key; rows 1 and 2 in t1, row 3 in t2."""
    run(
        source,
        "CREATE TABLE t (id int, p int, v text, PRIMARY KEY (id, p)) PARTITION BY LIST (p)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1)",
        "CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2)",
        "INSERT INTO t VALUES (1, 1, 'a'), (2, 1, 'b'), (3, 2, 'c')",
    )
    follow(source)
    return source


# -- what is a move --------------------------------------------------------------------------------------------------


def test_each_row_of_an_update_is_linked_with_itself(t: psycopg.Connection):
    run(t, "UPDATE t SET p = 2, v = v || '!' WHERE id = 1")
    assert moves(t) == [("a", "a!", *ONE_TO_TWO)]
    run(t, "INSERT INTO t SELECT i, 1, i::text FROM generate_series(10, 500) AS i")
    run(t, "UPDATE t SET p = 3 - p, id = id + 1000")  # all of them, both ways, under new keys
    found = moves(t)[1:]
    assert len(found) == 494
    assert all(before == after for before, after, *_ in found)
    assert {move[2:] for move in found} == {ONE_TO_TWO, ONE_TO_TWO[::-1]}
    check_empty(t)
    check_replay(t)


def test_moves_by_every_kind_of_update(t: psycopg.Connection):
    run(
        t,
        "MERGE INTO t USING (VALUES (1), (9)) AS s (id) ON t.id = s.id "
        "WHEN MATCHED THEN UPDATE SET p = 2 WHEN NOT MATCHED THEN INSERT VALUES (s.id, 1, 'new')",
        "WITH one AS (UPDATE t SET p = 2 WHERE id = 2 RETURNING *) INSERT INTO t SELECT 20, 1, 'copy' FROM one",
        "CREATE FUNCTION turn(int) RETURNS void LANGUAGE sql AS 'UPDATE t SET p = 3 - p WHERE id = $1'",
        "SELECT turn(3)",
        "PREPARE turn (int) AS UPDATE t SET p = 3 - p WHERE id = $1",
        "EXECUTE turn (20)",
        "CREATE VIEW shown AS SELECT * FROM t WHERE id > 0",
        "UPDATE shown SET p = 2 WHERE id = 9",
    )
    assert [move[0] for move in moves(t)] == ["a", "b", "c", "copy", "new"]
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="invalid ON UPDATE specification"):
        run(t, "INSERT INTO t VALUES (1, 2, 'x') ON CONFLICT (id, p) DO UPDATE SET p = 1")
    check_empty(t)
    check_replay(t)


def test_moves_by_cascade(source: psycopg.Connection):
    run(
        source,
        "CREATE TABLE place (p int PRIMARY KEY)",
        "INSERT INTO place VALUES (1)",
        "CREATE TABLE t (id int, p int REFERENCES place ON UPDATE CASCADE, v text) PARTITION BY LIST (p)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1)",
        "CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2)",
        "INSERT INTO t VALUES (1, 1, 'a'), (2, 1, 'b')",
    )
    follow(source)
    run(source, "UPDATE place SET p = 2")
    assert moves(source) == [("a", "a", *ONE_TO_TWO), ("b", "b", *ONE_TO_TWO)]
    check_replay(source)


def test_several_moves_of_one_row_in_one_transaction(t: psycopg.Connection):
    with t.transaction():
        run(t, "UPDATE t SET p = 2 WHERE id = 1", "SAVEPOINT a", "UPDATE t SET p = 1 WHERE id = 1")
        run(t, "ROLLBACK TO a", "UPDATE t SET p = 1, v = 'x' WHERE id = 1", "UPDATE t SET v = 'y' WHERE id = 1")
        run(t, "UPDATE t SET p = 2 WHERE id = 1")
    assert moves(t) == [("a", "a", *ONE_TO_TWO), ("a", "x", *ONE_TO_TWO[::-1]), ("y", "y", *ONE_TO_TWO)]
    check_empty(t)
    check_replay(t)


def test_rows_without_a_key_and_of_equal_content(source: psycopg.Connection):
    run(
        source,
        "CREATE TABLE t (p int, v text) PARTITION BY LIST (p)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1)",
        "CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2)",
        "INSERT INTO t SELECT 1, 'same' FROM generate_series(1, 3)",
    )
    follow(source)
    run(source, "UPDATE t SET p = 2 WHERE ctid = '(0,2)'", "UPDATE t SET p = 3 - p")
    assert [move[2:] for move in moves(source)] == [ONE_TO_TWO, ONE_TO_TWO, ONE_TO_TWO, ONE_TO_TWO[::-1]]
    check_replay(source)


def test_below_a_partition_by_another_column_and_after_an_alter(source: psycopg.Connection):
    run(
        source,
        "CREATE TABLE t (id int, v text, kind text) PARTITION BY RANGE (id)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10) PARTITION BY HASH (lower(kind))",
        *(f"CREATE TABLE t1_{i} PARTITION OF t1 FOR VALUES WITH (MODULUS 4, REMAINDER {i})" for i in range(4)),
        "INSERT INTO t SELECT i, i::text, i::text FROM generate_series(1, 9) AS i",
    )
    follow(source)
    for rows, *statements in (
        (9, "UPDATE t1 SET kind = kind || 'x'"),
        (18, "ALTER TABLE t ADD later int DEFAULT 5", "UPDATE t1 SET kind = kind || 'y'"),
    ):
        run(source, *statements)
        found = moves(source)
        assert all(before == after and old != new for before, after, old, new in found)
        stayed = [change for change in changes(source) if change[0] == "UPDATE"]
        assert len(found) + len(stayed) == rows
        assert len(found) > rows / 3
        check_empty(source)
        if rows == 9:
            check_replay(source)


def test_where_a_trigger_of_the_table_decides(t: psycopg.Connection):
    run(
        t,
        "CREATE FUNCTION set_place() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.p := CASE WHEN NEW.v > ''m'' THEN 2 ELSE 1 END; RETURN NEW; END'",
        "CREATE TRIGGER set_place BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION set_place()",
        "UPDATE t SET v = 'z' WHERE id = 1",
    )
    assert moves(t) == [("a", "z", *ONE_TO_TWO)]


def test_with_a_mask_and_a_filter(source: psycopg.Connection):
    run(
        source,
        "CREATE TABLE t (id int, p int, v text, secret text) PARTITION BY LIST (p)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1)",
        "CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2)",
        "INSERT INTO t VALUES (1, 1, 'a', 's3cret'), (2, 1, 'b', 's3cret'), (3, 2, 'c', 's3cret')",
    )
    follow(source, mask={"secret": "redact"}, where="id < 3")
    run(source, "UPDATE t SET p = 3 - p")
    assert moves(source) == [("a", "a", *ONE_TO_TWO), ("b", "b", *ONE_TO_TWO)]
    run(source, "UPDATE t SET p = 3 - p, id = id + 10", "UPDATE t SET p = 3 - p, id = id - 10")
    assert len(moves(source)) == 2  # of a row that leaves what is covered, half of the move is not recorded
    assert "s3cret" not in str(source.execute("SELECT array_agg(r::text) FROM audit.record AS r").fetchone())


def test_many_rows_are_moved_without_wading_through_those_before(t: psycopg.Connection):
    run(t, "INSERT INTO t SELECT i, 1, 'x' FROM generate_series(10, 3000) AS i", "VACUUM ANALYZE audit.moving")
    run(t, "VACUUM ANALYZE audit.moved")
    with psycopg.connect(t.info.dsn) as other:
        run(other, "UPDATE t SET p = 2 WHERE id = 1", "UPDATE t SET p = 3 - p")
        scans = other.execute(
            "SELECT relname, seq_scan, idx_tup_fetch < 4 * n_tup_ins FROM pg_stat_xact_all_tables "
            "WHERE relname IN ('moved', 'moving') ORDER BY 1"
        ).fetchall()
    assert scans == [("moved", 0, True), ("moving", 0, True)]
    assert len(moves(t)) == 1 + 2994


# -- what is not -----------------------------------------------------------------------------------------------------


def test_what_was_deleted_and_inserted_is_no_move(t: psycopg.Connection):
    run(
        t,
        "DELETE FROM t WHERE id = 1",
        "INSERT INTO t VALUES (1, 2, 'a')",
        "BEGIN",
        "UPDATE t SET p = 2 WHERE id = 2",  # a true one before, in the same transaction
        "DELETE FROM t WHERE id = 2",
        "INSERT INTO t VALUES (2, 1, 'b')",
        "COMMIT",
        "WITH gone AS (DELETE FROM t WHERE id = 2 RETURNING *) INSERT INTO t SELECT id, 3 - p, v FROM gone",
        "WITH gone AS (DELETE FROM t2 WHERE id = 3 RETURNING *) INSERT INTO t1 SELECT id, 1, v FROM gone",
    )
    assert [move[0] for move in moves(t)] == ["b"]
    check_empty(t)
    check_replay(t)


def test_one_merge_may_delete_insert_and_move(t: psycopg.Connection):
    run(
        t,
        "MERGE INTO t USING (VALUES (1), (10), (2), (11), (3)) AS s (id) ON t.id = s.id "
        "WHEN MATCHED AND s.id <> 2 THEN DELETE WHEN MATCHED THEN UPDATE SET p = 2 "
        "WHEN NOT MATCHED THEN INSERT VALUES (s.id, 1 + s.id % 2, 'new')",
    )
    assert sorted(changes(t)) == [*[("DELETE", v) for v in "abc"], ("INSERT", "b"), *[("INSERT", "new")] * 2]
    assert moves(t) == [("b", "b", *ONE_TO_TWO)]
    check_empty(t)


def test_an_update_that_comes_to_nothing_is_no_move(t: psycopg.Connection):
    """Triggers of the table's: one forbids an update, one swallows rows that arrive. What is lost stays a DELETE."""
    run(
        t,
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER zzz BEFORE UPDATE ON t FOR EACH ROW WHEN (old.v = 'a') EXECUTE FUNCTION swallow()",
        "CREATE TRIGGER zzy BEFORE INSERT ON t2 FOR EACH ROW WHEN (new.v = 'b') EXECUTE FUNCTION swallow()",
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN UPDATE t SET v = 'd' WHERE id = NEW.id; RETURN NULL; END $$",
        "CREATE TRIGGER a AFTER INSERT ON t FOR EACH ROW WHEN (new.v = 'd') EXECUTE FUNCTION touch()",
    )
    with t.transaction():
        run(t, "UPDATE t SET p = 3 - p")
        run(t, "WITH gone AS (DELETE FROM t WHERE v = 'a' RETURNING *) INSERT INTO t SELECT id, 2, v FROM gone")
        assert t.execute("SELECT count(*) FROM audit.moved").fetchone() == (0,)
    with t.transaction():
        for number in range(20):  # so that command ids are higher than what a changed row's header has in their place
            run(t, f"INSERT INTO t VALUES ({100 + number}, 1, 'c')")
        run(
            t, "INSERT INTO t VALUES (2, 1, 'b')", "UPDATE t SET p = 2 WHERE id = 2", "INSERT INTO t VALUES (7, 1, 'd')"
        )
    assert [change for change in changes(t) if change[1] != "c"] == [
        ("DELETE", "b"), ("DELETE", "a"), ("INSERT", "a"), ("INSERT", "b"), ("DELETE", "b"), ("UPDATE", "d"),
        ("INSERT", "d"),
    ]  # fmt: skip
    assert {move[:2] for move in moves(t)} == {("c", "c")}
    check_replay(t)


# -- in company ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "z"])
def test_triggers_that_record_in_between(t: psycopg.Connection, name: str):
    """Before our trigger on the same event, and after it: they move other rows, insert and delete in the meantime."""
    run(
        t,
        "CREATE TABLE u (LIKE t) PARTITION BY LIST (p)",
        "CREATE TABLE u1 PARTITION OF u FOR VALUES IN (1)",
        "CREATE TABLE u2 PARTITION OF u FOR VALUES IN (2)",
        "INSERT INTO u VALUES (1, 1, 'other')",
        "CREATE FUNCTION turn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "UPDATE u SET p = 3 - p WHERE v = 'other'; DELETE FROM u WHERE v = 'more'; "
        "INSERT INTO u VALUES (5, 2, 'more'), (6, 1, 'more'), (7, 1, 'lost'); UPDATE u SET p = 2 WHERE v = 'lost'; "
        "IF pg_trigger_depth() = 1 AND TG_OP = 'DELETE' THEN INSERT INTO t VALUES (50 + OLD.id, 2, 'honest'); END IF; "
        "RETURN NULL; END $$",
        f"CREATE TRIGGER {name} AFTER INSERT OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION turn()",
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER a BEFORE INSERT ON u2 FOR EACH ROW WHEN (new.v = 'lost') EXECUTE FUNCTION swallow()",
    )
    follow(t, "u")
    run(t, "UPDATE t SET p = 2 WHERE p = 1")
    assert [move[:2] for move in moves(t) if move[0] != "other"] == [("a", "a"), ("b", "b")]
    assert len(moves(t)) == 2 + 6
    check_replay(t)


def test_a_row_that_a_trigger_changed_before_it_was_recorded_is_not_claimed_to_have_moved(t: psycopg.Connection):
    run(
        t,
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN UPDATE t SET v = v || '!' WHERE id = NEW.id; RETURN NULL; END $$",
        "CREATE TRIGGER a AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION touch()",
        "UPDATE t SET p = 2 WHERE id = 1",
    )
    assert moves(t) == []
    assert t.execute(LEFT).fetchall() == [("a",)]
    check_replay(t)


def test_nobody_is_told_from_another_who_works_at_the_same_time(t: psycopg.Connection):
    with psycopg.connect(t.info.dsn) as other:
        run(other, "UPDATE t SET p = 2 WHERE id = 1")
        run(t, "UPDATE t SET p = 2 WHERE id = 2")
        run(other, "UPDATE t SET p = 1 WHERE id = 3")
        run(t, "INSERT INTO t VALUES (8, 1, 'h')")
    assert [move[0] for move in moves(t)] == ["a", "b", "c"]
    check_empty(t)


def test_whoever_may_only_update_can_neither_forge_a_move_nor_hide_one(t: psycopg.Connection):
    run(
        t,
        "CREATE ROLE mover",
        "GRANT ALL ON t, t1, t2 TO mover",
        "SET ROLE mover",
    )
    try:
        run(
            t,
            "SET pgseal.moving = '1'",
            "WITH moved AS (UPDATE t SET p = 2 WHERE id = 1 RETURNING set_config('pgseal.moving', '', false)) "
            "DELETE FROM t WHERE id = 3",
        )
        for statement in (
            "INSERT INTO audit.moving VALUES (pg_current_xact_id(), 't1'::regclass, '(0,2)')",
            "SELECT audit.forget_move('t1'::regclass, '(0,1)')",
            "SELECT audit.leave_partition('t1'::regclass, 'public.t1', '(0,2)')",
            "SELECT pg_stat_reset_single_table_counters('audit.moving'::regclass)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                run(t, statement)
    finally:
        run(t, "RESET ROLE", "DROP OWNED BY mover", "DROP ROLE mover")
    assert moves(t) == [("a", "a", *ONE_TO_TWO)]


def test_whatever_is_mixed_no_row_is_taken_for_another(source: psycopg.Connection):
    """Rows keep who they are in v. A link joins equals; what an UPDATE alone did is linked, what none did is not."""
    run(source, "CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY HASH (id)", "CREATE SEQUENCE who")
    for number in range(5):
        run(source, f"CREATE TABLE t{number} PARTITION OF t FOR VALUES WITH (MODULUS 5, REMAINDER {number})")
    follow(source)
    chance = random.Random(15)
    kinds = {
        "insert": "INSERT INTO t SELECT i, nextval('who') FROM generate_series({a}, {b}) AS i ON CONFLICT DO NOTHING",
        "move": "UPDATE t SET id = id + 100 WHERE id BETWEEN {a} AND {b} "
        "AND NOT EXISTS (SELECT FROM t AS o WHERE o.id = t.id + 100)",
        "cte": "WITH gone AS (DELETE FROM t WHERE id BETWEEN {a} AND {b} RETURNING id) "
        "INSERT INTO t SELECT id + 1000 + nextval('who') * 2000, nextval('who') FROM gone ORDER BY id",
        "merge": "MERGE INTO t USING (SELECT i FROM generate_series({a}, {b}) AS i ORDER BY random()) AS s ON i = t.id "
        "WHEN MATCHED AND s.i % 3 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET id = -id - nextval('who') * 1000 "
        "WHEN NOT MATCHED THEN INSERT VALUES (s.i, nextval('who'))",
    }
    halves = dict.fromkeys(kinds, 0)
    for _ in range(60):
        with source.transaction():
            for kind in chance.choices([*kinds], k=chance.randint(1, 3)):
                before = source.execute("SELECT max(id) FROM audit.record").fetchone()
                a = chance.randint(0, 200)
                source.execute(sql.SQL(kinds[kind]).format(a=a, b=a + chance.randint(0, 20)))
                found = source.execute(
                    "SELECT count(*) FILTER (WHERE action = 'DELETE'), count(*) FILTER (WHERE data ? 'moved') "
                    "FROM audit.record WHERE action IN ('INSERT', 'DELETE') AND id > %s",
                    before,
                ).fetchone()
                assert found
                halves[kind] += found[1]
                assert kind == "merge" or found[1] == (2 * found[0] if kind == "move" else 0), kind
    assert halves["move"] > 100
    assert halves["merge"] > 100
    assert all(before == after for before, after, *_ in moves(source))
    check_empty(source)
    check_replay(source)
