"""Installing the schemas: idempotent, as a role without superuser rights, and refused with the way out."""

import psycopg
import pytest
from psycopg import conninfo
from tests.conftest import NewCluster

from pgseal.errors import ConfigError, UnavailableError
from pgseal.postgres import connect, install_schema, read_version
from pgseal.postgres.schema import load_migrations
from pgseal.trail.capture import TableRule
from pgseal.trail.track import track


def install(dsn: str):
    with connect(dsn, side="source") as connection:
        return install_schema(connection, "audit", "pgseal.trail", side="source")


def test_installing_twice_changes_nothing(any_database: str):
    newest = load_migrations("pgseal.trail")[-1].version
    assert install(any_database).created
    again = install(any_database)
    assert (again.version, again.created) == (newest, False)
    with connect(any_database, side="vault") as connection:
        assert install_schema(connection, "vault", "pgseal.vault", side="vault").created
        assert not install_schema(connection, "vault", "pgseal.vault", side="vault").created
        assert read_version(connection, "audit", side="source") == newest


def test_the_trail_has_partitions_from_the_beginning_of_time_to_years_ahead(database: str):
    install(database)
    with psycopg.connect(database, autocommit=True) as connection:
        for moment in ("-infinity", "0044-03-15 BC", "2000-01-01", "now", "now() + interval '23 months'"):
            value = f"({moment})" if moment.startswith("now()") else f"'{moment}'"
            connection.execute(
                "INSERT INTO audit.record (id, recorded_at, xid, pid, source, category, action, outcome, session_role) "
                f"VALUES (1, {value}::timestamptz, '3', 1, 'app', 'administration', 'X', 'success', 'x')"
            )
        row = connection.execute("SELECT count(*) FROM pg_publication").fetchone()
        assert row == (0,)


def test_a_foreign_schema_of_that_name_is_left_alone(database: str):
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA audit")
        connection.execute("CREATE TABLE audit.log (x int)")
    with pytest.raises(ConfigError, match="not pgseal's"):
        install(database)


def test_a_newer_schema_is_refused(database: str):
    install(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("INSERT INTO audit.migration VALUES (1000)")
    with pytest.raises(ConfigError, match="upgrade pgseal"):
        install(database)


def test_without_superuser_rights(new_cluster: NewCluster):
    cluster = new_cluster(16)
    cluster.execute("CREATE ROLE owner LOGIN")
    dsn = conninfo.make_conninfo(cluster.create_database("app"), user="owner")
    with pytest.raises(ConfigError, match="ALTER ROLE owner CREATEROLE"):
        install(dsn)
    cluster.execute("ALTER ROLE owner CREATEROLE")
    with pytest.raises(ConfigError, match="GRANT CREATE ON DATABASE app TO owner"):
        install(dsn)
    cluster.execute("GRANT CREATE ON DATABASE app TO owner")
    cluster.execute("CREATE SCHEMA s AUTHORIZATION owner", "app")
    assert install(dsn).created
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE s.t (id int PRIMARY KEY)")
        connection.execute("INSERT INTO s.t VALUES (1)")
        assert track(dsn, "s", "t", TableRule(), side="source").rows == 1
        connection.execute("INSERT INTO s.t VALUES (2)")
    actions = cluster.execute("SELECT action FROM audit.record ORDER BY id", "app")
    assert actions == [("TRACK",), ("SNAPSHOT",), ("INSERT",)]


def test_a_server_or_login_that_is_not_there(database: str):
    with pytest.raises(UnavailableError, match="cannot reach"):
        connect(conninfo.make_conninfo(database, host="/nowhere"), side="source")
    with pytest.raises(ConfigError, match="does not exist"):
        connect(conninfo.make_conninfo(database, dbname="nowhere"), side="source")
    with pytest.raises(ConfigError, match="nobody"):
        connect(conninfo.make_conninfo(database, user="nobody"), side="source")
    with pytest.raises(ConfigError, match="malformed"):
        connect("host=a b c=", side="source")


def test_every_encoding_can_hold_the_schemas(new_cluster):
    """No character of the SQL is beyond ASCII; a database in LATIN1 is one that would notice."""
    cluster = new_cluster(16)
    cluster.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with connect(cluster.dsn("latin"), side="source") as installer:
        for schema, package in (("audit", "pgseal.trail"), ("vault", "pgseal.vault")):
            install_schema(installer, schema, package, side="source")
            assert read_version(installer, schema, side="source") > 0
