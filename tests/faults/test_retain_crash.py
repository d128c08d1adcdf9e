"""`pgseal retain` killed before and after each of its steps: no row is gone without a sealed record that says so.

The step dies in a forked child, with SIGKILL. Then nothing may be missing that no RETENTION record covers, sealing goes
on, and the next run ends as if nothing had happened.
"""

import pytest
from tests.deployments import Deployment, query
from tests.faults.killed import Step, kill_at
from tests.retention import FIRST, PER_QUARTER, SECOND, check_retained, check_seamless, deploy_old, loose_tables

from pgseal.sealer import acts as sealing
from pgseal.trail.retention import PartitionOwner
from pgseal.vault.store import VaultStore

STEPS = {
    "write the record": Step(VaultStore, "record_act", 1),
    "write the second record": Step(VaultStore, "record_act", 2),
    "have them sealed": Step(sealing, "seal_all", 2),
    "close": Step(PartitionOwner, "close_partition", 2),
    "detach": Step(PartitionOwner, "detach", 2),
    "drop": Step(PartitionOwner, "dropping", 2),
    "drop the last": Step(PartitionOwner, "dropping", 3),
    "fill": Step(PartitionOwner, "fill", 2),
}


@pytest.fixture
def deployment(database, vault_database, tmp_path) -> Deployment:
    return deploy_old(database, vault_database, tmp_path)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step(deployment: Deployment, step: str, when: str):
    kill_at(STEPS[step], when, lambda: deployment.call("retain"))
    check_whole(deployment)
    # Life goes on before anybody repeats it.
    query(deployment.source, "INSERT INTO item (note) VALUES ('meanwhile')")
    deployment.seal()
    check_whole(deployment)
    finish(deployment)


def test_killed_within_the_drop(deployment: Deployment):
    kill_at(STEPS["drop"], "within", lambda: deployment.call("retain"))
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
