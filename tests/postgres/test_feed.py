"""The snapshot-difference feed: every committed record once, none of a transaction that did not commit.

Each test drives sessions by hand, one step at a time, and reads the feed in between; after every complete poll what was
handed on must be exactly what anybody can see in the trail at that moment.
"""

import random
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace

import psycopg
import pytest
from tests.clusters import Cluster
from tests.deployments import query

from pgseal.errors import UnavailableError
from pgseal.postgres import connect, install_schema
from pgseal.sealer.trails import SEALER_ROLE, to_row, to_state
from pgseal.trail.capture import TableRule
from pgseal.trail.feed import FeedState, PollFeed
from pgseal.trail.rows import read_id
from pgseal.trail.track import track

SEEDS = range(8)
STEPS = 80
SESSIONS = 4
LARGE_CHUNK = 1000
#: How long the tests' servers let a commit wait in memory: longer than any test.
LAZY = {"synchronous_commit": "off", "wal_writer_delay": "10s", "bgwriter_delay": "10s", "checkpoint_timeout": "1h"}


class Reader:
    """Draws from the feed as the sealer does, and remembers everything it was handed."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.state = FeedState("clinic")
        self.handed: list[int] = []
        self.connection = self.feed = None
        self.reconnect()

    def reconnect(self) -> None:
        self.close()
        self.connection = connect(self.dsn, side="source", role=SEALER_ROLE)
        self.feed = PollFeed(self.connection, side="source")
        self.feed.check_restart(self.state)

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()

    def begin(self) -> bool:
        """Begin a batch, or take it up; the state counts as kept, as it is with the first chunk."""
        begun = self.feed.begin(self.state)
        self.state = begun or self.state
        return begun is not None

    def read_chunk(self, limit: int, *, keep: bool = True) -> None:
        """Read a chunk; if not kept it was read in vain, as in a crash before the vault's commit."""
        ids = [read_id(row) for row in self.feed.read_chunk(self.state, limit)]
        assert ids == sorted(ids)
        if not keep:
            return
        self.handed += ids
        after = replace(self.state, position=max([self.state.position, *ids]))
        if len(ids) < limit:
            after = self.feed.finish(after)
        self.state = to_state(to_row(after))  # through the form it is kept in

    def poll(self, limit: int = LARGE_CHUNK) -> list[int]:
        """Hand on everything committed now; the new ids."""
        count = len(self.handed)
        if self.state.pending is not None:  # first the one that was broken off
            self.finish_batch(limit)
        if self.begin():
            self.finish_batch(limit)
        return self.handed[count:]

    def finish_batch(self, limit: int = LARGE_CHUNK) -> None:
        while self.state.pending is not None:
            self.read_chunk(limit)

    def check(self) -> None:
        """What was handed on is what is visible, each once."""
        visible = [row[0] for row in query(self.dsn, "SELECT id FROM audit.record ORDER BY id")]
        assert sorted(self.handed) == visible
        assert self.feed.count_unsealed(self.state) == 0


@pytest.fixture
def trail(database) -> str:
    """A database with a trail and a tracked table."""
    return make_trail(database)


def make_trail(dsn: str) -> str:
    with closing(connect(dsn, side="source")) as connection:
        install_schema(connection, "audit", "pgseal.trail", side="source")
        connection.execute("CREATE TABLE public.item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)")
    track(dsn, "public", "item", TableRule(), side="source", baseline=False)
    return dsn


@pytest.fixture
def reader(trail) -> Iterator[Reader]:
    found = Reader(trail)
    yield found
    found.close()


@pytest.fixture
def writer(trail) -> Iterator[psycopg.Connection]:
    with closing(psycopg.connect(trail)) as connection:
        yield connection


def record(connection: psycopg.Connection, count: int = 1) -> None:
    connection.execute("SELECT audit.record_event('TEST') FROM generate_series(1, %s)", (count,))


# -- random interleavings


class Session:
    """One client that does something at random, a statement at a time; never waits for another."""

    def __init__(self, dsn: str, number: int, chance: random.Random) -> None:
        self.connection = psycopg.connect(dsn)
        self.number = number
        self.chance = chance
        self.savepoints = 0
        self.prepared: list[str] = []
        self.transactions = 0

    @property
    def is_open(self) -> bool:
        return self.connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE

    def step(self) -> str:
        """Do one thing and say what."""
        write = ["event", "event", "insert", "insert", "update", "delete", "draw xid"]
        end = ["commit", "commit", "rollback", "prepare", "lose"]
        choices = [*write, "savepoint", "rollback to", *end] if self.is_open else [*write, *(self.prepared and end[:3])]
        what = self.chance.choice(choices)
        name = what.replace(" ", "_")
        getattr(self, f"_{name}")()
        return f"{self.number}: {what}"

    def _run(self, statement: str, *values: object) -> None:
        self.connection.execute(statement, values or None)

    def _event(self) -> None:
        record(self.connection, self.chance.randint(1, 4))

    def _insert(self) -> None:
        self._run(
            "INSERT INTO item (note) SELECT 'new' FROM generate_series(1, %s::int)", self.chance.choice([1, 1, 3, 40])
        )

    def _update(self) -> None:
        self._run(
            "UPDATE item SET note = 'changed' WHERE id IN "
            "(SELECT id FROM item ORDER BY random() LIMIT 3 FOR UPDATE SKIP LOCKED)"
        )

    def _delete(self) -> None:
        self._run("DELETE FROM item WHERE id IN (SELECT id FROM item ORDER BY random() LIMIT 2 FOR UPDATE SKIP LOCKED)")

    def _draw_xid(self) -> None:
        self._run("SELECT pg_current_xact_id()")

    def _savepoint(self) -> None:
        self.savepoints += 1
        self._run(f"SAVEPOINT s{self.savepoints}")

    def _rollback_to(self) -> None:
        if self.savepoints:
            self._run(f"ROLLBACK TO SAVEPOINT s{self.savepoints}")
            self.savepoints -= self.chance.randint(0, 1)

    def _commit(self) -> None:
        self._end("COMMIT")

    def _rollback(self) -> None:
        self._end("ROLLBACK")

    def _end(self, how: str) -> None:
        """End the open transaction, or else a prepared one."""
        if self.is_open:
            self.connection.commit() if how == "COMMIT" else self.connection.rollback()
            self.savepoints = 0
        elif self.prepared:
            gid = self.prepared.pop(self.chance.randrange(len(self.prepared)))
            self.connection.autocommit = True
            self._run(f"{how} PREPARED '{gid}'")
            self.connection.autocommit = False

    def _prepare(self) -> None:
        if len(self.prepared) == 2:  # the server has room for ten
            return
        self.transactions += 1
        gid = f"{self.connection.info.dbname}-{self.number}-{self.transactions}"
        self._run(f"PREPARE TRANSACTION '{gid}'")
        self.connection.commit()  # which has nothing left to do, but psycopg wants it
        self.prepared.append(gid)
        self.savepoints = 0

    def _lose(self) -> None:
        dsn = self.connection.info.dsn
        self.connection.close()
        self.connection = psycopg.connect(dsn)
        self.savepoints = 0

    def close(self) -> None:
        while self.is_open or self.prepared:
            self._end(self.chance.choice(["COMMIT", "ROLLBACK"]))
        self.connection.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_every_committed_record_is_handed_on_exactly_once(trail, reader, seed):
    interleave(trail, reader, seed)


@pytest.mark.servers(15, 18)
def test_the_rule_holds_on_other_versions(any_database):
    reader = Reader(make_trail(any_database))
    with closing(reader):
        interleave(any_database, reader, seed=1000)


def interleave(dsn: str, reader: Reader, seed: int) -> None:
    chance = random.Random(seed)
    sessions = [Session(dsn, number, chance) for number in range(SESSIONS)]
    trace = []
    try:
        for _ in range(STEPS):
            if chance.random() < 0.75:
                trace.append(chance.choice(sessions).step())
                continue
            trace.append(read_something(reader, chance))
        for session in sessions:
            session.close()
        reader.poll()
        reader.check()
        assert len(reader.handed) > 5, "the interleaving wrote next to nothing"
    except BaseException as error:
        error.add_note(f"seed {seed}: {'; '.join(trace)}")
        raise
    finally:
        for session in sessions:
            with suppress(psycopg.Error):
                session.close()


def read_something(reader: Reader, chance: random.Random) -> str:
    """Poll, or read a part of a batch, or break off in the middle and come again."""
    what = chance.choice(["poll", "poll", "small chunks", "one chunk", "break off", "come again"])
    if what == "poll":
        reader.poll()
        reader.check()
    elif what == "small chunks":
        reader.poll(chance.randint(1, 7))
        reader.check()
    elif what == "one chunk" and reader.begin():
        reader.read_chunk(chance.randint(1, 7))
    elif what == "break off" and reader.begin():
        reader.read_chunk(chance.randint(1, 7), keep=False)
        reader.reconnect()
    elif what == "come again":
        reader.reconnect()
    return what


# -- named cases


def test_order_of_commits_does_not_matter(trail, reader, writer):
    with closing(psycopg.connect(trail)) as later:
        record(writer)  # the lower id, the lower xid
        record(later)
        later.commit()
        first = reader.poll()
        writer.commit()
        second = reader.poll()
    assert (len(first), len(second)) == (2, 1)  # with the record of `track`
    assert second[0] < first[-1]
    reader.check()


def test_rolled_back_records_are_not_handed_on(reader, writer):
    record(writer)
    reader.poll()
    writer.rollback()
    assert reader.poll() == []
    reader.check()


def test_savepoints_share_the_fate_of_their_transaction(reader, writer):
    record(writer)
    writer.execute("SAVEPOINT a")
    record(writer)
    writer.execute("ROLLBACK TO SAVEPOINT a")
    record(writer)
    writer.execute("SAVEPOINT b")
    record(writer)
    reader.poll()
    writer.commit()
    assert len(reader.poll()) == 3
    reader.check()


def test_a_prepared_transaction_is_handed_on_when_it_commits(trail, reader, writer):
    record(writer, 2)
    gid = f"{writer.info.dbname}-prepared"
    writer.execute(f"PREPARE TRANSACTION '{gid}'")
    writer.commit()
    reader.poll()
    query(trail, "SELECT audit.record_event('TEST')")
    assert len(reader.poll()) == 1  # it holds nothing up
    query(trail, f"COMMIT PREPARED '{gid}'")
    assert len(reader.poll()) == 2
    reader.check()


@pytest.mark.parametrize("where", ["the same database", "another database"])
def test_a_long_transaction_delays_nobody_else(trail, reader, cluster: Cluster, where):
    """Also when it writes late: its xid is old, its ids are new, and many batches lie between."""
    other = trail if where == "the same database" else cluster.dsn("postgres")
    with closing(psycopg.connect(other)) as long:
        long.execute("SELECT pg_current_xact_id()")
        if other == trail:
            record(long)
        for _ in range(80):
            query(trail, "SELECT audit.record_event('TEST')")
            assert reader.poll()
            assert len(reader.state.floors) <= 33
        reader.check()
        if other == trail:
            record(long)
        long.commit()
    assert len(reader.poll()) == (2 if other == trail else 0)
    reader.check()


def test_transactions_of_every_age_end_in_any_order(trail, reader):
    """More of them than floors are kept."""
    chance = random.Random(7)
    waiting = []
    for _ in range(45):
        session = psycopg.connect(trail)
        record(session)
        waiting.append(session)
        query(trail, "SELECT audit.record_event('TEST')")
        reader.poll()
    reader.check()
    chance.shuffle(waiting)
    for session in waiting:
        record(session)
        session.commit()
        session.close()
        if chance.random() < 0.3:
            reader.poll()
            reader.check()
    reader.poll()
    reader.check()


def test_a_batch_broken_off_keeps_its_snapshot(trail, reader):
    """What is committed while a batch is under way belongs to the next one, lower ids or not."""
    with closing(psycopg.connect(trail)) as early:
        record(early)
        query(trail, "SELECT audit.record_event('TEST') FROM generate_series(1, 10)")
        reader.begin()
        reader.read_chunk(4)
        early.commit()
        query(trail, "SELECT audit.record_event('TEST')")
        reader.reconnect()
        count = len(reader.handed)
        reader.finish_batch(3)
    assert len(reader.handed) - count == 11 - 4
    assert len(reader.poll()) == 2
    reader.check()


def test_nothing_new_is_no_batch_and_writes_nothing(trail, reader):
    reader.poll()
    before = query(trail, "SELECT pg_current_snapshot()::text")
    for _ in range(3):
        assert not reader.begin()
    assert query(trail, "SELECT pg_current_snapshot()::text") == before


def test_a_trail_hidden_by_a_policy_is_an_error_and_not_an_empty_batch(trail, reader):
    reader.poll()
    query(trail, "ALTER TABLE audit.record ENABLE ROW LEVEL SECURITY")
    query(trail, "SELECT audit.record_event('TEST')")
    with pytest.raises(Exception, match="has row security"):
        reader.poll()
    query(trail, "ALTER TABLE audit.record DISABLE ROW LEVEL SECURITY")
    assert len(reader.poll()) == 1
    reader.check()


# -- crashes of the server


@pytest.mark.parametrize("seed", range(2))
def test_crashes_of_a_server_with_lazy_commits_lose_and_double_nothing(new_cluster, new_database, seed):
    """What was not handed on may be gone, and its xids and ids are drawn again; what was handed on stays."""
    chance = random.Random(seed)
    server: Cluster = new_cluster(16, LAZY)
    dsn = make_trail(new_database(server))
    reader = Reader(dsn)
    lost = 0
    for _ in range(5):
        for _ in range(chance.randint(1, 3)):
            write_some(dsn, chance)
            if chance.random() < 0.7:
                reader.poll(chance.choice([5, LARGE_CHUNK]))
                reader.check()
        if chance.random() < 0.5 and reader.begin():
            reader.read_chunk(3)
        handed = set(reader.handed)
        batch = count_batch(reader)
        write_some(dsn, chance)
        before = set(visible_ids(dsn))
        server.kill()
        server.start()
        after = set(visible_ids(dsn))
        assert handed <= after, "a record was handed on before it was durable"
        lost += len(before - after)
        reader.reconnect()
        assert count_batch(reader) == batch, "a batch under way has lost or gained records"
        reader.poll(7)
        reader.check()
    assert lost, "no crash lost anything: the test shows nothing"
    reader.close()


def test_a_crash_between_snapshot_and_durable_keeps_no_batch(new_cluster, new_database, monkeypatch):
    server: Cluster = new_cluster(16, LAZY)
    dsn = make_trail(new_database(server))
    reader = Reader(dsn)
    reader.poll()
    state = reader.state
    query(dsn, "SELECT audit.record_event('TEST') FROM generate_series(1, 50)")
    durable = PollFeed.make_durable

    def crash(feed: PollFeed) -> None:
        server.kill()
        durable(feed)

    with monkeypatch.context() as patch:
        patch.setattr(PollFeed, "make_durable", crash)
        with pytest.raises(UnavailableError):
            reader.begin()
    assert reader.state == state
    server.start()
    reader.reconnect()
    query(dsn, "SELECT audit.record_event('TEST') FROM generate_series(1, 3)")
    reader.poll()
    reader.check()
    reader.close()


def write_some(dsn: str, chance: random.Random) -> None:
    with closing(psycopg.connect(dsn)) as connection:
        for _ in range(chance.randint(1, 4)):
            record(connection, chance.choice([1, 10, 40]))
            connection.execute("INSERT INTO item (note) VALUES ('x')")
            connection.commit() if chance.random() < 0.7 else connection.rollback()


def visible_ids(dsn: str) -> list[int]:
    return [row[0] for row in query(dsn, "SELECT id FROM audit.record")]


def count_batch(reader: Reader) -> int:
    """How many records the batch under way still has."""
    if reader.state.pending is None:
        return 0
    return sum(1 for _ in reader.feed.read_chunk(reader.state, 10**6))
