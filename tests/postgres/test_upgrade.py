"""An installed older version becomes the newest while the application writes: no record is lost, no write fails."""

import threading
from collections.abc import Sequence

import psycopg
import pytest
from tests.deployments import deploy, query

from pgseal.postgres import connect, install_schema
from pgseal.postgres import schema as schemas
from pgseal.trail.health import read_trigger_faults
from pgseal.trail.marks import read_touched_objects


def install_up_to(monkeypatch: pytest.MonkeyPatch, dsn: str, version: int) -> None:
    whole: Sequence[schemas.Migration] = schemas.load_migrations("pgseal.trail")
    with monkeypatch.context() as patch:
        patch.setattr(schemas, "load_migrations", lambda _package: [one for one in whole if one.version <= version])
        with connect(dsn, side="source") as connection:
            assert install_schema(connection, "audit", "pgseal.trail", side="source").version == version


def describe(dsn: str) -> list[tuple[object, ...]]:
    """What there is in the schema: relations with their columns and privileges, functions with their text."""
    return query(
        dsn,
        """
        SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull::text,
            c.relacl::text
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace = 'audit'::regnamespace
        UNION ALL
        SELECT p.oid::regprocedure::text, pg_get_functiondef(p.oid), p.prosecdef::text, p.proowner::regrole::text,
            p.proacl::text
        FROM pg_proc p WHERE p.pronamespace = 'audit'::regnamespace
        ORDER BY 1, 2
        """,
    )


def test_the_first_version_becomes_the_newest_under_load(any_database, new_database, any_cluster, monkeypatch):
    """Application events are all that the first version records; each of them is there afterwards."""
    install_up_to(monkeypatch, any_database, 1)
    sent: list[int] = []
    stop, failures = threading.Event(), list[BaseException]()

    def write() -> None:
        try:
            with psycopg.connect(any_database, autocommit=True) as connection:
                while not stop.is_set():
                    row = connection.execute("SELECT audit.record_event('NOTE', '{\"x\": 1}')").fetchone()
                    sent.append(row[0])
        except BaseException as error:  # noqa: BLE001 - for the other thread
            failures.append(error)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        newest = schemas.load_migrations("pgseal.trail")[-1].version
        with connect(any_database, side="source") as connection:
            result = install_schema(connection, "audit", "pgseal.trail", side="source")
        assert (result.version, result.created) == (newest, False)
        count = len(sent)
        while len(sent) < count + 20 and not failures:
            stop.wait(0.01)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert failures == []
    assert query(any_database, "SELECT id FROM audit.record ORDER BY id") == [(number,) for number in sorted(sent)]

    fresh = new_database(any_cluster)
    with connect(fresh, side="source") as connection:
        install_schema(connection, "audit", "pgseal.trail", side="source")
        assert read_touched_objects(connection) == []
    assert describe(any_database) == describe(fresh)


def test_tables_tracked_by_a_version_without_marks(database, vault_database, tmp_path):
    """What was tracked before there were marks is held against those of the upgrade from then on."""
    query(database, "CREATE TABLE item (id int PRIMARY KEY, note text)")
    deployment = deploy(database, vault_database, tmp_path)
    deployment.track("item")
    query(database, "UPDATE audit.tracked SET marks = NULL, track_id = NULL")
    query(database, "INSERT INTO item VALUES (1, 'a')")
    assert not any("item" in line for line in deployment.call("status")["warnings"])
    query(database, "UPDATE audit.tracked SET marks = audit.marks(table_oid)")  # as 0005_marks.sql does
    query(database, "ALTER TABLE item DISABLE TRIGGER pgseal_capture_insert")
    query(database, "ALTER TABLE item ENABLE ALWAYS TRIGGER pgseal_capture_insert")
    with connect(database, side="source") as connection:
        assert [fault.trigger for fault in read_trigger_faults(connection)] == ["pgseal_capture_insert"]
    deployment.seal()
    deployment.check_verified()
