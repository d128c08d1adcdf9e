"""The crash table of a rotation: `pgseal key rotate` killed, or interrupted, at every durable step.

Whatever is left behind verifies, for those who trust the old key and those who trust the new one, seals on, and is
finished by the same command. Nothing in the product knows of these tests.
"""

import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.clusters import Cluster, temporary_database
from tests.deployments import Deployment, deploy, query

from pgseal.cli import key as key_command
from pgseal.cli.app import run as run_command
from pgseal.core.keys import VerifierKey, parse_signer_key
from pgseal.core.note import parse_note
from pgseal.ledger.writer import LedgerWriter
from pgseal.sealer import keys
from pgseal.sealer.state import SealerState
from pgseal.vault.store import VaultStore

pytestmark = pytest.mark.servers(15)


@dataclass(frozen=True)
class Step:
    """The `call`-th call of a function while the command runs, and when to strike."""

    owner: Any
    function: str
    when: str = "after"
    call: int = 1


BEGINNING = {
    "before the key is renamed": Step(Path, "replace", "before"),
    "the key is renamed": Step(key_command, "replace_key"),
    "the rotation is recorded": Step(VaultStore, "record_act"),
    "the vault is committed": Step(VaultStore, "transaction"),
    "appended": Step(LedgerWriter, "append"),
    "signed": Step(keys, "sign_note"),
    "the checkpoint is kept": Step(SealerState, "replace_checkpoint"),
    "published": Step(LedgerWriter, "publish", "after", 2),  # the first is of what is kept, at the start
}
INTERRUPTED = ("before the key is renamed", "the key is renamed", "the rotation is recorded", "signed")
END = {
    "before the old key goes": Step(key_command, "replace_key", "before"),
    "the old key is gone": Step(key_command, "replace_key"),
}


@pytest.fixture(scope="module")
def deployment(cluster: Cluster, vault_cluster: Cluster, tmp_path_factory) -> Iterator[Deployment]:
    """One log for all tests: it passes from key to key."""
    with (
        temporary_database(cluster, "rotation_source") as source,
        temporary_database(vault_cluster, "rotation_vault") as vault,
    ):
        query(source, "CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)")
        found = deploy(source, vault, tmp_path_factory.mktemp("rotation"))
        found.track("item")
        found.seal()
        yield found


@contextmanager
def breaking(step: Step, strike: Callable[[], None]) -> Iterator[list[str]]:
    """Strike at a step, once; what is yielded is not empty when it has come to that."""
    calls: list[str] = []
    original = getattr(step.owner, step.function)

    def call(*arguments: Any, **more: Any) -> Any:
        calls.append(step.function)
        mine = len(calls) == step.call
        if mine and step.when == "before":
            strike()
        result = original(*arguments, **more)
        if mine and step.when == "after":
            strike()
        return result

    @contextmanager
    def transaction(store: VaultStore) -> Iterator[None]:
        with original(store):
            yield
        calls.append(step.function)
        strike()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step.owner, step.function, transaction if step.function == "transaction" else call)
        yield calls


def kill(deployment: Deployment, step: Step, *arguments: str) -> None:
    """Run the command in a forked child that kills itself at a step."""

    def strike() -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait()

    child = os.fork()
    if child == 0:
        try:
            with breaking(step, strike):
                run_command(["--config", str(deployment.config), "key", "rotate", *arguments, "--json"])
        except BaseException:  # noqa: BLE001 - nothing may return into pytest
            traceback.print_exc()
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status), f"the step was never reached (status {status})"


def interrupt(deployment: Deployment, step: Step, *arguments: str) -> None:
    """Run the command, and Ctrl-C at a step."""

    def strike() -> None:
        raise KeyboardInterrupt

    with breaking(step, strike) as calls:
        code = run_command(["--config", str(deployment.config), "key", "rotate", *arguments, "--json"])
    assert code not in {0, 1}
    assert len(calls) >= step.call
    assert not list(deployment.directory.glob(".pgseal.key*")), "a key was left beside"


def read_keys(deployment: Deployment) -> list[VerifierKey]:
    path = deployment.directory / "pgseal.key"
    assert path.stat().st_mode & 0o777 == 0o600
    return [parse_signer_key(line).verifier for line in path.read_text().split()]


def signers(deployment: Deployment) -> set[bytes]:
    return {line.key_id for line in parse_note((deployment.ledger / "checkpoint").read_bytes())[1]}


def write(deployment: Deployment) -> None:
    query(deployment.source, "INSERT INTO item (note) VALUES ('x')")


def check(deployment: Deployment) -> None:
    """Everything is sealed and verified, each rotation is recorded once, and by the keys that the file had."""
    deployment.check_sealed()
    deployment.check_verified()
    rotations = [
        (row[0]["old"], row[0]["new"])
        for row in query(
            deployment.vault, "SELECT data::jsonb FROM vault.record WHERE action = 'KEY_ROTATE' ORDER BY leaf_index"
        )
    ]
    assert len(set(rotations)) == len(rotations)
    assert [old for old, _ in rotations[1:]] == [new for _, new in rotations[:-1]]
    assert rotations[-1][1] == str(read_keys(deployment)[0])


@pytest.mark.parametrize(
    ("name", "end"), [*((name, kill) for name in BEGINNING), *((name, interrupt) for name in INTERRUPTED)]
)
def test_a_rotation_that_breaks_off_goes_on(deployment: Deployment, name: str, end: Callable[..., None]):
    (old,) = read_keys(deployment)
    write(deployment)
    end(deployment, BEGINNING[name])
    assert read_keys(deployment)[-1] == old
    deployment.check_verified()  # as it was left
    began = read_keys(deployment)
    write(deployment)
    begun = deployment.call("key", "rotate")
    new, still_old = read_keys(deployment)
    assert still_old == old
    assert len(began) == 1 or began[0] == new, "the second run took another key"
    assert begun["vkey"] == str(new)
    assert signers(deployment) == {old.key_id, new.key_id}
    check(deployment)
    deployment.call("key", "rotate", "--finish")
    write(deployment)
    deployment.seal()
    assert signers(deployment) == {new.key_id}
    check(deployment)


@pytest.mark.parametrize("end", [kill, interrupt])
@pytest.mark.parametrize("name", END)
def test_a_rotation_whose_end_breaks_off_is_ended_by_the_same_command(
    deployment: Deployment, name: str, end: Callable[..., None]
):
    deployment.call("key", "rotate")
    new = read_keys(deployment)[0]
    end(deployment, END[name], "--finish")
    assert new in read_keys(deployment)
    write(deployment)
    deployment.seal()
    check(deployment)
    assert deployment.call("key", "rotate", "--finish")["finished"]
    assert read_keys(deployment) == [new]
    write(deployment)
    deployment.seal()
    assert signers(deployment) == {new.key_id}
    check(deployment)
