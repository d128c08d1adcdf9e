"""RETENTION records (FORMATS.md section 5): which sealed records may be gone from a trail.

A record's data is ``{"trail":…,"incarnation":n,"count":n,"leaves":[[begin,end]…],"relation":PARTITION}``. ``leaves``
are ranges of leaf indexes, rising, apart, each end exclusive. What is meant are the leaves of that trail and
incarnation within them, and ``count`` says how many those are: leaves of other trails that lie between do not break a
range, and a record whose count is another than what the ranges hold means nothing.
"""

from dataclasses import dataclass

from pgseal.core.canonical import JsonValue, parse_json
from pgseal.core.envelope import require_members
from pgseal.core.ranges import parse_number, parse_ranges
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
    leaves = parse_ranges(members["leaves"], source)
    if not leaves:
        raise FormatError("expected leaves as a list of ranges, at least one", source=source)
    count = parse_number(members, "count", source)
    if count > sum(end - begin for begin, end in leaves):
        raise FormatError(f"expected no more records than there are leaves, got {count}", source=source)
    return Retention(trail, parse_number(members, "incarnation", source), count, leaves, relation)
