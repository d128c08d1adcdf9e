"""A source is dumped and restored with pg_dump and pg_restore, and uninstalled: its history stays what it was.

A restored database has other oids and is another incarnation of the trail. Capture must not record under the wrong
table, the sealer must stop with a rollback that names the way out, and nothing must look like tampering with rows.
"""

import subprocess
from pathlib import Path

import psycopg
import pytest
from tests.clusters import Cluster
from tests.conftest import NewCluster
from tests.deployments import Deployment, deploy, query

from pgseal.errors import RollbackError

OTHER_OID = "made for a table with another oid"


def execute(dsn: str, *statements: str) -> None:
    for statement in statements:
        query(dsn, statement)


def dump(cluster: Cluster, dsn: str, file: Path, *options: str) -> None:
    subprocess.run([cluster.bin / "pg_dump", "-Fc", "-f", file, *options, dsn], check=True, capture_output=True)


def restore(cluster: Cluster, dsn: str, file: Path, *options: str) -> None:
    done = subprocess.run(
        [cluster.bin / "pg_restore", "-d", dsn, *options, file], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def clinic(cluster15: Cluster, new_database, vault_database, tmp_path) -> Deployment:
    source = new_database(cluster15)
    execute(
        source,
        "CREATE TABLE item (id int PRIMARY KEY, note text)",
        "CREATE TABLE secret (id int PRIMARY KEY, ssn text)",
        "CREATE TABLE event (id int PRIMARY KEY, note text) PARTITION BY RANGE (id)",
        "CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (100)",
    )
    deployment = deploy(source, vault_database, tmp_path)
    deployment.call("track", "item", "event", "--truncate", "rows")
    deployment.call("track", "secret", "--mask", "ssn=redact", "--truncate", "rows")
    execute(source, *(f"INSERT INTO {table} VALUES (1, 'a'), (2, 'b')" for table in ("item", "secret", "event")))
    deployment.seal()
    return deployment


def point_to(deployment: Deployment, dsn: str) -> None:
    text = deployment.config.read_text()
    assert text.count(deployment.source) >= 1
    deployment.config.write_text(text.replace(deployment.source, dsn))


def test_a_restore_on_another_server(clinic: Deployment, cluster15: Cluster, new_cluster: NewCluster, tmp_path):
    file = tmp_path / "source.dump"
    dump(cluster15, clinic.source, file)
    other = new_cluster(15)
    execute(other.dsn(), *(f"CREATE ROLE {name}" for name in ("pgseal_owner", "pgseal_sealer", "pgseal_reader")))
    execute(other.dsn(), "ALTER ROLE pgseal_sealer LOGIN")
    other.create_database("padding")
    target = other.create_database("restored")
    # The restored tables must not have the former oids by chance.
    execute(target, *(f"CREATE TABLE padding_{number} ()" for number in range(300)))
    before = query(clinic.source, "SELECT id, xid, action, key, old, new FROM audit.record ORDER BY id")
    restore(other, target, file)
    assert query(target, "SELECT id, xid, action, key, old, new FROM audit.record ORDER BY id") == before

    for statement in (
        "INSERT INTO {} VALUES (3, 'c')",
        "INSERT INTO {} VALUES (3, 'c'), (4, 'd')",
        "UPDATE {} SET id = id + 10",
        "DELETE FROM {}",
        "TRUNCATE {}",
    ):
        for table in ("item", "secret", "event"):
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=OTHER_OID):
                query(target, statement.format(table))
    assert query(target, "SELECT id, xid, action, key, old, new FROM audit.record ORDER BY id") == before

    size = clinic.checkpoint().size
    query(target, "SELECT audit.record_event('NOTE')")  # with an xid that the other server has sealed long ago
    point_to(clinic, target)
    with pytest.raises(RollbackError, match="expected system identifier") as stopped:
        clinic.seal()
    assert stopped.value.record_id is None
    assert clinic.checkpoint().size == size
    found = clinic.call("verify", expect=1)["findings"]
    assert {one["kind"] for one in found} == {"rollback"}

    clinic.call("apply")
    for table in ("item", "secret", "event"):
        query(target, f"INSERT INTO {table} VALUES (3, 'c')")
        query(target, f"TRUNCATE {table}")
    assert clinic.call("plan")["changes"] == []
    rows = query(target, "SELECT relation, action, old FROM audit.record WHERE action = 'DELETE' ORDER BY id")
    assert [relation for relation, _, _ in rows] == [
        f"public.{name}" for name in ("item", "secret", "event") for _ in "123"
    ]
    assert {old["ssn"] for relation, _, old in rows if relation == "public.secret"} == {"[redacted]"}


@pytest.mark.parametrize("others", ["item", "secret"])
def test_another_table_that_got_the_oid_is_not_taken_for_it(clinic: Deployment, others: str):
    """After a restore the registry may name, by chance, another tracked table: its masks are not that table's."""
    mine = "secret" if others == "item" else "item"
    execute(
        clinic.source,
        f"UPDATE audit.tracked SET table_oid = 1 WHERE relation = 'public.{mine}'",
        f"UPDATE audit.tracked SET table_oid = '{mine}'::regclass WHERE relation = 'public.{others}'",
    )
    before = query(clinic.source, "SELECT count(*) FROM audit.record")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=OTHER_OID):
        query(clinic.source, f"TRUNCATE {mine}")
    assert query(clinic.source, "SELECT count(*) FROM audit.record") == before


def test_a_restore_beside_the_original(clinic: Deployment, cluster15: Cluster, new_database, tmp_path):
    """On the same server the restored database continues the trail: what it has lost, if anything, is noticed."""
    dump(cluster15, clinic.source, tmp_path / "source.dump")
    execute(clinic.source, "INSERT INTO item VALUES (5, 'later')")
    clinic.seal()
    target = new_database(cluster15)
    restore(cluster15, target, tmp_path / "source.dump")
    point_to(clinic, target)
    with pytest.raises(RollbackError):
        clinic.seal()


def test_data_restored_with_disabled_triggers_is_noticed(clinic: Deployment, cluster15: Cluster, tmp_path):
    dump(cluster15, clinic.source, tmp_path / "data.dump", "--data-only", "--table=item")
    execute(clinic.source, "DELETE FROM item")
    restore(cluster15, clinic.source, tmp_path / "data.dump", "--data-only", "--disable-triggers")
    warnings = "\n".join(clinic.call("status")["warnings"])
    assert "public.item: capture was changed" in warnings
    clinic.call("plan", "--check", expect=1)
    clinic.call("apply")
    assert clinic.call("plan")["changes"] == []
    clinic.seal()
    assert [change["action"] for change in clinic.call("history", "item", "1")] == ["INSERT", "DELETE", "SNAPSHOT"]


def test_uninstalling_leaves_the_sealed_records(clinic: Deployment):
    for table in ("item", "secret", "event"):
        clinic.call("untrack", table)
    clinic.seal()
    clinic.check_verified()
    size = clinic.checkpoint().size
    execute(clinic.source, "DROP SCHEMA audit CASCADE")
    execute(clinic.source, *(f"INSERT INTO {table} VALUES (3, 'c')" for table in ("item", "secret", "event")))
    left = query(
        clinic.source, "SELECT tgname FROM pg_trigger WHERE tgname ~ 'pgseal' "
        "UNION ALL SELECT nspname FROM pg_namespace WHERE nspname ~ 'audit|pgseal'"
    )  # fmt: skip
    assert left == []
    assert [change["action"] for change in clinic.call("history", "item", "1")] == ["INSERT"]
    assert len(clinic.entries()) == size
    assert query(clinic.vault, "SELECT count(*) FROM vault.record") == [(size,)]
