"""`pgseal erase` killed before and after each of its steps: the same command, given once more, makes an end of it.

The step dies in a forked child, with SIGKILL. What is left is whole: nothing is gone that no sealed record speaks of,
what should be gone and is not is told by `verify`, and sealing goes on.
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
from tests.erasure import ERASE, check_gone, deploy_secret, leaves_of, secret_leaves

from pgseal.sealer import acts
from pgseal.trail.erasure import TrailEraser
from pgseal.vault.erasure import VaultEraser
from pgseal.vault.store import VaultStore

#: Owner of the function, its name, which call of it is struck.
STEPS = {
    "write the record": (VaultStore, "record_act", 1),
    "have it sealed": (acts, "seal_all", 2),
    "blank the trail": (TrailEraser, "blank", 1),
    "blank the vault": (VaultEraser, "blank", 1),
    "vacuum": (TrailEraser, "vacuum", 1),
}


@pytest.fixture
def deployment(database, vault_database, tmp_path) -> Deployment:
    return deploy_secret(database, vault_database, tmp_path)


@contextmanager
def breaking(owner: Any, name: str, due: int, when: str) -> Iterator[None]:
    original, count = getattr(owner, name), 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count == due and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **named)
        if count == due and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, call)
        yield


def run_and_die(deployment: Deployment, step: str, when: str) -> None:
    child = os.fork()
    if not child:
        try:
            with suppress(SystemExit), breaking(*STEPS[step], when):
                deployment.call(*ERASE)
        except BaseException:  # noqa: BLE001 - nothing may leave the child
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"{step} was not reached"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step(deployment: Deployment, step: str, when: str):
    leaves = secret_leaves(deployment)
    run_and_die(deployment, step, when)
    # Life goes on before anybody repeats it.
    query(deployment.source, "INSERT INTO item VALUES (11, 'meanwhile')")
    deployment.seal()
    is_said = leaves_of(deployment, "action = 'ERASE'") != []
    is_done = leaves_of(deployment, "data IS NULL") == leaves
    findings = deployment.call("verify", expect=1 if is_said and not is_done else 0)["findings"]
    assert {one["kind"] for one in findings} == ({"erased_content"} if is_said and not is_done else set())

    assert deployment.call(*ERASE)["ok"]
    check_gone(deployment, leaves)
    assert len(leaves_of(deployment, "action = 'ERASE'")) == 1  # nothing was said twice
    assert query(deployment.vault, "SELECT pg_stat_get_dead_tuples('vault.record'::regclass)") == [(0,)]
