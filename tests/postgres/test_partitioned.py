"""Partitions that come and go: what of it is routine, what is recorded, of which partition; and replay is exact."""

import itertools
import threading
from typing import Any

import psycopg
import pytest
from tests.replay import find_differences, replay_trail

from pgseal.errors import CaptureError
from pgseal.trail import apply
from pgseal.trail.capture import TableRule
from pgseal.trail.catalog import read_table
from pgseal.trail.health import read_trigger_faults
from pgseal.trail.plan import read_plan
from pgseal.trail.policy import Entry
from pgseal.trail.repartition import Repartition
from pgseal.trail.track import plan_track, track


def run(source: psycopg.Connection, *statements: str) -> None:
    for statement in statements:
        source.execute(statement)  # pyright: ignore[reportArgumentType]


def follow(source: psycopg.Connection, name: str = "t", **rule: Any) -> int:
    return track(source.info.dsn, "public", name, TableRule(**rule), side="source").rows


def faults(source: psycopg.Connection) -> list[str]:
    """What status and plan say."""
    return [fault.describe("public.t") for fault in read_trigger_faults(source)]


def find_step(source: psycopg.Connection) -> Repartition:
    step = plan_track(source, read_table(source, "public", "t"), TableRule(), side="source")
    assert isinstance(step, Repartition)
    return step


def mend(source: psycopg.Connection) -> int:
    """Track again, which must leave nothing to be said; how many rows were recorded as they stand."""
    rows = sum(table.rows for table in apply.apply_steps(source.info.dsn, [find_step(source)], side="source"))
    assert faults(source) == []
    return rows


def acts(source: psycopg.Connection) -> list[tuple[Any, ...]]:
    """What is recorded of partitions: action, partition, rows."""
    return source.execute(
        "SELECT action, data ->> 'partition', (data ->> 'rows')::int FROM audit.record "
        "WHERE action IN ('ATTACH', 'DETACH') ORDER BY id"
    ).fetchall()


def snapshots(source: psycopg.Connection) -> int:
    row = source.execute("SELECT count(*) FROM audit.record WHERE action = 'SNAPSHOT'").fetchone()
    assert row
    return row[0]


def check_replay(source: psycopg.Connection) -> None:
    for relation, table in replay_trail(source).items():
        assert find_differences(source, relation, table) == [], relation


@pytest.fixture(autouse=True)
def uncompiled(source: psycopg.Connection) -> None:
    """As in pgseal's own connections: queries of the catalog take longer to compile than to run."""
    run(source, "SET jit = off")


@pytest.fixture
def t(source: psycopg.Connection) -> psycopg.Connection:
    """Table t, partitioned by range, with the partition t1 in which rows 1 and 2 are."""
    run(
        source,
        "CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10)",
        "INSERT INTO t VALUES (1, 'a'), (2, 'b')",
    )
    follow(source)
    return source


# -- made and dropped by routine ---------------------------------------------------------------------------------------


def test_a_new_partition_takes_no_baseline(source: psycopg.Connection):
    run(
        source,
        "CREATE TABLE t (id int NOT NULL DEFAULT 0, v text, n numeric CHECK (n > 0)) PARTITION BY RANGE (id)",
        "CREATE INDEX ON t (v)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10)",
        "INSERT INTO t VALUES (1, 'a'), (2, 'b')",
    )
    t = source
    follow(t)
    run(
        t,
        "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20)",
        "INSERT INTO t VALUES (11, 'c')",
        "CREATE TABLE t3 PARTITION OF t FOR VALUES FROM (20) TO (30) PARTITION BY LIST (v)",
        "CREATE TABLE t3a PARTITION OF t3 FOR VALUES IN ('a')",
        "INSERT INTO t VALUES (21, 'a')",
        "ANALYZE t",
        "VACUUM (FREEZE) pg_attribute",
    )
    words = "new partition public.{}: TRUNCATE of it alone is not captured yet"
    assert faults(t) == [
        words.format("t2"),
        words.format("t3a"),
        "trigger zz_pgseal_move does not notice moves by v",
    ]
    assert mend(t) == 0
    assert snapshots(t) == 2
    assert acts(t) == []
    row = t.execute("SELECT data FROM audit.record WHERE action = 'TRACK_PARTITIONS'").fetchone()
    assert row
    assert row[0]["created"] == ["public.t2", "public.t3a"]
    assert sorted(row[0]["parts"].values()) == ["public.t1", "public.t2", "public.t3a"]
    run(t, "TRUNCATE t2", "TRUNCATE t3a")
    check_replay(t)
    run(t, "CREATE TABLE t3b PARTITION OF t3 DEFAULT", "INSERT INTO t VALUES (22, 'a')", "UPDATE t3 SET v = 'x'")
    assert t.execute("SELECT count(*) FROM audit.record WHERE data ? 'moved'").fetchone() == (2,)
    assert follow(t) == 0  # pgseal track does the same
    assert faults(t) == []
    check_replay(t)


def test_a_partition_dropped_by_routine_is_recorded_and_takes_no_baseline(t: psycopg.Connection):
    run(t, "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20)", "INSERT INTO t VALUES (11, 'c')")
    mend(t)
    run(t, "DROP TABLE t1")
    assert faults(t) == ["partition public.t1 was dropped: that its rows went is not recorded"]
    assert mend(t) == 0
    assert acts(t) == [("DETACH", "public.t1", None)]
    assert snapshots(t) == 2
    check_replay(t)
    # One in its place, under its name, is another.
    run(t, "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10)", "INSERT INTO t VALUES (1, 'again')")
    assert mend(t) == 0
    check_replay(t)


# -- attached and detached ---------------------------------------------------------------------------------------------


def test_the_rows_of_an_attached_partition_are_recorded_and_no_others(t: psycopg.Connection):
    run(
        t,
        "CREATE TABLE t2 (v text, id int NOT NULL)",
        "INSERT INTO t2 SELECT 'old', i FROM generate_series(11, 15) AS i",
        "ALTER TABLE t ATTACH PARTITION t2 FOR VALUES FROM (10) TO (20)",
        # Changes of rows that nobody knows yet, and of one that is known twice.
        "UPDATE t SET v = 'new' WHERE id = 11",
        "DELETE FROM t WHERE id = 12",
        "INSERT INTO t VALUES (16, 'x')",
        "UPDATE t SET id = id - 10 WHERE id = 13",
        "UPDATE t SET id = 17 WHERE id = 1",
    )
    assert faults(t) == ["public.t2 was attached: the rows that it brought are not recorded"]
    assert mend(t) == 5
    assert acts(t) == [("ATTACH", "public.t2", 5)]
    assert snapshots(t) == 2 + 5
    check_replay(t)
    run(t, "UPDATE t SET v = v || '!'", "TRUNCATE t2")
    check_replay(t)


def test_an_attached_tree(t: psycopg.Connection):
    run(
        t,
        "CREATE TABLE s (LIKE t) PARTITION BY RANGE (id)",
        "CREATE TABLE s1 PARTITION OF s FOR VALUES FROM (10) TO (12)",
        "CREATE TABLE s2 PARTITION OF s DEFAULT",
        "INSERT INTO s VALUES (11, 'x'), (12, 'y'), (13, 'z')",
        "ALTER TABLE t ATTACH PARTITION s FOR VALUES FROM (10) TO (20)",
    )
    assert [fault.split(":")[0] for fault in faults(t)] == ["public.s1 was attached", "public.s2 was attached"]
    assert mend(t) == 3
    check_replay(t)
    run(t, "ALTER TABLE t DETACH PARTITION s", "INSERT INTO s VALUES (14, 'unseen')")
    assert [fault.split(":")[0] for fault in faults(t)] == ["public.s1 was detached", "public.s2 was detached"]
    assert mend(t) == 0
    assert sorted(acts(t)[2:]) == [("DETACH", "public.s1", 1), ("DETACH", "public.s2", 3)]
    check_replay(t)


def test_a_detached_partition_is_said_to_be_captured_no_more(t: psycopg.Connection):
    run(t, "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20)", "INSERT INTO t VALUES (11, 'c')")
    mend(t)
    run(t, "ALTER TABLE t DETACH PARTITION t1", "UPDATE t1 SET v = 'unseen'", "INSERT INTO t1 VALUES (3, 'unseen')")
    words = "public.t1 was detached: that its rows went is not recorded, and "
    assert faults(t) == [words + "its changes are not captured any more"]
    follow(t, "t1")
    assert faults(t) == [words + "it is tracked by itself"]
    assert mend(t) == 0
    assert acts(t) == [("DETACH", "public.t1", 3)]
    check_replay(t)


def test_a_swap_of_partitions(t: psycopg.Connection):
    """What is attached takes the name, the bounds and the keys of what is detached; a default partition beside them."""
    run(
        t,
        "CREATE TABLE rest PARTITION OF t DEFAULT",
        "INSERT INTO t VALUES (99, 'z')",
        "BEGIN",
        "ALTER TABLE t DETACH PARTITION t1",
        "ALTER TABLE t1 RENAME TO t1_old",
        "INSERT INTO t VALUES (4, 'captured')",  # into the default partition
        "DELETE FROM t WHERE id = 4",
        "CREATE TABLE t1 (LIKE t INCLUDING ALL)",
        "INSERT INTO t1 SELECT id, v || '!' FROM t1_old",
        "ALTER TABLE t ATTACH PARTITION t1 FOR VALUES FROM (0) TO (10)",
        "COMMIT",
        "UPDATE t SET v = v || '?'",
    )
    assert len(faults(t)) == 3
    assert mend(t) == 2
    assert acts(t) == [("DETACH", "public.t1_old", 2), ("ATTACH", "public.t1", 2)]
    check_replay(t)


@pytest.mark.parametrize(
    ("statements", "rows"),
    [
        (["CREATE TABLE n (LIKE t)", "INSERT INTO n VALUES (11, 'x')",
          "ALTER TABLE t ATTACH PARTITION n FOR VALUES FROM (10) TO (20)"], 1),
        (["CREATE TABLE n AS SELECT 11 AS id, 'x' AS v", "ALTER TABLE n ALTER id SET NOT NULL",
          "ALTER TABLE t ATTACH PARTITION n FOR VALUES FROM (10) TO (20)"], 1),
        (["CREATE TABLE n PARTITION OF t FOR VALUES FROM (10) TO (20)", "ALTER TABLE t DETACH PARTITION n",
          "INSERT INTO n VALUES (11, 'x')", "ALTER TABLE t ATTACH PARTITION n FOR VALUES FROM (10) TO (20)"], 1),
        (["CREATE TABLE n PARTITION OF t FOR VALUES FROM (10) TO (20)", "ALTER TABLE n DISABLE TRIGGER pgseal_capture",
          "INSERT INTO n VALUES (11, 'x')", "ALTER TABLE n ENABLE ALWAYS TRIGGER pgseal_capture"], 1),
        (["CREATE TABLE m (LIKE t) PARTITION BY RANGE (id)", "CREATE TABLE n PARTITION OF m DEFAULT",
          "INSERT INTO n VALUES (11, 'x')", "ALTER TABLE t ATTACH PARTITION m FOR VALUES FROM (10) TO (20)"], 1),
    ],
    ids=["attached", "made from a query", "attached again", "switched off", "below another"],
)  # fmt: skip
@pytest.mark.parametrize("at_once", [False, True])
def test_what_only_looks_made_by_routine_is_not_taken_for_it(
    t: psycopg.Connection, statements: list[str], rows: int, at_once: bool
):
    """Also if all is done in one transaction, or in one statement sent: the rows were not captured."""
    if at_once:
        run(t, "; ".join(statements))
    else:
        run(t, *statements)
    assert len(faults(t)) == 1
    assert "new partition" not in faults(t)[0]
    assert mend(t) == rows
    check_replay(t)


def test_an_empty_new_partition_that_was_emptied_is_read(t: psycopg.Connection):
    """TRUNCATE of it alone is not captured before apply: where its file is another, that may have been."""
    run(t, "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20)", "INSERT INTO t VALUES (11, 'c'), (12, 'd')")
    run(t, "TRUNCATE t2", "INSERT INTO t VALUES (13, 'e')")
    assert faults(t) == ["public.t2 was attached: the rows that it brought are not recorded"]
    assert mend(t) == 1
    check_replay(t)


# -- a partition that was touched --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statements",
    [
        ["ALTER TABLE t1 DISABLE TRIGGER pgseal_capture", "UPDATE t SET v = 'unseen'"],
        ["ALTER TABLE t1 DISABLE TRIGGER ALL", "DELETE FROM t1", "ALTER TABLE t1 ENABLE TRIGGER ALL"],
        ["DROP TRIGGER pgseal_capture_truncate ON t1", "TRUNCATE t1"],
        ["ALTER TABLE t1 DISABLE TRIGGER pgseal_capture_truncate", "TRUNCATE t1",
         "ALTER TABLE t1 ENABLE ALWAYS TRIGGER pgseal_capture_truncate"],
        ["ALTER TABLE t DETACH PARTITION t1", "UPDATE t1 SET v = 'unseen'", "DELETE FROM t1 WHERE id = 1",
         "ALTER TABLE t ATTACH PARTITION t1 FOR VALUES FROM (0) TO (10)"],
    ],
)  # fmt: skip
def test_of_a_partition_that_was_touched_its_own_rows_are_recorded(t: psycopg.Connection, statements: list[str]):
    run(t, "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20)", "INSERT INTO t VALUES (11, 'c')")
    mend(t)
    run(t, *statements)
    assert faults(t)
    (count,) = t.execute("SELECT count(*) FROM t1").fetchone() or (0,)
    assert mend(t) == count
    check_replay(t)
    run(t, "INSERT INTO t VALUES (5, 'e')", "TRUNCATE t1")
    check_replay(t)


def test_what_concerns_the_whole_table_takes_a_baseline_of_it(t: psycopg.Connection):
    run(t, "ALTER TABLE t ADD w int", "DROP TABLE t1", "CREATE TABLE t2 PARTITION OF t DEFAULT")
    assert follow(t) == 0
    assert faults(t) == []
    assert acts(t) == [("DETACH", "public.t1", None)]
    run(t, "INSERT INTO t VALUES (1, 'a'), (12, 'b')", "ALTER TABLE t2 DISABLE TRIGGER pgseal_capture")
    run(t, "ALTER TABLE ONLY t DISABLE TRIGGER pgseal_capture")
    assert follow(t) == 2
    assert t.execute("SELECT count(*) FROM audit.record WHERE action = 'TRACK'").fetchone() == (3,)


# -- with others, and in between ---------------------------------------------------------------------------------------


def test_nobody_waits_who_works_on_other_partitions(t: psycopg.Connection):
    run(t, "CREATE TABLE t2 (LIKE t)", "INSERT INTO t2 VALUES (11, 'c')")
    run(t, "ALTER TABLE t ATTACH PARTITION t2 FOR VALUES FROM (10) TO (20)")
    step = find_step(t)
    with psycopg.connect(t.info.dsn) as other:
        run(other, "UPDATE t SET v = 'held' WHERE id = 1")  # and stays open
        apply.apply_steps(t.info.dsn, [step], side="source", seconds=0)
    assert faults(t) == []
    check_replay(t)
    run(t, "CREATE TABLE t3 PARTITION OF t FOR VALUES FROM (20) TO (30)")
    step = find_step(t)
    with psycopg.connect(t.info.dsn) as other:
        run(other, "INSERT INTO t VALUES (21, 'held')")
        with pytest.raises(CaptureError, match="t3 was locked by another transaction"):
            apply.apply_steps(t.info.dsn, [step], side="source", seconds=0)
    assert len(faults(t)) == 1


def test_what_changed_since_it_was_planned_is_refused(t: psycopg.Connection):
    run(t, "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20)")
    step = find_step(t)
    run(t, "ALTER TABLE t DETACH PARTITION t2", "ALTER TABLE t ATTACH PARTITION t2 FOR VALUES FROM (10) TO (20)")
    with pytest.raises(CaptureError, match="changed by somebody in this very moment"):
        apply.apply_steps(t.info.dsn, [step], side="source")
    again = find_step(t)
    apply.apply_steps(t.info.dsn, [again], side="source")
    with pytest.raises(CaptureError, match="changed by somebody in this very moment"):
        apply.apply_steps(t.info.dsn, [again], side="source")


def test_a_crash_in_between_leaves_it_to_the_next_apply(t: psycopg.Connection, monkeypatch: pytest.MonkeyPatch):
    """After the triggers were made, and after the rows were recorded but not registered."""
    run(t, "CREATE TABLE t2 (LIKE t)", "INSERT INTO t2 VALUES (11, 'c')")
    run(t, "ALTER TABLE t ATTACH PARTITION t2 FOR VALUES FROM (10) TO (20)", "DROP TABLE t1")
    for name in ("_read", "_format_end"):
        step = find_step(t)
        with monkeypatch.context() as patch:
            patch.setattr(apply, name, lambda *_: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                apply.apply_steps(t.info.dsn, [step], side="source")
        run(t, "UPDATE t SET v = v || '!'")
        assert len(faults(t)) == 2
    assert mend(t) == 1
    check_replay(t)


def test_writers_during_apply_are_captured(t: psycopg.Connection):
    run(t, "CREATE TABLE t2 (LIKE t)", "INSERT INTO t2 SELECT i, 'c' FROM generate_series(10, 5000) AS i")
    run(t, "ALTER TABLE t ATTACH PARTITION t2 FOR VALUES FROM (10) TO (1000000)")
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(t.info.dsn, autocommit=True) as connection:
            for number in itertools.count(10_000):
                if stop.is_set():
                    return
                run(connection, f"INSERT INTO t VALUES ({number}, 'w')", f"DELETE FROM t WHERE id = {number - 9990}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        apply.apply_steps(t.info.dsn, [find_step(t)], side="source", seconds=60)
    finally:
        stop.set()
        writer.join()
    check_replay(t)


def test_without_a_baseline_it_is_said_what_is_not_recorded(t: psycopg.Connection):
    run(t, "CREATE TABLE t2 (LIKE t)", "INSERT INTO t2 VALUES (11, 'c')")
    run(t, "ALTER TABLE t ATTACH PARTITION t2 FOR VALUES FROM (10) TO (20)")
    track(t.info.dsn, "public", "t", TableRule(), side="source", baseline=False)
    assert faults(t) == []
    assert snapshots(t) == 2
    row = t.execute("SELECT data -> 'unrecorded' FROM audit.record WHERE action = 'TRACK_PARTITIONS'").fetchone()
    assert row == (["public.t2"],)


def test_the_script_does_the_same(t: psycopg.Connection):
    run(t, "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20)", "DROP TABLE t1")
    run(t, "\n".join(apply.format_script(t, [find_step(t)], [])))
    assert faults(t) == []
    assert acts(t) == [("DETACH", "public.t1", None)]
    run(t, "CREATE TABLE t3 (LIKE t)", "INSERT INTO t3 VALUES (21, 'c')")
    run(t, "ALTER TABLE t ATTACH PARTITION t3 FOR VALUES FROM (20) TO (30)")
    run(t, "\n".join(apply.format_script(t, [find_step(t)], [])))
    assert len(faults(t)) == 1  # its rows cannot be recorded by a script: apply does it
    assert mend(t) == 1
    check_replay(t)


def test_plan_tells_routine_from_what_was_changed_outside(t: psycopg.Connection):
    run(t, "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20)", "ALTER TABLE t DETACH PARTITION t1")
    run(t, "CREATE TABLE t3 (LIKE t)", "ALTER TABLE t ATTACH PARTITION t3 FOR VALUES FROM (20) TO (30)")
    found = read_plan(t, {"public.t": Entry()}, side="source")
    assert [(change.text.split(":")[0], change.is_foreign) for change in found.changes] == [
        ("public.t1 was detached", True),
        ("new partition public.t2", False),
        ("public.t3 was attached", True),
    ]
    apply.apply_steps(t.info.dsn, found.steps, side="source")
    assert read_plan(t, {"public.t": Entry()}, side="source").changes == []
    check_replay(t)


def test_inheritance(source: psycopg.Connection):
    """A child that comes or goes changes no row of its parent, and is said not to be captured."""
    run(
        source, "CREATE TABLE t (id int, v text)", "CREATE TABLE first () INHERITS (t)", "INSERT INTO t VALUES (1, 'a')"
    )
    follow(source)
    follow(source, "first")
    run(
        source,
        "CREATE TABLE child (id int, v text)",
        "INSERT INTO child VALUES (2, 'b')",
        "ALTER TABLE child INHERIT t",
    )
    entries = {"public.t": Entry(), "public.first": Entry()}
    assert [change.text for change in read_plan(source, entries, side="source").changes] == [
        "inherits from public.t, and is not tracked"
    ]
    follow(source, "child")
    run(source, "ALTER TABLE child NO INHERIT t", "ALTER TABLE first NO INHERIT t", "UPDATE first SET v = 'x'")
    run(source, "INSERT INTO child VALUES (3, 'c')")
    assert read_trigger_faults(source) == []
    assert read_plan(source, {**entries, "public.child": Entry()}, side="source").changes == []
    check_replay(source)
