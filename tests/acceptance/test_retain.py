"""`pgseal retain`: what is past its retention leaves the trail, and nothing else does."""

import threading
import time
from contextlib import closing

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.deployments import TRAIL, Deployment, RunningSealer, query
from tests.retention import (
    FIRST,
    OLDEST,
    PER_QUARTER,
    SECOND,
    check_retained,
    check_seamless,
    deploy_old,
    loose_tables,
    partitions,
    set_retention,
    write_old,
)

from pgseal.cli import retain
from pgseal.sealer import retention
from pgseal.trail.retention import PartitionOwner


@pytest.fixture
def deployment(database, vault_database, tmp_path) -> Deployment:
    return deploy_old(database, vault_database, tmp_path)


def relations(document, member: str = "dropped") -> list[str]:
    return [one["relation"] for one in document[member]]


@pytest.mark.servers(15, 16, 18)
def test_old_partitions_are_dropped_and_verified(any_database, vault_database, tmp_path):
    deployment = deploy_old(any_database, vault_database, tmp_path)
    before = deployment.trail_ids()

    document = deployment.run("retain")
    assert document["ok"]
    assert [(one["relation"], one["records"]) for one in document["dropped"]] == [
        (OLDEST, 0),
        (FIRST, PER_QUARTER),
        (SECOND, PER_QUARTER),
    ]
    check_retained(deployment, 2 * PER_QUARTER)
    check_seamless(deployment.source)
    assert not {FIRST, SECOND} & set(partitions(deployment.source))
    assert loose_tables(deployment.source) == []
    assert len(deployment.trail_ids()) == len(before) - 2 * PER_QUARTER

    # What happened is a record of its own, sealed like any other.
    (first, second) = query(
        deployment.vault, "SELECT relation, data::jsonb, trail, source FROM vault.record WHERE action = 'RETENTION'"
    )
    assert first[0] == FIRST
    assert first[1]["count"] == PER_QUARTER
    assert first[1]["trail"] == TRAIL
    assert first[1]["leaves"] == document["dropped"][1]["leaves"]
    assert second[2:] == ("vault", "system")

    # Life goes on, and the next run has nothing to do.
    query(deployment.source, "UPDATE item SET note = 'y' WHERE id <= 5")
    deployment.seal()
    assert deployment.run("retain")["dropped"] == []
    check_retained(deployment, 2 * PER_QUARTER)
    assert len(deployment.call("history", "item", "1")) == 2  # the vault has it all


def test_a_dry_run_changes_nothing(deployment: Deployment):
    size, before = deployment.checkpoint().size, partitions(deployment.source)
    assert relations(deployment.call("retain", "--dry-run")) == [OLDEST, FIRST, SECOND]
    assert (deployment.checkpoint().size, partitions(deployment.source)) == (size, before)
    check_retained(deployment, 0)


def test_without_a_retention_all_is_kept(deployment: Deployment):
    set_retention(deployment, None)
    assert deployment.call("retain")["dropped"] == []
    set_retention(deployment, "50 years")
    assert deployment.call("retain")["dropped"] == []
    check_retained(deployment, 0)


def test_the_partition_of_the_retention_itself_stays(deployment: Deployment):
    age = query(deployment.source, "SELECT (now()::date - date '2020-07-01')")[0][0]
    set_retention(deployment, f"{age + 5} days")
    assert relations(deployment.call("retain")) == [OLDEST, FIRST]
    check_retained(deployment, PER_QUARTER)
    check_seamless(deployment.source)
    set_retention(deployment, "1 day")
    assert SECOND in relations(deployment.call("retain"))
    check_retained(deployment, 2 * PER_QUARTER)
    check_seamless(deployment.source)
    assert query(
        deployment.source, "SELECT count(*) FROM audit.record WHERE recorded_at > now() - '1 day'::interval"
    ) > [(39,)]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('"400"', "expected how long to keep, such as '400 days'"),
        ('"0 days"', "expected how long to keep"),
        ('"-1 days"', "expected how long to keep"),
        ('"12 hours"', "expected how long to keep"),
        ('"101 years"', "at most 100 years"),
        ("400", "expected a string"),
    ],
)
def test_a_retention_that_cannot_be_is_refused(deployment: Deployment, value: str, words: str):
    text = deployment.config.read_text().replace('retention = "400 days"', f"retention = {value}")
    deployment.config.write_text(text)
    with deployment.start("retain") as process:
        _, errors = process.communicate()
    assert process.returncode == 2
    assert words in errors
    assert "retention" in errors


def test_a_trail_that_was_idle_for_longer_is_still_known(database, vault_database, tmp_path):
    deployment = deploy_old(database, vault_database, tmp_path)
    other = write_old(deployment.source, "2020-06-01", 50)
    deployment.seal()
    assert relations(deployment.call("retain")) == [OLDEST, FIRST, SECOND]
    assert not set(other) & set(deployment.trail_ids())  # the last rows that were sealed are gone
    deployment.seal()
    query(deployment.source, "INSERT INTO item (note) VALUES ('z')")
    deployment.seal()
    check_retained(deployment, 2 * PER_QUARTER + 50)


def test_rows_that_are_not_sealed_keep_their_partition(deployment: Deployment, monkeypatch):
    write_old(deployment.source, "2020-05-05", 3)
    document = deployment.call("retain", "--dry-run", expect=1)  # a dry run does not seal
    assert relations(document) == [OLDEST, FIRST]
    assert [(one["relation"], one["reason"]) for one in document["kept"]] == [(SECOND, "not sealed yet: 3 of its rows")]
    monkeypatch.setattr("pgseal.sealer.acts.seal_all", lambda _settings: None)
    monkeypatch.setattr("pgseal.sealer.acts._WAIT_SECONDS", 0.5)
    deployment.call("retain", expect=3)  # nobody seals what it has to say
    assert set(partitions(deployment.source)) >= {FIRST, SECOND}
    monkeypatch.undo()
    assert relations(deployment.call("retain")) == [OLDEST, FIRST, SECOND]
    check_retained(deployment, 2 * PER_QUARTER + 3)


def test_a_legal_hold_keeps_partitions(deployment: Deployment):
    why = ("--reason", "claim 17", "--approved-by", "j.doe")
    deployment.call("hold", "add", "case-17", "--table", "item", "--key", "1", *why)
    document = deployment.call("retain", expect=1)
    # An empty partition holds nothing that could be held.
    assert relations(document) == [OLDEST]
    assert [(one["relation"], one["reason"]) for one in document["kept"]] == [
        (FIRST, "kept by legal hold case-17"), (SECOND, "kept by legal hold case-17"),
    ]  # fmt: skip
    deployment.call("hold", "release", "case-17", *why)
    assert FIRST in relations(deployment.call("retain"))
    check_retained(deployment, 2 * PER_QUARTER)


def test_beside_a_sealer_at_work_and_writers(deployment: Deployment):
    sealer = RunningSealer(deployment)
    stop, errors, seconds = threading.Event(), [], []

    def write() -> None:
        try:
            with psycopg.connect(deployment.source, autocommit=True) as connection:
                while not stop.is_set():
                    began = time.monotonic()
                    connection.execute("UPDATE item SET note = clock_timestamp()::text WHERE id = 3")
                    seconds.append(time.monotonic() - began)
        except psycopg.Error as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert relations(deployment.call("retain")) == [OLDEST, FIRST, SECOND]
    finally:
        stop.set()
        thread.join()
        sealer.stop()
    assert errors == []
    assert max(seconds) < 1
    deployment.seal()
    check_retained(deployment, 2 * PER_QUARTER)


def test_a_row_that_arrives_with_a_clock_set_back_is_not_lost(deployment: Deployment, monkeypatch):
    """Between the verification and the drop."""
    ids: list[int] = []
    original = retention.ensure_sealed

    def seal_and_write(*arguments) -> None:
        original(*arguments)
        if not ids:
            ids.extend(write_old(deployment.source, "2020-02-03", 1))

    monkeypatch.setattr(retention, "ensure_sealed", seal_and_write)
    document = deployment.call("retain", expect=1)
    assert relations(document) == [OLDEST]
    assert [one["reason"] for one in document["kept"]] == ["rows arrived while it was looked at; run it again"]
    assert set(ids) <= set(deployment.trail_ids())
    deployment.seal()
    assert set(ids) <= set(deployment.sealed_ids())
    check_retained(deployment, 0)
    check_seamless(deployment.source)
    monkeypatch.undo()
    assert relations(deployment.call("retain"))[-2:] == [FIRST, SECOND]
    check_retained(deployment, 2 * PER_QUARTER + 1)


def test_a_long_transaction_puts_it_off(deployment: Deployment, monkeypatch):
    monkeypatch.setattr(retain, "_WAIT_SECONDS", 1.0)
    with closing(psycopg.connect(deployment.source)) as reader:
        reader.execute("SELECT count(*) FROM audit.record")
        deployment.call("retain", expect=3)
        assert set(partitions(deployment.source)) >= {FIRST, SECOND}
    deployment.call("retain")
    check_retained(deployment, 2 * PER_QUARTER)


def test_a_detach_that_was_broken_off_is_finished(deployment: Deployment, monkeypatch):
    monkeypatch.setattr(retain, "_WAIT_SECONDS", 1.0)
    close_partition = PartitionOwner.close_partition
    with closing(psycopg.connect(deployment.source)) as reader:

        def close_and_read(owner: PartitionOwner, relation: str) -> None:
            close_partition(owner, relation)
            reader.execute("SELECT count(*) FROM audit.record")

        monkeypatch.setattr(PartitionOwner, "close_partition", close_and_read)
        deployment.call("retain", expect=3)  # waits for the reader, and gives up
        monkeypatch.undo()
    assert query(deployment.source, "SELECT count(*) FROM audit.partitions() WHERE is_detaching") == [(1,)]
    assert query(deployment.source, "SELECT audit.ensure_partitions()") == [(0,)]
    query(deployment.source, "INSERT INTO item (note) VALUES ('meanwhile')")
    deployment.seal()
    deployment.check_verified()
    deployment.call("retain")
    check_retained(deployment, 2 * PER_QUARTER)
    check_seamless(deployment.source)
    assert loose_tables(deployment.source) == []


def test_two_at_once_and_a_verification(deployment: Deployment, monkeypatch):
    with closing(psycopg.connect(deployment.vault, autocommit=True)) as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('pgseal retain', 0))")
        deployment.call("retain", expect=3)
        other.execute("SELECT pg_advisory_unlock_all()")
        other.execute("SELECT pg_advisory_lock_shared(hashtextextended('pgseal verify', 0))")
        monkeypatch.setattr(retain, "_LOCK_SECONDS", 0.3)
        deployment.call("retain", expect=3)
        deployment.check_verified()
        monkeypatch.setattr("pgseal.cli.verify._LOCK_SECONDS", 0.3)
        other.execute("SELECT pg_advisory_unlock_all()")
        other.execute("SELECT pg_advisory_lock(hashtextextended('pgseal verify', 0))")
        deployment.call("verify", expect=3)
    assert set(partitions(deployment.source)) >= {FIRST, SECOND}


def test_plain_words(deployment: Deployment):
    for arguments, words in (
        (("retain", "--dry-run"), f"would drop {FIRST} of trail clinic, 30 records"),
        (("retain",), f"✓ dropped {SECOND} of trail clinic, 30 records"),
        (("retain",), "nothing to drop: clinic keeps 400 days"),
        (("verify",), "60 more records of trail clinic dropped past their retention, as sealed"),
    ):
        with deployment.start(*arguments) as process:
            output, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")
        assert words in output


def test_without_superuser_rights(new_cluster, vault_database, tmp_path):
    cluster = new_cluster(16)
    deployment = deploy_old(cluster.create_database("app"), vault_database, tmp_path)
    for statement in (
        "CREATE ROLE sealing LOGIN",
        "GRANT pgseal_sealer TO sealing",
        "CREATE ROLE administrator LOGIN",
        "GRANT pgseal_owner TO administrator",
    ):
        cluster.execute(statement)
    login = make_conninfo(deployment.source, user="sealing")
    text = deployment.config.read_text().replace(deployment.source, login)
    deployment.config.write_text(text)
    with deployment.start("retain") as process:
        _, errors = process.communicate()
    assert (process.returncode, "may not act as pgseal_owner" in errors) == (2, True)

    administrator = make_conninfo(deployment.source, user="administrator")
    deployment.config.write_text(text.replace("[[source]]\n", f'[[source]]\nadmin_dsn = "{administrator}"\n'))
    assert relations(deployment.call("retain")) == [OLDEST, FIRST, SECOND]
    check_retained(deployment, 2 * PER_QUARTER)
