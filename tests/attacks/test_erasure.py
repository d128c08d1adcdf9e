"""Attack 29: content that is blanked and called erased, erased content that comes back, and holds that are lifted."""

import json

import psycopg
import pytest
from tests.attacks.attack import Attack
from tests.deployments import TRAIL, Deployment, query
from tests.erasure import ERASE, WHY, check_gone, deploy_secret, leaves_of, secret_leaves

_SOON = "at the next `pgseal verify`"
STAGED = (
    Attack(
        29, "source superuser, vault administrator", "blank content on both sides; write the ERASE record too late, "
        "into the wrong trail, for pgseal's own acts", "verify: `unauthorized_erasure`", _SOON,
    ),
    Attack(
        29, "operator", "restore a backup that brings erased content back", "verify: `erased_content`; `erase --again` "
        "and `recover` erase it again", _SOON,
    ),
    Attack(
        29, "vault administrator", "delete a legal hold, or write a release that is not sealed",
        "`erase` and `retain` go by sealed records and verify them first: refused", "at once",
    ),
)  # fmt: skip

pytestmark = pytest.mark.servers(18)
BLANK_VAULT = "UPDATE vault.record SET actor = NULL, actor_salt = NULL, data = NULL, data_salt = NULL "
BLANK_TRAIL = (
    "UPDATE audit.record SET key = NULL, old = NULL, new = NULL, data = 'null', session_role = '', claimed = NULL, "
    "effective_role = NULL, authenticated_role = NULL, backend_start = NULL, application = NULL, address = NULL, "
    "pid = 0 "
)


@pytest.fixture
def deployment(any_database, vault_database, tmp_path) -> Deployment:
    return deploy_secret(any_database, vault_database, tmp_path)


def blank(deployment: Deployment, leaf: int) -> None:
    """What who administers both sides can do by hand."""
    query(deployment.vault, BLANK_VAULT + "WHERE leaf_index = %s", leaf)
    trail, record_id = query(deployment.vault, "SELECT trail, id FROM vault.record WHERE leaf_index = %s", leaf)[0]
    query(deployment.source if trail == TRAIL else deployment.vault, BLANK_TRAIL + "WHERE id = %s", record_id)


def say_erased(dsn: str, leaves: list[list[int]], parts: tuple[str, ...] = ("actor", "data")) -> None:
    data = {"leaves": leaves, "parts": parts, "reason": "none"}
    query(dsn, "SELECT audit.record_act('ERASE', %s::jsonb, 'administration')", json.dumps(data))


def find(deployment: Deployment) -> set[tuple[str, str, int]]:
    document = deployment.call("verify", expect=1)
    return {(one["kind"], one["where"], one["index"]) for one in document["findings"]}


def test_what_no_sealed_record_of_the_vault_allows_is_no_erasure(deployment: Deployment):
    leaf, other, third = secret_leaves(deployment)
    act = leaves_of(deployment, "action = 'TRACK'")[0]
    # In the source's trail, of one part only, and of pgseal's own acts.
    say_erased(deployment.source, [[leaf, leaf + 1]])
    say_erased(deployment.vault, [[other, other + 1]], ("actor",))
    say_erased(deployment.vault, [[act, act + 1]])
    deployment.seal()
    blank(deployment, leaf)
    blank(deployment, other)
    blank(deployment, act)
    # Too late: its leaf comes after the deed, and it is not sealed.
    say_erased(deployment.vault, [[leaf, leaf + 1]])
    # In the trail alone.
    query(deployment.source, "UPDATE audit.record SET data = 'null', key = NULL, old = NULL, new = NULL WHERE id = "
          "(SELECT max(id) FROM audit.record WHERE action = 'VIEWED')")  # fmt: skip
    expected = {("unauthorized_erasure", "vault", index) for index in (leaf, other, act)}
    assert find(deployment) == {*expected, ("unauthorized_erasure", "trail", third)}
    assert deployment.call(*ERASE, expect=1) is None  # the sealer does not even start


def test_a_record_that_carries_the_mark_and_was_never_sealed_is_malformed(deployment: Deployment):
    query(deployment.source, "INSERT INTO item VALUES (50, 'x'), (51, 'x')")
    query(deployment.source, "UPDATE audit.record SET data = 'null', key = NULL, new = NULL WHERE id = "
          "(SELECT max(id) FROM audit.record)")  # fmt: skip
    query(deployment.source, "UPDATE audit.record SET session_role = '' WHERE id = "
          "(SELECT max(id) - 1 FROM audit.record)")  # fmt: skip
    deployment.seal()
    deployment.seal()
    assert {kind for kind, _, _ in find(deployment)} == {"malformed_record"}


def test_content_that_comes_back_is_found_and_erased_again(deployment: Deployment):
    leaves = secret_leaves(deployment)
    for dsn, table in ((deployment.source, "audit.record"), (deployment.vault, "vault.record")):
        query(dsn, f"CREATE TABLE public.backup AS SELECT * FROM {table}")
    assert deployment.call(*ERASE)["ok"]
    check_gone(deployment, leaves)

    columns = (
        "key, old, new, data, session_role, effective_role, authenticated_role, application, address, claimed, pid, "
        "backend_start"
    )
    put_back = ", ".join(f"{name} = b.{name}" for name in columns.split(", "))
    query(deployment.source, f"UPDATE audit.record AS r SET {put_back} FROM public.backup AS b WHERE r.id = b.id")
    assert find(deployment) == {("erased_content", "trail", leaf) for leaf in leaves}
    deployment.seal()  # it does not stop sealing
    query(deployment.vault, "UPDATE vault.record AS r SET actor = b.actor, actor_salt = b.actor_salt, data = b.data, "
          "data_salt = b.data_salt FROM public.backup AS b WHERE r.leaf_index = b.leaf_index AND r.leaf_index < %s",
          leaves[-1])  # fmt: skip
    assert {one for one in find(deployment) if one[1] == "vault"} == {
        ("erased_content", "vault", leaf) for leaf in leaves[:-1]
    }

    # By hand nobody but the owner may, and the owner only for the length of a transaction.
    for role in ("pgseal_sealer", "pgseal_owner", "pgseal_reader"):
        with psycopg.connect(deployment.source) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(f"SET ROLE {role}; UPDATE audit.record SET new = NULL")
    size = deployment.checkpoint().size
    looked = deployment.call("erase", "--again", "--dry-run")
    assert looked["destroyed"] == {"trails": {TRAIL: 3 + 3}, "vault": 2 + 2}  # parts
    done = deployment.run("erase", "--again", "--yes")
    assert done["ok"]
    assert deployment.checkpoint().size == size  # nothing had to be said once more
    check_gone(deployment, leaves)
    assert deployment.call("plan")["changes"] == []


def test_a_hold_is_lifted_by_a_sealed_release_only(deployment: Deployment):
    leaves = secret_leaves(deployment)
    deployment.call("hold", "add", "case-1", "--table", "item", "--key", "7", *WHY)
    (hold,) = leaves_of(deployment, "action = 'HOLD'")
    assert deployment.call(*ERASE, expect=1)["held_by"] == ["case-1"]
    # A release that an application writes is none; one that a DBA writes into the source's trail is none.
    with pytest.raises(psycopg.errors.ReservedName):
        query(deployment.vault, 'SELECT audit.record_event(\'RELEASE\', \'{"hold": "case-1", "reason": "x"}\')')
    said = 'SELECT audit.record_act(\'RELEASE\', \'{"hold": "case-1", "reason": "x"}\', \'administration\')'
    query(deployment.source, said)
    deployment.seal()
    assert deployment.call(*ERASE, expect=1)["held_by"] == ["case-1"]
    # Whoever deletes the hold, in the vault or in its trail, stops everything.
    query(deployment.vault, "CREATE TABLE public.aside AS SELECT * FROM vault.record WHERE leaf_index = %s", hold)
    query(deployment.vault, "DELETE FROM vault.record WHERE leaf_index = %s", hold)
    document = deployment.call(*ERASE, expect=1)
    assert document["destroyed"]["vault"] == 0
    assert [one["kind"] for one in document["findings"]] == ["missing_record"]
    query(deployment.vault, "INSERT INTO vault.record SELECT * FROM public.aside")
    assert deployment.call(*ERASE, expect=1)["held_by"] == ["case-1"]
    query(deployment.vault, "DELETE FROM audit.record WHERE action = 'HOLD'")
    assert deployment.call(*ERASE, expect=1) is None  # the sealer does not even start
    assert leaves_of(deployment, "data IS NULL") == []
    assert len(secret_leaves(deployment)) == len(leaves)
