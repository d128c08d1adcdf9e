"""The crash table that nobody wrote by hand: each scenario is struck before every durable step it takes (steps.py).

By death, by a broken or full disk, by a lost session. Afterwards the ordinary commands go on, and nothing is lost,
doubled, out of order or signed twice.
"""

import errno
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from io import StringIO
from itertools import cycle
from pathlib import Path

import pytest
from tests.deployments import ORIGIN, TRAIL, Deployment, deploy, query
from tests.faults.steps import DONE, REFUSED, list_steps, note_unseen, strike
from tests.unit.core.test_witness import LOG, WITNESS, request
from tests.witnesses import RunningWitness, configure, running_witnesses

from pgseal.cli.app import run
from pgseal.core.checkpoint import open_checkpoint
from pgseal.core.merkle import leaf_hash
from pgseal.errors import UnavailableError
from pgseal.ledger.witness import Witness, WitnessStore, name_log
from pgseal.sealer import keys
from pgseal.sealer.seal import Sealer
from pgseal.verifier import FileKeptCheckpoint

FAULTS = {"death": None, "broken disk": errno.EIO, "full disk": errno.ENOSPC}


@pytest.fixture(scope="module")
def witnesses(tmp_path_factory) -> Iterator[list[RunningWitness]]:
    with running_witnesses(tmp_path_factory.mktemp("witnesses"), ["paris"]) as found:
        yield found


@pytest.fixture
def deployment(database: str, vault_database: str, tmp_path: Path, witnesses: list[RunningWitness]) -> Deployment:
    query(database, "CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)")
    found = deploy(database, vault_database, tmp_path)
    found.track("item")
    for witness in witnesses:  # of another test's log
        for path in witness.directory.glob("*.json"):
            path.unlink()
    configure(found.config, witnesses)
    query(found.source, "INSERT INTO item (note) SELECT 'first' FROM generate_series(1, 240)")
    found.seal()
    return found


def strike_everywhere(
    scenario: Callable[[], object], directory: Path, check: Callable[[str], None], before: Callable[[], object]
) -> list[str]:
    """Strike a scenario at each of its steps, each time in the next of the three ways; then once more in the next."""
    before()
    steps = list_steps(scenario, directory)
    check("undisturbed")
    for shift in range(len(FAULTS)):
        for at, fault in zip(range(1, len(steps) + 1), _turns(shift), strict=False):
            before()
            code = strike(scenario, at, FAULTS[fault])
            # What fails may not matter (a note for people); what dies is dead, unless it took fewer steps.
            expected = {-signal.SIGKILL, DONE} if fault == "death" else {DONE, REFUSED}
            assert code in expected, f"{fault} at {at} of {len(steps)}, {steps[at - 1]}: exit code {code}"
            check(f"{fault} at {at}, {steps[at - 1]}")
    return steps


def _turns(shift: int) -> Iterator[str]:
    names = cycle(FAULTS)
    for _ in range(shift):
        next(names)
    return names


def signing_to(path: Path, scenario: Callable[[], object]) -> Callable[[], object]:
    """The scenario, with every note that is signed written down."""
    sign = keys.sign_note

    def note_down(*arguments: object) -> bytes:
        note = sign(*arguments)
        note_unseen(path, note.hex())
        return note

    def call() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(keys, "sign_note", note_down)
            scenario()

    path.touch()
    return call


def check_signed_once(path: Path, deployment: Deployment) -> None:
    notes: dict[int, set[str]] = {}
    for line in path.read_text().split():
        size = open_checkpoint(bytes.fromhex(line), [deployment.settings.read_verifier()]).checkpoint.size
        notes.setdefault(size, set()).add(line)
    assert [size for size, found in notes.items() if len(found) > 1] == []


@pytest.mark.soak
def test_sealing_and_a_heartbeat(deployment: Deployment, tmp_path: Path):
    """Records of two transactions, one of them open when it was last looked; a heartbeat; a witness is asked."""

    def beat() -> None:
        with closing(Sealer.open(deployment.settings)) as sealer:
            sealer.beat()

    signed = tmp_path / "signed"
    scenario = signing_to(signed, beat)

    def check(where: str) -> None:
        with closing(Sealer.open(deployment.settings)) as sealer:
            sealer.seal_once()
        try:
            deployment.check_sealed()
            ids = deployment.sealed_ids()
            assert ids == sorted(ids)
            check_signed_once(signed, deployment)
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from error

    def write() -> None:
        query(deployment.source, "INSERT INTO item (note) SELECT 'new' FROM generate_series(1, 5)")

    steps = strike_everywhere(scenario, tmp_path, check, write)
    for part in (
        "record_heartbeat",
        "ensure_partitions",
        "emit_message",
        "commit",
        "fsync",
        "replace",
        "feeds",
        "witness",
    ):
        assert any(part in step for step in steps), (part, steps)
    deployment.check_verified()


@pytest.mark.soak
def test_recovering_a_trail(deployment: Deployment, tmp_path: Path):
    """The RECOVER record, the new incarnation's first batch, and what waited with it."""

    def recover() -> None:
        arguments = ("recover", TRAIL, "--kind", "failed_over", "--reason", "a test", "--yes")
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as errors:
            code = run(["--config", str(deployment.config), *arguments])
        if code in {2, 3}:
            raise UnavailableError(errors.getvalue())
        assert code == 0, errors.getvalue()

    def check(where: str) -> None:
        deployment.seal()
        try:
            deployment.check_sealed()
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from error

    steps = strike_everywhere(
        recover, tmp_path, check, lambda: query(deployment.source, "INSERT INTO item (note) VALUES ('waits')")
    )
    assert any("commit" in step for step in steps)
    incarnations = query(deployment.vault, "SELECT incarnation FROM vault.feed WHERE trail = %s", TRAIL)[0][0]
    recovered = query(deployment.vault, "SELECT count(*) FROM vault.record WHERE action = 'RECOVER'")[0][0]
    assert recovered == incarnations - 1 > 1
    deployment.check_verified()


def test_verifying_keeps_what_it_trusted(deployment: Deployment, tmp_path: Path):
    key = deployment.settings.read_verifier()
    kept = FileKeptCheckpoint(deployment.settings.state)
    size = 0

    def verify() -> None:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as errors:
            code = run(["--config", str(deployment.config), "verify"])
        if code == 3:
            raise UnavailableError(errors.getvalue())
        assert code == 0, errors.getvalue()

    def grow() -> None:
        query(deployment.source, "INSERT INTO item (note) VALUES ('more')")
        deployment.seal()

    def check(where: str) -> None:
        nonlocal size
        note = kept.load(ORIGIN)
        if note is not None or size:
            assert note is not None, where
            found = open_checkpoint(note, [key]).checkpoint.size
            assert found >= size, where
            size = found

    strike_everywhere(verify, tmp_path, check, grow)
    deployment.check_verified()
    note = kept.load(ORIGIN)
    assert note is not None
    assert open_checkpoint(note, [key]).checkpoint.size == deployment.checkpoint().size


def test_a_witness_never_forgets_what_it_cosigned(tmp_path: Path):
    """Lock file, temporary file, rename and syncs; whoever was answered has a cosignature that is kept."""
    place = tmp_path / "witness"
    place.mkdir()
    store = WitnessStore(place)
    store.add_key(LOG.name, LOG.verifier)
    leaves = [leaf_hash(str(number).encode()) for number in range(400)]
    answered = tmp_path / "answered"
    answered.touch()

    def held() -> int:
        checkpoint = store.find_log(name_log(LOG.name)).read_checkpoint()
        return 0 if checkpoint is None else checkpoint.size

    def ask(old: int, size: int) -> int:
        body = request(old, size, leaves=leaves)
        return Witness(store, WITNESS, lambda: 1_800_000_000).add_checkpoint(body).status

    def scenario() -> None:
        old = held()
        assert ask(old, old + 1) == 200
        note_unseen(answered, str(old + 1))

    def check(where: str) -> None:
        told = max(map(int, answered.read_text().split()), default=0)
        assert held() >= told, where
        assert ask(held(), held() + 1) == 200, where

    strike_everywhere(scenario, tmp_path, check, lambda: None)
