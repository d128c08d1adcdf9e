"""RETENTION records (FORMATS.md section 5): which sealed records may be gone from a trail.

A record's data is ``{"trail":…,"incarnation":n,"count":n,"leaves":[[begin,end]…],"relation":PARTITION}``. ``leaves``
are ranges of leaf indexes, rising, apart, each end exclusive. What is meant are the leaves of that trail and
incarnation within them, and ``count`` says how many those are: leaves of other trails that lie between do not break a
range, and a record whose count is another than what the ranges hold means nothing.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pgseal.core.canonical import JsonValue, parse_json
from pgseal.core.envelope import require_members
from pgseal.errors import FormatError

#: The action of such a record; it counts only in the vault's own trail, from source ``system``.
RETENTION = "RETENTION"
#: More than any partition needs; writers keep to it, too.
MAX_DATA_BYTES = 4 << 20
_MAX_DEPTH = 3
_MEMBERS = ("trail", "incarnation", "count", "leaves", "relation")


@dataclass(frozen=True, slots=True)
class Retention:
    """What one RETENTION record says."""

    trail: str
    incarnation: int
    count: int
    leaves: tuple[tuple[int, int], ...]
    relation: str

    def to_json(self) -> dict[str, JsonValue]:
        """Return the record's data."""
        return {
            "trail": self.trail,
            "incarnation": self.incarnation,
            "count": self.count,
            "leaves": [list(one) for one in self.leaves],
            "relation": self.relation,
        }


def parse_retention(data: bytes, *, source: str = "RETENTION record") -> Retention:
    """Return what the data of a RETENTION record says; raises ``FormatError`` unless it has exactly that form."""
    value = parse_json(data, source=source, max_bytes=MAX_DATA_BYTES, max_depth=_MAX_DEPTH)
    members = require_members(value, _MEMBERS, source)
    trail, relation = members["trail"], members["relation"]
    if not isinstance(trail, str) or not isinstance(relation, str):
        raise FormatError("expected trail and relation as strings", source=source)
    leaves = _parse_leaves(members["leaves"], source)
    count = _parse_number(members, "count", source)
    if count > sum(end - begin for begin, end in leaves):
        raise FormatError(f"expected no more records than there are leaves, got {count}", source=source)
    return Retention(trail, _parse_number(members, "incarnation", source), count, leaves, relation)


def _parse_number(members: Mapping[str, JsonValue], name: str, source: str) -> int:
    value = members[name]
    if type(value) is not int or value < 1:
        raise FormatError(f"expected {name} as a number of at least 1", source=source)
    return value


def _parse_leaves(value: JsonValue, source: str) -> tuple[tuple[int, int], ...]:
    ranges: list[tuple[int, int]] = []
    last = -1
    for pair in value if isinstance(value, list) else ():
        begin, end = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)  # noqa: PLR2004 - a pair
        if type(begin) is not int or type(end) is not int or not last < begin < end:
            raise FormatError("expected leaves as rising ranges [begin, end)", source=source)
        ranges.append((begin, end))
        last = end
    if not ranges:
        raise FormatError("expected leaves as a list of ranges, at least one", source=source)
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
