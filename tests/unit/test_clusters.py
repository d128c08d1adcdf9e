"""The test clusters themselves: what other tests take for granted."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psycopg
import pytest
from tests.clusters import Binaries, Cluster, _is_alive, find_binaries, find_installations
from tests.conftest import NewCluster, NewDatabase


def test_every_major_answers_with_its_own_version(any_cluster: Cluster):
    [(version,)] = any_cluster.execute("SELECT current_setting('server_version_num')::int / 10000")
    assert version == any_cluster.major


def test_more_majors_are_found_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.clusters.find_installations", find_installations.__wrapped__)
    monkeypatch.delenv("PGSEAL_POSTGRES", raising=False)
    installed = find_binaries()
    for major in (*installed, 99):
        program = tmp_path / f"{major}" / "postgres"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {major}.1'\n", encoding="utf-8")
        program.chmod(0o755)
    monkeypatch.setenv("PGSEAL_POSTGRES", ":".join(map(str, tmp_path.iterdir())))
    assert find_binaries() == {**installed, 99: Binaries(99, tmp_path / "99", "named")}


def test_debian_cluster_preloads_pgaudit(cluster15: Cluster):
    assert cluster15.execute("SHOW shared_preload_libraries") == [("pgaudit",)]


def test_source_and_vault_are_different_servers(database: str, vault_database: str):
    identifiers = set()
    for dsn in (database, vault_database):
        with psycopg.connect(dsn) as connection:
            identifiers.add(connection.execute("SELECT system_identifier FROM pg_control_system()").fetchone())
    assert len(identifiers) == 2


def test_databases_are_fresh_and_apart(new_database: NewDatabase, cluster: Cluster):
    first = new_database(cluster)
    with psycopg.connect(first) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS a")
        name = connection.info.dbname
    for dsn, tables in ((new_database(cluster), 0), (new_database(cluster, template=name), 1)):
        with psycopg.connect(dsn) as connection:
            assert connection.execute("SELECT count(*) FROM pg_tables WHERE tablename = 't'").fetchone() == (tables,)


def test_drop_database_removes_prepared_transactions_and_open_connections(cluster: Cluster):
    dsn = cluster.create_database("stubborn")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 'left over'")
        cluster.drop_database("stubborn")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert cluster.execute("SELECT count(*) FROM pg_database WHERE datname = 'stubborn'") == [(0,)]


def test_crash_keeps_what_was_committed_and_nothing_else(new_cluster: NewCluster):
    own = new_cluster()
    own.execute("CREATE TABLE t (a int)")
    own.execute("INSERT INTO t VALUES (1)")
    with own.connect(autocommit=False) as connection:
        connection.execute("INSERT INTO t VALUES (2)")
        own.kill()
        assert not own.is_running
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    own.start()
    assert own.execute("SELECT a FROM t") == [(1,)]
    assert "was not properly shut down" in own.log.read_text()


def test_restore_goes_back_to_the_snapshot(new_cluster: NewCluster):
    own = new_cluster()
    own.execute("CREATE TABLE t (a int)")
    own.stop()
    own.snapshot()
    own.start().execute("INSERT INTO t VALUES (1)")
    own.stop("immediate")
    own.restore()
    assert own.start().execute("SELECT count(*) FROM t") == [(0,)]
    with pytest.raises(RuntimeError, match="stop"):
        own.snapshot()


def test_standby_follows_and_settings_survive_a_restart(new_cluster: NewCluster):
    own = new_cluster(18, {"work_mem": "7MB"}, listen=True)
    own.base_backup()
    with own.clone("backup", standby=True) as standby:
        assert standby.execute("SELECT pg_is_in_recovery()") == [(True,)]
        own.execute("CREATE TABLE t AS SELECT 1 AS a")
        deadline = time.monotonic() + 20
        while standby.execute("SELECT to_regclass('t') IS NULL") == [(True,)]:
            assert time.monotonic() < deadline
    port = own.port
    own.restart()
    with psycopg.connect(own.dsn(tcp=True)) as connection:
        assert connection.execute("SHOW work_mem").fetchone() == ("7MB",)
        assert connection.info.port == port


def test_a_server_that_cannot_start_shows_its_log(new_cluster: NewCluster):
    own = new_cluster()
    own.stop()
    own.settings["shared_buffers"] = "nonsense"
    with pytest.raises(RuntimeError, match="invalid value for parameter"):
        own.start()


def test_servers_end_with_a_test_run_that_is_killed():
    major = max(find_binaries())
    program = f"""
        from tests.clusters import clusters, make_cluster
        cluster = make_cluster({major}).start()
        print(cluster.postmaster.pid, cluster.directory, flush=True)
        input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        pid, directory = process.stdout.readline().split()
        assert _is_alive(int(pid))
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while _is_alive(int(pid)) or Path(directory).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
