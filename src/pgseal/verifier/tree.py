"""The ledger's files, bundle by bundle: entries against tiles, tiles against the tiles above, all against the root.

Every hash is computed from the entries. A stored hash that differs says that something is damaged; *what* is said by
the level above, which holds the hash of every full tile below it:

- entries lead to that hash and the tile does not: the tile is damaged;
- the tile leads there and the entries do not: the entries are;
- neither does: both are, unless the tile above is damaged itself, which the level above *it* says.

The rightmost, partial tiles have no tile above: together they are *anchored* if they fold to the signed root. Where
something is damaged, the hash that the level above vouches for is used from there on, so that one flipped bit is one
finding and not one at every level.
"""

from dataclasses import dataclass
from functools import cached_property

from pgseal.core.merkle import CompactRange, fold_right, leaf_hashes
from pgseal.core.tiles import (
    TILE_HEIGHT,
    TILE_WIDTH,
    Tile,
    entries_path,
    parent_hash,
    parse_entries,
    parse_tile,
    tile_path,
)
from pgseal.errors import FormatError, MissingRecordError, ProofError
from pgseal.ledger.store import MissingObjectError
from pgseal.verifier.compare import Sealed
from pgseal.verifier.report import FindingLog
from pgseal.verifier.sources import LedgerFiles

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Bundle:
    """Up to 256 leaves as the ledger shows them, judged.

    ``entries`` holds an entry where it is sound, else None; ``hashes`` the hashes that were sealed, None where they
    cannot be known; ``root`` is the hash of a full bundle in the level above, under the same condition.
    """

    entries: list[bytes | None]
    hashes: list[bytes] | None
    root: bytes | None

    def sealed(self, first: int, number: int) -> Sealed:
        """Return what is known of one leaf; ``first`` is the index of the bundle's first."""
        return Sealed(first + number, self.entries[number], self.hashes[number] if self.hashes else None)

    @property
    def joined(self) -> bytes | None:
        """All entries with newlines between, None unless all are sound."""
        sound = [entry for entry in self.entries if entry is not None]
        return b"\n".join(sound) if len(sound) == len(self.entries) else None


class TreeReader:
    """Reads and judges a ledger's files at one tree size, adding to ``findings``."""

    def __init__(self, files: LedgerFiles, tree_size: int, root: bytes, findings: FindingLog) -> None:
        """Read from ``files`` as far as the signed ``tree_size`` and ``root``."""
        self._files = files
        self._size = tree_size
        self._root = root
        self._findings = findings

    @cached_property
    def is_anchored(self) -> bool:
        """Whether the stored partial tiles fold to the signed root."""
        partials: list[list[bytes]] = []
        for level in range(count_levels(self._size)):
            count = self._size >> (TILE_HEIGHT * level)
            hashes = self.read_tile(level, count // TILE_WIDTH) if count % TILE_WIDTH else []
            if hashes is None:
                return False
            partials.append(hashes)
        return fold_partials(partials) == self._root

    def tile_width(self, level: int, index: int) -> int:
        """Return how many hashes a tile has at this tree size."""
        return min(TILE_WIDTH, (self._size >> (TILE_HEIGHT * level)) - index * TILE_WIDTH)

    def read_tile(self, level: int, index: int, *, report: bool = False) -> list[bytes] | None:
        """Return the stored hashes of a tile, None (and, if asked for, a finding) if they cannot be read."""
        tile = Tile(level, index, self.tile_width(level, index))
        path = tile_path(tile)
        try:
            try:
                data = self._files.read(path)
            except MissingObjectError:
                if tile.width == TILE_WIDTH:
                    raise
                # The full tile has taken the place of the partial one; its first hashes are the same.
                path = tile_path(Tile(level, index))
                data = self._files.read(path)
                return parse_tile(data, source=path, width=TILE_WIDTH)[: tile.width]
            return parse_tile(data, source=path, width=tile.width)
        except (MissingObjectError, FormatError) as error:
            if report:
                self.report_tile(level, index, str(error) if isinstance(error, FormatError) else "the file is missing")
            return None

    def report_tile(self, level: int, index: int, problem: str) -> None:
        """Add the finding that a tile is damaged."""
        span = TILE_HEIGHT * level
        first = (index * TILE_WIDTH) << span
        last = min(self._size, (index * TILE_WIDTH + self.tile_width(level, index)) << span) - 1
        path = tile_path(Tile(level, index, self.tile_width(level, index)))
        self._findings.add(
            ProofError(f"{path} (leaves {first} to {last}): {problem}", where="ledger", leaf_index=first)
        )

    def read_bundle(self, index: int, parent: bytes | None, *, vouched: bool) -> Bundle:
        """Return the judged bundle ``index``.

        ``parent`` is the stored hash of this bundle in the level above and ``vouched`` says that its tile is sound; of
        a partial bundle, which has none, it says that the stored tile is.
        """
        width = self.tile_width(0, index)
        entries, problem = self._read_entries(index, width)
        stored = self.read_tile(0, index, report=True)
        computed = None if entries is None else leaf_hashes(entries)
        if computed is not None and computed == stored:
            root = parent_hash(computed) if width == TILE_WIDTH else None
            if root is None or root == parent or not vouched:
                return Bundle([*entries] if entries else [], computed, root)
            self._report_entries(index, width, "entries and tile agree with each other, and not with the tile above")
            return Bundle([None] * width, None, parent)
        return self._settle(index, width, entries, computed, stored, problem, parent, vouched=vouched)

    def read_inner(self, level: int, index: int, parent: bytes | None) -> tuple[list[bytes] | None, bool]:
        """Return the stored hashes of a tile at level 1 or above, and whether they are sound.

        ``parent`` is its stored hash in the level above, None for a partial tile.
        """
        stored = self.read_tile(level, index, report=True)
        if self.tile_width(level, index) < TILE_WIDTH:
            return stored, stored is not None and self.is_anchored
        return stored, stored is not None and parent_hash(stored) == parent

    def judge_inner(
        self,
        level: int,
        index: int,
        stored: list[bytes] | None,
        settled: list[bytes | None],
        *,
        sound: bool,
        parent: bytes | None,
        parent_sound: bool,
    ) -> bytes | None:
        """Compare a tile with the settled hashes of what is below; return its own settled hash if it is full."""
        if (
            stored is not None
            and not sound
            and any(found is not None and found != hash_ for found, hash_ in zip(settled, stored, strict=True))
        ):
            self.report_tile(level, index, "does not hold the hashes of the level below")
        if len(settled) < TILE_WIDTH:
            return None
        known = [hash_ for hash_ in settled if hash_ is not None]
        if len(known) == TILE_WIDTH:
            root = parent_hash(known)
            if root == parent or not parent_sound:
                return root
            self.report_tile(level, index, "agrees with all that is below, and not with the tile above")
        return parent if parent_sound else None

    def _settle(  # noqa: PLR0913 - everything that is known about a damaged bundle
        self,
        index: int,
        width: int,
        entries: list[bytes] | None,
        computed: list[bytes] | None,
        stored: list[bytes] | None,
        problem: Exception | None,
        parent: bytes | None,
        *,
        vouched: bool,
    ) -> Bundle:
        full = width == TILE_WIDTH
        stored_root = parent_hash(stored) if stored and full else None
        computed_root = parent_hash(computed) if computed and full else None
        if full and parent is not None:
            tile_right = stored_root == parent
            entries_right = computed_root == parent or (computed is not None and not tile_right and not vouched)
        elif full:
            entries_right, tile_right = computed is not None, computed is None and stored is not None
        else:
            tile_right = vouched and stored is not None
            entries_right = computed is not None and not tile_right
        if stored is not None and not tile_right:
            self.report_tile(0, index, "does not hold the hashes of the entries")
        if problem is not None:
            self._report_entries(index, width, problem)
        elif not entries_right:
            self._report_entries(index, width, _describe_leaves(index, computed, stored if tile_right else None))
        if entries is not None and computed is not None and entries_right:
            return Bundle([*entries], computed, computed_root)
        if tile_right and stored is not None:
            sound = [
                entry if hash_ == right else None
                for entry, hash_, right in zip(entries or [], computed or [], stored, strict=False)
            ]
            return Bundle(sound or [None] * width, stored, stored_root)
        return Bundle([None] * width, None, parent if vouched and full else None)

    def _read_entries(self, index: int, width: int) -> tuple[list[bytes] | None, Exception | None]:
        path = entries_path(index, width)
        try:
            try:
                return parse_entries(self._files.read(path), width, source=path), None
            except MissingObjectError:
                if width == TILE_WIDTH:
                    raise
                path = entries_path(index)
                return parse_entries(self._files.read(path), TILE_WIDTH, source=path)[:width], None
        except (MissingObjectError, FormatError) as error:
            return None, error

    def _report_entries(self, index: int, width: int, problem: str | Exception) -> None:
        first = index * TILE_WIDTH
        name = f"{entries_path(index, width)} (leaves {first} to {first + width - 1})"
        if isinstance(problem, MissingObjectError):
            self._findings.add(
                MissingRecordError(
                    f"{name}: the file is missing, and with it these entries", where="ledger", leaf_index=first
                )
            )
        else:
            self._findings.add(ProofError(f"{name}: {problem}", where="ledger", leaf_index=first))


def count_levels(tree_size: int) -> int:
    """Return the number of tile levels of a tree."""
    return -(-tree_size.bit_length() // TILE_HEIGHT)


def fold_partials(partials: list[list[bytes]]) -> bytes | None:
    """Return the root over the hashes of the partial tiles, lowest level first; None for the empty tree."""
    edge: list[bytes] = []
    for hashes in reversed(partials):
        level = CompactRange()
        level.extend(hashes)
        edge.extend(level.hashes)
    return fold_right(edge) if edge else None


def hash_at(tile: list[bytes] | None, index: int) -> bytes | None:
    """Return one hash of a tile that may not be readable or not be full."""
    return None if tile is None or index >= len(tile) else tile[index]


def _describe_leaves(index: int, computed: list[bytes] | None, sealed: list[bytes] | None) -> str:
    if computed is None or sealed is None:
        return "does not lead to the hash in the tile above"
    wrong = [
        index * TILE_WIDTH + number
        for number, (found, right) in enumerate(zip(computed, sealed, strict=True))
        if found != right
    ]
    shown = ", ".join(map(str, wrong[:_SHOWN])) + (f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else "")
    return f"changed at leaf {shown}" if len(wrong) == 1 else f"changed at leaves {shown}"
