"""Attacks 4 and 34: rows that leave a trail without pgseal, and records that are to explain it."""

import json
import time
from contextlib import closing

import psycopg
import pytest
from tests.attacks.attack import Attack
from tests.deployments import TRAIL, Deployment, query
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
    write_old,
)

from pgseal.trail.retention import PartitionOwner

STAGED = (
    Attack(
        4,
        "source superuser",
        "truncate, detach or drop a partition that must be kept",
        "verify: `missing_record`",
        "at the next `pgseal verify`",
    ),
    Attack(
        34,
        "source superuser",
        "drop a partition and insert a false record that explains it",
        "verify: `missing_record`: only sealed records of the vault's own trail count",
        "at the next `pgseal verify`",
    ),
)


@pytest.fixture
def deployment(database, vault_database, tmp_path) -> Deployment:
    return deploy_old(database, vault_database, tmp_path)


def leaves_of(deployment: Deployment, relation: str) -> list[int]:
    ids = [row[0] for row in query(deployment.source, f"SELECT id FROM {relation}")]
    rows = query(
        deployment.vault, "SELECT leaf_index FROM vault.record WHERE trail = %s AND id = ANY(%s) ORDER BY 1", TRAIL, ids
    )
    return [row[0] for row in rows]


def say_retained(dsn: str, leaves: list[list[int]], count: int, relation: str = FIRST) -> None:
    """What a superuser can do: pgseal's own function, with whatever content."""
    data = {"trail": TRAIL, "incarnation": 1, "count": count, "leaves": leaves, "relation": relation}
    query(dsn, "SELECT audit.record_act('RETENTION', %s::jsonb, 'administration', %s)", json.dumps(data), relation)


def drop(deployment: Deployment, relation: str = FIRST) -> None:
    query(deployment.source, f"DROP TABLE {relation}")


def check_missing(deployment: Deployment, leaves: list[int]) -> None:
    report = deployment.run("verify", expect=1)
    assert [(one["kind"], one["where"], one["trail"], one["index"]) for one in report["findings"]] == [
        ("missing_record", "trail", TRAIL, leaf) for leaf in leaves
    ]
    assert report["retained"] == {}


@pytest.mark.parametrize(
    "how", ["DROP TABLE {}", "ALTER TABLE audit.record DETACH PARTITION {}", "TRUNCATE {}", "DELETE FROM {}"]
)
def test_a_partition_that_an_administrator_removes_is_missed(deployment: Deployment, how: str):
    leaves = leaves_of(deployment, FIRST)
    query(deployment.source, how.format(FIRST))
    check_missing(deployment, leaves)
    # And pgseal does not make it its own.
    document = deployment.call("retain", expect=1)
    assert {one["kind"] for one in document["findings"]} == {"missing_record"}
    assert document["dropped"] == []
    assert SECOND in partitions(deployment.source)


def test_a_false_record_in_the_sources_own_trail_explains_nothing(deployment: Deployment):
    leaves = leaves_of(deployment, FIRST)
    say_retained(deployment.source, [[leaves[0], leaves[-1] + 1]], len(leaves))
    deployment.seal()
    drop(deployment)
    check_missing(deployment, leaves)


def test_no_application_can_write_one_in_the_vaults_trail(deployment: Deployment):
    with pytest.raises(psycopg.errors.ReservedName):
        query(deployment.vault, "SELECT audit.record_event('RETENTION', '{}')")


@pytest.mark.parametrize("more", [1, 1000])
def test_a_record_that_covers_too_much_explains_nothing(deployment: Deployment, more: int):
    """More leaves than it counts, though all that are missing are among them."""
    leaves = leaves_of(deployment, FIRST)
    deployment.seal()
    say_retained(deployment.vault, [[leaves[0], leaves[-1] + 1 + more]], len(leaves))
    deployment.seal()
    drop(deployment)
    check_missing(deployment, leaves)


def test_a_record_that_covers_too_little_explains_only_that(deployment: Deployment):
    leaves = leaves_of(deployment, FIRST)
    say_retained(deployment.vault, [[leaves[0], leaves[-1]]], len(leaves) - 1)
    deployment.seal()
    drop(deployment)
    report = deployment.run("verify", expect=1)
    assert [one["index"] for one in report["findings"]] == leaves[-1:]
    assert report["retained"] == {TRAIL: len(leaves) - 1}


def test_a_record_that_is_not_sealed_explains_nothing(deployment: Deployment):
    leaves = leaves_of(deployment, FIRST)
    say_retained(deployment.vault, [[leaves[0], leaves[-1] + 1]], len(leaves))
    drop(deployment)
    check_missing(deployment, leaves)


def test_a_record_that_speaks_of_the_future_explains_nothing(deployment: Deployment):
    query(deployment.source, "INSERT INTO item (note) VALUES ('x')")
    size = deployment.checkpoint().size
    say_retained(deployment.vault, [[size, size + 1]], 1)
    deployment.seal()  # sources first: the row is the leaf that the record names, and this one comes after it
    say_retained(deployment.vault, [[size + 2, size + 3]], 1)
    deployment.seal()
    query(deployment.source, "INSERT INTO item (note) VALUES ('y')")
    deployment.seal()
    (leaf,) = query(deployment.vault, "SELECT max(leaf_index) FROM vault.record WHERE trail = %s", TRAIL)[0]
    query(deployment.source, "DELETE FROM audit.record WHERE id = (SELECT max(id) FROM audit.record)")
    check_missing(deployment, [leaf])


@pytest.mark.parametrize(
    ("attack", "kind"),
    [
        (
            "UPDATE {} SET new = jsonb_set(new, '{{note}}', '\"z\"') WHERE id = (SELECT min(id) FROM {})",
            "altered_record",
        ),
        ("INSERT INTO {} SELECT * FROM {} ORDER BY id LIMIT 1", "forged_record"),
        ("DELETE FROM {} WHERE id = (SELECT min(id) FROM {})", "missing_record"),
    ],
    ids=["altered", "extra", "deleted"],
)
def test_a_partition_that_was_changed_is_not_dropped(deployment: Deployment, attack: str, kind: str):
    query(deployment.source, attack.format(SECOND, SECOND))
    document = deployment.run("retain", expect=1)
    assert [one["kind"] for one in document["findings"]] == [kind]
    assert document["dropped"] == []
    assert {OLDEST, FIRST, SECOND} <= set(partitions(deployment.source))
    assert query(deployment.vault, "SELECT count(*) FROM audit.record WHERE action = 'RETENTION'") == [(0,)]


def test_a_malformed_row_keeps_its_partition_and_no_older_one(deployment: Deployment):
    ids = write_old(deployment.source, "2020-05-05", 2)
    query(deployment.source, "UPDATE audit.record SET category = 'nonsense' WHERE id = %s", ids[0])
    document = deployment.call("retain", expect=1)
    assert [one["relation"] for one in document["dropped"]] == [OLDEST, FIRST]
    assert [(one["relation"], one["reason"]) for one in document["kept"]] == [(SECOND, "malformed: 1 of its rows")]
    report = deployment.run("verify", expect=1)
    assert {one["kind"] for one in report["findings"]} == {"malformed_record"}
    assert report["retained"] == {TRAIL: PER_QUARTER}


def test_what_is_slipped_in_before_the_drop_stays(deployment: Deployment, monkeypatch):
    """A superuser who undoes the closing, after the partition was detached."""
    detach = PartitionOwner.detach

    def detach_and_slip_in(owner, partition, seconds) -> None:
        detach(owner, partition, seconds)
        if partition.relation == FIRST:
            query(deployment.source, f"ALTER TABLE {FIRST} DROP CONSTRAINT record_closed_ck")
            query(deployment.source, f"INSERT INTO {FIRST} SELECT * FROM {FIRST} ORDER BY id LIMIT 1")

    monkeypatch.setattr(PartitionOwner, "detach", detach_and_slip_in)
    deployment.call("retain", expect=3)
    assert loose_tables(deployment.source) == [FIRST.removeprefix("audit.")]
    assert query(deployment.source, f"SELECT count(*) FROM {FIRST}") == [(PER_QUARTER + 1,)]
    check_seamless(deployment.source)


def test_a_source_whose_clock_is_set_ahead_loses_nothing(deployment: Deployment):
    with closing(PartitionOwner(deployment.source, side="source")) as owner:
        assert [one.relation for one in owner.read_expired("400 days", time.time())] == [OLDEST, FIRST, SECOND]
        # By this process's clock it is the year 2021, whatever the source's says.
        assert [one.relation for one in owner.read_expired("300 days", 1_614_000_000.0)] == [OLDEST, FIRST]
        assert owner.read_expired("300 days", 1_580_000_000.0) == []


def test_dropped_rows_that_come_back_changed_are_found(deployment: Deployment):
    (row,) = query(deployment.source, f"SELECT to_jsonb(r)::text, id FROM {FIRST} r ORDER BY id LIMIT 1")
    deployment.call("retain")
    check_retained(deployment, 2 * PER_QUARTER)
    changed = json.loads(row[0]) | {"application": "other"}
    query(
        deployment.source,
        "INSERT INTO audit.record SELECT * FROM jsonb_populate_record(NULL::audit.record, %s::jsonb)",
        json.dumps(changed),
    )
    report = deployment.run("verify", expect=1)
    assert [(one["kind"], one["id"]) for one in report["findings"]] == [("altered_record", row[1])]
