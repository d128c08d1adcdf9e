"""The sealer is stopped, or made silent (attack 21): heartbeats are missing, and status and verify say so.

A time cannot be waited for in a test, so the heartbeat before the silence is dated back before it is sealed.
"""

import json
from contextlib import closing
from typing import Any

import pytest
from tests.attacks.attack import Attack
from tests.deployments import TRAIL, Deployment, deploy, query

from pgseal.core.heartbeat import Bounds
from pgseal.sealer.seal import Sealer

STAGED = (
    Attack(
        21, "anyone", "stop the sealer or keep it silent", "status warns, verify shows the gap", "after five minutes"
    ),
)


@pytest.fixture
def deployment(database: str, vault_database: str, tmp_path: Any) -> Deployment:
    return deploy(database, vault_database, tmp_path)


def beat(deployment: Deployment) -> None:
    with closing(Sealer.open(deployment.settings)) as sealer:
        sealer.beat()


def test_a_sealer_that_was_stopped_for_an_hour(deployment):
    bounds = {name: Bounds(0, 0).to_json() for name in (TRAIL, "vault")}
    query(deployment.vault, "SELECT audit.record_heartbeat(%s::jsonb, 'vault')", json.dumps(bounds))
    query(deployment.vault, "UPDATE audit.record SET recorded_at = recorded_at - interval '1 hour'")
    deployment.seal()

    status = deployment.call("status")
    assert 3600 <= status["heartbeat_age_s"] < 4000
    assert any("no heartbeat for" in line and "is pgseal seal running" in line for line in status["warnings"])

    beat(deployment)
    status = deployment.call("status")
    assert status["heartbeat_age_s"] < 60
    assert not any("no heartbeat" in line for line in status["warnings"])
    # What was silent stays on record.
    [gap] = deployment.call("verify")["gaps"]
    [before, after] = query(
        deployment.vault, "SELECT data FROM vault.record WHERE action = 'HEARTBEAT' ORDER BY leaf_index"
    )
    assert before != after
    assert gap["begin"] < gap["end"]

    beat(deployment)
    assert deployment.call("verify")["gaps"] == [gap]


def test_without_silence_nothing_is_said(deployment):
    beat(deployment)
    beat(deployment)
    assert deployment.call("verify")["gaps"] == []
