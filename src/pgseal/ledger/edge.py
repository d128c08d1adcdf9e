"""The right edge of a tiled log: the one part of it that grows.

At every tile level it holds the hashes of the tile that is not full yet, and at the bottom the entries of the bundle
that is not full yet. That is at most 255 hashes a level, however large the log, and everything that is needed to
write the next tiles and to know the root.

``read_edge`` takes an edge from a store and trusts nothing there: leaf hashes are computed from the entries, full
tiles on the edge must hash to the last hash of the tile above, and the whole must lead to the root that was signed. A
log once died of a single flipped bit in a stored leaf hash (Yeti 2022), because its next root was computed from it.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from pgseal.core.merkle import CompactRange, leaf_hashes
from pgseal.core.tiles import (
    TILE_HEIGHT,
    TILE_WIDTH,
    Tile,
    entries_path,
    format_entries,
    format_tile,
    parent_hash,
    parse_entries,
    parse_tile,
    tile_at,
    tile_path,
)
from pgseal.errors import FormatError, ProofError
from pgseal.ledger.store import LedgerStore, MissingObjectError


class RightEdge:
    """The edge of a log of ``size`` leaves. Never changes: ``grow`` makes another one.

    ``entries`` are those of the partial bundle; ``levels[level]`` the hashes of the partial tile, empty where the level
    ends in a full tile.
    """

    __slots__ = ("entries", "levels", "size")

    def __init__(self, size: int = 0, entries: Sequence[bytes] = (), levels: Sequence[Sequence[bytes]] = ()) -> None:
        """Take up an edge as it is; the default is the empty log's."""
        self.size = size
        self.entries = entries
        self.levels = levels

    def root(self) -> bytes:
        """Return the root of the log."""
        subtrees: list[bytes] = []
        for hashes in reversed(self.levels):
            part = CompactRange()
            part.extend(hashes)
            subtrees.extend(part.hashes)
        return CompactRange(self.size, subtrees).root()

    def grow(self, leaves: Sequence[bytes]) -> tuple["RightEdge", dict[str, bytes]]:
        """Return the edge with ``leaves`` appended, and every file that the larger log has and this one has not.

        Raises ``FormatError`` for a leaf over 65,535 bytes.
        """
        entries = [*self.entries, *leaves]
        files: dict[str, bytes] = {}
        index = self.size // TILE_WIDTH
        for start in range(0, len(entries), TILE_WIDTH):
            bundle = entries[start : start + TILE_WIDTH]
            files[entries_path(index + start // TILE_WIDTH, len(bundle))] = format_entries(bundle)

        levels = list(self.levels)
        added = leaf_hashes(leaves)
        level = 0
        while added:
            if level == len(levels):
                levels.append([])
            hashes = [*levels[level], *added]
            files.update(_format_tiles(level, self.size >> TILE_HEIGHT * (level + 1), hashes))
            full = len(hashes) - len(hashes) % TILE_WIDTH
            levels[level] = hashes[full:]
            level += 1
            added = [parent_hash(hashes[start : start + TILE_WIDTH]) for start in range(0, full, TILE_WIDTH)]
        return RightEdge(self.size + len(leaves), entries[len(entries) - len(entries) % TILE_WIDTH :], levels), files

    def partial_tiles(self) -> Iterator[Tile]:
        """Yield the partial tiles, lowest level first."""
        for level, hashes in enumerate(self.levels):
            if hashes:
                yield Tile(level, self.size >> TILE_HEIGHT * (level + 1), len(hashes))


def _format_tiles(level: int, index: int, hashes: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    for start in range(0, len(hashes), TILE_WIDTH):
        part = hashes[start : start + TILE_WIDTH]
        yield tile_path(Tile(level, index + start // TILE_WIDTH, len(part))), format_tile(part)


def read_edge(store: LedgerStore, tree_size: int, root: bytes) -> RightEdge:
    """Return the edge of the log of ``tree_size`` leaves, computed from its last entries and checked against ``root``.

    Raises ``ProofError`` naming the file and its leaves where stored bytes do not lead to ``root``, ``FormatError``
    where they have no form, ``MissingObjectError`` where there are none.
    """
    entries: list[bytes] = []
    levels: list[list[bytes]] = []
    parent: bytes | None = None
    while count := tree_size >> TILE_HEIGHT * len(levels):
        tile = tile_at(len(levels), (count - 1) // TILE_WIDTH, tree_size)
        hashes = _read_tile(store, tile)
        if tile.level == 0:
            entries = _read_entries(store, tile)
            _compare(leaf_hashes(entries), hashes, tile, "entries")
        elif parent is not None:
            _compare([*hashes[:-1], parent], hashes, tile, "tile below")
        is_full = tile.width == TILE_WIDTH
        parent = parent_hash(hashes) if is_full else None
        levels.append([] if is_full else hashes)
        if tile.level == 0 and is_full:
            entries = []
    edge = RightEdge(tree_size, entries, levels)
    if (found := edge.root()) != root:
        _blame(store, edge)
        raise ProofError(
            f"entries and tiles at the edge of the ledger lead to root {found.hex()}, signed was {root.hex()} "
            f"(size {tree_size}): they were changed together, restore tile/ from a copy",
            where="ledger",
        )
    return edge


def _read_tile(store: LedgerStore, tile: Tile) -> list[bytes]:
    path = tile_path(tile)
    return parse_tile(store.read(path), source=path, width=tile.width)


def _read_entries(store: LedgerStore, tile: Tile) -> list[bytes]:
    path = entries_path(tile.index, tile.width)
    return parse_entries(store.read(path), tile.width, source=path)


def _compare(expected: Sequence[bytes], hashes: Sequence[bytes], tile: Tile, below: str) -> None:
    # `expected` is computed from what stands below the tile.
    for position, (wanted, got) in enumerate(zip_longest(expected, hashes)):
        if wanted != got:
            first = tile.index * TILE_WIDTH + position
            begin, end = first << TILE_HEIGHT * tile.level, (first + 1) << TILE_HEIGHT * tile.level
            path = tile_path(tile) if tile.level else f"{tile_path(tile)} or {entries_path(tile.index, tile.width)}"
            raise ProofError(
                f"{path}: hash {position} (leaves [{begin}, {end})) is not that of the {below}: "
                "a file was changed, restore it from a copy",
                where="ledger",
                leaf_index=begin,
            )


def _blame(store: LedgerStore, edge: RightEdge) -> None:
    # The root tells that something is wrong, not what: hold the hashes of every partial tile against the tiles below.
    for tile in edge.partial_tiles():
        expected = list(edge.levels[tile.level])
        for position in range(tile.width if tile.level else 0):
            child = Tile(tile.level - 1, tile.index * TILE_WIDTH + position)
            try:
                expected[position] = parent_hash(_read_tile(store, child))
            except (MissingObjectError, FormatError):
                continue  # cannot speak for or against the tile above it
        _compare(expected, edge.levels[tile.level], tile, "tile below")
