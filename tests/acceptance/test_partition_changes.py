"""A partition that is attached or detached is told at once: by status, by plan --check, and by the sealer itself."""

import time

import pytest
from tests.deployments import Deployment, RunningSealer, deploy, query

ATTACHED = "public.event: public.event_2 was attached: the rows that it brought are not recorded"
DETACHED = "public.event: public.event_1 was detached: that its rows went is not recorded"


@pytest.fixture
def deployment(database, vault_database, tmp_path) -> Deployment:
    for statement in (
        "CREATE TABLE event (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (10)",
        "INSERT INTO event VALUES (1)",
        "CREATE TABLE event_2 (id int PRIMARY KEY)",
        "INSERT INTO event_2 VALUES (11), (12)",
    ):
        query(database, statement)
    deployment = deploy(database, vault_database, tmp_path)
    deployment.track("event")
    return deployment


def attach_and_detach(deployment: Deployment) -> None:
    query(deployment.source, "ALTER TABLE event ATTACH PARTITION event_2 FOR VALUES FROM (10) TO (20)")
    query(deployment.source, "ALTER TABLE event DETACH PARTITION event_1")


def test_it_is_told_everywhere_and_apply_mends_it(deployment: Deployment):
    attach_and_detach(deployment)
    document = deployment.call("status")
    for words in (ATTACHED, DETACHED):
        assert [line for line in document["warnings"] if line.startswith(words) and "; pgseal apply" in line]
    assert [table["capturing"] for table in document["tables"]] == [True]
    changes = deployment.call("plan", "--check", expect=1)["changes"]
    assert {change["text"].split(":")[0] for change in changes} == {
        "public.event_1 was detached", "public.event_2 was attached",
    }  # fmt: skip
    with deployment.start("seal", "--once") as process:
        errors = process.communicate()[1]
    assert process.returncode == 0
    assert all(f"pgseal: source 'clinic': {words}" in errors for words in (ATTACHED, DETACHED))
    assert deployment.call("apply")["tables"] == [{"relation": "public.event", "baseline": 2}]
    deployment.seal()
    assert not [line for line in deployment.call("status")["warnings"] if "event" in line]
    assert deployment.call("plan", "--check")["changes"] == []
    assert deployment.call("status")["unattributed"] == {"last_hour": 0}
    with deployment.start("seal", "--once") as process:
        assert process.communicate()[1] == ""
    deployment.check_verified()


def test_a_running_sealer_says_it_once(deployment: Deployment):
    sealer = RunningSealer(deployment)
    try:
        attach_and_detach(deployment)
        deadline = time.monotonic() + 120
        while not any(DETACHED in line for line in sealer.output):
            assert time.monotonic() < deadline, sealer.output
            time.sleep(0.1)
    finally:
        sealer.stop()
    assert sum(ATTACHED in line for line in sealer.output) == 1
