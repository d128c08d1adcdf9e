"""Tiles: paths, which exist, which are new, hashes served from them, entry bundles."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies import hashes, leaves

from pgseal.core.merkle import (
    check_consistency,
    check_inclusion,
    check_range,
    prove_consistency,
    prove_inclusion,
    prove_range,
    tree_root,
)
from pgseal.core.tiles import (
    Tile,
    entries_path,
    format_entries,
    format_tile,
    hash_reader,
    locate_hash,
    new_tiles,
    parent_hash,
    parse_entries,
    parse_entries_path,
    parse_tile,
    parse_tile_path,
    partial_width,
    tile_at,
    tile_path,
    tiles_of,
)
from pgseal.errors import FormatError

LEAVES = leaves(70_000)
ROOT = tree_root(LEAVES)


@pytest.fixture(scope="module")
def tile_contents():
    """Every tile of a tree of 70,000 leaves, made from the definition."""
    contents, level, row = {}, 0, LEAVES
    while row:
        for start in range(0, len(row), 256):
            chunk = row[start : start + 256]
            contents[Tile(level, start // 256, len(chunk))] = b"".join(chunk)
        row = [tree_root(row[start : start + 256]) for start in range(0, len(row) - 255, 256)]
        level += 1
    return contents


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 1_234_067), "tile/0/x001/x234/067"),
        (Tile(1, 999), "tile/1/999"),
        (Tile(1, 1000), "tile/1/x001/000"),
        (Tile(0, 273, 112), "tile/0/273.p/112"),
        (Tile(63, 5, 1), "tile/63/005.p/1"),
        (Tile(0, 2**55 - 1, 255), "tile/0/x036/x028/x797/x018/x963/967.p/255"),
    ],
)
def test_tile_paths(tile: Tile, path: str):
    assert tile_path(tile) == path
    assert parse_tile_path(path) == tile


def test_entries_paths():
    assert entries_path(273, 112) == "tile/entries/273.p/112"
    assert entries_path(1_234_067) == "tile/entries/x001/x234/067"
    assert parse_entries_path("tile/entries/273.p/112") == (273, 112)
    assert parse_entries_path("tile/entries/x001/x234/067") == (1_234_067, 256)


@given(st.integers(0, 63), st.integers(0, 2**55 - 1), st.integers(1, 256))
def test_paths_read_back(level: int, index: int, width: int):
    assert parse_tile_path(tile_path(Tile(level, index, width))) == Tile(level, index, width)
    assert parse_entries_path(entries_path(index, width)) == (index, width)


@pytest.mark.parametrize(
    "path",
    [
        "tile/64/000",
        "tile/00/000",
        "tile/-1/000",
        "tile/0/0",
        "tile/0/0000",
        "tile/0/001/000",
        "tile/0/x001/x000",
        "tile/0/x000/001",
        "tile/0/x000/x001/000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/0/x999/x999/x999/x999/x999/999",
        "tile/0/../000",
        "/tile/0/000",
        "tile/0/000/",
        "tile/0/000\n",
        "tile/entries/000",
        "tile/data/000",
        "checkpoint",
        "",
    ],
)
def test_other_paths_are_refused(path: str):
    with pytest.raises(FormatError):
        parse_tile_path(path)


@pytest.mark.parametrize("path", ["tile/0/000", "tile/entries/x000/001", "tile/entries/000.p/256", "tile/entries/0"])
def test_other_entries_paths_are_refused(path: str):
    with pytest.raises(FormatError):
        parse_entries_path(path)


@pytest.mark.parametrize(
    "tile", [Tile(-1, 0), Tile(64, 0), Tile(0, -1), Tile(0, 2**55), Tile(0, 0, 0), Tile(0, 0, 257)]
)
def test_tiles_that_cannot_exist_have_no_path(tile: Tile):
    with pytest.raises(ValueError, match="tile"):
        tile_path(tile)


def test_tiles_of_the_example_of_the_specification():
    tiles = list(tiles_of(70_000))
    assert [tile for tile in tiles if tile.level == 0] == [Tile(0, index) for index in range(273)] + [Tile(0, 273, 112)]
    assert [tile for tile in tiles if tile.level == 1] == [Tile(1, 0), Tile(1, 1, 17)]
    assert [tile for tile in tiles if tile.level == 2] == [Tile(2, 0, 1)]
    assert len(tiles) == 274 + 2 + 1
    assert [partial_width(70_000, level) for level in range(4)] == [112, 17, 1, 0]


def test_tiles_of_small_trees():
    assert list(tiles_of(0)) == []
    assert list(tiles_of(1)) == [Tile(0, 0, 1)]
    assert list(tiles_of(255)) == [Tile(0, 0, 255)]
    assert list(tiles_of(256)) == [Tile(0, 0), Tile(1, 0, 1)]
    assert list(tiles_of(257)) == [Tile(0, 0), Tile(0, 1, 1), Tile(1, 0, 1)]


@given(st.integers(0, 70_000), st.integers(0, 70_000))
def test_new_tiles_are_those_the_old_tree_has_not(one: int, other: int):
    old_size, size = sorted((one, other))
    old = set(tiles_of(old_size))
    assert list(new_tiles(old_size, size)) == [tile for tile in tiles_of(size) if tile not in old]


@pytest.mark.parametrize(("old_size", "size"), [(5, 4), (-1, 4), (0, 2**63)])
def test_logs_that_shrink_have_no_new_tiles(old_size: int, size: int):
    with pytest.raises(ValueError, match="cannot grow"):
        new_tiles(old_size, size)


def test_hashes_between_tile_levels_are_located_in_the_tile_below():
    assert locate_hash((0, 69_999), 70_000) == (Tile(0, 273, 112), 111, 112)
    assert locate_hash((3, 40), 70_000) == (Tile(0, 1), 64, 72)
    assert locate_hash((7, 1), 70_000) == (Tile(0, 0), 128, 256)
    assert locate_hash((8, 272), 70_000) == (Tile(1, 1, 17), 16, 17)
    assert locate_hash((16, 0), 70_000) == (Tile(2, 0, 1), 0, 1)
    assert locate_hash((15, 1), 70_000) == (Tile(1, 0), 128, 256)


@pytest.mark.parametrize("coordinate", [(0, 70_000), (16, 1), (17, 0), (4, 4375), (-1, 0), (0, -1)])
def test_hashes_the_tree_has_not_cannot_be_located(coordinate: tuple[int, int]):
    with pytest.raises(ValueError, match="no full subtree"):
        locate_hash(coordinate, 70_000)


def test_tile_at_is_as_wide_as_the_tree_has_it():
    assert tile_at(0, 272, 70_000) == Tile(0, 272)
    assert tile_at(0, 273, 70_000) == Tile(0, 273, 112)
    for level, index in ((0, 274), (1, 2), (3, 0), (-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="has no tile"):
            tile_at(level, index, 70_000)


def test_tiles_of_the_tree_are_those_that_exist(tile_contents: dict[Tile, bytes]):
    assert set(tile_contents) == set(tiles_of(70_000))


@settings(max_examples=15)
@given(st.lists(st.integers(0, 70_000), min_size=2, max_size=2, unique=True).map(sorted))
def test_proofs_served_from_tiles_are_accepted(tile_contents: dict[Tile, bytes], bounds: list[int]):
    begin, end = bounds
    size, root = 70_000, ROOT
    asked = []

    def read_tiles(tiles: Sequence[Tile]):
        asked.append(len(tiles))
        assert len(set(tiles)) == len(tiles)
        return [tile_contents[tile] for tile in tiles]

    reader = hash_reader(size, read_tiles)
    check_inclusion(prove_inclusion(begin, size, reader), begin, LEAVES[begin], size, root)
    check_range(LEAVES[begin:end], prove_range(begin, end, size, reader), begin, end, size, root)
    old_root = tree_root(LEAVES[:end])
    check_consistency(prove_consistency(end, size, reader), end, size, old_root, root)
    assert len(asked) <= 3


def test_a_full_tile_serves_where_a_partial_one_was():
    content = format_tile(LEAVES[:256])
    reader = hash_reader(100, lambda tiles: [content for _ in tiles])
    assert list(reader([(5, 2), (0, 99)])) == [tree_root(LEAVES[64:96]), LEAVES[99]]


def test_tiles_that_are_too_short_or_not_whole_are_refused():
    for content in (format_tile(LEAVES[:99]), format_tile(LEAVES[:100])[:-1], b"", format_tile(LEAVES[:256]) * 2):
        with pytest.raises(FormatError, match=r"tile/0/000\.p/100"):
            hash_reader(100, lambda tiles, content=content: [content for _ in tiles])([(0, 99)])


def test_parent_hash_is_the_root_of_a_full_tile():
    assert parent_hash(LEAVES[:256]) == tree_root(LEAVES[:256])
    with pytest.raises(ValueError, match="full tile"):
        parent_hash(LEAVES[:255])


@given(st.lists(hashes, min_size=1, max_size=256))
def test_tiles_read_back(content: list[bytes]):
    data = format_tile(content)
    assert len(data) == 32 * len(content)
    assert parse_tile(data, source="tile", width=len(content)) == content
    with pytest.raises(FormatError):
        parse_tile(data, source="tile", width=len(content) + 1)


def test_tiles_of_other_sizes_are_refused():
    for data in (b"", bytes(31), bytes(33), bytes(257 * 32)):
        with pytest.raises(FormatError):
            parse_tile(data, source="tile")
    for content in ([], [bytes(31)], [bytes(32)] * 257):
        with pytest.raises(ValueError, match="1 to 256 hashes"):
            format_tile(content)


def test_entry_bundles_have_16_bit_lengths():
    data = format_entries([b"ab", b"", b"c" * 65_535])
    assert data == b"\x00\x02ab" + b"\x00\x00" + b"\xff\xff" + b"c" * 65_535
    assert parse_entries(data, 3, source="bundle") == [b"ab", b"", b"c" * 65_535]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=256))
def test_entry_bundles_read_back_only_whole(entries: list[bytes]):
    data = format_entries(entries)
    assert parse_entries(data, len(entries), source="bundle") == entries
    for damaged, count in (
        (data[:-1], len(entries)),
        (data + b"\0", len(entries)),
        (data, len(entries) - 1),
        (data, len(entries) + 1),
    ):
        with pytest.raises(FormatError, match="bundle"):
            parse_entries(damaged, count, source="bundle")


def test_bundles_that_cannot_exist_are_refused():
    for entries in ([], [b"a"] * 257, [b"a" * 65_536]):
        with pytest.raises(FormatError):
            format_entries(entries)


@given(st.binary(max_size=40), st.integers(0, 5))
def test_arbitrary_bytes_are_a_bundle_or_a_format_error(data: bytes, count: int):
    try:
        entries = parse_entries(data, count, source="bundle")
    except FormatError:
        return
    assert len(entries) == count
    assert b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries) == data
