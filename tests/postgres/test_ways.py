"""Every way of changing data: action, key, old, new and order of the records, and replay gives the table.

Each test runs on an ordinary table (captured a statement at a time), and most on one with an AFTER ROW trigger of the
user's or with partitions (captured row by row), which must make no difference.
"""

import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql
from tests.clusters import Cluster
from tests.replay import find_differences, replay_trail
from tests.replication import replicating, subscribe, wait_for

from pgseal.trail.capture import TableRule
from pgseal.trail.track import track

Change = tuple[str, Any, Any, Any]

NOTHING = """
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$
"""


@pytest.fixture
def source(source: psycopg.Connection) -> psycopg.Connection:
    source.execute(NOTHING)
    return source


@pytest.fixture(params=["statement", "row"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def follow(source: psycopg.Connection, mode: str) -> Callable[..., None]:
    """Track tables, so that they are captured in `mode`."""

    def follow(*names: str) -> None:
        for name in names:
            if mode == "row":
                run(source, f"CREATE TRIGGER zz AFTER UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION nothing()")
            track(source.info.dsn, "public", name, TableRule(), side="source")
        modes = source.execute("SELECT DISTINCT mode FROM audit.tracked").fetchall()
        assert modes == [(mode,)]

    return follow


@pytest.fixture
def t(source: psycopg.Connection, follow: Callable[..., None]) -> psycopg.Connection:
    """Table t (id, v) with rows (1, 'a'), (2, 'b'), (3, 'c'), tracked."""
    run(source, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    run(source, "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    follow("t")
    return source


def run(source: psycopg.Connection, statement: str) -> None:
    source.execute(statement)  # pyright: ignore[reportArgumentType]


def changes(source: psycopg.Connection, relation: str | None = "public.t") -> list[Change]:
    """What was recorded since the baseline, in order."""
    return source.execute(
        "SELECT action, key, old, new FROM audit.record WHERE source = 'row' AND action <> 'SNAPSHOT' "
        "AND relation = coalesce(%s, relation) ORDER BY id",
        [relation],
    ).fetchall()


def check_replay(source: psycopg.Connection, *, held_back: int | None = 0) -> None:
    """Check that replay gives every tracked table, and how many records came before what they start from."""
    tables = replay_trail(source)
    tracked = source.execute("SELECT relation FROM audit.tracked").fetchall()
    for (relation,) in tracked:
        if relation in tables:
            assert find_differences(source, relation, tables[relation]) == [], relation
        else:
            count = source.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.SQL(relation))).fetchone()
            assert count == (0,), relation
    if held_back is not None:
        assert sum(table.held_back for table in tables.values()) == held_back


def in_any_order(*changes: Change) -> list[Change]:
    return sorted(changes, key=str)


def inserted(row: int, value: str | None) -> Change:
    return ("INSERT", {"id": row}, None, {"id": row, "v": value})


def updated(row: int, old: str | None, new: str | None) -> Change:
    return ("UPDATE", {"id": row}, {"v": old}, {"id": row, "v": new})


def deleted(row: int, value: str | None) -> Change:
    return ("DELETE", {"id": row}, {"id": row, "v": value}, None)


# -- statements --------------------------------------------------------------------------------------------------


def test_single_row_statements(t: psycopg.Connection):
    run(t, "INSERT INTO t VALUES (4, NULL)")
    run(t, "UPDATE t SET v = 'd' WHERE id = 4")
    run(t, "UPDATE t SET v = NULL WHERE id = 1")
    run(t, "DELETE FROM t WHERE id = 2")
    assert changes(t) == [inserted(4, None), updated(4, None, "d"), updated(1, "a", None), deleted(2, "b")]
    check_replay(t)


def test_bulk_statements(t: psycopg.Connection):
    run(t, "INSERT INTO t SELECT i, 'n' || i FROM generate_series(4, 6) AS i")
    run(t, "UPDATE t SET v = v || '!' WHERE id < 4")
    run(t, "DELETE FROM t WHERE id > 1")
    found = changes(t)
    assert [*found[:6], *in_any_order(*found[6:])] == [
        *[inserted(row, f"n{row}") for row in (4, 5, 6)],
        *[updated(row, value, value + "!") for row, value in ((1, "a"), (2, "b"), (3, "c"))],
        *[deleted(row, value) for row, value in ((2, "b!"), (3, "c!"), (4, "n4"), (5, "n5"), (6, "n6"))],
    ]
    check_replay(t)


def test_statements_that_change_no_row(t: psycopg.Connection):
    run(t, "INSERT INTO t SELECT 9, 'x' WHERE false")
    run(t, "UPDATE t SET v = 'x' WHERE id = 99")
    run(t, "DELETE FROM t WHERE id = 99")
    run(t, "INSERT INTO t VALUES (1, 'x') ON CONFLICT DO NOTHING")
    assert changes(t) == []


def test_an_update_that_changes_nothing(t: psycopg.Connection):
    run(t, "UPDATE t SET v = v WHERE id = 1")
    run(t, "UPDATE t SET v = v")
    assert changes(t)[0] == ("UPDATE", {"id": 1}, {}, {"id": 1, "v": "a"})
    assert [change[2] for change in changes(t)] == [{}] * 4
    check_replay(t)


def test_copy(t: psycopg.Connection):
    with t.cursor().copy("COPY t FROM STDIN") as copy:
        copy.write("4\td\n5\t\\N\n")
    with t.cursor().copy("COPY t (id) FROM STDIN (FORMAT csv)") as copy:
        copy.write("6\n")
    assert changes(t) == [inserted(4, "d"), inserted(5, None), inserted(6, None)]
    check_replay(t)


def test_on_conflict(t: psycopg.Connection):
    run(t, "INSERT INTO t VALUES (1, 'x'), (4, 'd') ON CONFLICT DO NOTHING")
    run(t, "INSERT INTO t VALUES (5, 'e'), (2, 'y') ON CONFLICT (id) DO UPDATE SET v = excluded.v || t.v")
    run(t, "INSERT INTO t VALUES (3, 'z') ON CONFLICT (id) DO UPDATE SET v = excluded.v WHERE t.v = 'no'")
    run(t, "INSERT INTO t VALUES (3, 'z') ON CONFLICT (id) DO UPDATE SET v = excluded.v")
    found = changes(t)
    assert found[0] == inserted(4, "d")
    assert in_any_order(*found[1:3]) == in_any_order(inserted(5, "e"), updated(2, "b", "yb"))
    assert found[3:] == [updated(3, "c", "z")]
    check_replay(t)


def test_merge(t: psycopg.Connection):
    run(
        t,
        "MERGE INTO t USING (VALUES (1, 'x'), (2, NULL), (4, 'd'), (5, 'e')) AS s (id, v) ON s.id = t.id "
        "WHEN MATCHED AND s.v IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET v = s.v "
        "WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v)",
    )
    assert in_any_order(*changes(t)) == in_any_order(
        updated(1, "a", "x"), deleted(2, "b"), inserted(4, "d"), inserted(5, "e")
    )
    check_replay(t)


def test_two_updates_of_one_table_in_one_query(t: psycopg.Connection):
    run(
        t,
        "WITH one AS (UPDATE t SET v = '1' WHERE id = 1 RETURNING id), "
        "two AS (UPDATE t SET v = '2' WHERE id = 2 RETURNING id) UPDATE t SET v = '3' WHERE id = 3",
    )
    assert in_any_order(*changes(t)) == [updated(1, "a", "1"), updated(2, "b", "2"), updated(3, "c", "3")]
    check_replay(t)


def test_a_row_moved_through_a_query(t: psycopg.Connection):
    run(t, "WITH gone AS (DELETE FROM t RETURNING *) INSERT INTO t SELECT id + 10, v FROM gone")
    assert in_any_order(*changes(t)) == [
        *[deleted(row, value) for row, value in ((1, "a"), (2, "b"), (3, "c"))],
        *[inserted(row + 10, value) for row, value in ((1, "a"), (2, "b"), (3, "c"))],
    ]
    check_replay(t)


def test_a_key_deleted_and_inserted_in_one_query(t: psycopg.Connection):
    run(t, "WITH gone AS (DELETE FROM t WHERE id < 3 RETURNING *) INSERT INTO t SELECT id, 'new' FROM gone LIMIT 1")
    assert in_any_order(*changes(t)) == [deleted(1, "a"), deleted(2, "b"), inserted(1, "new")]
    check_replay(t, held_back=None)


def test_key_changes(t: psycopg.Connection):
    run(t, "UPDATE t SET id = 9 WHERE id = 1")
    run(t, "UPDATE t SET id = id + 100 WHERE id < 9")
    assert changes(t) == [
        ("UPDATE", {"id": 1}, {"id": 1}, {"id": 9, "v": "a"}),
        ("UPDATE", {"id": 2}, {"id": 2}, {"id": 102, "v": "b"}),
        ("UPDATE", {"id": 3}, {"id": 3}, {"id": 103, "v": "c"}),
    ]
    check_replay(t)


def test_keys_that_change_places(source: psycopg.Connection, follow: Callable[..., None]):
    run(source, "CREATE TABLE t (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text)")
    run(source, "INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    follow("t")
    run(source, "UPDATE t SET id = 3 - id")
    with source.transaction():
        run(source, "UPDATE t SET id = 2 WHERE v = 'b'")
        run(source, "UPDATE t SET id = 1 WHERE v = 'a'")
    assert changes(source) == [
        ("UPDATE", {"id": 1}, {"id": 1}, {"id": 2, "v": "a"}),
        ("UPDATE", {"id": 2}, {"id": 2}, {"id": 1, "v": "b"}),
        ("UPDATE", {"id": 1}, {"id": 1}, {"id": 2, "v": "b"}),
        ("UPDATE", {"id": 2}, {"id": 2}, {"id": 1, "v": "a"}),
    ]
    check_replay(source)


# -- transactions ------------------------------------------------------------------------------------------------


def test_several_changes_of_one_row_in_one_transaction(t: psycopg.Connection):
    with t.transaction():
        for old, new in (("a", "b"), ("b", "a"), ("a", "a2")):
            run(t, f"UPDATE t SET v = '{new}' WHERE v = '{old}' AND id = 1")
        run(t, "DELETE FROM t WHERE id = 1")
        run(t, "INSERT INTO t VALUES (1, 'again')")
        run(t, "UPDATE t SET v = v || '!'")
    assert changes(t)[:5] == [
        updated(1, "a", "b"), updated(1, "b", "a"), updated(1, "a", "a2"), deleted(1, "a2"), inserted(1, "again"),
    ]  # fmt: skip
    assert len(changes(t)) == 8
    assert t.execute("SELECT count(DISTINCT xid) FROM audit.record WHERE action = 'UPDATE'").fetchone() == (1,)
    check_replay(t)


def test_savepoints_rolled_back(t: psycopg.Connection):
    with t.transaction():
        run(t, "UPDATE t SET v = '1' WHERE id = 1")
        with t.transaction(force_rollback=True):
            run(t, "UPDATE t SET v = '2'")
            run(t, "DELETE FROM t WHERE id = 3")
        with t.transaction():
            run(t, "UPDATE t SET v = '3' WHERE id = 1")
    with t.transaction(force_rollback=True):
        run(t, "DELETE FROM t")
    assert changes(t) == [updated(1, "a", "1"), updated(1, "1", "3")]
    check_replay(t)


def test_exceptions_that_are_caught(t: psycopg.Connection):
    run(
        t,
        "DO $$ BEGIN UPDATE t SET v = 'x' WHERE id = 1; "
        "BEGIN UPDATE t SET v = 'y'; INSERT INTO t VALUES (1, 'z'); EXCEPTION WHEN unique_violation THEN NULL; END; "
        "END $$",
    )
    assert changes(t) == [updated(1, "a", "x")]
    check_replay(t)


def test_prepared_transactions(t: psycopg.Connection):
    name = t.info.dbname
    for row, verb in ((1, "COMMIT"), (2, "ROLLBACK")):
        run(t, "BEGIN")
        run(t, f"UPDATE t SET v = 'p' WHERE id = {row}")
        run(t, f"PREPARE TRANSACTION '{name}'")
        with psycopg.connect(t.info.dsn, autocommit=True) as other:
            run(other, f"{verb} PREPARED '{name}'")
    assert changes(t) == [updated(1, "a", "p")]
    check_replay(t)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_isolation_levels(t: psycopg.Connection, level: str):
    run(t, f"BEGIN ISOLATION LEVEL {level}")
    run(t, "UPDATE t SET v = 'i' WHERE id = 1")
    run(t, "DELETE FROM t WHERE id > 1")
    run(t, "COMMIT")
    assert changes(t) == [updated(1, "a", "i"), deleted(2, "b"), deleted(3, "c")]
    check_replay(t)


def test_a_row_that_another_transaction_changed_first(t: psycopg.Connection):
    with psycopg.connect(t.info.dsn) as other:
        run(other, "UPDATE t SET v = 'first' WHERE id = 1")
        with psycopg.connect(t.info.dsn, autocommit=True) as waiting:
            pid = waiting.info.backend_pid
            waiting.pgconn.send_query(b"UPDATE t SET v = v || ', then second'")
            deadline = time.monotonic() + 30
            while t.execute("SELECT cardinality(pg_blocking_pids(%s))", [pid]).fetchone() == (0,):
                assert time.monotonic() < deadline
            other.commit()
            while waiting.pgconn.get_result() is not None:
                pass
    assert updated(1, "a", "first") == changes(t)[0]
    assert updated(1, "first", "first, then second") in changes(t)
    check_replay(t)


# -- foreign keys ------------------------------------------------------------------------------------------------


@pytest.fixture
def family(source: psycopg.Connection, follow: Callable[..., None]) -> psycopg.Connection:
    run(source, "CREATE TABLE p (id int PRIMARY KEY)")
    run(
        source,
        "CREATE TABLE t (id int PRIMARY KEY, v text, "
        "c int REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE, n int REFERENCES p ON DELETE SET NULL, "
        "d int DEFAULT 1 REFERENCES p ON DELETE SET DEFAULT)",
    )
    run(source, "INSERT INTO p VALUES (1), (2), (3)")
    run(source, "INSERT INTO t VALUES (1, 'a', 2, 2, 2), (2, 'b', 2, 3, 1), (3, 'c', 3, 2, 2)")
    follow("p", "t")
    return source


def test_cascades(family: psycopg.Connection):
    run(family, "DELETE FROM p WHERE id = 3")
    assert in_any_order(*changes(family, None)) == in_any_order(
        ("DELETE", {"id": 3}, {"id": 3}, None),
        ("DELETE", {"id": 3}, {"id": 3, "v": "c", "c": 3, "n": 2, "d": 2}, None),
        ("UPDATE", {"id": 2}, {"n": 3}, {"id": 2, "v": "b", "c": 2, "n": None, "d": 1}),
    )
    check_replay(family)


def test_cascades_that_change_a_row_twice(family: psycopg.Connection):
    run(family, "UPDATE t SET c = 1 WHERE id < 3")
    run(family, "DELETE FROM p WHERE id > 1")
    run(family, "UPDATE t SET n = NULL, d = NULL")
    run(family, "UPDATE p SET id = 10")
    assert changes(family)[-1] == ("UPDATE", {"id": 2}, {"c": 1}, {"id": 2, "v": "b", "c": 10, "n": None, "d": None})
    check_replay(family, held_back=None)


def test_a_cascade_over_many_rows(source: psycopg.Connection, follow: Callable[..., None]):
    run(source, "CREATE TABLE p (id int PRIMARY KEY)")
    run(source, "CREATE TABLE t (id int PRIMARY KEY, v int REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE)")
    run(source, "INSERT INTO p SELECT i FROM generate_series(1, 300) AS i")
    run(source, "INSERT INTO t SELECT i, (i + 1) / 2 FROM generate_series(1, 600) AS i")
    follow("p", "t")
    run(source, "UPDATE p SET id = id + 1000")
    assert len(changes(source)) == 600
    run(source, "DELETE FROM p WHERE id > 1100")
    assert len(changes(source)) == 600 + 400
    check_replay(source)


def test_a_foreign_key_to_the_same_table(source: psycopg.Connection, follow: Callable[..., None]):
    run(source, "CREATE TABLE t (id int PRIMARY KEY, v int REFERENCES t ON DELETE CASCADE ON UPDATE CASCADE)")
    run(source, "INSERT INTO t VALUES (1, NULL), (2, 1), (3, 2), (4, 3), (5, 5)")
    follow("t")
    run(source, "UPDATE t SET id = 10 WHERE id = 1")
    run(source, "UPDATE t SET id = 50 WHERE id = 5")
    check_replay(source, held_back=None)
    assert ("UPDATE", {"id": 2}, {"v": 1}, {"id": 2, "v": 10}) in changes(source)
    run(source, "DELETE FROM t WHERE id = 10")
    assert [change[0] for change in changes(source)[-4:]] == ["DELETE"] * 4
    check_replay(source, held_back=None)


# -- views, triggers, rules, functions -------------------------------------------------------------------------------


def test_updatable_views(t: psycopg.Connection):
    run(t, "CREATE VIEW w AS SELECT id AS number, v FROM t WHERE id < 3 WITH CHECK OPTION")
    run(t, "UPDATE w SET v = 'w' WHERE number = 1")
    run(t, "DELETE FROM w")
    run(t, "INSERT INTO w VALUES (0, 'z')")
    found = changes(t)
    assert found[0] == updated(1, "a", "w")
    assert in_any_order(*found[1:3]) == [deleted(1, "w"), deleted(2, "b")]
    assert found[3:] == [inserted(0, "z")]
    check_replay(t)


def test_instead_of_triggers_and_rules(t: psycopg.Connection):
    run(t, "CREATE VIEW w AS SELECT v, count(*) AS n FROM t GROUP BY v")
    run(
        t,
        "CREATE FUNCTION split() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO t SELECT 10 + i, NEW.v FROM generate_series(1, NEW.n) AS i; RETURN NEW; END $$",
    )
    run(t, "CREATE TRIGGER split INSTEAD OF INSERT ON w FOR EACH ROW EXECUTE FUNCTION split()")
    run(t, "CREATE RULE gone AS ON DELETE TO w DO INSTEAD DELETE FROM t WHERE t.v = old.v")
    run(t, "INSERT INTO w VALUES ('i', 2)")
    run(t, "DELETE FROM w WHERE v = 'a'")
    assert changes(t) == [inserted(11, "i"), inserted(12, "i"), deleted(1, "a")]
    check_replay(t)


def test_triggers_that_change_or_drop_the_row(t: psycopg.Connection):
    run(
        t,
        "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.v = 'drop' THEN RETURN NULL; END IF; NEW.v := upper(NEW.v); RETURN NEW; END $$",
    )
    run(t, "CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION shout()")
    run(t, "INSERT INTO t VALUES (4, 'd'), (5, 'drop')")
    run(t, "UPDATE t SET v = CASE id WHEN 1 THEN 'drop' ELSE v END")
    assert changes(t)[0] == inserted(4, "D")
    assert in_any_order(*changes(t)[1:]) == [
        updated(2, "b", "B"), updated(3, "c", "C"), ("UPDATE", {"id": 4}, {}, {"id": 4, "v": "D"}),
    ]  # fmt: skip
    check_replay(t)


def test_functions_procedures_and_cursors(t: psycopg.Connection):
    run(
        t,
        "CREATE FUNCTION change() RETURNS int LANGUAGE plpgsql AS $$ DECLARE r record; c CURSOR FOR SELECT * FROM t "
        "WHERE id = 2 FOR UPDATE; BEGIN UPDATE t SET v = 'f' WHERE id = 1; OPEN c; FETCH c INTO r; "
        "UPDATE t SET v = 'cursor' WHERE CURRENT OF c; RETURN 1; END $$",
    )
    run(t, "CREATE FUNCTION remove(int) RETURNS SETOF t LANGUAGE sql AS 'DELETE FROM t WHERE id = $1 RETURNING *'")
    run(
        t,
        "CREATE PROCEDURE work() LANGUAGE plpgsql AS $$ BEGIN FOR i IN 4..5 LOOP INSERT INTO t VALUES (i, 'p'); "
        "COMMIT; END LOOP; INSERT INTO t VALUES (6, 'q'); ROLLBACK; END $$",
    )
    run(t, "SELECT change()")
    run(t, "SELECT * FROM remove(3)")
    run(t, "CALL work()")
    assert changes(t) == [
        updated(1, "a", "f"), updated(2, "b", "cursor"), deleted(3, "c"), inserted(4, "p"), inserted(5, "p"),
    ]  # fmt: skip
    check_replay(t)


# -- triggers of the user's that change the same table again---------------------------------------------------------

TOUCH_SELF = (
    "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    "IF pg_trigger_depth() < 3 THEN UPDATE t SET v = v || '+' WHERE id = NEW.id; END IF; RETURN NULL; END $$"
)
TOUCH_SIBLING = (
    "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    "IF pg_trigger_depth() < 3 THEN UPDATE t SET v = v || NEW.id WHERE id = NEW.id % 3 + 1; END IF; RETURN NULL; END $$"
)
TOUCH_ALL = (
    "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    "IF pg_trigger_depth() < 3 THEN UPDATE t SET v = v || '*'; END IF; RETURN NULL; END $$"
)
GO_ROUND = (
    "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF pg_trigger_depth() < 2 THEN "
    "UPDATE t SET v = 'x' WHERE id = 1; UPDATE t SET v = 'a' WHERE id = 1; UPDATE t SET v = 'x' WHERE id = 1; "
    "END IF; RETURN NULL; END $$"
)


@pytest.mark.parametrize("when", ["before tracking", "after tracking"])
@pytest.mark.parametrize("name", ["aa", "zz"])
@pytest.mark.parametrize(
    "function", [TOUCH_SELF, TOUCH_SIBLING, TOUCH_ALL, GO_ROUND], ids=["self", "sibling", "all", "round"]
)
@pytest.mark.parametrize("level", ["ROW", "STATEMENT"])
def test_triggers_that_change_the_table_again(
    source: psycopg.Connection, when: str, name: str, function: str, level: str
):
    if level == "STATEMENT":
        function = function.replace("NEW.id", "1")
    run(source, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    run(source, "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    run(source, function)
    trigger = f"CREATE TRIGGER {name} AFTER INSERT OR UPDATE ON t FOR EACH {level} EXECUTE FUNCTION touch()"
    if when == "before tracking":
        run(source, trigger)
    track(source.info.dsn, "public", "t", TableRule(), side="source")
    if when == "after tracking":
        run(source, trigger)
    run(source, "UPDATE t SET v = 'u' WHERE id = 1")
    run(source, "UPDATE t SET v = v || 'w'")
    run(source, "INSERT INTO t VALUES (4, 'd'), (5, 'e')")
    with source.transaction():
        run(source, "UPDATE t SET v = 'a'")
        run(source, "UPDATE t SET v = 'x' WHERE id = 1")
    run(source, "DELETE FROM t WHERE id > 3")
    check_replay(source, held_back=None)


@pytest.mark.parametrize("when", ["before tracking", "after tracking"])
def test_a_trigger_that_deletes_what_was_written(source: psycopg.Connection, when: str):
    run(source, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    run(source, "CREATE FUNCTION gone() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN DELETE FROM t WHERE id = NEW.id; RETURN NULL; END $$")  # fmt: skip
    trigger = "CREATE TRIGGER aa AFTER INSERT ON t FOR EACH ROW WHEN (NEW.v = 'gone') EXECUTE FUNCTION gone()"
    if when == "before tracking":
        run(source, trigger)
    track(source.info.dsn, "public", "t", TableRule(), side="source")
    if when == "after tracking":
        run(source, trigger)
    run(source, "INSERT INTO t VALUES (1, 'gone'), (2, 'stays')")
    assert in_any_order(*changes(source)) == [deleted(1, "gone"), inserted(1, "gone"), inserted(2, "stays")]
    check_replay(source, held_back=None)


@pytest.mark.parametrize("when", ["before tracking", "after tracking"])
def test_deferred_triggers_that_change_the_row(source: psycopg.Connection, when: str):
    run(source, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    run(source, TOUCH_SELF.replace("pg_trigger_depth() < 3", "length(NEW.v) < 2"))
    trigger = (
        "CREATE CONSTRAINT TRIGGER aa AFTER INSERT OR UPDATE ON t DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION touch()"
    )
    if when == "before tracking":
        run(source, trigger)
    track(source.info.dsn, "public", "t", TableRule(), side="source")
    if when == "after tracking":
        run(source, trigger)
    with source.transaction():
        run(source, "INSERT INTO t VALUES (1, 'a'), (2, 'b')")
        run(source, "UPDATE t SET v = 'c' WHERE id = 1")
    assert [change[3]["v"] for change in changes(source)] == ["a", "b", "c", "c+", "b+", "c++"]
    check_replay(source)


# -- columns that PostgreSQL fills ---------------------------------------------------------------------------------


def test_generated_identity_and_default_columns(source: psycopg.Connection, follow: Callable[..., None]):
    run(
        source,
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int, s serial, "
        "twice int GENERATED ALWAYS AS (v * 2) STORED, d text DEFAULT 'd')",
    )
    follow("t")
    run(source, "INSERT INTO t (v) VALUES (5)")
    run(source, "INSERT INTO t (v) VALUES (6), (7)")
    run(source, "UPDATE t SET v = v + 1")
    assert changes(source)[0] == ("INSERT", {"id": 1}, None, {"id": 1, "v": 5, "s": 1, "twice": 10, "d": "d"})
    assert changes(source)[3] == ("UPDATE", {"id": 1}, {"v": 5, "twice": 10},
                                  {"id": 1, "v": 6, "s": 1, "twice": 12, "d": "d"})  # fmt: skip
    check_replay(source)


@pytest.mark.servers(18)
def test_virtual_generated_columns_are_not_recorded(source: psycopg.Connection, follow: Callable[..., None]):
    run(source, "CREATE TABLE t (id int PRIMARY KEY, v int, twice int GENERATED ALWAYS AS (v * 2))")
    run(source, "INSERT INTO t VALUES (1, 1)")
    follow("t")
    run(source, "INSERT INTO t VALUES (2, 2), (3, 3)")
    run(source, "UPDATE t SET v = 10 WHERE id = 2")
    run(source, "UPDATE t SET v = v + 1")
    run(source, "ALTER TABLE t ADD e int GENERATED ALWAYS AS (v - 1)")
    run(source, "UPDATE t SET v = v + 1")
    run(source, "DELETE FROM t WHERE id = 1")
    assert changes(source)[2] == ("UPDATE", {"id": 2}, {"v": 2}, {"id": 2, "v": 10})
    assert changes(source)[-1] == ("DELETE", {"id": 1}, {"id": 1, "v": 3}, None)
    check_replay(source)


# -- replication -----------------------------------------------------------------------------------------------------


def test_replica_role(t: psycopg.Connection):
    run(t, "SET session_replication_role = replica")
    run(t, "INSERT INTO t VALUES (4, 'd'), (5, 'e')")
    run(t, "UPDATE t SET v = v || '!' WHERE id < 3")
    run(t, "UPDATE t SET id = 9 WHERE id = 1")
    run(t, "DELETE FROM t WHERE id = 2")
    assert changes(t) == [
        inserted(4, "d"), inserted(5, "e"), updated(1, "a", "a!"), updated(2, "b", "b!"),
        ("UPDATE", {"id": 1}, {"id": 1}, {"id": 9, "v": "a!"}), deleted(2, "b!"),
    ]  # fmt: skip
    check_replay(t)


def test_replica_role_for_a_part_of_a_transaction(t: psycopg.Connection):
    with t.transaction():
        run(t, "UPDATE t SET v = '1'")
        run(t, "SET LOCAL session_replication_role = replica")
        run(t, "UPDATE t SET v = '2'")
        run(t, "SET LOCAL session_replication_role = local")
        run(t, "UPDATE t SET v = '3'")
    assert len(changes(t)) == 9
    check_replay(t)


def test_replica_role_that_changes_within_a_statement(t: psycopg.Connection):
    run(
        t,
        "CREATE FUNCTION become(text, text) RETURNS text LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM set_config('session_replication_role', $1, false); RETURN $2; END $$",
    )
    run(t, "UPDATE t SET v = CASE id WHEN 2 THEN become('replica', 'r') ELSE 's' END")
    assert len(changes(t)) == 3
    run(t, "UPDATE t SET v = CASE id WHEN 2 THEN become('origin', 'o') ELSE 'p' END")
    assert len(changes(t)) == 6
    run(t, "SET session_replication_role = replica")
    run(t, "UPDATE t SET v = become('origin', 'q') WHERE id = 1")
    run(t, "UPDATE t SET v = become('replica', 'q') WHERE id = 2")
    assert len(changes(t)) == 8
    check_replay(t)


@pytest.mark.slow
def test_a_logical_replication_worker(new_cluster: Any, any_cluster: Cluster, mode: str):
    with replicating(new_cluster, any_cluster.major) as (original, copy):
        for connection in (original, copy):
            run(connection, "CREATE TABLE t (id int PRIMARY KEY, v text)")
        run(original, "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
        run(copy, NOTHING)
        if mode == "row":
            run(copy, "CREATE TRIGGER zz AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION nothing()")
        track(copy.info.dsn, "public", "t", TableRule(), side="source")
        subscribe(original, copy)
        wait_for(lambda: len(changes(copy)) == 3)
        run(original, "UPDATE t SET v = v || '!' WHERE id < 3")
        with original.transaction():
            run(original, "DELETE FROM t WHERE id = 3")
            run(original, "INSERT INTO t VALUES (4, 'd'), (5, NULL)")
            run(original, "UPDATE t SET id = 9 WHERE id = 4")
        wait_for(lambda: len(changes(copy)) == 9)
        assert changes(copy) == [
            inserted(1, "a"), inserted(2, "b"), inserted(3, "c"), updated(1, "a", "a!"), updated(2, "b", "b!"),
            deleted(3, "c"), inserted(4, "d"), inserted(5, None),
            ("UPDATE", {"id": 4}, {"id": 4}, {"id": 9, "v": "d"}),
        ]  # fmt: skip
        check_replay(copy)
        run(original, "TRUNCATE t")
        wait_for(lambda: changes(copy)[-1][0] == "TRUNCATE")
        check_replay(copy)
