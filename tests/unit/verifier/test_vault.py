"""Damage in the vault, seen by the whole verifier."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.verifier.samples import Sample, build_files, make_row, make_sample, sign

from pgseal.verifier.rows import Row

CLEAN = make_sample(270)

CHANGES = {
    "trail": "other",
    "incarnation": 2,
    "id": 9999,
    "time": "2026-11-23T09:14:02.118001Z",
    "xid": 2**64 - 1,
    "source": "app",
    "category": "authorization",
    "action": "LOGIN",
    "outcome": "denied",
    "relation": None,
    "actor": b"{}",
    "actor_salt": bytes(32),
    "data": b"{}",
    "data_salt": bytes(31),
}


def find(sample: Sample, where: str = "vault") -> list[tuple[str, str | None, int | None, int | None]]:
    report = sample.verify()
    assert report.ok == (not report.findings)
    assert report.total_findings == len(report.findings)
    assert {finding.where for finding in report.findings} <= {where}
    return [(finding.kind, finding.trail, finding.id, finding.index) for finding in report.findings]


def test_clean_log_is_ok(sample: Sample):
    report = sample.verify()
    assert report.ok
    assert report.checked == {"trail": 600, "vault": 600, "ledger": 600}
    assert (report.findings, report.waiting, report.unchecked_trails) == ((), 3, ())


@pytest.mark.parametrize("column", CHANGES)
def test_change_of_one_column_names_record_and_column(sample: Sample, column: str):
    sample.rows[300] = replace(sample.rows[300], **{column: CHANGES[column]})
    assert find(sample) == [("altered_record", "clinic", 301, 300)]
    named = f"{column.removesuffix('_salt')} or its salt" if column[:4] in ("acto", "data") else column
    assert f"column {named} differs" in sample.verify().findings[0].detail


@pytest.mark.parametrize("index", [0, 255, 256, 599])
def test_deleted_row_is_missing(sample: Sample, index: int):
    del sample.rows[index]
    assert find(sample) == [("missing_record", "clinic", index + 1, index)]


def test_swapped_rows_are_both_altered(sample: Sample):
    first, second = sample.rows[10], sample.rows[400]
    sample.rows[10], sample.rows[400] = replace(first, leaf_index=400), replace(second, leaf_index=10)
    assert find(sample) == [("altered_record", "clinic", 11, 10), ("altered_record", "clinic", 401, 400)]


@pytest.mark.parametrize("index", [3, 255, 599])
def test_second_row_at_a_leaf_is_forged(sample: Sample, index: int):
    sample.rows.insert(index, replace(sample.rows[index], id=5000))
    assert find(sample) == [("forged_record", "clinic", 5000, index)]


@pytest.mark.parametrize("index", [None, -1])
def test_row_at_an_impossible_leaf_is_forged(sample: Sample, index: int | None):
    sample.rows.append(make_row(700, leaf_index=index))
    assert find(sample) == [("forged_record", "clinic", 701, index)]


def test_rows_above_the_size_are_waiting(sample: Sample):
    sample.rows += [make_row(600), make_row(601)]
    assert find(sample) == []


def test_gap_and_repetition_above_the_size_are_found(sample: Sample):
    sample.rows += [make_row(600), make_row(602, id=9001), make_row(602, id=9002)]
    assert [finding[0] for finding in find(sample)] == ["missing_record", "forged_record"]


@pytest.mark.parametrize("column", ["actor", "actor_salt", "data", "data_salt"])
def test_erased_part_is_unauthorized(sample: Sample, column: str):
    sample.rows[20] = replace(sample.rows[20], **{column: None})
    assert find(sample) == [("unauthorized_erasure", "clinic", 21, 20)]
    assert f": {column} gone" in sample.verify().findings[0].detail


def test_impossible_time_is_altered(sample: Sample):
    sample.rows[20] = replace(sample.rows[20], time=None)
    assert find(sample) == [("altered_record", "clinic", 21, 20)]


def test_lost_vault_lists_the_first_findings_and_counts_all(sample: Sample):
    sample.rows.clear()
    report = sample.verify(max_findings=10)
    assert (len(report.findings), report.total_findings, report.checked["vault"]) == (10, 600, 0)


def test_row_is_judged_by_the_tile_where_its_entry_is_damaged(sample: Sample):
    path = "tile/entries/000"
    sample.files[path] = sample.files[path].replace(b'"INSERT"', b'"UPSERT"')  # every third leaf of the bundle
    sample.rows[1] = replace(sample.rows[1], xid=1)
    sample.rows[3] = replace(sample.rows[3], xid=1)  # its entry is damaged, too
    found = [(finding.kind, finding.where, finding.index) for finding in sample.verify().findings]
    assert found == [("proof", "ledger", 0), ("altered_record", "vault", 1), ("altered_record", "vault", 3)]


def test_signed_leaf_that_is_no_envelope_is_forged(sample: Sample):
    files, root = build_files([b"not an envelope"])
    sample.files = files | {"checkpoint": sign(1, root)}
    sample.rows = sample.rows[:1]
    found = {(finding.kind, finding.where, finding.index) for finding in sample.verify().findings}
    assert ("forged_record", "ledger", 0) in found


VALUES = {
    "leaf_index": st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(0, 300),
    "trail": st.none() | st.sampled_from(["clinic", "vault", "Bad name", ""]),
    "incarnation": st.none() | st.integers(-(2**31), 2**31 - 1),
    "id": st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(0, 300),
    "time": st.none() | st.sampled_from(["0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z"]),
    "xid": st.none() | st.integers(0, 2**64 - 1),
    **dict.fromkeys(
        ("source", "category", "action", "outcome", "relation"), st.none() | st.text(st.characters(codec="utf-8"))
    ),
    **dict.fromkeys(("actor", "data"), st.none() | st.binary()),
    **dict.fromkeys(
        ("actor_salt", "data_salt"), st.none() | st.binary(max_size=400) | st.binary(min_size=32, max_size=32)
    ),
}


@st.composite
def changed_rows(draw: st.DrawFn) -> list[Row]:
    rows = list(CLEAN.rows)
    index = draw(st.integers(0, len(rows) - 1))
    column = draw(st.sampled_from(sorted(VALUES)))
    value = draw(VALUES[column].filter(lambda value: value != getattr(rows[index], column)))
    rows[index] = replace(rows[index], **{column: value})
    return rows


@given(changed_rows())
def test_any_change_of_one_value_is_found(rows: list[Row]):
    sample = CLEAN.copy()
    sample.rows = rows
    report = sample.verify()
    assert not report.ok
    # Damage in the vault is not blamed on the trail.
    assert {finding.where for finding in report.findings} == {"vault"}


@given(st.integers(0, 269), st.integers(0, 269), st.sampled_from(["delete", "repeat", "overwrite"]))
def test_any_row_deleted_repeated_or_overwritten_is_found(index: int, other: int, what: str):
    sample = CLEAN.copy()
    if what == "delete":
        del sample.rows[index]
    elif what == "repeat":
        sample.rows.append(sample.rows[index])
    elif index != other:
        sample.rows[index] = replace(sample.rows[other], leaf_index=index)
    else:
        return
    assert not sample.verify().ok
