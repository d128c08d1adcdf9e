"""Stores and helpers for tests of the ledger: one in memory, and one that is as large as it is told to be."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from pgseal.core.checkpoint import Checkpoint, format_checkpoint
from pgseal.core.keys import generate_signer
from pgseal.core.merkle import CompactRange, leaf_hash, leaf_hashes, tree_root
from pgseal.core.note import sign_note
from pgseal.core.tiles import (
    TILE_WIDTH,
    entries_path,
    format_entries,
    parent_hash,
    parse_entries_path,
    parse_tile_path,
    tile_at,
    tiles_of,
)
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import LedgerStore, MissingObjectError
from pgseal.ledger.writer import LedgerWriter

ORIGIN = "clinic.example/test"
SIGNER = generate_signer(ORIGIN, bytes(32))


class MemoryStore:
    """Keeps the protocol's promises in a dictionary."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.reads: list[str] = []

    def read(self, path: str) -> bytes:
        self.reads.append(path)
        if path not in self.objects:
            raise MissingObjectError(f"no {path}", path=path)
        return self.objects[path]

    def exists(self, path: str) -> bool:
        return path in self.objects

    def list_names(self, directory: str) -> list[str]:
        below = [path[len(directory) + 1 :] for path in self.objects if path.startswith(f"{directory}/")]
        return sorted({path.split("/")[0] for path in below})

    def write_new(self, objects: Mapping[str, bytes]) -> None:
        self.objects.update(objects)

    def replace(self, path: str, data: bytes) -> None:
        self.objects[path] = data

    def delete(self, paths: Iterable[str]) -> None:
        for path in list(paths):
            self.objects.pop(path, None)


class UniformStore(MemoryStore):
    """A log of any size, all of whose leaves are the same: every stored byte follows from the size alone."""

    def __init__(self, tree_size: int, leaf: bytes = b"leaf") -> None:
        super().__init__()
        self.tree_size = tree_size
        self.leaf = leaf

    def read(self, path: str) -> bytes:
        if path not in self.objects and path.startswith("tile/") and (data := self._make(path)):
            self.reads.append(path)
            return data
        return super().read(path)

    def root(self) -> bytes:
        hashes = [uniform_hash(self.leaf, level) for level in reversed(range(64)) if self.tree_size >> level & 1]
        return CompactRange(self.tree_size, hashes).root()

    def _make(self, path: str) -> bytes | None:
        is_entries = path.startswith("tile/entries/")
        level = 0 if is_entries else parse_tile_path(path).level
        index, width = (
            parse_entries_path(path) if is_entries else (parse_tile_path(path).index, parse_tile_path(path).width)
        )
        try:
            if tile_at(level, index, self.tree_size).width != width:
                return None
        except ValueError:
            return None
        return format_entries([self.leaf] * width) if is_entries else uniform_hash(self.leaf, 8 * level) * width


@cache
def uniform_hash(leaf: bytes, level: int) -> bytes:
    """The root of 2**level equal leaves."""
    return tree_root([uniform_hash(leaf, level - 1)] * 2) if level else leaf_hash(leaf)


def make_leaves(begin: int, end: int) -> list[bytes]:
    """Leaves that are all different, of different lengths, the empty one among them."""
    return [b"%d " % index * (index % 7) for index in range(begin, end)]


def make_note(size: int, root: bytes) -> bytes:
    return sign_note(format_checkpoint(Checkpoint(ORIGIN, size, root)), SIGNER)


def seal(writer: LedgerWriter, leaves: Sequence[bytes]) -> bytes:
    """Append and publish, as the sealer does; the note that was published."""
    writer.append(leaves)
    note = make_note(writer.size, writer.root())
    writer.publish(note, writer.size)
    return note


def naive_levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """Every tile level of a tree, from the definition."""
    levels = [leaf_hashes(leaves)]
    while len(levels[-1]) >= TILE_WIDTH:
        below = levels[-1]
        full = len(below) - len(below) % TILE_WIDTH
        levels.append([parent_hash(below[start : start + TILE_WIDTH]) for start in range(0, full, TILE_WIDTH)])
    return levels


def check_ledger(store: LedgerStore, leaves: Sequence[bytes]) -> None:
    """Every tile and bundle that the tree of ``leaves`` calls for is there, or its full one is, and is right."""
    reader = LedgerReader(store)
    size = len(leaves)
    levels = naive_levels(leaves)
    for tile in tiles_of(size):
        start = tile.index * TILE_WIDTH
        assert reader.read_tiles([tile]) == [b"".join(levels[tile.level][start : start + tile.width])]
    assert [leaf for bundle in reader.read_entries(0, size, size) for leaf in bundle] == list(leaves)


def paths_of(sizes: Iterable[int]) -> set[str]:
    """What a tidy ledger holds after these sizes were written, ascending, and the last one was published."""
    sizes = list(sizes)
    paths = {"checkpoint"}
    for size in sizes:
        for tile in tiles_of(size):
            if tile.width == TILE_WIDTH or tile.index == sizes[-1] >> 8 * (tile.level + 1):
                paths.add(tile_path_of(tile.level, tile.index, tile.width))
                if tile.level == 0:
                    paths.add(entries_path(tile.index, tile.width))
    return paths


def tile_path_of(level: int, index: int, width: int) -> str:
    """The path of a tile, spelled from FORMATS.md section 2 and not by the code under test."""
    groups = [f"{index % 1000:03}"]
    while index >= 1000:
        index //= 1000
        groups.insert(0, f"x{index % 1000:03}")
    return f"tile/{level}/" + "/".join(groups) + (f".p/{width}" if width < TILE_WIDTH else "")


def read_tree(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, hidden ones too."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
