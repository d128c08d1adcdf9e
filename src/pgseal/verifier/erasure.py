"""Parts that are gone from the vault, and the sealed ERASE records that allow it; parts that should be gone.

An ERASE record stands behind what it speaks of, maybe in another range of leaves. So the ranges note what is gone, and
what their ERASE records say, and this settles it once all are there.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pgseal.core.erasure import PARTS, SYSTEM, Erased
from pgseal.core.ranges import LeafRanges
from pgseal.errors import ErasedContentError, UnauthorizedErasureError


@dataclass(frozen=True, slots=True)
class GoneParts:
    """The parts of one leaf, or a run of leaves, whose text and salt the vault does not have.

    ``trail`` to ``source`` are those of the record, as the ledger's entry says, or, where that is damaged, the vault.
    """

    leaf_index: int
    parts: tuple[str, ...]
    trail: str | None
    incarnation: int | None
    record_id: int | None
    source: str | None


def settle_gone(gone: Iterable[GoneParts], erased: Erased) -> Iterator[tuple[GoneParts, UnauthorizedErasureError]]:
    """Yield what is gone and not allowed to be."""
    for one in gone:
        wrong = [part for part in one.parts if one.source == SYSTEM or not erased.allows(one.leaf_index, part)]
        if wrong:
            name = f"record {one.trail}/{one.record_id} (leaf {one.leaf_index})"
            names = " and ".join(f"{part} and its salt" for part in wrong)
            yield (
                one,
                UnauthorizedErasureError(
                    f"{name}: {names} gone, and no sealed ERASE allows it",
                    where="vault",
                    trail=one.trail,
                    record_id=one.record_id,
                    leaf_index=one.leaf_index,
                ),
            )


def find_content(gone: Sequence[GoneParts], erased: Erased, damaged: Iterable[int]) -> Iterator[ErasedContentError]:
    """Yield the runs of leaves whose parts are in the vault though sealed ERASE records say that they are gone.

    What is damaged there is a finding already.
    """
    known = LeafRanges((leaf, leaf + 1) for leaf in damaged)
    for part in PARTS:
        missing = ((one.leaf_index, one.leaf_index + 1) for one in gone if part in one.parts)
        absent = LeafRanges([*missing, *known.ranges])
        for begin, end in _subtract(erased.leaves[part], absent):
            leaves = f"leaf {begin}" if end == begin + 1 else f"leaves {begin} to {end - 1}"
            yield ErasedContentError(
                f"{part} of {leaves}: a sealed ERASE record says that it was destroyed, and the vault has it: a backup "
                "brought it back, or pgseal erase was interrupted; pgseal erase --again",
                where="vault",
                leaf_index=begin,
            )


def _subtract(ranges: LeafRanges, others: LeafRanges) -> Iterator[tuple[int, int]]:
    holes = iter(others.ranges)
    hole = next(holes, None)
    for begin, end in ranges.ranges:
        position = begin
        while hole is not None and hole[0] < end:
            if hole[0] > position:
                yield position, hole[0]
            position = max(position, hole[1])
            if hole[1] > end:
                break
            hole = next(holes, None)
        if position < end:
            yield position, end
