"""Attacks 15, 29 (in part) and 30: a vault's administrator changes, removes, adds, re-numbers and blanks records."""

from contextlib import closing

import pytest
from tests.attacks.attack import Attack
from tests.attacks.conftest import at_work
from tests.deployments import TRAIL, Deployment, deploy, query

from pgseal.errors import AlteredRecordError, MissingRecordError
from pgseal.sealer.seal import Sealer

_WHO, _SOON = "vault administrator", "at the next `pgseal verify`"
STAGED = (
    Attack(
        15, _WHO, "change any column of a record, its salts included; delete; insert; re-number",
        "verify: `altered_record`, `missing_record`, `forged_record`", _SOON,
    ),
    Attack(29, _WHO, "blank content and salt and call it erasure", "verify: `unauthorized_erasure`", _SOON),
    Attack(
        30, _WHO, "change records that wait to be signed while the sealer is down",
        "the sealer compares them with the trail before it signs: `altered_record`, `missing_record`",
        "when the sealer starts, before anything is signed",
    ),
)  # fmt: skip

OTHER = {
    "leaf_index": "leaf_index + 1000",
    "trail": "'other'",
    "incarnation": "incarnation + 1",
    "id": "id + 1000000",
    "time": "time - interval '1 microsecond'",
    "xid": "'3'",
    "source": "'app'",
    "category": "'configuration'",
    "action": "'DELETE'",
    "outcome": "'denied'",
    "relation": "'public.other'",
    "actor": "replace(actor, '}', ' }')",
    "actor_salt": "sha256(actor_salt)",
    "data": "replace(data, '}', ' }')",
    "data_salt": "sha256(data_salt)",
}


@pytest.fixture
def deployment(database: str, vault_database: str, tmp_path) -> Deployment:
    query(database, "CREATE TABLE item (id int PRIMARY KEY, note text)")
    deployment = deploy(database, vault_database, tmp_path)
    deployment.track("item")
    query(database, "INSERT INTO item SELECT i, 'x' FROM generate_series(1, 20) AS i")
    deployment.seal()
    return deployment


def find(deployment: Deployment) -> set[tuple[str, str, int | None]]:
    return {
        (one["kind"], one["where"], one["index"]) for one in deployment.call("verify", expect=1)["findings"]
    }  # fmt: skip


def test_every_column_is_bound(deployment):
    columns = query(
        deployment.vault,
        "SELECT attname FROM pg_attribute WHERE attrelid = 'vault.record'::regclass AND attnum > 0",
    )
    assert sorted(row[0] for row in columns) == sorted(OTHER)
    for column, value in OTHER.items():
        with at_work(deployment, deployment.vault, "vault.record") as connection:
            assert connection.execute(f"UPDATE vault.record SET {column} = {value} WHERE leaf_index = 7").rowcount == 1
            kind = "missing_record" if column == "leaf_index" else "altered_record"
            assert (kind, "vault", 7) in find(deployment), column


def test_deleted_inserted_and_renumbered(deployment):
    with at_work(deployment, deployment.vault, "vault.record") as connection:
        connection.execute("DELETE FROM vault.record WHERE leaf_index = 7")
        assert ("missing_record", "vault", 7) in find(deployment)
    with at_work(deployment, deployment.vault, "vault.record") as connection:
        connection.execute("DELETE FROM vault.record WHERE leaf_index > 10")
        assert {("missing_record", "vault", index) for index in range(11, 21)} <= find(deployment)
    others = ", ".join(column for column in OTHER if column not in {"leaf_index", "id"})
    with at_work(deployment, deployment.vault, "vault.record") as connection:
        connection.execute(
            f"INSERT INTO vault.record (leaf_index, id, {others}) "
            f"SELECT 5000, 1::bigint << 40, {others} FROM vault.record LIMIT 1"
        )
        assert find(deployment) == {("missing_record", "vault", 5000)}
    with at_work(deployment, deployment.vault, "vault.record") as connection:
        connection.execute("ALTER TABLE vault.record DROP CONSTRAINT record_leaf_index_ck")
        connection.execute("UPDATE vault.record SET leaf_index = -leaf_index WHERE leaf_index IN (7, 8)")
        connection.execute("UPDATE vault.record SET leaf_index = 15 + leaf_index WHERE leaf_index IN (-7, -8)")
        connection.execute("ALTER TABLE vault.record ADD CONSTRAINT record_leaf_index_ck CHECK (leaf_index >= 0)")
        assert {("altered_record", "vault", 7), ("altered_record", "vault", 8)} <= find(deployment)


@pytest.mark.parametrize("columns", [("data", "data_salt"), ("actor", "actor_salt"), ("data_salt",)])
def test_blanked_content_is_no_erasure(deployment, columns):
    with at_work(deployment, deployment.vault, "vault.record") as connection:
        blank = ", ".join(f"{column} = NULL" for column in columns)
        connection.execute(f"UPDATE vault.record SET {blank} WHERE leaf_index = 7")
        assert find(deployment) == {("unauthorized_erasure", "vault", 7)}


@pytest.mark.parametrize(
    ("attack", "error"),
    [
        ("UPDATE vault.record SET data = replace(data, 'waits', 'never') WHERE leaf_index >= %s", AlteredRecordError),
        ("UPDATE vault.record SET time = time - interval '1 s' WHERE leaf_index >= %s", AlteredRecordError),
        ("UPDATE vault.record SET id = id + 100 WHERE leaf_index >= %s", MissingRecordError),
    ],
)
def test_what_waits_to_be_signed_is_compared_first(deployment, monkeypatch, attack, error):
    size = deployment.checkpoint().size
    query(deployment.source, "INSERT INTO item VALUES (100, 'waits')")

    class Killed(Exception):  # noqa: N818 - no error, an end
        pass

    def die(_: Sealer) -> None:
        raise Killed

    with monkeypatch.context() as patch, closing(Sealer.open(deployment.settings)) as sealer:
        patch.setattr(Sealer, "_sign", die)
        with pytest.raises(Killed):
            sealer.seal_once()
    assert query(deployment.vault, "SELECT max(leaf_index) FROM vault.record") == [(size,)]
    query(deployment.vault, attack, size)
    with pytest.raises(error) as found:
        deployment.seal()
    assert (found.value.trail, found.value.leaf_index) == (TRAIL, size)
    assert deployment.checkpoint().size == size
