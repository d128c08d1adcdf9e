"""``LedgerReader`` reads a ledger back: its checkpoint, its entries, and the hashes that proofs are made of.

Nothing it returns is authenticated. Sizes come from a checkpoint whose signature the caller has verified, and what is
made of the hashes and entries has to be checked against that checkpoint's root.

A partial tile may be gone because its full one has taken its place since the checkpoint was read, so wherever a
partial one is missing the full one is tried, and its first hashes are the same.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from pgseal.core.merkle import HASH_BYTES, HashReader
from pgseal.core.tiles import (
    TILE_WIDTH,
    Tile,
    check_tile,
    entries_path,
    hash_reader,
    parse_entries,
    tile_at,
    tile_path,
)
from pgseal.ledger.store import CHECKPOINT, WITNESSED, LedgerStore, MissingObjectError

_CACHED_TILES = 256  # of 8 KiB each


class LedgerReader:
    """Reads from a store, keeping the tiles used last in memory. Not safe for concurrent use: one for each thread.

    Every method may raise ``MissingObjectError`` (naming the path), ``FormatError`` (naming path and offset) and
    ``UnavailableError``.
    """

    def __init__(self, store: LedgerStore, *, cached_tiles: int = _CACHED_TILES) -> None:
        """Read from ``store``."""
        self._store = store
        self._cached_tiles = cached_tiles
        # By level and index, as wide as they were when read: a tile only ever gains hashes.
        self._tiles: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def checkpoint_note(self) -> bytes:
        """Return the newest signed checkpoint, not verified."""
        return self._store.read(CHECKPOINT)

    def witnessed_note(self) -> bytes:
        """Return the newest checkpoint that meets the witness policy, not verified."""
        return self._store.read(WITNESSED)

    def hashes(self, tree_size: int) -> HashReader:
        """Return the ``HashReader`` for proofs over the tree of ``tree_size``."""
        return hash_reader(tree_size, self.read_tiles)

    def read_tiles(self, tiles: Sequence[Tile]) -> list[bytes]:
        """Return the contents of tiles, each exactly as wide as asked for."""
        return [self._read_tile(tile) for tile in tiles]

    def read_entries(self, begin: int, end: int, tree_size: int) -> Iterator[list[bytes]]:
        """Yield the leaf_data of leaves ``[begin, end)``, those of one bundle at a time.

        Raises ``ValueError`` unless 0 <= begin <= end <= tree_size.
        """
        if not 0 <= begin <= end <= tree_size:
            raise ValueError(f"no leaves [{begin}, {end}) in a tree of size {tree_size}")
        return self._read_entries(begin, end, tree_size)

    def leaf(self, leaf_index: int, tree_size: int) -> bytes:
        """Return the leaf_data of one leaf; raises ``ValueError`` unless 0 <= leaf_index < tree_size."""
        if leaf_index >= tree_size:
            raise ValueError(f"no leaf {leaf_index} in a tree of size {tree_size}")
        return next(self.read_entries(leaf_index, leaf_index + 1, tree_size))[0]

    def _read_entries(self, begin: int, end: int, tree_size: int) -> Iterator[list[bytes]]:
        for index in range(begin // TILE_WIDTH, -(-end // TILE_WIDTH) if begin < end else 0):
            start = index * TILE_WIDTH
            entries = self._read_bundle(index, tile_at(0, index, tree_size).width)
            yield entries[max(begin - start, 0) : end - start]

    def _read_bundle(self, index: int, width: int) -> list[bytes]:
        path, data = self._read_either(entries_path(index, width), entries_path(index))
        count = width if path == entries_path(index, width) else TILE_WIDTH
        return parse_entries(data, count, source=path)[:width]

    def _read_tile(self, tile: Tile) -> bytes:
        key = (tile.level, tile.index)
        size = tile.width * HASH_BYTES
        data = self._tiles.get(key, b"")
        if len(data) < size:
            full = Tile(tile.level, tile.index)
            path, data = self._read_either(tile_path(tile), tile_path(full))
            check_tile(data, source=path, width=tile.width if path == tile_path(tile) else TILE_WIDTH)
            self._tiles[key] = data
            if len(self._tiles) > self._cached_tiles:
                self._tiles.popitem(last=False)
        self._tiles.move_to_end(key)
        return data[:size]

    def _read_either(self, path: str, full: str) -> tuple[str, bytes]:
        try:
            return path, self._store.read(path)
        except MissingObjectError:
            if path == full or not self._store.exists(full):
                raise  # names the partial one: it is what the checkpoint calls for
            return full, self._store.read(full)
