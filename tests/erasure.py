"""A deployment in which one item's content is a secret that is to be erased."""

from pathlib import Path

from tests.deployments import Deployment, deploy, query

WHY = ("--reason", "request 2026-17", "--approved-by", "j.doe")
#: Erases what is about item 7.
ERASE = ("erase", "--table", "item", "--key", "7", *WHY, "--yes")
SECRET = "Zebediah"


def deploy_secret(source: str, vault: str, directory: Path) -> Deployment:
    """Sealed records of ten items; item 7 was changed twice and has the secret in it, and an event names it."""
    query(source, "CREATE TABLE item (id int PRIMARY KEY, note text)")
    deployment = deploy(source, vault, directory)
    deployment.track("item")
    query(source, "INSERT INTO item SELECT i, 'note ' || i FROM generate_series(1, 10) AS i")
    query(source, f"UPDATE item SET note = '{SECRET} ' || note WHERE id = 7")
    query(source, "SELECT audit.record_event('VIEWED', '{\"resource\": \"item/7\"}')")
    deployment.seal()
    return deployment


def leaves_of(deployment: Deployment, condition: str) -> list[int]:
    return [
        row[0] for row in query(deployment.vault, f"SELECT leaf_index FROM vault.record WHERE {condition} ORDER BY 1")
    ]


def secret_leaves(deployment: Deployment) -> list[int]:
    """The leaves of item 7: inserted, changed, viewed."""
    found = leaves_of(deployment, "data LIKE '{\"key\": {\"id\": 7}%' OR action = 'VIEWED'")
    assert len(found) == 3
    return found


def check_gone(deployment: Deployment, leaves: list[int]) -> None:
    """Nothing of the leaves is left on either side, the secret is nowhere, and all verifies."""
    assert leaves_of(deployment, "num_nulls(actor, actor_salt, data, data_salt) = 4") == leaves
    for dsn, table in ((deployment.source, "audit.record"), (deployment.vault, "vault.record")):
        assert query(dsn, f"SELECT FROM {table} AS r WHERE r::text LIKE '%{SECRET}%'") == []
    blank = "data = 'null' AND num_nulls(key, old, new, claimed, effective_role, authenticated_role, address) = 7"
    assert query(deployment.source, f"SELECT count(*) FROM audit.record WHERE {blank} AND session_role = ''") == [
        (len(leaves),)
    ]
    deployment.seal()
    deployment.check_verified()
