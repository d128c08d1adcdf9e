"""RETENTION records: their form, and sets of leaves."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgseal.core.canonical import encode_canonical
from pgseal.core.retention import LeafRanges, Retention, join_ranges, parse_retention
from pgseal.errors import FormatError

GOOD = {"trail": "clinic", "incarnation": 1, "count": 3, "leaves": [[0, 2], [5, 9]], "relation": "audit.record_2024q1"}


def test_what_is_written_is_read():
    retention = Retention("clinic", 1, 3, ((0, 2), (5, 9)), "audit.record_2024q1")
    assert retention.to_json() == GOOD
    assert parse_retention(encode_canonical(retention.to_json())) == retention


@pytest.mark.parametrize(
    "change",
    [
        {"leaves": []},
        {"leaves": {}},
        {"leaves": None},
        {"leaves": [[0, 2], [1, 9]]},
        {"leaves": [[0, 2], [2, 9]]},
        {"leaves": [[5, 9], [0, 2]]},
        {"leaves": [[2, 2]]},
        {"leaves": [[-1, 2]]},
        {"leaves": [[0, 2, 4]]},
        {"leaves": [[0.0, 2]]},
        {"leaves": [[False, True]]},
        {"leaves": [7]},
        {"count": 0},
        {"count": 7},
        {"count": True},
        {"count": "3"},
        {"incarnation": 0},
        {"trail": None},
        {"relation": None},
        {"more": 1},
    ],
    ids=json.dumps,
)
def test_anything_else_is_refused(change):
    with pytest.raises(FormatError):
        parse_retention(json.dumps(GOOD | change).encode())


def test_a_missing_member_is_refused():
    for name in GOOD:
        with pytest.raises(FormatError):
            parse_retention(json.dumps({key: value for key, value in GOOD.items() if key != name}).encode())


pairs = st.tuples(st.integers(0, 40), st.integers(1, 6)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(pairs))
def test_ranges_are_the_set_of_their_leaves(ranges: list[tuple[int, int]]):
    leaves = {leaf for begin, end in ranges for leaf in range(begin, end)}
    found = LeafRanges(ranges)
    assert {leaf for leaf in range(-1, 60) if leaf in found} == leaves
    assert (len(found), found.end) == (len(leaves), max(leaves, default=-1) + 1)
    assert all(first[1] < second[0] for first, second in pairwise(found.ranges))


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
def test_joined_ranges_hold_the_same_leaves_of_the_trail_and_are_as_few_as_can_be(mine: set[int], gone: set[int]):
    gone &= mine
    ranges = LeafRanges((leaf, leaf + 1) for leaf in gone)
    joined = join_ranges(ranges, sorted(leaf for leaf in mine if leaf < ranges.end))
    assert {leaf for begin, end in joined for leaf in range(begin, end)} & mine == gone
    kept = sorted(mine - gone)
    for (_, end), (begin, _) in pairwise(joined):
        assert any(end <= leaf < begin for leaf in kept)
