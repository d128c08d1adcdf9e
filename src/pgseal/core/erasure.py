"""ERASE records (FORMATS.md section 5): which parts of which sealed records were destroyed on purpose.

A record's data is ``{"leaves":[[begin,end]…],"parts":["actor"|"data"…],"reason":…}``; every leaf of the ranges is
meant. It counts only in the vault's own trail, from source ``system``, and only for leaves before its own: it is sealed
before text and salt are destroyed. It allows nothing for records of pgseal's own acts (source ``system``), which
explain the others.

In a trail, what was erased leaves a mark that no record can have written: JSON ``null`` where an object would stand.
``ERASED`` is what such a part reads as wherever rows of trail and vault are compared.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pgseal.core.canonical import JsonValue, parse_json
from pgseal.core.envelope import require_members
from pgseal.core.ranges import LeafRanges, parse_ranges
from pgseal.core.retention import MAX_DATA_BYTES
from pgseal.errors import FormatError

#: The action of a record that allows parts of others to be destroyed.
ERASE = "ERASE"
PARTS = ("actor", "data")
#: What an erased part reads as in a trail's row, and in what the vault shows beside it.
ERASED = b"null"
#: The source of records of pgseal's own acts, which nobody erases.
SYSTEM = "system"
#: Ranges in one record; more make several records.
MAX_RANGES = 50_000
MAX_REASON_LENGTH = 1000
_MAX_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Erasure:
    """What one ERASE record says."""

    leaves: tuple[tuple[int, int], ...]
    parts: tuple[str, ...]
    reason: str

    def to_json(self) -> dict[str, JsonValue]:
        """Return the record's data."""
        return {"leaves": [list(one) for one in self.leaves], "parts": list(self.parts), "reason": self.reason}


def parse_erase(data: bytes, *, source: str = "ERASE record") -> Erasure:
    """Return what the data of an ERASE record says; raises ``FormatError`` unless it has exactly that form."""
    value = parse_json(data, source=source, max_bytes=MAX_DATA_BYTES, max_depth=_MAX_DEPTH)
    members = require_members(value, ("leaves", "parts", "reason"), source)
    parts, reason = members["parts"], members["reason"]
    if not isinstance(parts, list) or not parts or any(part not in PARTS for part in parts):
        raise FormatError("expected parts as a list of actor and data", source=source)
    # Why is for people: what form it has does not change what may be gone.
    said = reason if isinstance(reason, str) else ""
    return Erasure(parse_ranges(members["leaves"], source), tuple(map(str, parts)), said)


def split_leaves(leaves: Iterable[int], parts: Sequence[str], reason: str) -> list[Erasure]:
    """Return what ERASE records have to say of ``leaves``, each of a size that a record can have."""
    ranges = LeafRanges((leaf, leaf + 1) for leaf in leaves).ranges
    return [
        Erasure(ranges[first : first + MAX_RANGES], tuple(parts), reason) for first in range(0, len(ranges), MAX_RANGES)
    ]


class Erased:
    """What ERASE records allow to be gone, taken together."""

    def __init__(self, records: Iterable[tuple[int, Erasure]] = ()) -> None:
        """Take each record's own leaf index and what it says."""
        allowed: dict[str, list[tuple[int, int]]] = {part: [] for part in PARTS}
        for index, erasure in records:
            for part in erasure.parts:
                # Only for leaves before its own.
                allowed[part] += [(begin, min(end, index)) for begin, end in erasure.leaves if begin < index]
        #: By part, the leaves that it may be gone from.
        self.leaves = {part: LeafRanges(ranges) for part, ranges in allowed.items()}

    def allows(self, leaf_index: int, part: str) -> bool:
        """Return whether ``part`` (actor or data) of a leaf may be gone."""
        return leaf_index in self.leaves[part]

    def __bool__(self) -> bool:
        return any(ranges.ranges for ranges in self.leaves.values())
