"""A vault administrator bends the sealer's memory of how far a trail is sealed, `vault.feed`."""

from contextlib import closing

import psycopg
import pytest
from tests.attacks.attack import Attack
from tests.deployments import TRAIL, Deployment, deploy, query

from pgseal.errors import AlteredRecordError, ForgedRecordError, RollbackError, TamperError
from pgseal.sealer import seal as sealing
from pgseal.sealer.seal import Sealer

STAGED = (
    Attack(
        15,
        "vault administrator",
        "set the sealer's memory of what was read back or ahead, raise the incarnation",
        "the sealer and verify: `rollback`, `altered_record`, `forged_record`",
        "when the sealer next starts, before anything is sealed; at the next `pgseal verify`",
    ),
)

#: Floors that say: whoever has an xid of at least that of the kept snapshot has ids above all that were drawn.
FLOORS_AHEAD = "UPDATE vault.feed SET floors = ARRAY[%s, %s, 0]::bigint[] WHERE trail = %s"


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

    with pytest.raises(RollbackError, match="incarnation 2, and no record says why"):
        deployment.seal()
    report = deployment.call("verify", expect=1)
    assert ("rollback", "vault", TRAIL) in {(one["kind"], one["where"], one["trail"]) for one in report["findings"]}


@pytest.mark.parametrize("floors", ["{1}", "{1,NULL}", "{{1,2},{3,4}}", "{3,99999999999,0}"])
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


def put_floors_ahead(deployment: Deployment, xmax: int) -> None:
    (drawn,) = query(deployment.source, "SELECT last_value FROM audit.record_id_seq")[0]
    query(deployment.vault, FLOORS_AHEAD, xmax, drawn, TRAIL)


def read_xmax(deployment: Deployment) -> int:
    query_text = "SELECT pg_snapshot_xmax(snapshot)::text::bigint FROM vault.feed WHERE trail = %s"
    return query(deployment.vault, query_text, TRAIL)[0][0]


def find(deployment: Deployment) -> list[tuple[str, str, str | None, int | None]]:
    findings = deployment.call("verify", expect=1)["findings"]
    return [(one["kind"], one["where"], one["trail"], one["id"]) for one in findings]


def test_floors_that_hide_a_waiting_record_stop_the_sealer_and_are_found(deployment):
    size = deployment.checkpoint().size
    query(deployment.source, "DELETE FROM item WHERE id = 7")
    (hidden,) = query(deployment.source, "SELECT id FROM audit.record WHERE action = 'DELETE'")[0]
    put_floors_ahead(deployment, read_xmax(deployment))

    assert find(deployment) == [("altered_record", "vault", TRAIL, hidden)]
    assert deployment.call("status")["trails"][0]["unsealed"] == 1
    with pytest.raises(AlteredRecordError, match=r"vault\.feed .*UPDATE vault\.feed SET floors = '{}'") as error:
        deployment.seal()
    assert error.value.record_id == hidden
    assert deployment.checkpoint().size == size

    # What the message says mends it.
    query(deployment.vault, error.value.detail[error.value.detail.index("UPDATE vault.feed") :])
    deployment.seal()
    deployment.check_sealed()
    deployment.check_verified()


def test_floors_that_would_hide_what_is_not_committed_yet_are_found_by_the_sealed_records(deployment):
    put_floors_ahead(deployment, 3)

    assert [one[:3] for one in find(deployment)] == [("altered_record", "vault", TRAIL)]
    with pytest.raises(AlteredRecordError, match=r"vault\.feed"):
        deployment.seal()


def test_floors_put_ahead_of_an_open_transaction_are_found_when_it_commits(deployment):
    with closing(psycopg.connect(deployment.source)) as writer:
        writer.execute("DELETE FROM item WHERE id = 7")
        put_floors_ahead(deployment, read_xmax(deployment))
        deployment.seal()  # nothing says yet that the floors are false
        writer.commit()
    (hidden,) = query(deployment.source, "SELECT id FROM audit.record WHERE action = 'DELETE'")[0]

    assert find(deployment) == [("altered_record", "vault", TRAIL, hidden)]


@pytest.mark.parametrize("floors", ["{1}", "{3,99999999999,0}"])
def test_floors_that_no_sealer_wrote_are_a_finding(deployment, floors):
    query(deployment.vault, "UPDATE vault.feed SET floors = %s WHERE trail = %s", floors, TRAIL)
    assert [one[:3] for one in find(deployment)] == [("altered_record", "vault", TRAIL)]


def test_a_position_that_was_put_ahead_stops_the_sealer_and_is_found(deployment):
    query(deployment.source, "DELETE FROM item WHERE id = 7")
    (hidden,) = query(deployment.source, "SELECT id FROM audit.record WHERE action = 'DELETE'")[0]
    (snapshot,) = query(deployment.source, "SELECT pg_current_snapshot()::text")[0]
    query(deployment.vault, 'UPDATE vault.feed SET pending = %s, "position" = %s', snapshot, hidden)
    size = deployment.checkpoint().size

    assert ("forged_record", "trail", TRAIL, hidden) in find(deployment)
    with pytest.raises(ForgedRecordError, match=r"vault\.feed") as error:
        deployment.seal()
    assert error.value.record_id == hidden
    assert deployment.checkpoint().size == size


def test_a_batch_broken_off_behind_a_malformed_row_is_read_on(deployment, monkeypatch):
    monkeypatch.setattr(sealing, "CHUNK_ROWS", 4)
    query(deployment.source, "UPDATE item SET note = 'y'")
    query(
        deployment.source,
        "UPDATE audit.record SET category = 'nonsense' "
        "WHERE id = (SELECT id FROM audit.record WHERE action = 'UPDATE' ORDER BY id OFFSET 1 LIMIT 1)",
    )
    with (
        closing(Sealer.open(deployment.settings)) as sealer,
        closing(sealer._seal_trail(sealer._trails[TRAIL])) as work,
    ):
        next(work)
    assert query(deployment.vault, "SELECT pending IS NOT NULL FROM vault.feed WHERE trail = %s", TRAIL) == [(True,)]
    (deployment.directory / "state" / "feeds").unlink(missing_ok=True)  # so that everything is looked at

    deployment.seal()
    (left,) = query(deployment.source, "SELECT count(*) FROM audit.record WHERE category <> 'nonsense'")[0]
    assert len(deployment.sealed_ids()) == left


def test_what_the_sealer_kept_itself_is_not_searched_anew(deployment, monkeypatch):
    def search(*_: object, **__: object) -> None:
        raise AssertionError("the trail was searched")

    monkeypatch.setattr("pgseal.sealer.startup.check_floors", search)
    query(deployment.source, "DELETE FROM item WHERE id = 7")
    deployment.seal()
    deployment.check_sealed()
    put_floors_ahead(deployment, 3)
    with pytest.raises(AssertionError, match="searched"):
        deployment.seal()
