"""`pgseal erase` killed before and after each of its steps: the same command, given once more, makes an end of it.

The step dies in a forked child, with SIGKILL. What is left is whole: nothing is gone that no sealed record speaks of,
what should be gone and is not is told by `verify`, and sealing goes on.
"""

import pytest
from tests.deployments import Deployment, query
from tests.erasure import ERASE, check_gone, deploy_secret, leaves_of, secret_leaves
from tests.faults.killed import Step, kill_at

from pgseal.sealer import acts
from pgseal.trail.erasure import TrailEraser
from pgseal.vault.erasure import VaultEraser
from pgseal.vault.store import VaultStore

STEPS = {
    "write the record": Step(VaultStore, "record_act", 1),
    "have it sealed": Step(acts, "seal_all", 2),
    "blank the trail": Step(TrailEraser, "blank", 1),
    "blank the vault": Step(VaultEraser, "blank", 1),
    "vacuum": Step(TrailEraser, "vacuum", 1),
}


@pytest.fixture
def deployment(database, vault_database, tmp_path) -> Deployment:
    return deploy_secret(database, vault_database, tmp_path)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step(deployment: Deployment, step: str, when: str):
    leaves = secret_leaves(deployment)
    kill_at(STEPS[step], when, lambda: deployment.call(*ERASE))
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
