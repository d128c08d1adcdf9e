"""Partitions of the trail: made ahead beside writers, without a gap; status says long before they end."""

import threading
import time
from contextlib import closing, contextmanager

import psycopg
import pytest
from tests.deployments import Deployment, deploy, query

from pgseal.postgres import connect, install_schema
from pgseal.trail.capture import TableRule
from pgseal.trail.partitions import Partition, find_end, read_partitions
from pgseal.trail.track import track

INSERT = (
    "INSERT INTO audit.record (id, recorded_at, xid, pid, source, category, action, outcome, session_role) "
    "VALUES (nextval('audit.record_id_seq'), {}, pg_current_xact_id(), 1, 'app', 'administration', 'X', 'success', 'x')"
)
LIST = "SELECT relation, lower_end::text, upper_end::text FROM audit.partitions()"
DROP_AHEAD = (
    "DO $$ DECLARE p record; BEGIN FOR p IN SELECT relation FROM audit.partitions() WHERE lower_end > now() + {} LOOP "
    "EXECUTE 'DROP TABLE ' || p.relation; END LOOP; END $$"
)


def make_trail(dsn: str) -> str:
    with closing(connect(dsn, side="source")) as connection:
        install_schema(connection, "audit", "pgseal.trail", side="source")
        connection.execute("CREATE TABLE public.item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)")
    track(dsn, "public", "item", TableRule(), side="source", baseline=False)
    return dsn


@pytest.fixture
def trail(database) -> str:
    return make_trail(database)


def ensure(dsn: str, ahead: str = "2 years") -> int:
    return query(dsn, "SELECT audit.ensure_partitions(%s)", ahead)[0][0]


def check_seamless(dsn: str) -> list[tuple[str, str, str]]:
    """From the beginning of time to two years ahead, each partition ends where the next one begins."""
    found = query(dsn, LIST)
    assert found[0][1] == "-infinity"
    assert [one[2] for one in found[:-1]] == [one[1] for one in found[1:]]
    assert query(dsn, "SELECT max(upper_end) > now() + interval '2 years' FROM audit.partitions()") == [(True,)]
    return found


@contextmanager
def writers(dsn: str, count: int = 2):
    """Sessions that write audited rows without pause; yields the seconds that each write took, and the errors."""
    stop = threading.Event()
    seconds: list[float] = []
    errors: list[Exception] = []

    def write() -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                while not stop.is_set():
                    began = time.monotonic()
                    connection.execute("INSERT INTO item (note) VALUES ('x')")
                    seconds.append(time.monotonic() - began)
        except psycopg.Error as error:
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield seconds, errors
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_the_trail_is_seamless_from_the_beginning(any_database: str):
    make_trail(any_database)
    assert len(check_seamless(any_database)) in (9, 10)
    assert ensure(any_database) == 0
    made = ensure(any_database, "10 years")
    assert made >= 31
    check_seamless(any_database)


def test_partitions_are_attached_beside_writers_and_a_long_reader(any_database: str):
    make_trail(any_database)
    with writers(any_database) as (seconds, errors), closing(psycopg.connect(any_database)) as reader:
        reader.execute("SELECT count(*) FROM audit.record")  # and its transaction stays open
        for years in range(3, 9):
            count = len(seconds)
            assert ensure(any_database, f"{years} years") == 4
            while len(seconds) < count + 20 and not errors:
                time.sleep(0.01)
    assert errors == []
    assert max(seconds) < 1
    check_seamless(any_database)
    written = query(any_database, "SELECT count(*) FROM item")
    assert query(any_database, "SELECT count(*) FROM audit.record WHERE action = 'INSERT'") == written


def test_two_at_once_make_each_partition_once(trail: str):
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(ensure(trail, "20 years"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts)[:5] == [0] * 5
    assert max(counts) > 60
    check_seamless(trail)


def test_who_works_on_the_trail_for_long_does_not_hold_up_the_sealer(trail: str):
    with closing(psycopg.connect(trail)) as other:
        other.execute(
            "LOCK TABLE audit.record IN SHARE UPDATE EXCLUSIVE MODE"
        )  # what DETACH CONCURRENTLY and ANALYZE hold
        assert ensure(trail) == 0  # there is nothing to make: it does not even ask
        began = time.monotonic()
        assert ensure(trail, "5 years") == 0
        assert time.monotonic() - began < 10
    assert ensure(trail, "5 years") == 12
    check_seamless(trail)


@pytest.mark.parametrize("ago", ["50 years", "2000 years", "1 day", "-22 months"])
def test_a_record_of_any_moment_finds_a_partition(trail: str, ago: str):
    query(trail, INSERT.format(f"now() - interval '{ago}'"))
    assert query(trail, "SELECT count(*) FROM audit.record WHERE action = 'X'") == [(1,)]


def test_a_gap_is_filled_wherever_it_is(trail: str):
    names = [one[0] for one in query(trail, LIST)]
    for name in (names[0], names[3], names[4], names[-1]):
        query(trail, f"DROP TABLE {name}")
    with pytest.raises(psycopg.errors.CheckViolation):
        query(trail, INSERT.format("now()"))
    assert ensure(trail) == 3  # the two in the middle become one
    check_seamless(trail)
    query(trail, INSERT.format("now()"))
    query(trail, INSERT.format("'1999-01-01'::timestamptz"))
    assert ensure(trail) == 0


def test_a_table_that_has_the_name_does_not_keep_the_partition_from_being_made(trail: str):
    name = query(trail, LIST)[-1][0]
    query(trail, f"ALTER TABLE audit.record DETACH PARTITION {name}")
    assert ensure(trail) == 1
    assert query(trail, LIST)[-1][0] == f"{name}_2"
    check_seamless(trail)


@pytest.mark.parametrize("moment", ["1999-06-01", "2150-06-01"])
def test_a_clock_that_is_far_off_makes_no_partition_twice(trail: str, moment: str):
    """The function's own now() cannot be set: the same function once more, with another clock."""
    source = query(trail, "SELECT pg_get_functiondef('audit.ensure_partitions'::regproc)")[0][0]
    altered = source.replace("audit.ensure_partitions(", "audit.ensure_at(").replace("now()", f"timestamptz '{moment}'")
    query(trail, altered)
    made = query(trail, "SELECT audit.ensure_at()")[0][0]
    assert made == (0 if moment < "2000" else 9)  # one up to then, and those ahead
    assert ensure(trail) == 0  # the clock is right again
    check_seamless(trail)


def test_where_a_partition_is_missing_the_room_ends():
    inf = float("inf")
    partitions = [
        Partition("a", "", -inf, 10.0, is_detaching=False),
        Partition("b", "", 10.0, 20.0, is_detaching=False),
        Partition("c", "", 30.0, inf, is_detaching=False),
    ]
    assert [find_end(partitions, moment) for moment in (5.0, 10.0, 25.0, 30.0)] == [20.0, 20.0, 25.0, inf]
    partitions[1] = Partition("b", "", 10.0, 20.0, is_detaching=True)
    assert find_end(partitions, 5.0) == 10.0


def test_partitions_are_read_with_their_bounds(trail: str):
    with closing(connect(trail, side="source")) as connection:
        found = read_partitions(connection)
    assert found[0].bound.startswith("FOR VALUES FROM (MINVALUE) TO ('20")
    assert [one.end for one in found[:-1]] == [one.begin for one in found[1:]]
    assert found[0].begin == float("-inf")


@pytest.fixture
def deployment(database, vault_database, tmp_path) -> Deployment:
    query(database, "CREATE TABLE item (id int PRIMARY KEY, note text)")
    return deploy(database, vault_database, tmp_path)


def warnings_of(deployment: Deployment) -> list[str]:
    return [one for one in deployment.call("status")["warnings"] if "partition" in one]


def test_status_warns_months_before_and_the_sealer_makes_them_on_its_next_start(deployment: Deployment):
    assert warnings_of(deployment) == []
    assert deployment.call("status")["trails"][0]["partition_days"] > 700
    query(deployment.source, DROP_AHEAD.format("interval '0'"))  # as if nothing had run for nearly two years
    (warning,) = warnings_of(deployment)
    assert "audited writes fail" in warning
    assert "pgseal seal" in warning
    query(deployment.source, f"DROP TABLE {query(deployment.source, LIST)[0][0]}")
    (warning,) = warnings_of(deployment)
    assert "no partition for records of now" in warning
    deployment.seal()
    assert warnings_of(deployment) == []
    check_seamless(deployment.source)


def test_status_warns_of_a_gap(deployment: Deployment):
    name = query(deployment.source, LIST)[1][0]
    query(deployment.source, f"DROP TABLE {name}")
    assert len(warnings_of(deployment)) == 1
    deployment.seal()
    assert warnings_of(deployment) == []
