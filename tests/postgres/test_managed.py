"""On a managed server: no superuser at work, a role that owns the database and its tables, and may create roles."""

import contextlib
import json

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.conftest import NewCluster
from tests.deployments import Deployment, deploy


@pytest.mark.parametrize("major", [15, 16, 18])
def test_everything_is_done_without_a_superuser(new_cluster: NewCluster, tmp_path, major: int):
    cluster = new_cluster(major)
    cluster.execute("CREATE ROLE boss LOGIN CREATEROLE")
    cluster.execute("CREATE ROLE app LOGIN")
    dsns: dict[str, str] = {}
    for name in ("clinic", "vault"):
        cluster.create_database(name, owner="boss")
        dsns[name] = make_conninfo(cluster.dsn(name), user="boss")
    deployment = deploy(dsns["clinic"], dsns["vault"], tmp_path)
    with (
        contextlib.closing(psycopg.connect(dsns["clinic"], autocommit=True)) as boss,
        contextlib.closing(psycopg.connect(make_conninfo(dsns["clinic"], user="app"), autocommit=True)) as app,
    ):
        boss.execute("CREATE SCHEMA app_data")
        boss.execute("CREATE TABLE app_data.item (id int PRIMARY KEY, note text, at timestamptz DEFAULT now())")
        boss.execute("CREATE TABLE app_data.event (id int PRIMARY KEY, note text) PARTITION BY RANGE (id)")
        boss.execute("CREATE TABLE app_data.event_1 PARTITION OF app_data.event FOR VALUES FROM (0) TO (100)")
        boss.execute("GRANT USAGE ON SCHEMA app_data TO app")
        boss.execute("GRANT ALL ON ALL TABLES IN SCHEMA app_data TO app")
        boss.execute("INSERT INTO app_data.item VALUES (1, 'before')")
        deployment.track("app_data.item", "app_data.event")
        for table in ("item", "event"):
            app.execute(f"INSERT INTO app_data.{table} (id, note) VALUES (2, 'a')")
            app.execute(f"INSERT INTO app_data.{table} (id, note) VALUES (3, 'b'), (4, 'c')")
            app.execute(f"UPDATE app_data.{table} SET note = note || '!'")
            app.execute(f"DELETE FROM app_data.{table} WHERE id = 2")
            app.execute(f"TRUNCATE app_data.{table}")
        boss.execute("ALTER TABLE app_data.item ADD COLUMN later int")
        app.execute("INSERT INTO app_data.item VALUES (5, 'd')")
        deployment.call("plan", "--check", expect=1)
        assert deployment.call("apply")["left"] == []
        assert deployment.call("plan")["changes"] == []
        app.execute("SELECT audit.record_event('LOGIN')")
        deployment.seal()
        deployment.check_sealed()
        deployment.check_verified()
        check_facts(deployment)
        check_refused(app)
        check_seen(deployment, boss)
        deployment.call("untrack", "app_data.item")
        deployment.call("untrack", "app_data.event")
        app.execute("INSERT INTO app_data.event VALUES (9)")
    deployment.seal()
    deployment.check_verified()


def check_facts(deployment: Deployment) -> None:
    """Who did it is known; when his session began is not, where nobody could grant pg_read_all_stats."""
    record = deployment.call("history", "app_data.item", "5")[0]
    assert record["actor"]["role"] == "app"
    assert record["actor"].get("authenticated", "app") == "app"
    status = deployment.call("status")
    assert {table["relation"] for table in status["tables"]} == {"app_data.item", "app_data.event"}
    assert all(table["capturing"] for table in status["tables"])
    advice = json.dumps(deployment.call("doctor", expect=1))
    assert "DDL is not recorded" in advice


def check_refused(app: psycopg.Connection) -> None:
    for statement in (
        "SELECT * FROM audit.record",
        "SET ROLE pgseal_owner",
        "ALTER TABLE app_data.item DISABLE TRIGGER USER",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute(statement)


def check_seen(deployment: Deployment, boss: psycopg.Connection) -> None:
    """What the owner of the tables does to capture is seen, although he installed it."""
    with boss.transaction():
        boss.execute("ALTER TABLE app_data.item DISABLE TRIGGER pgseal_capture_delete")
        boss.execute("DELETE FROM app_data.item")
        boss.execute("ALTER TABLE app_data.item ENABLE ALWAYS TRIGGER pgseal_capture_delete")
    warnings = "\n".join(deployment.call("status")["warnings"])
    assert "trigger pgseal_capture_delete was changed or disabled since it was made, and put back" in warnings
    deployment.call("apply")
    assert deployment.call("plan")["changes"] == []
