"""Reading a ledger back: few reads for a proof, the full tile in a partial one's place, damage named."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.ledger.stores import MemoryStore, UniformStore, make_leaves, seal

from pgseal.core.merkle import (
    EMPTY_ROOT,
    check_consistency,
    check_inclusion,
    check_range,
    leaf_hash,
    leaf_hashes,
    tree_root,
)
from pgseal.errors import FormatError, ProofError
from pgseal.ledger.prove import prove_consistency, prove_inclusion, prove_leaf, prove_range
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import MissingObjectError
from pgseal.ledger.writer import LedgerWriter

SEALED = MemoryStore()
seal(LedgerWriter.open(SEALED, 0, EMPTY_ROOT), make_leaves(0, 700))


@pytest.fixture
def sealed() -> tuple[MemoryStore, bytes]:
    """700 leaves, in a store of the test's own, and their root."""
    store = MemoryStore()
    store.objects |= SEALED.objects
    return store, tree_root(leaf_hashes(make_leaves(0, 700)))


@given(st.integers(1, 2**50), st.data())
@settings(max_examples=30)
def test_proofs_over_logs_of_any_size(size, data):
    store = UniformStore(size)
    reader = LedgerReader(store)
    leaf_index = data.draw(st.integers(0, size - 1))
    leaf_data, proof = prove_leaf(reader, leaf_index, size, store.root())
    assert leaf_data == store.leaf
    check_inclusion(proof, leaf_index, leaf_hash(store.leaf), size, store.root())
    old = UniformStore(data.draw(st.integers(1, size)))
    check_consistency(prove_consistency(reader, old.tree_size, size), old.tree_size, size, old.root(), store.root())
    begin = data.draw(st.integers(max(0, size - 300), size - 1))
    hashes = [leaf_hash(store.leaf)] * (size - begin)
    check_range(hashes, prove_range(reader, begin, size, size), begin, size, size, store.root())


def test_inclusion_in_ten_million_leaves_reads_a_handful_of_tiles():
    size = 10_000_000
    store = UniformStore(size)
    reader = LedgerReader(store)
    prove_inclusion(reader, 4_567_890, size)
    assert len(store.reads) <= 6
    store.reads.clear()
    prove_inclusion(reader, 4_567_891, size)
    assert store.reads == []


def test_the_cache_is_bounded_and_keeps_what_was_used_last():
    size = 256 * 50
    store = UniformStore(size)
    reader = LedgerReader(store, cached_tiles=4)
    for index in range(50):
        prove_inclusion(reader, index * 256, size)
    reads = len(store.reads)
    prove_inclusion(reader, 49 * 256 + 3, size)
    assert len(store.reads) == reads
    prove_inclusion(reader, 3, size)
    assert len(store.reads) > reads


@given(st.tuples(st.integers(0, 700), st.integers(0, 700)).map(sorted))
def test_entries_of_any_range(bounds):
    begin, end = bounds
    bundles = list(LedgerReader(SEALED).read_entries(begin, end, 700))
    assert [leaf for bundle in bundles for leaf in bundle] == make_leaves(begin, end)
    assert all(1 <= len(bundle) <= 256 for bundle in bundles)


@pytest.mark.parametrize(("begin", "end"), [(-1, 5), (5, 4), (0, 701)])
def test_leaves_that_are_not_there_are_the_callers_mistake(sealed, begin, end):
    reader = LedgerReader(sealed[0])
    with pytest.raises(ValueError, match="tree of size 700"):
        reader.read_entries(begin, end, 700)
    for index in (-1, 700):
        with pytest.raises(ValueError):
            reader.leaf(index, 700)


def test_the_full_tile_serves_a_checkpoint_that_called_for_a_partial_one():
    store = MemoryStore()
    writer = LedgerWriter.open(store, 0, EMPTY_ROOT)
    seal(writer, make_leaves(0, 300))
    root = writer.root()
    seal(writer, make_leaves(300, 700))
    assert not store.exists("tile/0/001.p/44")
    assert prove_leaf(LedgerReader(store), 299, 300, root)[0] == make_leaves(299, 300)[0]


def test_one_reader_follows_a_growing_log():
    store = MemoryStore()
    writer, reader = LedgerWriter.open(store, 0, EMPTY_ROOT), LedgerReader(store)
    roots = {}
    for size in (100, 200, 300, 600):
        seal(writer, make_leaves(writer.size, size))
        roots[size] = writer.root()
        for known, root in roots.items():
            assert prove_leaf(reader, known - 1, known, root)[0] == make_leaves(known - 1, known)[0]


def test_the_checkpoint_is_handed_on_as_it_stands(sealed):
    store, _ = sealed
    assert LedgerReader(store).checkpoint_note() == store.objects["checkpoint"]
    with pytest.raises(MissingObjectError):
        LedgerReader(MemoryStore()).checkpoint_note()


@pytest.mark.parametrize(
    ("path", "leaf_index"), [("tile/0/002.p/188", 600), ("tile/0/000", 3), ("tile/1/000.p/2", 600)]
)
def test_a_missing_tile_is_named(sealed, path, leaf_index):
    store, root = sealed
    del store.objects[path]
    with pytest.raises(MissingObjectError) as caught:
        prove_leaf(LedgerReader(store), leaf_index, 700, root)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("path", "leaf_index"), [("tile/0/002.p/188", 600), ("tile/0/000", 3), ("tile/1/000.p/2", 600)]
)
@pytest.mark.parametrize("damage", ["cut", "longer", "empty"])
def test_a_tile_of_the_wrong_length_is_named(sealed, path, leaf_index, damage):
    store, root = sealed
    whole = store.objects[path]
    store.objects[path] = {"cut": whole[:-32], "longer": whole + bytes(32), "empty": b""}[damage]
    with pytest.raises(FormatError) as caught:
        prove_leaf(LedgerReader(store), leaf_index, 700, root)
    assert caught.value.source == path


@pytest.mark.parametrize("path", ["tile/0/002.p/188", "tile/1/000.p/2", "tile/entries/002.p/188"])
def test_a_flipped_bit_is_caught_before_a_proof_is_handed_out(sealed, path):
    store, root = sealed
    changed = bytearray(store.objects[path])
    changed[40] ^= 1
    store.objects[path] = bytes(changed)
    reader = LedgerReader(store)
    with pytest.raises((ProofError, FormatError)):
        [prove_leaf(reader, leaf_index, 700, root) for leaf_index in range(512, 520)]


def test_broken_framing_names_bundle_and_offset(sealed):
    store, _ = sealed
    path = "tile/entries/001"
    store.objects[path] = store.objects[path][:-1]
    with pytest.raises(FormatError) as caught:
        list(LedgerReader(store).read_entries(0, 700, 700))
    assert caught.value.source == path
    assert caught.value.offset


def test_swapped_tiles_prove_nothing(sealed):
    store, root = sealed
    first, second = "tile/0/000", "tile/0/001"
    store.objects[first], store.objects[second] = store.objects[second], store.objects[first]
    with pytest.raises(ProofError):
        prove_leaf(LedgerReader(store), 3, 700, root)


def test_hashes_of_the_reader_are_those_of_the_tree(sealed):
    hashes = LedgerReader(sealed[0]).hashes(700)
    assert hashes([(0, 0), (0, 699)]) == leaf_hashes(make_leaves(0, 1) + make_leaves(699, 700))
    with pytest.raises(ValueError):
        hashes([(0, 700)])
