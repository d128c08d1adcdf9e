"""Attacks 7, 16 and 31: source, vault, or all there is are put back to an earlier moment, and work goes on."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest
from tests.attacks.attack import Attack
from tests.clusters import Cluster
from tests.conftest import NewCluster
from tests.deployments import Deployment, deploy, query

from pgseal.errors import ConflictError, RollbackError
from pgseal.sealer.seal import Sealer

STAGED = (
    Attack(
        7, "source superuser", "restore the source from an older backup and carry on",
        "the sealer: `rollback`; verify: `rollback`, `missing_record`",
        "when the sealer connects again, before anything more is sealed",
    ),
    Attack(
        16, "vault administrator", "restore the vault from an older backup",
        "the sealer: `rollback`; verify: `missing_record`",
        "when the sealer connects again, before anything more is sealed",
    ),
    Attack(
        31, "operator",
        "restore source, vault, ledger and state together to an older moment; run two sealers with one key",
        "verify with a memory of its own: `rollback`; witnesses; a lock on vault and state",
        "at the next verify elsewhere; a second sealer at once",
    ),
)  # fmt: skip


@pytest.fixture
def servers(new_cluster: NewCluster) -> tuple[Cluster, Cluster]:
    return new_cluster(16, label="source"), new_cluster(18, label="vault")


@pytest.fixture
def deployment(servers: tuple[Cluster, Cluster], tmp_path: Path) -> Deployment:
    source, vault = (cluster.create_database("clinic") for cluster in servers)
    query(source, "CREATE TABLE item (id int PRIMARY KEY, note text)")
    deployment = deploy(source, vault, tmp_path)
    deployment.track("item")
    change(deployment, 1, 10)
    return deployment


def change(deployment: Deployment, first: int, last: int) -> None:
    query(deployment.source, "INSERT INTO item SELECT i, 'x' FROM generate_series(%s::int, %s::int) AS i", first, last)
    deployment.seal()


def find(deployment: Deployment) -> set[tuple[str, str]]:
    return {(one["kind"], one["where"]) for one in deployment.call("verify", expect=1)["findings"]}


@pytest.mark.parametrize(
    ("server", "side", "words"),
    [(0, "trail", "pgseal recover"), (1, "vault", "the vault holds")],
    ids=["source", "vault"],
)
def test_one_side_put_back_stops_the_sealer_before_it_seals_anything(servers, deployment, server, side, words):
    servers[server].keep()
    change(deployment, 11, 20)
    size = deployment.checkpoint().size
    servers[server].put_back()
    query(deployment.source, "INSERT INTO item VALUES (100, 'after')")
    with pytest.raises(RollbackError, match=words):
        deployment.seal()
    assert deployment.checkpoint().size == size
    assert ("missing_record", side) in find(deployment)


def test_everything_put_back_together_is_seen_by_whoever_remembers(servers, deployment, tmp_path):
    """All that the operator has is consistent again; only a memory that he does not have says otherwise."""
    elsewhere = deployment.elsewhere(tmp_path / "auditor")
    for cluster in servers:
        cluster.keep()
    for name in ("ledger", "state"):
        shutil.copytree(tmp_path / name, tmp_path / "old" / name)
    change(deployment, 11, 20)
    elsewhere.check_verified()
    for cluster in servers:
        cluster.put_back()
    for name in ("ledger", "state"):
        shutil.rmtree(tmp_path / name)
        shutil.copytree(tmp_path / "old" / name, tmp_path / name)
    deployment.check_verified()
    assert ("rollback", "checkpoint") in find(elsewhere)
    # Also when it has grown beyond what was remembered, with another history.
    change(deployment, 31, 60)
    deployment.check_verified()
    assert ("fork", "checkpoint") in find(elsewhere)


def test_two_sealers_with_one_key_are_refused(deployment, tmp_path):
    with closing(Sealer.open(deployment.settings)), pytest.raises(ConflictError):
        deployment.seal()
    # With a state directory of his own, too: the vault knows.
    second = deployment.elsewhere(tmp_path / "other")
    with closing(Sealer.open(deployment.settings)), pytest.raises(ConflictError):
        second.seal()
    # And when the first is gone: a sealer without the memory does not sign.
    with pytest.raises(RollbackError):
        second.seal()
