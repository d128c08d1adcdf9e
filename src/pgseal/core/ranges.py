"""Sets of leaf indexes as FORMATS.md section 5 writes them: ranges [begin, end), rising and apart.

Records that explain absence name the leaves of one trail like this: leaves of other trails that lie between do not
break a range, so a count beside the ranges says how many leaves are meant.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping

from pgseal.core.canonical import JsonValue
from pgseal.errors import FormatError


def parse_number(members: Mapping[str, JsonValue], name: str, source: str, *, least: int = 1) -> int:
    """Return the member ``name``; raises ``FormatError`` unless it is a number of at least ``least``."""
    value = members[name]
    if type(value) is not int or value < least:
        raise FormatError(f"expected {name} as a number of at least {least}", source=source)
    return value


def parse_ranges(value: JsonValue, source: str) -> tuple[tuple[int, int], ...]:
    """Return the ranges of ``[[begin,end]…]``; raises ``FormatError`` unless they rise and are apart."""
    ranges: list[tuple[int, int]] = []
    last = -1
    if not isinstance(value, list):
        raise FormatError("expected leaves as a list of ranges", source=source)
    for pair in value:
        begin, end = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)  # noqa: PLR2004 - a pair
        if type(begin) is not int or type(end) is not int or not last < begin < end:
            raise FormatError("expected leaves as rising ranges [begin, end)", source=source)
        ranges.append((begin, end))
        last = end
    return tuple(ranges)


class LeafRanges:
    """A set of leaf indexes, given as ranges [begin, end) in any order; they may overlap."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """Merge ``ranges``."""
        merged: list[tuple[int, int]] = []
        for begin, end in sorted(ranges):
            if merged and begin <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((begin, end))
        #: Rising and apart.
        self.ranges = tuple(merged)
        self._begins = [begin for begin, _ in merged]

    @property
    def end(self) -> int:
        """One more than the greatest leaf index; 0 if there is none."""
        return self.ranges[-1][1] if self.ranges else 0

    def __contains__(self, leaf_index: int) -> bool:
        number = bisect_right(self._begins, leaf_index) - 1
        return number >= 0 and leaf_index < self.ranges[number][1]

    def covers(self, other: "LeafRanges") -> bool:
        """Return whether every leaf of ``other`` is one of these."""
        for begin, end in other.ranges:
            number = bisect_right(self._begins, begin) - 1
            if number < 0 or end > self.ranges[number][1]:
                return False
        return True

    def __len__(self) -> int:
        return sum(end - begin for begin, end in self.ranges)


def join_ranges(ranges: LeafRanges, leaves: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Return ``ranges`` with those joined between which no leaf of the same trail lies.

    ``leaves`` are, rising, all leaf indexes of the trail from the first to the last of ``ranges``.
    """
    joined: list[tuple[int, int]] = []
    must_part = True
    for leaf in leaves:
        if leaf not in ranges:
            must_part = True
        elif must_part:
            joined.append((leaf, leaf + 1))
            must_part = False
        else:
            joined[-1] = (joined[-1][0], leaf + 1)
    return tuple(joined)
