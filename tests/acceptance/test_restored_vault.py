"""A vault restored from an older backup: sealing stops, and a new log goes on; the old one stays as evidence."""

from pathlib import Path

import psycopg
import pytest
from tests.clusters import Cluster
from tests.conftest import NewCluster, NewDatabase
from tests.deployments import TRAIL, Deployment, deploy, query

from pgseal.errors import RollbackError


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_restored_vault_stops_sealing_and_a_new_log_goes_on(
    new_cluster: NewCluster, new_database: NewDatabase, cluster: Cluster, tmp_path: Path
):
    server = new_cluster(16, label="vault")
    source = new_database(cluster)
    query(source, "CREATE TABLE item (id int PRIMARY KEY, note text)")
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    deployment = deploy(source, new_database(server), tmp_path / "old")
    deployment.track("item")
    query(source, "INSERT INTO item SELECT n, 'before' FROM generate_series(1, 10) AS n")
    deployment.seal()
    server.stop()
    server.snapshot()
    server.start()
    query(source, "INSERT INTO item SELECT n, 'after' FROM generate_series(11, 20) AS n")
    deployment.seal()
    size = deployment.checkpoint().size
    server.stop()
    server.restore()
    server.start()

    # It stops with a clear finding, before it seals anything, and goes on stopping.
    query(source, "INSERT INTO item VALUES (21, 'waits')")
    evidence = files_of(deployment.ledger)
    for _ in range(2):
        with pytest.raises(RollbackError, match=f"{size} were sealed.*restore a newer copy.*restore-and-recover"):
            deployment.seal()
    refused = deployment.call("recover", "--yes", "--kind", "restored", TRAIL, expect=1)
    assert refused["recovered"] == []
    assert {(one["kind"], one["where"]) for one in refused["findings"]} == {("missing_record", "vault")}

    # The way on: what happened is recorded in the trail itself, with the old log's last checkpoint.
    checkpoint = (deployment.ledger / "checkpoint").read_text()
    query(
        source,
        "SELECT audit.record_event('LOG_REPLACED', jsonb_build_object('checkpoint', %s::text))",
        checkpoint,
    )
    new = Deployment(source, new_database(server), tmp_path / "new")
    new.call(
        *("init", "--source", source, "--vault", new.vault, "--origin", "clinic.example/test-2", "--name", TRAIL),
        *(
            "--ledger",
            str(new.ledger),
            "--key",
            str(new.directory / "pgseal.key"),
            "--state",
            str(new.directory / "state"),
        ),
    )
    tables = deployment.config.read_text().partition("[source.tables")
    new.config.write_text(new.config.read_text() + "".join(tables[1:]))
    assert new.call("plan", "--check")["changes"] == []
    new.seal()
    ids = new.sealed_ids()
    assert sorted(ids) == new.trail_ids()
    new.check_verified()
    with psycopg.connect(new.vault) as connection:
        notes = connection.execute(
            "SELECT data::jsonb #>> '{new,note}' AS note, count(*) FROM vault.record "
            "WHERE action = 'INSERT' GROUP BY note ORDER BY note"
        ).fetchall()
        said = connection.execute("SELECT data::jsonb ->> 'checkpoint' FROM vault.record WHERE action = 'LOG_REPLACED'")
        assert said.fetchall() == [(checkpoint,)]
    assert notes == [("after", 10), ("before", 10), ("waits", 1)]

    # Of the old log nothing has changed, and it still says what is missing.
    assert files_of(deployment.ledger) == evidence
    assert not deployment.call("verify", expect=1)["ok"]
