"""Sets of leaf indexes."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pgseal.core.ranges import LeafRanges, join_ranges

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
