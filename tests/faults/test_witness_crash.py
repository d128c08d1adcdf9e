"""The sealer killed around its witnesses: what only they have seen must not stop the next start."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.deployments import Deployment, deploy, query
from tests.witnesses import RunningWitness, configure, running_witnesses

from pgseal.core.checkpoint import open_checkpoint
from pgseal.ledger.writer import LedgerWriter
from pgseal.sealer.seal import Sealer
from pgseal.sealer.state import SealerState
from pgseal.sealer.witnesses import Witnesses

#: Each step, and the call of it that is the first one's about a new checkpoint: at the start the kept one is shown.
STEPS = {
    "C keep the checkpoint": (SealerState, "replace_checkpoint", 1),
    "W ask the witnesses": (Witnesses, "cosign", 2),
    "D publish": (LedgerWriter, "publish", 2),
    "E publish what is witnessed": (LedgerWriter, "publish_witnessed", 2),
}


@pytest.fixture(scope="module")
def witnesses(tmp_path_factory) -> Iterator[list[RunningWitness]]:
    with running_witnesses(tmp_path_factory.mktemp("witnesses")) as found:
        yield found


@pytest.fixture
def deployment(database: str, vault_database: str, tmp_path: Path, witnesses: list[RunningWitness]) -> Deployment:
    query(database, "CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)")
    found = deploy(database, vault_database, tmp_path)
    found.track("item")
    found.seal()
    for witness in witnesses:  # of another test's log
        for path in witness.directory.glob("*.json"):
            path.unlink()
    configure(found.config, witnesses)
    return found


def kill_in_child(deployment: Deployment, step: str, when: str) -> int:
    owner, name, number = STEPS[step]
    settings = deployment.settings
    child = os.fork()
    if child == 0:
        try:
            original: Callable[..., Any] = getattr(owner, name)
            count = 0

            def call(*arguments: Any) -> Any:
                nonlocal count
                count += 1
                mine = count == number
                if mine and when == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                    threading.Event().wait()
                result = original(*arguments)
                if mine:
                    os.kill(os.getpid(), signal.SIGKILL)
                    threading.Event().wait()
                return result

            setattr(owner, name, call)
            with closing(Sealer.open(settings)) as sealer:
                sealer.seal_once()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def test_a_sealer_killed_around_its_witnesses_goes_on(deployment: Deployment):
    deployment.seal()
    for step in STEPS:
        for when in ("before", "after"):
            query(deployment.source, "INSERT INTO item (note) VALUES ('x')")
            status = kill_in_child(deployment, step, when)
            assert os.WIFSIGNALED(status), f"{step} was never reached"
            # Whoever reads now takes `witnessed` first, and never finds it ahead.
            assert size_of(deployment, "witnessed") <= size_of(deployment, "checkpoint"), (step, when)
            query(deployment.source, "INSERT INTO item (note) VALUES ('y')")
            size = deployment.seal().size
            assert size_of(deployment, "checkpoint") == size_of(deployment, "witnessed") == size, (step, when)
    deployment.check_sealed()
    document = deployment.call("verify")
    assert (document["ok"], document["witnessed"], document["warnings"]) == (True, size, [])


def size_of(deployment: Deployment, name: str) -> int:
    note = (deployment.ledger / name).read_bytes()
    return open_checkpoint(note, [deployment.settings.read_verifier()]).checkpoint.size
