"""Where the hashes and entries of a tiled log live (C2SP tlog-tiles, FORMATS.md section 2).

A tile is a run of up to 256 consecutive hashes at every eighth level of the tree. Its bytes are the hashes one after
the other: a full tile has 8,192 bytes. A hash of a level-L tile is the root of a full level-(L-1) tile, and at level
0 a leaf hash. An entry bundle is the leaves beside a level-0 tile: ``uint16 big-endian length ‖ leaf_data``,
repeated.

::

    tile/<L>/<N>[.p/<W>]          tile/0/x001/x234/067
    tile/entries/<N>[.p/<W>]      tile/entries/273.p/112

Only the rightmost tile of a level can be partial; its width for a tree of size s is ⌊s/256^L⌋ mod 256, and an empty
tile is never written. A tree of 70,000 leaves: level 0 has 273 full tiles and one of width 112, level 1 one full and
one of width 17, level 2 one of width 1.

Hashes between tile levels are stored nowhere: the hash at level 8L + r is made of 2^r hashes of a level-L tile.

Spec: https://c2sp.org/tlog-tiles.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pgseal.core.encoding import MAX_TREE_SIZE, shorten
from pgseal.core.envelope import MAX_LEAF_BYTES
from pgseal.core.merkle import HASH_BYTES, Coordinate, HashReader, hash_pairs
from pgseal.errors import FormatError

#: Levels of the tree that one tile spans.
TILE_HEIGHT = 8
#: Hashes in a full tile, and entries in a full bundle.
TILE_WIDTH = 256
#: Highest level a tile path may name (C2SP tlog-tiles).
MAX_LEVEL = 63

_LENGTH_BYTES = 2
_PATH = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """``width`` hashes at tile level ``level``, starting at hash ``index * 256`` of that level."""

    level: int
    index: int
    width: int = TILE_WIDTH


#: Returns the contents of the given tiles, in their order. A full tile may be given in a partial one's place.
TileReader: TypeAlias = Callable[[Sequence[Tile]], Sequence[bytes]]


def tile_path(tile: Tile) -> str:
    """Return the path of a tile below the ledger's root; raises ``ValueError`` for a tile that cannot exist."""
    if not 0 <= tile.level <= MAX_LEVEL:
        raise ValueError(f"expected a tile level from 0 to {MAX_LEVEL}, got {tile.level}")
    return f"tile/{tile.level}/{_format_position(tile.index, tile.width)}"


def entries_path(index: int, width: int = TILE_WIDTH) -> str:
    """Return the path of an entry bundle below the ledger's root; raises ``ValueError`` as ``tile_path`` does."""
    return f"tile/entries/{_format_position(index, width)}"


def parse_tile_path(path: str, *, source: str = "tile path") -> Tile:
    """Return the tile that ``path`` names; raises ``FormatError`` unless it is the one spelling of a tile's path."""
    level, index, width = _parse_path(path, source)
    if level is None or level > MAX_LEVEL:
        raise FormatError(f"expected tile/<level 0 to {MAX_LEVEL}>/…, got {shorten(path)}", source=source)
    return Tile(level, index, width)


def parse_entries_path(path: str, *, source: str = "entries path") -> tuple[int, int]:
    """Return ``(index, width)`` of the bundle that ``path`` names; raises ``FormatError``."""
    level, index, width = _parse_path(path, source)
    if level is not None:
        raise FormatError(f"expected tile/entries/…, got {shorten(path)}", source=source)
    return index, width


def partial_width(tree_size: int, level: int) -> int:
    """Return the width of the partial tile at a level, 0 if there is none."""
    return (tree_size >> (TILE_HEIGHT * level)) % TILE_WIDTH


def tiles_of(tree_size: int) -> Iterator[Tile]:
    """Yield every tile of a tree, lowest level first, left to right; nothing for the empty tree."""
    return new_tiles(0, tree_size)


def new_tiles(old_size: int, tree_size: int) -> Iterator[Tile]:
    """Yield the tiles of ``tree_size`` that ``old_size`` has not, or has with fewer hashes; lowest level first.

    Level-0 tiles stand for their entry bundles too. Raises ``ValueError`` unless 0 <= old_size <= tree_size.
    """
    if not 0 <= old_size <= tree_size <= MAX_TREE_SIZE:
        raise ValueError(f"a log cannot grow from size {old_size} to size {tree_size}")
    return _new_tiles(old_size, tree_size)


def _new_tiles(old_size: int, tree_size: int) -> Iterator[Tile]:
    level, old_count, count = 0, old_size, tree_size
    while old_count != count:
        for index in range(old_count // TILE_WIDTH, -(-count // TILE_WIDTH)):
            yield Tile(level, index, min(TILE_WIDTH, count - index * TILE_WIDTH))
        level += 1
        old_count >>= TILE_HEIGHT
        count >>= TILE_HEIGHT


def tile_at(level: int, index: int, tree_size: int) -> Tile:
    """Return the tile at ``(level, index)`` as wide as it is in a tree of ``tree_size``.

    Raises ``ValueError`` if the tree has no such tile.
    """
    row = tree_size >> (TILE_HEIGHT * max(level, 0))
    width = min(TILE_WIDTH, row - index * TILE_WIDTH)
    if level < 0 or index < 0 or width <= 0:
        raise ValueError(f"a tree of size {tree_size} has no tile {index} at level {level}")
    return Tile(level, index, width)


def locate_hash(coordinate: Coordinate, tree_size: int) -> tuple[Tile, int, int]:
    """Return ``(tile, start, end)``: the hash is made of hashes ``[start, end)`` of the tile.

    ``coordinate`` is ``(level, index)`` of a full subtree. Raises ``ValueError`` if the tree has no such subtree.
    """
    level, index = coordinate
    if level < 0 or index < 0 or (index + 1) << level > tree_size:
        raise ValueError(f"a tree of size {tree_size} has no full subtree {index} at level {level}")
    tile_level, rise = divmod(level, TILE_HEIGHT)
    first = index << rise
    start = first % TILE_WIDTH
    return tile_at(tile_level, first // TILE_WIDTH, tree_size), start, start + (1 << rise)


def hash_reader(tree_size: int, read_tiles: TileReader) -> HashReader:
    """Return a ``HashReader`` for proofs over a tree of ``tree_size``, served from tiles.

    Every tile is asked for once a call. Tiles are not authenticated here: proofs made of wrong ones fail their check.
    The reader raises ``FormatError`` for tiles that are too short, and what ``read_tiles`` raises.
    """

    def read(coordinates: Sequence[Coordinate]) -> list[bytes]:
        places = [locate_hash(coordinate, tree_size) for coordinate in coordinates]
        tiles = sorted({tile for tile, _, _ in places})
        contents = {
            tile: parse_tile(content, source=tile_path(tile))
            for tile, content in zip(tiles, read_tiles(tiles), strict=True)
        }
        return [_subtree_root(contents[tile], tile, start, end) for tile, start, end in places]

    return read


def _subtree_root(content: Sequence[bytes], tile: Tile, start: int, end: int) -> bytes:
    hashes = content[start:end]
    if len(hashes) != end - start:
        raise FormatError(f"expected at least {tile.width} hashes, got {len(content)}", source=tile_path(tile))
    while len(hashes) > 1:
        hashes = hash_pairs(hashes)
    return hashes[0]


def parent_hash(hashes: Sequence[bytes]) -> bytes:
    """Return the hash of a full tile in the tile above it; raises ``ValueError`` unless it has 256 hashes."""
    if len(hashes) != TILE_WIDTH:
        raise ValueError(f"only a full tile has a parent: expected {TILE_WIDTH} hashes, got {len(hashes)}")
    level = hash_pairs(hashes)
    while len(level) > 1:
        level = hash_pairs(level)
    return level[0]


def format_tile(hashes: Sequence[bytes]) -> bytes:
    """Return the bytes of a tile; raises ``ValueError`` unless there are 1 to 256 hashes of 32 bytes."""
    if not 1 <= len(hashes) <= TILE_WIDTH or any(len(hash_) != HASH_BYTES for hash_ in hashes):
        raise ValueError(f"expected 1 to {TILE_WIDTH} hashes of {HASH_BYTES} bytes, got {len(hashes)}")
    return b"".join(hashes)


def parse_tile(data: bytes, *, source: str, width: int | None = None) -> list[bytes]:
    """Return the hashes of a tile, exactly ``width`` of them where given; raises ``FormatError``."""
    check_tile(data, source=source, width=width)
    return [data[offset : offset + HASH_BYTES] for offset in range(0, len(data), HASH_BYTES)]


def check_tile(data: bytes, *, source: str, width: int | None = None) -> None:
    """Raise ``FormatError`` unless these can be the bytes of a tile, of exactly ``width`` hashes where given."""
    count, rest = divmod(len(data), HASH_BYTES)
    if rest or not 1 <= count <= TILE_WIDTH or (width is not None and count != width):
        raise FormatError(
            f"expected {width or '1 to 256'} hashes of {HASH_BYTES} bytes, got {len(data)} bytes", source=source
        )


def format_entries(entries: Sequence[bytes]) -> bytes:
    """Return the bundle of 1 to 256 entries; raises ``FormatError`` for an entry over 65,535 bytes."""
    if not 1 <= len(entries) <= TILE_WIDTH:
        raise FormatError(f"expected 1 to {TILE_WIDTH} entries, got {len(entries)}", source="entry bundle")
    try:
        return b"".join([len(entry).to_bytes(_LENGTH_BYTES, "big") + entry for entry in entries])
    except OverflowError as error:
        raise FormatError(
            f"expected entries of at most {MAX_LEAF_BYTES} bytes, got {max(map(len, entries))}", source="entry bundle"
        ) from error


def parse_entries(data: bytes, count: int, *, source: str) -> list[bytes]:
    """Return the ``count`` entries of a bundle; raises ``FormatError`` for fewer, more, or bytes left over."""
    entries: list[bytes] = []
    offset, size = 0, len(data)
    while offset < size and len(entries) < count:
        begin = offset + _LENGTH_BYTES
        end = begin + int.from_bytes(data[offset:begin], "big")
        if end > size or begin > size:
            raise FormatError(
                f"entry {len(entries)} is cut off: needs bytes up to {end}, the bundle has {size}",
                source=source,
                offset=offset,
            )
        entries.append(data[begin:end])
        offset = end
    if len(entries) != count or offset != size:
        raise FormatError(
            f"expected exactly {count} entries, got {len(entries)} and {size - offset} more bytes",
            source=source,
            offset=offset,
        )
    return entries


def _format_position(index: int, width: int) -> str:
    # Three digits an element, all but the last marked x: files and directories of one name never collide.
    if not 0 <= index <= MAX_TREE_SIZE // TILE_WIDTH or not 1 <= width <= TILE_WIDTH:
        raise ValueError(f"no tile has index {index} and width {width}")
    elements = [f"{index % 1000:03d}"]
    while index := index // 1000:
        elements.append(f"x{index % 1000:03d}")
    path = "/".join(reversed(elements))
    return path if width == TILE_WIDTH else f"{path}.p/{width}"


def _parse_path(path: str, source: str) -> tuple[int | None, int, int]:
    match = _PATH.fullmatch(path)
    if match is None:
        raise FormatError(f"expected tile/<level>/<x000/…/000>[.p/<width>], got {shorten(path)}", source=source)
    index = int(match[2].replace("/", "").replace("x", ""))
    width = int(match[3]) if match[3] else TILE_WIDTH
    if index > MAX_TREE_SIZE // TILE_WIDTH or (match[3] and width >= TILE_WIDTH):
        raise FormatError(f"no tile has index {index} and partial width {width}", source=source)
    if not path.split("/", 2)[2] == _format_position(index, width):
        raise FormatError(f"index is not in its shortest form: {shorten(path)}", source=source)
    return None if match[1] == "entries" else int(match[1]), index, width
