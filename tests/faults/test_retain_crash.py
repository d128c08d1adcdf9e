"""`pgseal retain` killed before and after each of its steps: no row is gone without a sealed record that says so.

The step dies in a forked child, with SIGKILL. Then nothing may be missing that no RETENTION record covers, sealing goes
on, and the next run ends as if nothing had happened.
"""

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from tests.deployments import Deployment, query
from tests.retention import FIRST, PER_QUARTER, SECOND, check_retained, check_seamless, deploy_old, loose_tables

from pgseal.sealer import acts as sealing
from pgseal.trail.retention import PartitionOwner
from pgseal.vault.store import VaultStore

#: Owner of the function, its name, and which call of it is struck.
STEPS = {
    "write the record": (VaultStore, "record_act", 1),
    "write the second record": (VaultStore, "record_act", 2),
    "have them sealed": (sealing, "seal_all", 2),
    "close": (PartitionOwner, "close_partition", 2),
    "detach": (PartitionOwner, "detach", 2),
    "drop": (PartitionOwner, "dropping", 2),
    "drop the last": (PartitionOwner, "dropping", 3),
    "fill": (PartitionOwner, "fill", 2),
}


@pytest.fixture
def deployment(database, vault_database, tmp_path) -> Deployment:
    return deploy_old(database, vault_database, tmp_path)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def breaking(owner: Any, name: str, due: int, when: str) -> Iterator[None]:
    original, count = getattr(owner, name), 0

    def call(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == due and when == "before":
            die()
        result = original(*arguments)
        if count == due and when == "after":
            die()
        return result

    @contextmanager
    def dropping(*arguments: Any) -> Iterator[None]:
        nonlocal count
        count += 1
        if count == due and when == "before":
            die()
        with original(*arguments):
            yield
            if count == due and when == "within":
                die()
        if count == due and when == "after":
            die()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, dropping if name == "dropping" else call)
        yield


def run_and_die(deployment: Deployment, step: str, when: str) -> None:
    child = os.fork()
    if not child:
        try:
            with suppress(SystemExit), breaking(*STEPS[step], when):
                deployment.call("retain")
        except BaseException:  # noqa: BLE001 - nothing may leave the child
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"{step} was not reached"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step(deployment: Deployment, step: str, when: str):
    run_and_die(deployment, step, when)
    check_whole(deployment)
    # Life goes on before anybody repeats it.
    query(deployment.source, "INSERT INTO item (note) VALUES ('meanwhile')")
    deployment.seal()
    check_whole(deployment)
    finish(deployment)


def test_killed_within_the_drop(deployment: Deployment):
    run_and_die(deployment, "drop", "within")
    check_whole(deployment)
    assert loose_tables(deployment.source) != []  # its transaction did not end
    finish(deployment)


def check_whole(deployment: Deployment) -> None:
    """What is gone is covered by sealed records, all of it is in the vault, and writers find a partition."""
    document = deployment.call("verify")
    assert document["findings"] == []
    gone = set(deployment.sealed_ids()) - set(deployment.trail_ids())
    assert len(gone) == sum(document["retained"].values())


def finish(deployment: Deployment) -> None:
    document = deployment.call("retain")
    assert document["ok"]
    check_retained(deployment, 2 * PER_QUARTER)
    check_seamless(deployment.source)
    assert loose_tables(deployment.source) == []
    assert query(
        deployment.source, "SELECT count(*) FROM audit.partitions() WHERE relation IN (%s, %s)", FIRST, SECOND
    ) == [(0,)]
    # Nothing was said twice of the same rows, but for what was written and not sealed when it was killed.
    count = query(deployment.vault, "SELECT count(*) FROM vault.record WHERE action = 'RETENTION'")[0][0]
    assert 2 <= count <= 4
    deployment.seal()
    deployment.check_verified()
