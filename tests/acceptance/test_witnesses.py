"""Witnesses of the installed command: served, asked while sealing, demanded by verify, told by status."""

import pytest
from tests.deployments import Deployment, query
from tests.witnesses import RunningWitness, configure, running_witnesses

from pgseal.core.checkpoint import open_checkpoint
from pgseal.core.note import parse_verifier_key


@pytest.fixture
def witnesses(tmp_path):
    with running_witnesses(tmp_path / "witnesses") as found:
        yield found


def read(deployment: Deployment, name: str, witnesses: list[RunningWitness]):
    """A checkpoint of the ledger, and the names of those who have signed it."""
    keys = [deployment.settings.read_verifier(), *(parse_verifier_key(witness.vkey) for witness in witnesses)]
    opened = open_checkpoint((deployment.ledger / name).read_bytes(), keys)
    return opened.checkpoint, {signature.key.name for signature in opened.signatures}


def write(deployment: Deployment) -> None:
    query(deployment.source, "UPDATE patients SET name = name || '!' WHERE id = 3")


def test_two_witnesses_cosign_what_is_sealed(deployment: Deployment, witnesses):
    configure(deployment.config, witnesses)
    assert "no witness is configured" not in str(deployment.call("status")["warnings"])
    for _ in range(2):
        write(deployment)
        deployment.call("seal", "--once")
        everyone = {deployment.settings.origin, "witness.example/paris", "witness.example/oslo"}
        published, signers = read(deployment, "checkpoint", witnesses)
        assert signers == everyone
        assert read(deployment, "witnessed", witnesses) == (published, everyone)
    document = deployment.call("verify")
    assert document["ok"]
    assert document["witnessed"] == published.size
    assert document["warnings"] == []
    status = deployment.call("status")
    assert status["witnesses"]["cosigned"] == 2
    assert not [warning for warning in status["warnings"] if "witness" in warning]
