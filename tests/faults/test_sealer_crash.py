"""The crash table of the sealer: every durable step broken, before and after it, by death and by failure.

The step dies in a forked child, with SIGKILL, or fails in this process with what the system would say. Then the sealer
starts again, and everything committed must be sealed: nothing lost, doubled or out of order, and never two checkpoints
of one size. Nothing in the product knows of these tests.
"""

import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.clusters import Cluster, temporary_database
from tests.deployments import Deployment, deploy, query

from pgseal.core.checkpoint import open_checkpoint
from pgseal.errors import ConflictError, RollbackError, UnavailableError
from pgseal.ledger import files
from pgseal.ledger.writer import LedgerWriter
from pgseal.sealer import keys, seal
from pgseal.sealer.encode import ChunkEncoder
from pgseal.sealer.loop import run
from pgseal.sealer.seal import Sealer
from pgseal.sealer.state import SealerState
from pgseal.trail.feed import PollFeed
from pgseal.vault.store import VaultStore

CHUNK = 40
#: Two full chunks: a third one, empty, ends the batch.
RECORDS = 2 * CHUNK

Strike = Callable[[], None]


@dataclass(frozen=True)
class Step:
    """The `call`-th call of a function in one run of the sealer."""

    owner: Any
    function: str
    call: int = 1


STEPS = {
    "make the source durable": Step(PollFeed, "make_durable"),
    "commit the vault": Step(VaultStore, "transaction"),
    "commit the vault's second chunk": Step(VaultStore, "transaction", 2),
    "commit the end of the batch": Step(VaultStore, "transaction", 3),
    "append": Step(LedgerWriter, "append"),
    "write one ledger file": Step(files, "write_file"),
    "write another ledger file": Step(files, "write_file", 2),
    "sync a ledger directory": Step(files, "sync_directory"),
    "sign": Step(keys, "sign_note"),
    "keep the checkpoint": Step(SealerState, "replace_checkpoint"),
    "rename the kept checkpoint": Step(Path, "replace"),
    "publish": Step(LedgerWriter, "publish", 2),  # the first is of what is kept, at the start
    "rename the published checkpoint": Step(files, "rename_file", 2),
    "delete what a full tile replaces": Step(files, "delete_file"),
}
SERVER_STEPS = [name for name, step in STEPS.items() if step.owner in {VaultStore, PollFeed}]
FILE_STEPS = [name for name, step in STEPS.items() if step.owner in {files, Path}]


@contextmanager
def breaking(step: Step, when: str, strike: Strike, signed: Callable[[bytes], None]) -> Iterator[None]:
    """Strike before or after a step; tell `signed` every note that is signed."""
    count = 0
    sign = keys.sign_note

    def sign_note(*arguments: Any) -> bytes:
        note = sign(*arguments)
        signed(note)
        return note

    def is_due(moment: str) -> bool:
        return moment == when and count == step.call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "sign_note", sign_note)
        original = getattr(step.owner, step.function)

        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            mine = count == step.call
            if mine and when == "before":
                strike()
            result = original(*arguments, **more)
            if mine and when == "after":
                strike()
            return result

        @contextmanager
        def transaction(store: VaultStore) -> Iterator[None]:
            nonlocal count
            count += 1
            with original(store):
                yield
                if is_due("before"):
                    strike()
            if is_due("after"):
                strike()

        patch.setattr(step.owner, step.function, transaction if step.function == "transaction" else call)
        patch.setattr(seal, "CHUNK_ROWS", CHUNK)
        yield


@dataclass
class Victim:
    """A deployment whose sealer is broken again and again; remembers every note that was ever signed."""

    deployment: Deployment

    @property
    def notes(self) -> Path:
        return self.deployment.directory / "signed-notes"

    def signed(self, note: bytes) -> None:
        with self.notes.open("ab") as file:
            file.write(note.hex().encode() + b"\n")

    def write(self, count: int = RECORDS) -> None:
        query(self.deployment.source, "INSERT INTO item (note) SELECT 'new' FROM generate_series(1, %s::int)", count)

    def check(self) -> None:
        """Everything is sealed, and no size has two notes."""
        self.deployment.check_sealed()
        key = self.deployment.settings.read_verifier()
        notes: dict[int, set[bytes]] = {}
        for line in self.notes.read_bytes().splitlines():
            note = bytes.fromhex(line.decode())
            notes.setdefault(open_checkpoint(note, [key]).checkpoint.size, set()).add(note)
        assert [size for size, found in notes.items() if len(found) > 1] == []
        # Within one trail and incarnation, what was written one after the other is sealed in that order.
        ids = self.deployment.sealed_ids()
        assert ids == sorted(ids)

    def recover(self) -> int:
        """Seal with nothing broken."""
        with breaking(STEPS["sign"], "never", lambda: None, self.signed):
            return self.deployment.seal().sealed


@pytest.fixture(scope="module")
def victims() -> list[Victim]:
    """Deployments that are whole. One that a test has left broken is not among them."""
    return []


@pytest.fixture(scope="module")
def databases(cluster: Cluster, vault_cluster: Cluster) -> Iterator[Callable[[], tuple[str, str]]]:
    with ExitStack() as stack:
        count = 0

        def make() -> tuple[str, str]:
            nonlocal count
            count += 1
            return (
                stack.enter_context(temporary_database(cluster, f"sealer_crash_source{count}")),
                stack.enter_context(temporary_database(vault_cluster, f"sealer_crash_vault{count}")),
            )

        yield make


@pytest.fixture
def victim(victims, databases, tmp_path_factory) -> Iterator[Victim]:
    found = victims.pop() if victims else Victim(make_deployment(*databases(), tmp_path_factory.mktemp("victim")))
    yield found
    if not find_unsealed(found.deployment):
        victims.append(found)


def find_unsealed(deployment: Deployment) -> bool:
    try:
        deployment.check_sealed()
    except Exception:  # noqa: BLE001 - whatever is wrong, the next test shall not suffer from it
        return True
    return False


def make_deployment(source: str, vault: str, directory: Path) -> Deployment:
    query(source, "CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)")
    deployment = deploy(source, vault, directory)
    deployment.track("item")
    # Full tiles and bundles beside partial ones from the start.
    query(source, "INSERT INTO item (note) SELECT 'first' FROM generate_series(1, 250)")
    deployment.seal()
    return deployment


# -- death


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", STEPS)
def test_a_sealer_killed_at_a_step_loses_and_doubles_nothing(victim, name, when):
    fill_tile(victim, name)
    victim.write()
    status = seal_in_child(victim, STEPS[name], when)
    assert os.WIFSIGNALED(status), f"the step was never reached (status {status})"
    assert os.WTERMSIG(status) == signal.SIGKILL
    victim.write(5)
    victim.recover()
    victim.check()


def fill_tile(victim: Victim, name: str) -> None:
    """Let the next records fill a tile, so that there is something to delete."""
    if name == "delete what a full tile replaces":
        victim.write(256 - CHUNK // 2 - victim.deployment.checkpoint().size % 256)
        victim.recover()


def test_a_sealer_killed_at_every_second_step_makes_progress(victim):
    """The damage of one crash is met by the next."""
    victim.write()
    for name in list(STEPS)[1::2]:
        seal_in_child(victim, STEPS[name], "after")
        victim.write(CHUNK)
    victim.recover()
    victim.check()
    victim.deployment.check_verified()


def seal_in_child(victim: Victim, step: Step, when: str) -> int:
    """Seal in a forked child that kills itself at a step; its exit status."""

    def strike() -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait()

    settings = victim.deployment.settings
    child = os.fork()
    if child == 0:
        try:
            with breaking(step, when, strike, victim.signed), closing(Sealer.open(settings)) as sealer:
                sealer.seal_once()
        except BaseException:  # noqa: BLE001 - nothing may return into pytest
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


# -- failure


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", SERVER_STEPS)
def test_a_connection_lost_at_a_step_is_worth_another_attempt(victim, name, when):
    side = victim.deployment.source if STEPS[name].owner is PollFeed else victim.deployment.vault
    victim.write()
    with breaking(STEPS[name], when, lambda: terminate_sessions(side), victim.signed):
        fail_once(victim)
    victim.recover()
    victim.check()


def test_a_source_lost_between_a_poll_and_its_rows_is_waited_for(databases, tmp_path):
    """Asked which of the transactions that were open are over, the server is gone."""
    deployment = make_deployment(*databases(), tmp_path)
    insert = "INSERT INTO item (note) VALUES ('new')"
    with psycopg.connect(deployment.source) as connection:
        connection.execute(insert)
        query(deployment.source, insert)
        deployment.seal()  # its snapshot has the open one
    query(deployment.source, insert)
    read_chunk = PollFeed.read_chunk

    def lose_and_read(self: PollFeed, *arguments: Any) -> Any:
        terminate_sessions(deployment.source)
        return read_chunk(self, *arguments)

    with closing(Sealer.open(deployment.settings)) as sealer:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PollFeed, "read_chunk", lose_and_read)
            sealer.seal_once()
        assert len(sealer.lost) == 1
    deployment.seal()
    deployment.check_sealed()


def terminate_sessions(dsn: str) -> None:
    query(
        dsn,
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'pgseal'",
    )


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["full disk", "broken disk"])
@pytest.mark.parametrize("name", FILE_STEPS)
def test_a_file_operation_that_fails_is_worth_another_attempt(victim, name, code):
    def strike() -> None:
        raise OSError(code, os.strerror(code))

    fill_tile(victim, name)
    victim.write()
    with breaking(STEPS[name], "before", strike, victim.signed):
        fail_once(victim)
    victim.recover()
    victim.check()


def fail_once(victim: Victim) -> None:
    """Seal; what is broken is worth waiting for, and only that may be said."""
    with pytest.raises(UnavailableError):
        seal_twice(victim)


def seal_twice(victim: Victim) -> None:
    """A connection that is lost at the very end shows at its next use."""
    with closing(Sealer.open(victim.deployment.settings)) as sealer:
        sealer.seal_once()
        sealer.seal_once()
        for error in sealer.lost:
            raise error  # as `seal --once` does


def test_a_vault_lost_in_mid_run_is_waited_for(new_cluster, new_database, cluster, tmp_path, monkeypatch):
    """It goes down in the middle of a COPY, stays away for some attempts, and everything is sealed in the end."""
    server: Cluster = new_cluster(16)
    deployment = make_deployment(new_database(cluster), new_database(server), tmp_path)
    query(deployment.source, "INSERT INTO item (note) SELECT 'new' FROM generate_series(1, 500)")
    encode = ChunkEncoder.encode

    def encode_and_lose(self: ChunkEncoder, lines: Iterator[bytes], *arguments: Any) -> Any:
        def lose() -> Iterator[bytes]:
            for number, line in enumerate(lines):
                if number == 300:
                    monkeypatch.setattr(ChunkEncoder, "encode", encode)
                    server.stop("immediate")
                yield line

        return encode(self, lose(), *arguments)

    monkeypatch.setattr(ChunkEncoder, "encode", encode_and_lose)
    stop = ImpatientEvent()
    reports: list[str] = []

    def pause(number: int) -> None:
        if number == 4:
            server.start()

    def report(message: str) -> None:
        reports.append(message)
        if message == "back at work":
            stop.set()

    stop.on_pause = pause
    run(deployment.settings, stop, report)
    assert stop.pauses == [1, 2, 4, 8]
    assert reports[-1] == "back at work"
    assert all("nothing is lost, retrying" in message for message in reports[:-1])
    deployment.check_sealed()


def test_a_source_that_is_down_holds_up_nobody_else(new_cluster, new_database, cluster, tmp_path, monkeypatch):
    """Lost while its records are read; the other source is sealed meanwhile, and it as well once it is back."""
    server: Cluster = new_cluster(16)
    deployment = make_deployment(new_database(server), new_database(cluster), tmp_path)
    other = new_database(cluster)
    deployment.call("init", "--source", other, "--name", "other")
    deployment.seal()
    for dsn in (deployment.source, other):
        query(dsn, "SELECT audit.record_event('LOGIN') FROM generate_series(1, 500)")
    encode = ChunkEncoder.encode

    def encode_and_lose(self: ChunkEncoder, rows: Iterator[bytes], *arguments: Any) -> Any:
        monkeypatch.setattr(ChunkEncoder, "encode", encode)
        server.stop("immediate")
        return encode(self, rows, *arguments)

    monkeypatch.setattr(ChunkEncoder, "encode", encode_and_lose)
    reports: list[str] = []
    with closing(Sealer.open(deployment.settings, reports.append)) as sealer:
        assert sealer.seal_once().sealed == 500
        assert ["nothing is lost" in report for report in reports] == [True]
        assert len(sealer.lost) == 1
        query(other, "SELECT audit.record_event('LOGOUT')")
        assert sealer.seal_once().sealed == 1

    with closing(Sealer.open(deployment.settings, reports.append)) as sealer:
        assert len(sealer.lost) == 1
        server.start()
        deadline = time.monotonic() + 30
        while sealer.lost and time.monotonic() < deadline:
            time.sleep(0.1)
            sealer.seal_once()
        assert reports[-1].endswith(" is back")
        sealer.seal_once()
    deployment.check_sealed()


def test_a_sealer_told_to_stop_in_mid_batch_leaves_what_the_next_one_finishes(
    new_database, cluster, vault_cluster, tmp_path, monkeypatch
):
    deployment = make_deployment(new_database(cluster), new_database(vault_cluster), tmp_path)
    other = new_database(cluster)
    deployment.call("init", "--source", other, "--name", "other")
    deployment.seal()
    for dsn in (deployment.source, other):
        query(dsn, "SELECT audit.record_event('LOGIN') FROM generate_series(1, 300)")
    monkeypatch.setattr(seal, "CHUNK_ROWS", 10)
    stop = threading.Event()
    append = LedgerWriter.append

    def append_late(self: LedgerWriter, *arguments: Any) -> None:
        time.sleep(0.05)  # the next chunk is kept in the vault meanwhile
        append(self, *arguments)

    monkeypatch.setattr(LedgerWriter, "append", append_late)
    with closing(Sealer.open(deployment.settings)) as sealer:
        assert sealer.seal_once(lambda _: stop.set(), stop).sealed == 10
    monkeypatch.undo()
    assert deployment.seal().sealed == 590
    deployment.check_sealed()


class ImpatientEvent(threading.Event):
    """Notes the pauses it is asked for, and makes none."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []
        self.on_pause: Callable[[int], None] = lambda _: None

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is not None and timeout >= 1:
            self.pauses.append(timeout)
            self.on_pause(len(self.pauses))
        return self.is_set()


# -- two sealers


@pytest.mark.parametrize("state", ["the same state directory", "a state directory of its own"])
def test_a_second_sealer_is_refused_and_the_first_unharmed(victim, state, tmp_path):
    settings = victim.deployment.settings
    second = settings
    if state != "the same state directory":
        second = settings.model_copy(update={"state": tmp_path / "state"})
        second.state.mkdir()
        (second.state / "checkpoint").write_bytes((settings.state / "checkpoint").read_bytes())
    with closing(Sealer.open(settings)) as sealer:
        victim.write(10)
        with pytest.raises(ConflictError, match="another sealer"):
            Sealer.open(second)
        assert sealer.seal_once().sealed == 10
    victim.write(10)
    assert victim.recover() == 10
    victim.deployment.check_sealed()


# -- servers that crash, or come back older than they were

LAZY = {"synchronous_commit": "off", "wal_writer_delay": "10s", "bgwriter_delay": "10s"}


def test_a_source_that_loses_unsealed_commits_in_a_crash_is_no_rollback(
    new_cluster, new_database, vault_cluster, tmp_path
):
    server: Cluster = new_cluster(16, LAZY)
    deployment = make_deployment(new_database(server), new_database(vault_cluster), tmp_path)
    insert = "INSERT INTO item (note) SELECT 'new' FROM generate_series(1, 50)"
    lost = 0
    for _ in range(2):
        query(deployment.source, insert)
        deployment.seal()
        query(deployment.source, insert)
        before = len(deployment.trail_ids())
        server.kill()
        server.start()
        lost += before - len(deployment.trail_ids())
        query(deployment.source, insert)  # draws the lost xids and ids again
        deployment.seal()
        deployment.check_sealed()
    assert lost, "nothing was lost: the test shows nothing"
    deployment.check_verified()


def test_a_source_set_back_to_an_older_copy_stops_the_sealer(new_cluster, new_database, vault_cluster, tmp_path):
    server: Cluster = new_cluster(16)
    deployment = make_deployment(new_database(server), new_database(vault_cluster), tmp_path)
    server.stop()
    server.snapshot()
    server.start()
    refuse_older_copy(deployment, server)


def test_a_vault_set_back_to_an_older_copy_stops_the_sealer(new_cluster, new_database, cluster, tmp_path):
    server: Cluster = new_cluster(16)
    deployment = make_deployment(new_database(cluster), new_database(server), tmp_path)
    server.stop()
    server.snapshot()
    server.start()
    refuse_older_copy(deployment, server)


def refuse_older_copy(deployment: Deployment, server: Cluster) -> None:
    insert = "INSERT INTO item (note) SELECT 'new' FROM generate_series(1, 20)"
    query(deployment.source, insert)
    deployment.seal()
    size = deployment.checkpoint().size
    server.stop()
    server.restore()
    server.start()
    count = vault_count(deployment)
    for _ in range(2):
        with pytest.raises(RollbackError):
            deployment.seal()
        query(deployment.source, insert)  # life goes on, and xids and ids pass what was sealed
        query(deployment.source, insert)
    assert deployment.checkpoint().size == size
    assert vault_count(deployment) == count


def vault_count(deployment: Deployment) -> int:
    return query(deployment.vault, "SELECT count(*) FROM vault.record")[0][0]
