"""Rows that are gone from a trail, with and without a RETENTION record, and the rows of one partition."""

import json
from dataclasses import replace

import pytest
from tests.unit.verifier.samples import MemoryTrail, MemoryVault, Sample, build_files, make_row, sign
from tests.unit.verifier.test_vault import find

from pgseal.verifier.compare import form_leaf
from pgseal.verifier.report import FindingLog
from pgseal.verifier.retention import match_rows
from pgseal.verifier.rows import Row

SIZE = 600
#: The first of the vault's own records in the sample: behind the source's.
OWN = SIZE


def retention_row(index: int, leaves, count: int, **columns) -> Row:
    data = {"trail": "clinic", "incarnation": 1, "count": count, "leaves": leaves, "relation": "audit.record_2024q1"}
    return make_row(
        index,
        **{"trail": "vault", "id": index, "source": "system", "category": "administration", "action": "RETENTION"}
        | {"relation": "audit.record_2024q1", "data": json.dumps(data).encode()}
        | columns,
    )


def make_log(*own: Row, gone: range = range(0)) -> Sample:
    """600 records of clinic and then the vault's own; of clinic's trail the rows of the leaves ``gone`` are gone."""
    rows = [*(make_row(index) for index in range(SIZE)), *own]
    files, root = build_files([form_leaf(row) or b"" for row in rows])
    trail = MemoryTrail([row for row in rows[:SIZE] if row.leaf_index not in gone])
    return Sample(files | {"checkpoint": sign(len(rows), root)}, root, rows, trail)


def test_rows_that_a_sealed_record_covers_may_be_gone():
    sample = make_log(retention_row(OWN, [[0, 100], [150, 200]], 150), gone=range(100))
    del sample.trail.rows[50:100]
    report = sample.verify()
    assert report.ok
    assert report.retained == {"clinic": 150}
    assert report.to_json()["retained"] == {"clinic": 150}
    assert report.checked["trail"] == SIZE - 150


def test_rows_beyond_it_are_missing():
    sample = make_log(retention_row(OWN, [[0, 100]], 100), gone=range(103))
    assert find(sample, "trail") == [("missing_record", "clinic", 101 + i, 100 + i) for i in range(3)]
    assert sample.verify().retained == {"clinic": 100}


def test_rows_that_are_still_there_are_compared():
    sample = make_log(retention_row(OWN, [[0, 100]], 100), gone=range(50))
    sample.trail.rows[3] = replace(sample.trail.rows[3], xid=1)
    assert find(sample, "trail") == [("altered_record", "clinic", 54, 53)]
    sample.trail.rows.insert(0, make_row(7, outcome="denied"))  # comes back, and is another
    assert ("altered_record", "clinic", 8, 7) in find(sample, "trail")


@pytest.mark.parametrize(
    "columns",
    [
        {"trail": "clinic", "id": 5000},
        {"trail": "billing"},
        {"source": "app"},
        {"action": "RETENTIONS"},
        {"data": b"{}"},
        {"data": b'{"trail": "clinic", "incarnation": 2, "count": 9, "leaves": [[0, 9]], "relation": "a.b"}'},
        {"data": b'{"trail": "vault", "incarnation": 1, "count": 9, "leaves": [[0, 9]], "relation": "a.b"}'},
    ],
    ids=str,
)
def test_a_record_that_is_not_the_vaults_own_or_says_something_else_explains_nothing(columns):
    sample = make_log(retention_row(OWN, [[0, 9]], 9, **columns), gone=range(9))
    sample.trail.rows += [replace(row, leaf_index=None) for row in sample.rows[SIZE:] if row.trail == "clinic"]
    assert find(sample, "trail") == [("missing_record", "clinic", 1 + i, i) for i in range(9)]
    assert sample.verify().retained == {}


@pytest.mark.parametrize(
    ("leaves", "count"),
    [([[0, 100]], 9), ([[0, 10]], 9), ([[0, 9], [20, 30]], 9), ([[0, 601]], 600), ([[0, 5000]], 600)],
)
def test_a_record_that_covers_other_leaves_than_it_counts_or_the_future_explains_nothing(leaves, count: int):
    sample = make_log(retention_row(OWN, leaves, count), gone=range(9))
    assert len(find(sample, "trail")) == 9


def test_a_record_that_waits_to_be_sealed_explains_nothing():
    sample = make_log(gone=range(9))
    sample.rows.append(retention_row(OWN, [[0, 9]], 9))
    assert len(find(sample, "trail")) == 9


def test_an_altered_record_explains_nothing():
    sample = make_log(retention_row(OWN, [[0, 9]], 9), gone=range(12))
    sample.rows[OWN] = retention_row(OWN, [[0, 12]], 12)
    kinds = [finding.kind for finding in sample.verify().findings]
    assert kinds == ["altered_record", *["missing_record"] * 12]


def test_leaves_of_other_trails_between_do_not_count():
    foreign = [make_row(index, trail="billing") for index in (3, 4, 5)]
    rows = [make_row(index) for index in range(20)]
    rows[3:6] = foreign
    rows.append(retention_row(20, [[0, 10]], 7))
    files, root = build_files([form_leaf(row) or b"" for row in rows])
    trail = MemoryTrail([row for row in rows[10:20] if row.trail == "clinic"])
    sample = Sample(files | {"checkpoint": sign(len(rows), root)}, root, rows, trail)
    assert find(sample, "trail") == []
    assert sample.verify().retained == {"clinic": 7}


def test_two_records_of_the_same_leaves_are_as_good_as_one():
    sample = make_log(retention_row(OWN, [[0, 9]], 9), retention_row(OWN + 1, [[0, 9]], 9), gone=range(9))
    assert sample.verify().retained == {"clinic": 9}


@pytest.mark.parametrize("damage", ["delete", "change"])
def test_damage_in_the_vault_is_not_blamed_on_the_trail(damage: str):
    sample = make_log(retention_row(OWN, [[0, 100]], 100), gone=range(100))
    if damage == "delete":
        del sample.rows[5]
    else:
        sample.rows[5] = replace(sample.rows[5], outcome="denied", id=8001)
    report = sample.verify()
    assert {finding.where for finding in report.findings} == {"vault"}
    assert report.retained == {"clinic": 100}


def match(sample: Sample, rows: list[Row], **options):
    findings = FindingLog()
    found = match_rows(MemoryTrail(rows, **options), MemoryVault(sample.rows), SIZE, {}, findings)
    return found, [(one.kind, one.id, one.index) for one in findings.listed]


def test_the_leaves_of_a_partition():
    sample = make_log()
    found, findings = match(sample, [*sample.rows[5:10], *sample.rows[20:21]])
    assert (found.leaves.ranges, found.count, found.waiting, findings) == (((5, 10), (20, 21)), 6, 0, [])
    assert match(sample, [])[0].count == 0


def test_a_row_of_a_partition_that_is_not_what_was_sealed():
    sample = make_log()
    changed = [sample.rows[5], replace(sample.rows[6], xid=1), make_row(6, outcome="denied"), make_row(4000)]
    found, findings = match(sample, changed)
    assert found.count == 1
    assert [one[:2] for one in findings] == [("altered_record", 7), ("forged_record", 7), ("forged_record", 4001)]


def test_rows_of_a_partition_that_wait():
    sample = make_log()
    sample.rows.append(make_row(SIZE))
    found, findings = match(sample, [sample.rows[5], make_row(SIZE), make_row(SIZE + 1)], unsealed={SIZE + 2})
    assert (found.count, found.waiting, findings) == (1, 2, [])
