"""The baseline: rows that stood before `track`, recorded in a snapshot that no concurrent writer can tear."""

import threading
from collections.abc import Iterator

import psycopg
import pytest
from tests.deployments import open_trail

from pgseal.errors import CaptureError, ConfigError
from pgseal.trail.capture import TableRule
from pgseal.trail.registry import list_tracked
from pgseal.trail.track import track, untrack


@pytest.fixture
def source(database: str) -> Iterator[psycopg.Connection]:
    with open_trail(database) as connection:
        yield connection


def replay(source: psycopg.Connection) -> dict[int, int]:
    state: dict[int, int] = {}
    for action, key, new in source.execute(
        "SELECT action, (key ->> 'id')::int, new FROM audit.record WHERE source = 'row' ORDER BY id"
    ).fetchall():
        if action == "DELETE":
            del state[key]
        else:
            assert (key in state) is (action == "UPDATE")
            state[key] = new["v"]
    return state


def test_rows_that_stood_before_come_first_under_writers(source: psycopg.Connection):
    source.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    source.execute("INSERT INTO t SELECT i, 0 FROM generate_series(1, 3000) AS i")
    stop = threading.Event()
    dsn = source.info.dsn

    def write(worker: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            number = 0
            while not stop.is_set():
                number += 1
                key = number * 7 % 3000 + 1
                connection.execute("UPDATE t SET v = v + 1 WHERE id = %s", [key])
                if number % 5 == 0:
                    connection.execute("INSERT INTO t VALUES (%s, 0)", [worker * 1_000_000 + number])
                    connection.execute("DELETE FROM t WHERE id = %s", [worker * 1_000_000 + number - 15])

    writers = [threading.Thread(target=write, args=(worker,)) for worker in (1, 2)]
    for writer in writers:
        writer.start()
    try:
        tracked = track(dsn, "public", "t", TableRule(), side="source")
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert tracked.rows >= 3000
    now = dict(source.execute("SELECT id, v FROM t").fetchall())
    assert replay(source) == now
    first_change = source.execute(
        "SELECT min(id) FILTER (WHERE action <> 'SNAPSHOT'), max(id) FILTER (WHERE action = 'SNAPSHOT') "
        "FROM audit.record WHERE source = 'row'"
    ).fetchone()
    assert first_change is not None
    assert first_change[0] is None or first_change[1] < first_change[0]


def test_a_baseline_that_broke_off_is_pending_and_can_be_made_up(source: psycopg.Connection):
    source.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    source.execute("INSERT INTO t SELECT i, 0 FROM generate_series(1, 10) AS i")

    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        track(source.info.dsn, "public", "t", TableRule(), side="source", progress=interrupt)
    assert [table.baseline for table in list_tracked(source)] == ["pending"]
    source.execute("UPDATE t SET v = 1 WHERE id = 1")
    assert track(source.info.dsn, "public", "t", TableRule(), side="source").rows == 10
    assert [table.baseline for table in list_tracked(source)] == ["done"]


def test_no_second_baseline_is_begun_beside_one(source: psycopg.Connection):
    source.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    source.execute("INSERT INTO t VALUES (1, 1)")
    refusals: list[str] = []

    def track_again(_done: int, _total: int) -> None:
        with pytest.raises(CaptureError) as caught:
            track(source.info.dsn, "public", "t", TableRule(), side="source")
        refusals.append(str(caught.value))

    track(source.info.dsn, "public", "t", TableRule(), side="source", progress=track_again)
    assert refusals == ["another pgseal is at work on public.t; nothing was changed; try again when it has finished"]
    assert [table.baseline for table in list_tracked(source)] == ["done"]
    assert source.execute("SELECT count(*) FROM audit.record").fetchone() == (2,)


def test_no_baseline_is_a_recorded_gap(source: psycopg.Connection):
    source.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    source.execute("INSERT INTO t VALUES (1, 1)")
    track(source.info.dsn, "public", "t", TableRule(), side="source", baseline=False)
    rows = source.execute("SELECT action, data ->> 'baseline' FROM audit.record").fetchall()
    assert rows == [("TRACK", "none")]


def test_untrack_stops_capture_and_keeps_the_records(source: psycopg.Connection):
    source.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    track(source.info.dsn, "public", "t", TableRule(), side="source")
    source.execute("INSERT INTO t VALUES (1, 1)")
    untrack(source.info.dsn, "public.t", side="source")
    source.execute("INSERT INTO t VALUES (2, 2)")
    actions = [row[0] for row in source.execute("SELECT action FROM audit.record ORDER BY id").fetchall()]
    assert actions == ["TRACK", "INSERT", "UNTRACK"]
    assert source.execute("SELECT FROM pg_trigger WHERE tgname LIKE 'pgseal%'").fetchall() == []
    with pytest.raises(ConfigError, match="not tracked"):
        untrack(source.info.dsn, "public.t", side="source")


def test_a_row_security_policy_is_no_filter(source: psycopg.Connection):
    source.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    source.execute("INSERT INTO t SELECT i, i FROM generate_series(1, 10) AS i")
    source.execute("ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    source.execute("ALTER TABLE t FORCE ROW LEVEL SECURITY")
    source.execute("CREATE POLICY few ON t USING (id < 3)")
    assert track(source.info.dsn, "public", "t", TableRule(), side="source").rows == 10
