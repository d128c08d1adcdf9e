"""Parts that are gone from a pack, and the records that allow it (FORMATS.md sections 4 and 5).

A part ``{"erased":INDEX}`` is explained by the record at leaf INDEX only if that is an ERASE or RETENTION record of the
vault's own trail, disclosed, sealed later than what it speaks of, and says that this leaf and this part may be gone.
Whether the explaining record is in the log is for the caller to check before it is learnt here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pgseal.core.erasure import ERASE, PARTS, SYSTEM, parse_erase
from pgseal.core.pack_bounds import is_act
from pgseal.core.ranges import LeafRanges
from pgseal.core.record import DisclosedPart, RecordLine
from pgseal.core.retention import RETENTION, parse_retention
from pgseal.errors import FormatError, UnauthorizedErasureError


@dataclass(frozen=True, slots=True)
class Allowance:
    """Which parts of which leaves may be gone; of one incarnation of one trail where ``trail`` is given."""

    leaves: LeafRanges
    parts: tuple[str, ...]
    trail: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class _Claim:
    allowed_by: int
    part: str
    trail: str
    incarnation: int
    is_act: bool


def find_allowance(record: RecordLine) -> Allowance | None:
    """Return what a record allows to be gone; None if it is no ERASE or RETENTION, withheld, or of another form."""
    if not is_act(record.envelope, ERASE, RETENTION) or not isinstance(record.data, DisclosedPart):
        return None
    try:
        if record.envelope.action == ERASE:
            erasure = parse_erase(record.data.text)
            return Allowance(LeafRanges(erasure.leaves), erasure.parts)
        retention = parse_retention(record.data.text)
    except FormatError:
        return None
    return Allowance(LeafRanges(retention.leaves), PARTS, (retention.trail, retention.incarnation))


class Erasures:
    """What is gone, and what allows it; both come in any order."""

    def __init__(self) -> None:
        """Begin with nothing gone."""
        self._allowances: dict[int, Allowance] = {}
        self._claims: dict[_Claim, list[tuple[int, int]]] = {}

    def learn(self, record: RecordLine) -> None:
        """Take a record, which is in the log, for what it may allow."""
        allowance = find_allowance(record)
        if allowance is not None:
            self._allowances[record.index] = allowance

    def claim(self, record: RecordLine, part: str, allowed_by: int) -> None:
        """Take a part that is gone, and the leaf that is to allow it."""
        envelope = record.envelope
        claim = _Claim(allowed_by, part, envelope.trail, envelope.incarnation, envelope.source == SYSTEM)
        ranges = self._claims.setdefault(claim, [])
        if ranges and ranges[-1][1] == record.index:
            ranges[-1] = ranges[-1][0], record.index + 1
        else:
            ranges.append((record.index, record.index + 1))

    def references(self) -> set[int]:
        """Return the leaves that are to allow something."""
        return {claim.allowed_by for claim in self._claims}

    def check(self) -> Iterator[UnauthorizedErasureError]:
        """Yield what is gone and not explained, a run of leaves at a time."""
        for claim, ranges in self._claims.items():
            allowance = self._allowances.get(claim.allowed_by)
            for begin, end in ranges:
                problem = _find_problem(claim, allowance, begin, end)
                if problem is not None:
                    leaves = f"leaf {begin}" if end == begin + 1 else f"leaves {begin} to {end - 1}"
                    yield UnauthorizedErasureError(
                        f"{claim.part} of {leaves} (trail {claim.trail!r}) is gone, and {problem}",
                        where="pack",
                        trail=claim.trail,
                        leaf_index=begin,
                    )


def _find_problem(claim: _Claim, allowance: Allowance | None, begin: int, end: int) -> str | None:
    if allowance is None:
        return f"the pack has no ERASE or RETENTION record of leaf {claim.allowed_by} that allows it"
    if (
        end > claim.allowed_by
        or claim.part not in allowance.parts
        or not allowance.leaves.covers(LeafRanges([(begin, end)]))
        or allowance.trail not in {None, (claim.trail, claim.incarnation)}
        or (allowance.trail is None and claim.is_act)
    ):
        return f"the record of leaf {claim.allowed_by} does not speak of it"
    return None
