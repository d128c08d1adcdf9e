"""Damage in a trail, seen by the whole verifier."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.verifier.samples import MemoryTrail, Sample, build_files, make_row, make_sample, sign
from tests.unit.verifier.test_vault import CHANGES, VALUES, find

from pgseal.errors import AlteredRecordError, StorageError
from pgseal.verifier.compare import form_leaf

CLEAN = make_sample(40)
COLUMNS = ["time", "xid", "source", "category", "action", "outcome", "relation", "actor", "data"]


@pytest.mark.parametrize("column", COLUMNS)
def test_change_of_one_column_names_record_and_column(sample: Sample, column: str):
    sample.trail.rows[300] = replace(sample.trail.rows[300], **{column: CHANGES[column]})
    assert find(sample, "trail") == [("altered_record", "clinic", 301, 300)]
    assert f"column {column} differs from what was sealed" in sample.verify().findings[0].detail


@pytest.mark.parametrize("index", [0, 299, 599])
def test_deleted_row_is_missing(sample: Sample, index: int):
    del sample.trail.rows[index]
    assert find(sample, "trail") == [("missing_record", "clinic", index + 1, index)]


def test_lost_trail_misses_every_record(sample: Sample):
    sample.trail.rows.clear()
    assert len(find(sample, "trail")) == 600


def test_inserted_row_of_a_sealed_transaction_is_forged(sample: Sample):
    sample.trail.rows.append(make_row(4000))
    assert find(sample, "trail") == [("forged_record", "clinic", 4001, None)]


def test_row_without_an_id_is_forged(sample: Sample):
    sample.trail.rows.append(make_row(4000, id=None))
    assert find(sample, "trail") == [("forged_record", "clinic", None, None)]


@pytest.mark.parametrize("columns", [{}, {"action": "DELETE"}])
@pytest.mark.parametrize("place", [0, 101])
def test_repeated_id_is_forged(sample: Sample, columns: dict[str, str], place: int):
    sample.trail.rows.insert(place, make_row(99, **columns))
    assert find(sample, "trail") == [("forged_record", "clinic", 100, 99)]


def test_record_that_is_sealed_twice_is_forged():
    rows = [make_row(0), make_row(1, id=1), make_row(2)]
    files, root = build_files([form_leaf(row) or b"" for row in rows])
    doubled = Sample(files | {"checkpoint": sign(3, root)}, root, rows, MemoryTrail([rows[0], rows[2]]))
    assert find(doubled) == [("forged_record", "clinic", 1, 1)]


def test_renumbered_row_is_missing_and_forged(sample: Sample):
    sample.trail.rows[7] = replace(sample.trail.rows[7], id=4001)
    assert find(sample, "trail") == [("missing_record", "clinic", 8, 7), ("forged_record", "clinic", 4001, None)]


def test_swapped_contents_are_both_altered(sample: Sample):
    rows = sample.trail.rows
    rows[7], rows[9] = replace(rows[9], id=8), replace(rows[7], id=10)
    assert find(sample, "trail") == [("altered_record", "clinic", 8, 7), ("altered_record", "clinic", 10, 9)]


def test_same_change_on_both_sides_is_found_on_both(sample: Sample):
    for rows in (sample.rows, sample.trail.rows):
        rows[5] = replace(rows[5], xid=1, actor=b"{}")
    found = [(finding.kind, finding.where, finding.id) for finding in sample.verify().findings]
    assert found == [("altered_record", "vault", 6), ("altered_record", "trail", 6)]


def test_record_deleted_on_both_sides_is_found_on_both(sample: Sample):
    del sample.rows[5], sample.trail.rows[5]
    found = [(finding.kind, finding.where, finding.id) for finding in sample.verify().findings]
    assert found == [("missing_record", "vault", 6), ("missing_record", "trail", 6)]


def test_trail_changed_where_the_vault_row_is_gone_is_judged_by_the_entry(sample: Sample):
    del sample.rows[5]
    sample.trail.rows[5] = replace(sample.trail.rows[5], xid=1)
    found = [(finding.kind, finding.where, finding.id) for finding in sample.verify().findings]
    assert found == [("missing_record", "vault", 6), ("altered_record", "trail", 6)]


def test_waiting_vault_row_is_compared_with_the_trail(sample: Sample):
    sample.rows += [make_row(600), make_row(601, action="LOGIN")]
    report = sample.verify()
    assert [(finding.kind, finding.where, finding.id) for finding in report.findings] == [
        ("altered_record", "vault", 602)
    ]
    assert (report.checked["trail"], report.waiting) == (600, 3)


def test_malformed_row_is_named():
    rows = [make_row(0), make_row(1, trail="vault", id=1, action="MALFORMED", source="system", relation=None,
                                 data=b'{"trail": "clinic", "id": 2, "hash": "00"}')]  # fmt: skip
    files, root = build_files([form_leaf(row) or b"" for row in rows])
    damaged = Sample(files | {"checkpoint": sign(2, root)}, root, rows, MemoryTrail([rows[0], make_row(1, time=None)]))
    assert find(damaged, "trail") == [("malformed_record", "clinic", 2, 1)]
    assert damaged.verify().unchecked_trails == ("vault (incarnation 1)",)
    assert "not sealed as it stands" in damaged.verify().findings[0].detail
    damaged.trail.rows.pop()
    assert find(damaged, "trail") == [("malformed_record", "clinic", 2, 1)]
    assert "gone from the trail" in damaged.verify().findings[0].detail


@pytest.mark.parametrize("change", [{}, {"xid": 1}], ids=["sound", "altered"])
@pytest.mark.parametrize("place", [1, 2])
def test_malformed_row_beside_a_sealed_one_with_its_id_is_not_called_gone(place: int, change: dict[str, int]):
    rows = [make_row(0), make_row(1), make_row(2, trail="vault", id=1, action="MALFORMED", source="system",
                                 relation=None, data=b'{"trail": "clinic", "id": 2, "hash": "00"}')]  # fmt: skip
    files, root = build_files([form_leaf(row) or b"" for row in rows])
    trail = MemoryTrail([rows[0], replace(rows[1], **change)])
    trail.rows.insert(place, make_row(1, time=None))
    found = Sample(files | {"checkpoint": sign(3, root)}, root, rows, trail).verify().findings
    altered = [("altered_record", 1)] if change else []
    assert [(one.kind, one.index) for one in found] == [*altered, ("malformed_record", 2)]
    assert "not sealed as it stands" in found[-1].detail


def test_trail_without_a_source_is_named_as_unchecked(sample: Sample):
    sample.trail = MemoryTrail([], name="billing")
    report = sample.verify()
    assert report.ok
    assert report.unchecked_trails == ("clinic (incarnation 1)",)


def test_trail_that_the_vault_is_too_damaged_to_judge_is_not_compared(sample: Sample, monkeypatch):
    monkeypatch.setattr("pgseal.verifier.verifier._MAX_DAMAGED", 3)
    for index in range(20):
        sample.rows[index] = replace(sample.rows[index], outcome="denied")
    report = sample.verify()
    assert report.not_compared == ("trail clinic",)
    assert report.unchecked_trails == ("clinic (incarnation 1)",)


def test_what_the_feed_has_to_say_is_a_finding_beside_the_rows_own(sample: Sample):
    sample.trail.damage = AlteredRecordError("vault.feed was changed", where="vault", trail="clinic", record_id=601)
    sample.trail.rows[300] = replace(sample.trail.rows[300], xid=1)
    found = [(finding.where, finding.id) for finding in sample.verify().findings]
    assert found == [("vault", 601), ("trail", 301)]


def test_rows_out_of_order_cannot_be_checked(sample: Sample):
    class Shuffled(MemoryTrail):
        def copy_rows(self):
            lines = list(super().copy_rows())
            lines[3], lines[9] = lines[9], lines[3]
            return iter(lines)

    sample.trail = Shuffled(sample.trail.rows)
    with pytest.raises(StorageError, match="out of order"):
        sample.verify()


@given(st.integers(0, 39), st.sampled_from(["id", *COLUMNS]), st.data())
def test_any_change_of_one_value_is_found(index: int, column: str, data: st.DataObject):
    sample = CLEAN.copy()
    row = sample.trail.rows[index]
    value = data.draw(VALUES[column].filter(lambda value: value != getattr(row, column)))
    sample.trail.rows[index] = replace(row, **{column: value})
    report = sample.verify()
    assert not report.ok
    assert {finding.where for finding in report.findings} == {"trail"}
