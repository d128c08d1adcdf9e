"""A vault administrator bends the sealer's memory of how far a trail is sealed, `vault.feed`."""

import pytest
from tests.deployments import TRAIL, Deployment, deploy, query

from pgseal.errors import RollbackError, TamperError


@pytest.fixture
def deployment(database, vault_database, tmp_path) -> Deployment:
    query(database, "CREATE TABLE item (id int PRIMARY KEY, note text)")
    deployment = deploy(database, vault_database, tmp_path)
    deployment.track("item")
    query(database, "INSERT INTO item SELECT i, 'x' FROM generate_series(1, 20) AS i")
    deployment.seal()
    return deployment


@pytest.mark.parametrize(
    "attack",
    [
        "DELETE FROM vault.feed",
        "UPDATE vault.feed SET snapshot = '3:3:', floors = '{}', \"position\" = 0",
    ],
    ids=["removed", "set back"],
)
def test_a_memory_that_was_set_back_is_found_before_anything_is_sealed_twice(deployment, attack):
    size = deployment.checkpoint().size
    query(deployment.vault, attack)
    query(deployment.source, "UPDATE item SET note = 'y' WHERE id = 1")

    with pytest.raises(RollbackError, match=r"vault\.feed was set back or emptied"):
        deployment.seal()
    assert deployment.checkpoint().size == size

    report = deployment.call("verify", expect=1)
    assert {(one["kind"], one["where"], one["trail"]) for one in report["findings"]} == {("rollback", "vault", TRAIL)}


def test_another_incarnation_does_not_hide_what_was_changed(deployment):
    query(
        deployment.vault,
        "UPDATE vault.feed SET incarnation = 2, snapshot = '3:3:', floors = '{}' WHERE trail = %s",
        TRAIL,
    )
    query(
        deployment.source, """UPDATE audit.record SET new = jsonb_set(new, '{note}', '"z"') WHERE action = 'INSERT'"""
    )

    with pytest.raises(RollbackError, match="incarnation 1, but vault"):
        deployment.seal()
    report = deployment.call("verify", expect=1)
    assert ("rollback", "vault", TRAIL) in {(one["kind"], one["where"], one["trail"]) for one in report["findings"]}


@pytest.mark.parametrize("floors", ["{1}", "{1,NULL}", "{{1,2},{3,4}}", "{3,99999999999}"])
def test_floors_that_no_sealer_wrote_stop_it(deployment, floors):
    query(deployment.vault, "UPDATE vault.feed SET floors = %s WHERE trail = %s", floors, TRAIL)
    with pytest.raises(TamperError):
        deployment.seal()


def test_a_memory_that_was_put_ahead_to_hide_a_record_is_found(deployment):
    query(deployment.source, "DELETE FROM item WHERE id = 7")
    (hidden,) = query(deployment.source, "SELECT id FROM audit.record WHERE action = 'DELETE'")[0]
    (snapshot,) = query(deployment.source, "SELECT pg_current_snapshot()::text")[0]
    query(deployment.vault, "UPDATE vault.feed SET snapshot = %s WHERE trail = %s", snapshot, TRAIL)
    deployment.seal()

    report = deployment.call("verify", expect=1)
    assert [(one["kind"], one["where"], one["id"]) for one in report["findings"]] == [
        ("forged_record", "trail", hidden)
    ]
