"""The writer against the naive tree: layout, roots, recovery of the edge, and what it refuses."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.ledger.stores import (
    MemoryStore,
    UniformStore,
    check_ledger,
    make_leaves,
    make_note,
    paths_of,
    read_tree,
    seal,
    uniform_hash,
)

from pgseal.core.merkle import EMPTY_ROOT, check_consistency, check_inclusion, leaf_hash, leaf_hashes, tree_root
from pgseal.core.tiles import format_entries, parent_hash, tile_at
from pgseal.errors import ForkError, FormatError, ProofError, RollbackError, TamperError, UnavailableError
from pgseal.ledger.prove import prove_consistency, prove_inclusion
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import DirectoryStore, MissingObjectError
from pgseal.ledger.writer import LedgerWriter


def new_writer(store: MemoryStore | DirectoryStore) -> LedgerWriter:
    return LedgerWriter.open(store, 0, EMPTY_ROOT)


def filled(*sizes: int) -> tuple[MemoryStore, LedgerWriter]:
    """A ledger that was sealed at each of these sizes."""
    store = MemoryStore()
    writer = new_writer(store)
    for size in sizes:
        seal(writer, make_leaves(writer.size, size))
    return store, writer


batches = st.lists(
    st.one_of(st.integers(1, 40), st.integers(200, 600), st.sampled_from([1, 255, 256, 257, 512])),
    min_size=1,
    max_size=7,
)


@given(batches, st.data())
@settings(max_examples=40)
def test_every_step_leaves_exactly_the_tiles_of_the_naive_tree(sizes, data):
    store = MemoryStore()
    writer = new_writer(store)
    reader = LedgerReader(store)
    steps: list[int] = []
    for count in sizes:
        if data.draw(st.booleans(), label="open again"):
            writer = LedgerWriter.open(store, writer.size, writer.root())
        old_size, old_root = writer.size, writer.root()
        seal(writer, make_leaves(old_size, old_size + count))
        steps.append(writer.size)
        leaves = make_leaves(0, writer.size)
        assert writer.root() == tree_root(leaf_hashes(leaves))
        check_ledger(store, leaves)
        assert set(store.objects) == paths_of(steps)
        index = data.draw(st.integers(0, writer.size - 1), label="leaf")
        proof = prove_inclusion(reader, index, writer.size)
        check_inclusion(proof, index, leaf_hash(leaves[index]), writer.size, writer.root())
        if old_size:
            proof = prove_consistency(reader, old_size, writer.size)
            check_consistency(proof, old_size, writer.size, old_root, writer.root())


@given(batches)
@settings(max_examples=5)
def test_a_directory_holds_what_memory_holds(tmp_path_factory, sizes):
    directory = tmp_path_factory.mktemp("ledger")
    memory = MemoryStore()
    writers = [new_writer(memory), new_writer(DirectoryStore(directory))]
    for count in sizes:
        for writer in writers:
            seal(writer, make_leaves(writer.size, writer.size + count))
    assert read_tree(directory) == memory.objects


def test_layout_of_seventy_thousand_leaves_is_that_of_the_format():
    store = MemoryStore()
    seal(new_writer(store), [b"x"] * 70_000)
    tiles = sorted(path for path in store.objects if not path.startswith(("tile/entries/", "tile/0/", "checkpoint")))
    assert tiles == ["tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"]
    for kind in ("0", "entries"):
        assert sum(path.startswith(f"tile/{kind}/") for path in store.objects) == 274
        assert f"tile/{kind}/272" in store.objects
        assert f"tile/{kind}/273.p/112" in store.objects
    assert store.objects["tile/entries/273.p/112"] == b"\x00\x01x" * 112


def test_batches_of_any_size_make_the_same_log():
    whole, parts = MemoryStore(), MemoryStore()
    leaves = make_leaves(0, 70_000)
    one, many = new_writer(whole), new_writer(parts)
    seal(one, leaves)
    for begin, end in [(0, 1), (1, 256), (256, 65_535), (65_535, 65_536), (65_536, 65_793), (65_793, 70_000)]:
        seal(many, leaves[begin:end])
    assert many.root() == one.root()
    assert whole.objects.items() <= parts.objects.items()


@pytest.mark.parametrize("distance", [0, 1, 255, 256, 65_536 + 3])
def test_tiles_of_level_three_and_above(distance):
    """16,777,216 leaves fill the first tile of level 2, and its hash is the first of level 3."""
    full = 256**3
    store = UniformStore(full - distance)
    writer = LedgerWriter.open(store, store.tree_size, store.root())
    seal(writer, [store.leaf] * (distance + 5))
    grown = UniformStore(full + 5)
    assert writer.root() == grown.root()
    assert LedgerWriter.open(store, writer.size, writer.root()).root() == grown.root()
    if distance:
        assert store.objects["tile/2/000"] == uniform_hash(store.leaf, 16) * 256
        assert store.objects["tile/3/000.p/1"] == uniform_hash(store.leaf, 24)
    assert all(data == grown.read(path) for path, data in store.objects.items() if path != "checkpoint")


@pytest.mark.parametrize("size", [1, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 256**3, 2**40 + 2**16 + 77])
def test_open_knows_the_root_at_any_size(size):
    store = UniformStore(size)
    writer = LedgerWriter.open(store, size, store.root())
    assert (writer.size, writer.root()) == (size, store.root())
    assert len(store.reads) < 10


def test_appending_nothing_writes_nothing():
    store, writer = filled(300)
    before = dict(store.objects)
    writer.append([])
    assert (writer.size, store.objects) == (300, before)


def test_new_log_wants_the_root_of_the_empty_tree():
    with pytest.raises(ProofError):
        LedgerWriter.open(MemoryStore(), 0, bytes(32))


def test_a_leaf_too_long_is_refused_and_nothing_written():
    store, writer = filled(3)
    before = dict(store.objects)
    with pytest.raises(FormatError, match="65535"):
        writer.append([b"fits", b"x" * 65_536])
    assert (writer.size, store.objects) == (3, before)
    seal(writer, [b"x" * 65_535])
    assert LedgerReader(store).leaf(3, 4) == b"x" * 65_535


# What open catches


@pytest.mark.parametrize("size", [1, 100, 256, 600, 65_536, 65_536 + 256 * 3 + 2])
def test_open_catches_a_flipped_bit_anywhere_on_the_edge(size):
    store = UniformStore(size)
    LedgerWriter.open(store, size, store.root())
    edge = set(store.reads) - {"checkpoint"}
    assert edge
    for path in edge:
        original = store.read(path)
        for offset in {0, 1, 2, len(original) // 2, len(original) - 33 if len(original) > 33 else 0, len(original) - 1}:
            changed = bytearray(original)
            changed[offset] ^= 1 << offset % 8
            store.objects[path] = bytes(changed)
            with pytest.raises((ProofError, FormatError)):
                LedgerWriter.open(store, size, store.root())
        del store.objects[path]


def test_open_names_the_file_and_leaves_of_a_changed_leaf_hash():
    store, writer = filled(300)
    path = "tile/0/001.p/44"
    store.objects[path] = store.objects[path][:64] + bytes(32) + store.objects[path][96:]
    with pytest.raises(ProofError, match=r"tile/0/001.p/44 or tile/entries/001.p/44: .*leaves \[258, 259\)") as caught:
        LedgerWriter.open(store, 300, writer.root())
    assert (caught.value.where, caught.value.leaf_index) == ("ledger", 258)


def test_open_names_the_changed_hash_of_a_higher_tile():
    store, writer = filled(256 * 3 + 7)
    path = "tile/1/000.p/3"
    store.objects[path] = store.objects[path][:32] + bytes(32) + store.objects[path][64:]
    with pytest.raises(ProofError, match=r"tile/1/000.p/3: hash 1 \(leaves \[256, 512\)\)"):
        LedgerWriter.open(store, writer.size, writer.root())


def test_open_catches_an_entry_changed_together_with_its_hash():
    store, writer = filled(256 * 2 + 2)
    store.objects["tile/entries/002.p/2"] = format_entries([b"forged", b"forged"])
    store.objects["tile/0/002.p/2"] = leaf_hash(b"forged") * 2
    with pytest.raises(ProofError, match="changed together"):
        LedgerWriter.open(store, writer.size, writer.root())


def test_open_checks_the_last_full_bundle_where_there_is_no_partial_one():
    store, writer = filled(512)
    forged = [b"forged"] * 256
    store.objects["tile/entries/001"] = format_entries(forged)
    with pytest.raises(ProofError, match="tile/0/001 or tile/entries/001"):
        LedgerWriter.open(store, 512, writer.root())
    store.objects["tile/0/001"] = leaf_hash(b"forged") * 256
    with pytest.raises(ProofError, match=r"tile/1/000.p/2: hash 1 \(leaves \[256, 512\)\)"):
        LedgerWriter.open(store, 512, writer.root())
    store.objects["tile/1/000.p/2"] = store.objects["tile/1/000.p/2"][:32] + parent_hash(leaf_hashes(forged))
    with pytest.raises(ProofError, match="changed together"):
        LedgerWriter.open(store, 512, writer.root())


@pytest.mark.parametrize("path", ["tile/0/001.p/44", "tile/entries/001.p/44", "tile/1/000.p/1"])
def test_open_names_a_missing_file(path):
    store, writer = filled(300)
    del store.objects[path]
    with pytest.raises(MissingObjectError) as caught:
        LedgerWriter.open(store, 300, writer.root())
    assert caught.value.path == path


@pytest.mark.parametrize(("path", "offset"), [("tile/entries/001.p/44", 0), ("tile/0/001.p/44", None)])
def test_open_names_a_cut_off_file(path, offset):
    store, writer = filled(300)
    store.objects[path] = store.objects[path][:1]
    with pytest.raises(FormatError) as caught:
        LedgerWriter.open(store, 300, writer.root())
    assert (caught.value.source, caught.value.offset) == (path, offset)


# What may not change


def test_leftovers_above_the_signed_size_are_overwritten():
    store, writer = filled(300)
    root = writer.root()
    undisturbed = filled(300, 900)[0].objects
    writer.append(make_leaves(300, 800))  # never signed
    for path in set(store.objects) - set(filled(300)[0].objects):
        store.objects[path] = b"torn"
    again = LedgerWriter.open(store, 300, root)
    seal(again, make_leaves(300, 900))
    assert undisturbed.items() <= store.objects.items()


@pytest.mark.parametrize("size", [299, 1, 0])
def test_open_refuses_to_go_behind_the_published_size(size):
    store, _ = filled(300)
    root = tree_root(leaf_hashes(make_leaves(0, size)))
    with pytest.raises(RollbackError, match=f"published size 300, but only size {size}"):
        LedgerWriter.open(store, size, root)


def test_open_refuses_another_root_than_the_published_one():
    store, _ = filled(300)
    store.replace("checkpoint", make_note(300, bytes(32)))
    with pytest.raises(ForkError):
        LedgerWriter.open(store, 300, tree_root(leaf_hashes(make_leaves(0, 300))))


def test_a_second_writer_changes_nothing_at_or_below_the_signed_size():
    store, first = filled(300)
    second = LedgerWriter.open(store, 300, first.root())
    seal(first, make_leaves(300, 900))
    before = dict(store.objects)
    with pytest.raises(ForkError, match="expected size 300, got size 900"):
        second.append([b"other"] * 400)
    assert (second.size, store.objects) == (300, before)


def test_publish_refuses_when_someone_else_has_published():
    store, first = filled(300)
    second = LedgerWriter.open(store, 300, first.root())
    second.append([b"other"])
    note = make_note(301, second.root())
    seal(first, make_leaves(300, 302))
    published = store.objects["checkpoint"]
    with pytest.raises(ForkError):
        second.publish(note, 301)
    assert store.objects["checkpoint"] == published


def test_an_older_checkpoint_put_back_stops_the_writer():
    store, writer = filled(300)
    older = store.objects["checkpoint"]
    seal(writer, make_leaves(300, 400))
    store.objects["checkpoint"] = older
    with pytest.raises(RollbackError, match="expected size 400, got size 300"):
        writer.append([b"more"])


def test_a_checkpoint_that_vanished_stops_the_writer():
    store, writer = filled(300)
    del store.objects["checkpoint"]
    with pytest.raises(MissingObjectError, match="mounted"):
        writer.append([b"more"])


@pytest.mark.parametrize("flip", [0, 30, -1])
def test_a_damaged_checkpoint_is_named(flip):
    store, writer = filled(300)
    changed = bytearray(store.objects["checkpoint"])
    changed[flip] ^= 0x80
    store.objects["checkpoint"] = bytes(changed)
    with pytest.raises((FormatError, TamperError), match="checkpoint"):
        LedgerWriter.open(store, 300, writer.root())


# Publishing


def test_publish_refuses_another_root():
    store, writer = filled(300)
    writer.append([b"more"])
    writer.root()
    before = dict(store.objects)
    with pytest.raises(ForkError, match="expected the ledger's root"):
        writer.publish(make_note(301, bytes(32)), 301)
    assert store.objects == before


def test_publish_refuses_a_size_that_nobody_can_have_signed():
    _, writer = filled(300)
    with pytest.raises(ValueError, match="size 301"):
        writer.publish(make_note(301, bytes(32)), 301)
    with pytest.raises(ValueError, match="expected a checkpoint of size 301"):
        writer.publish(make_note(300, writer.root()), 301)


def test_publish_never_goes_back():
    _, writer = filled(300)
    root = writer.root()
    seal(writer, [b"more"])
    with pytest.raises(RollbackError):
        writer.publish(make_note(300, root), 300)


def test_publish_again_adds_signatures():
    store, writer = filled(300)
    note = store.objects["checkpoint"] + "— witness.example AAAAAAAA\n".encode()
    writer.publish(note, 300)
    assert store.objects["checkpoint"] == note
    seal(writer, [b"more"])


def test_publish_may_lag_behind_append():
    store, writer = filled(100)
    writer.append(make_leaves(100, 200))
    note = make_note(200, writer.root())
    writer.append(make_leaves(200, 300))
    later = make_note(300, writer.root())
    writer.publish(note, 200)
    # 256 leaves are on disk, but not signed: readers of size 200 still need the partial tile.
    assert "tile/0/000.p/200" in store.objects
    check_ledger(store, make_leaves(0, 200))
    writer.publish(later, 300)
    assert set(store.objects) == paths_of([300])


def test_first_publish_after_open_removes_leftovers_near_the_edge():
    store, writer = filled(700)
    left = {f"tile/{kind}/001.p/{width}": b"torn" for kind in ("0", "entries") for width in (1, 255)}
    needed = {"tile/0/002.p/9": b"torn", "tile/0/003.p/9": b"torn"}
    store.objects |= left | needed | {"tile/0/000.p/notes": b"", "tile/0/foreign.p/1": b""}
    again = LedgerWriter.open(store, 700, writer.root())
    again.publish(store.objects["checkpoint"], 700)
    assert not left.keys() & store.objects.keys()
    assert needed.keys() < store.objects.keys()
    assert "tile/0/foreign.p/1" in store.objects


def test_what_a_failed_append_left_is_removed_though_other_leaves_follow(monkeypatch):
    store, writer = filled(256)
    writer.publish(store.objects["checkpoint"], 256)
    write_new = store.write_new

    def fail_at_the_end(objects):
        write_new(objects)
        raise UnavailableError("disk full")

    monkeypatch.setattr(store, "write_new", fail_at_the_end)
    with pytest.raises(UnavailableError):
        writer.append(make_leaves(256, 300))
    monkeypatch.undo()
    assert (writer.size, "tile/0/001.p/44" in store.objects) == (256, True)
    seal(writer, make_leaves(256, 600))
    assert set(store.objects) == paths_of([256, 600])


def test_partial_tiles_stay_where_the_full_one_is_gone():
    store, writer = filled(250)
    writer.append(make_leaves(250, 300))
    del store.objects["tile/0/000"]
    writer.publish(make_note(300, writer.root()), 300)
    assert "tile/0/000.p/250" in store.objects


def test_edge_tiles_are_those_of_the_tree(tmp_path: Path):
    writer = new_writer(DirectoryStore(tmp_path))
    seal(writer, make_leaves(0, 777))
    tile = tile_at(0, 3, 777)
    assert (tmp_path / f"tile/0/003.p/{tile.width}").stat().st_size == tile.width * 32
