"""Tile levels 2 and above: what the parent process checks while workers check the ranges below.

Only one hash in 65,536 leaves comes here. Tiles are read top-down, so that every range can be told what the level above
holds for it and whether that is sound; what the ranges came to is compared bottom-up, and ends at the signed root.
"""

from collections.abc import Iterator

from pgseal.core.encoding import format_base64
from pgseal.core.merkle import EMPTY_ROOT
from pgseal.core.tiles import TILE_HEIGHT, TILE_WIDTH
from pgseal.errors import ProofError
from pgseal.verifier.leaves import RANGE, RangeResult, RangeTask
from pgseal.verifier.report import FindingLog
from pgseal.verifier.sources import LedgerFiles
from pgseal.verifier.tree import TreeReader, count_levels, fold_partials, hash_at

_LOWEST = 2


class UpperTiles:
    """The top of one tree: hands out ranges, takes their results, and says at the end whether the root is met."""

    def __init__(self, files: LedgerFiles, tree_size: int, root: bytes, findings: FindingLog) -> None:
        """Check the tree of the signed ``tree_size`` and ``root``."""
        self._tree = TreeReader(files, tree_size, root, findings)
        self._size = tree_size
        self._root = root
        self._findings = findings
        self._tiles: dict[tuple[int, int], tuple[list[bytes] | None, bool]] = {}
        self._settled: list[bytes | None] = []  # hashes of level 2: the roots of full ranges
        self._edge: tuple[list[bytes] | None, list[bytes | None]] = ([], [])

    def tasks(self) -> Iterator[RangeTask]:
        """Yield the ranges of the tree, left to right."""
        for index in range(-(-self._size // RANGE)):
            if (index + 1) * RANGE > self._size:
                yield RangeTask(index, None, parent_sound=False)
            else:
                stored, sound = self._read(_LOWEST, index // TILE_WIDTH)
                yield RangeTask(index, hash_at(stored, index % TILE_WIDTH), parent_sound=sound)

    def take(self, result: RangeResult) -> None:
        """Take the result of a range; in their order."""
        if (result.index + 1) * RANGE > self._size:
            self._edge = result.hashes
        else:
            self._settled.append(result.root)

    def check_root(self) -> None:
        """Compare the upper tiles, then the root, adding findings; after every range was taken."""
        last, level1 = self._edge
        partials: list[list[bytes | None]] = [[*last] if last is not None else [None], level1]
        hashes = self._settled
        for level in range(_LOWEST, count_levels(self._size)):
            hashes, partial = self._check_level(level, hashes)
            partials.append(partial)
        known = [[hash_ for hash_ in partial if hash_ is not None] for partial in partials]
        if [len(partial) for partial in known] != [len(partial) for partial in partials]:
            return  # a hash that nobody can know any more: its finding was made where it was lost
        root = fold_partials(known) or EMPTY_ROOT
        if root != self._root:
            self._findings.add(
                ProofError(
                    f"the entries lead to root {format_base64(root)}, "
                    f"signed for size {self._size} is {format_base64(self._root)}",
                    where="ledger",
                )
            )

    def _check_level(self, level: int, hashes: list[bytes | None]) -> tuple[list[bytes | None], list[bytes | None]]:
        """Compare the tiles of one level; return the hashes of the next level and those in the partial tile."""
        roots: list[bytes | None] = []
        for index in range(-(-len(hashes) // TILE_WIDTH)):
            settled = hashes[index * TILE_WIDTH : (index + 1) * TILE_WIDTH]
            stored, sound = self._read(level, index)
            above, above_sound = self._read_above(level, index)
            root = self._tree.judge_inner(
                level, index, stored, settled, sound=sound, parent=above, parent_sound=above_sound
            )
            if len(settled) < TILE_WIDTH:
                return roots, settled
            roots.append(root)
        return roots, []

    def _read(self, level: int, index: int) -> tuple[list[bytes] | None, bool]:
        key = (level, index)
        if key not in self._tiles:
            above, _ = self._read_above(level, index)
            self._tiles[key] = self._tree.read_inner(level, index, above)
        return self._tiles[key]

    def _read_above(self, level: int, index: int) -> tuple[bytes | None, bool]:
        """Return the stored hash of a tile in the level above, and whether that level's tile is sound."""
        if (index + 1) * TILE_WIDTH > self._size >> (TILE_HEIGHT * level):
            return None, False
        stored, sound = self._read(level + 1, index // TILE_WIDTH)
        return hash_at(stored, index % TILE_WIDTH), sound
