"""Merkle trees against RFC 6962's definition, the published proof vectors and everything a forger may change."""

import base64
import json
from collections.abc import Callable, Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import leaves

from pgseal.core.merkle import (
    EMPTY_ROOT,
    CompactRange,
    check_consistency,
    check_inclusion,
    check_range,
    hash_pairs,
    leaf_hash,
    leaf_hashes,
    node_hash,
    prove_consistency,
    prove_inclusion,
    prove_range,
    tree_root,
)
from pgseal.errors import ProofError

LEAVES = leaves(300)


def mth(hashes: list[bytes]):
    """RFC 6962 section 2.1, MTH, word for word, over leaf hashes."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return sha256(b"\x01" + mth(hashes[:k]) + mth(hashes[k:])).digest()


def path(index: int, hashes: list[bytes]):
    """RFC 6962 section 2.1.1, PATH, word for word."""
    if len(hashes) == 1:
        return []
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    if index < k:
        return [*path(index, hashes[:k]), mth(hashes[k:])]
    return [*path(index - k, hashes[k:]), mth(hashes[:k])]


def subproof(old_size: int, hashes: list[bytes], known: bool):
    """RFC 6962 section 2.1.2, SUBPROOF, word for word."""
    if old_size == len(hashes):
        return [] if known else [mth(hashes)]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    if old_size <= k:
        return [*subproof(old_size, hashes[:k], known), mth(hashes[k:])]
    return [*subproof(old_size - k, hashes[k:], known=False), mth(hashes[:k])]


def outside(begin: int, end: int, hashes: list[bytes], first: int = 0):
    """FORMATS.md section 3: the hashes of the maximal sub-ranges wholly outside, left to right."""
    last = first + len(hashes)
    if last <= begin or first >= end:
        return [mth(hashes)]
    if len(hashes) == 1:
        return []
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return outside(begin, end, hashes[:k], first) + outside(begin, end, hashes[k:], first + k)


def read(coordinates: Sequence[tuple[int, int]]):
    hashes = []
    for level, index in coordinates:
        covered = LEAVES[index << level : (index + 1) << level]
        assert len(covered) == 1 << level, "only full subtrees may be asked for"
        hashes.append(mth(covered))
    return hashes


sizes = st.integers(1, len(LEAVES))
indexes = st.tuples(sizes, st.randoms(use_true_random=False)).map(
    lambda drawn: (drawn[1].randrange(drawn[0]), drawn[0])
)
growths = st.tuples(sizes, sizes).map(lambda pair: (min(pair), max(pair)))
ranges = st.lists(st.integers(0, len(LEAVES)), min_size=3, max_size=3).map(sorted).filter(lambda cut: cut[0] < cut[1])


def _mutations(proof: list[bytes]):
    """Every way to drop, double, exchange or flip a hash of a proof, and to add one."""
    for position, hash_ in enumerate(proof):
        before, after = proof[:position], proof[position + 1 :]
        yield [*before, *after]
        yield [*before, hash_, hash_, *after]
        yield [*before, bytes([hash_[0] ^ 1]) + hash_[1:], *after]
        yield [*before, hash_[:-1] + bytes([hash_[-1] ^ 128]), *after]
        yield [*before, hash_[:-1], *after]
        yield [*before, hash_ + b"\0", *after]
        if after and after[0] != hash_:
            yield [*before, after[0], hash_, *after[1:]]
    yield [*proof, bytes(32)]
    yield [bytes(32), *proof]
    yield [*proof, b""]


def test_hashes_are_those_of_rfc_6962():
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert leaf_hash(b"abc") == sha256(b"\x00abc").digest()
    assert node_hash(b"l" * 32, b"r" * 32) == sha256(b"\x01" + b"l" * 32 + b"r" * 32).digest()


def test_roots_of_the_reference_tree_of_certificate_transparency():
    entries = [
        bytes.fromhex(entry)
        for entry in (
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        )
    ]
    roots = (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
    hashes = leaf_hashes(entries)
    assert [tree_root(hashes[:size]).hex() for size in range(1, 9)] == list(roots)


def test_leaf_hashes_and_pairs_are_the_single_hashes():
    assert leaf_hashes([b"a", b"", b"c"]) == [leaf_hash(b"a"), leaf_hash(b""), leaf_hash(b"c")]
    assert hash_pairs(LEAVES[:5]) == [node_hash(LEAVES[0], LEAVES[1]), node_hash(LEAVES[2], LEAVES[3])]
    assert hash_pairs(LEAVES[:1]) == []


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 255, 256, 257, 300])
def test_tree_root_is_that_of_the_definition(size: int):
    assert tree_root(LEAVES[:size]) == mth(LEAVES[:size])


@given(st.lists(st.integers(0, 75), max_size=4))
def test_compact_range_keeps_the_root_however_leaves_arrive(batches: list[int]):
    extended, appended = CompactRange(), CompactRange()
    leaf_count = 0
    for batch in batches:
        added = LEAVES[leaf_count : leaf_count + batch]
        extended.extend(added)
        for hash_ in added:
            appended.append(hash_)
        leaf_count += len(added)
        extended = CompactRange(extended.size, extended.hashes)  # as when kept and taken up again
        assert extended.size == appended.size == leaf_count
        assert extended.hashes == appended.hashes
        assert extended.root() == appended.root() == mth(LEAVES[:leaf_count])


def test_compact_range_takes_batches_larger_than_it_hashes_at_once():
    hashes = leaves(10_000)
    tree = CompactRange()
    tree.append(hashes[0])
    tree.extend(hashes[1:])
    assert (tree.size, tree.root()) == (10_000, tree_root(hashes))


def test_compact_range_copies_are_independent():
    tree = CompactRange()
    tree.extend(LEAVES[:5])
    tree.copy().extend(LEAVES[5:9])
    assert (tree.size, tree.root()) == (5, mth(LEAVES[:5]))


def test_compact_range_takes_whole_subtrees_where_they_fit():
    tree = CompactRange()
    tree.append_subtree(3, mth(LEAVES[:8]))
    tree.append_subtree(1, mth(LEAVES[8:10]))
    tree.append(LEAVES[10])
    assert (tree.size, tree.root()) == (11, mth(LEAVES[:11]))
    with pytest.raises(ValueError, match="level 1"):
        tree.append_subtree(1, bytes(32))
    with pytest.raises(ValueError, match="cannot follow"):
        tree.append(bytes(31))


@pytest.mark.parametrize(
    ("size", "hashes"), [(1, []), (0, [bytes(32)]), (3, [bytes(32)]), (1, [bytes(31)]), (-1, []), (2**63, [bytes(32)])]
)
def test_compact_range_refuses_an_edge_that_does_not_fit_its_size(size: int, hashes: list[bytes]):
    with pytest.raises(ValueError, match="expected"):
        CompactRange(size, hashes)


@given(indexes)
def test_inclusion_proofs_follow_the_definition_and_are_accepted(leaf: tuple[int, int]):
    index, size = leaf
    proof = prove_inclusion(index, size, read)
    assert proof == path(index, LEAVES[:size])
    check_inclusion(proof, index, LEAVES[index], size, mth(LEAVES[:size]))


@given(indexes)
def test_inclusion_proofs_with_anything_changed_are_refused(leaf: tuple[int, int]):
    index, size = leaf
    proof, root = prove_inclusion(index, size, read), mth(LEAVES[:size])
    for changed in _mutations(proof):
        with pytest.raises(ProofError):
            check_inclusion(changed, index, LEAVES[index], size, root)
    for other in {index - 1, index + 1, index ^ 2, size, -1, 2**63, 2**64 - 1} - {index}:
        with pytest.raises(ProofError):
            check_inclusion(proof, other, LEAVES[index], size, root)
    for hash_, other_root in (
        (LEAVES[index][::-1], root),
        (LEAVES[index], root[::-1]),
        (b"", root),
        (LEAVES[index], b""),
    ):
        with pytest.raises(ProofError):
            check_inclusion(proof, index, hash_, size, other_root)


@given(growths)
def test_consistency_proofs_follow_the_definition_and_are_accepted(growth: tuple[int, int]):
    old_size, size = growth
    proof = prove_consistency(old_size, size, read)
    assert proof == subproof(old_size, LEAVES[:size], known=True)
    check_consistency(proof, old_size, size, mth(LEAVES[:old_size]), mth(LEAVES[:size]))


@given(growths)
def test_consistency_proofs_with_anything_changed_are_refused(growth: tuple[int, int]):
    old_size, size = growth
    proof = prove_consistency(old_size, size, read)
    old_root, root = mth(LEAVES[:old_size]), mth(LEAVES[:size])
    for changed in _mutations(proof):
        with pytest.raises(ProofError):
            check_consistency(changed, old_size, size, old_root, root)
    for wrong in ((old_root[::-1], root), (old_root, root[::-1]), (b"", root), (old_root, b"")):
        with pytest.raises(ProofError):
            check_consistency(proof, old_size, size, *wrong)
    for wrong_sizes in ((0, size), (size + 1, size), (-1, size), (old_size, 2**63), (old_size, 0)):
        with pytest.raises(ProofError):
            check_consistency(proof, *wrong_sizes, old_root, root)
    if old_size != size:
        with pytest.raises(ProofError):
            check_consistency(proof, old_size, size, root, old_root)


def test_consistency_from_an_empty_tree_is_refused():
    with pytest.raises(ProofError, match="from size 0"):
        check_consistency([], 0, 0, EMPTY_ROOT, EMPTY_ROOT)
    with pytest.raises(ProofError, match="from size 0"):
        check_consistency([], 0, 5, EMPTY_ROOT, mth(LEAVES[:5]))


@given(ranges)
def test_range_proofs_follow_the_definition_and_are_accepted(cut: list[int]):
    begin, end, size = cut
    proof = prove_range(begin, end, size, read)
    assert proof == outside(begin, end, LEAVES[:size])
    check_range(iter(LEAVES[begin:end]), proof, begin, end, size, mth(LEAVES[:size]))


@given(ranges)
def test_range_proofs_with_anything_changed_are_refused(cut: list[int]):
    begin, end, size = cut
    proof, root, inside = prove_range(begin, end, size, read), mth(LEAVES[:size]), LEAVES[begin:end]
    for changed in _mutations(proof):
        with pytest.raises(ProofError):
            check_range(inside, changed, begin, end, size, root)
    wrong_leaves = [
        inside[1:],
        [*inside, LEAVES[0]],
        [bytes(32), *inside[1:]],
        [*inside[:-1], bytes(32)],
        [inside[0][:31], *inside[1:]],
        [],
    ]
    if len(inside) > 1:
        wrong_leaves += [inside[::-1], [inside[1], inside[0], *inside[2:]], [inside[0], *inside[:-1]]]
    for changed in wrong_leaves:
        with pytest.raises(ProofError):
            check_range(changed, proof, begin, end, size, root)
    for wrong in (
        (begin + 1, end, size),
        (begin, end + 1, size),
        (begin + 1, end + 1, size),
        (end, begin, size),
        (-1, end, size),
        (begin, end, end - 1),
        (begin, end, 2**63),
    ):
        with pytest.raises(ProofError):
            check_range(inside, proof, *wrong, root)
    with pytest.raises(ProofError):
        check_range(inside, proof, begin, end, size, root[::-1])


@pytest.mark.parametrize("size", range(1, 18))
def test_every_range_of_small_trees_is_proved(size: int):
    root = mth(LEAVES[:size])
    for begin in range(size):
        for end in range(begin + 1, size + 1):
            proof = prove_range(begin, end, size, read)
            assert proof == outside(begin, end, LEAVES[:size])
            check_range(LEAVES[begin:end], proof, begin, end, size, root)


def test_a_range_of_many_leaves_is_read_as_a_stream():
    hashes = leaves(9_000)
    proof = [mth(hashes[:1]), mth(hashes[8_999:])]
    consumed = []

    def stream():
        for hash_ in hashes[1:8_999]:
            consumed.append(hash_)
            yield hash_

    # 8,999 = 2^13 + 807: the right neighbour is a single leaf.
    check_range(stream(), proof, 1, 8_999, 9_000, mth(hashes))
    assert consumed == hashes[1:8_999]


def test_a_stream_of_too_many_leaves_is_not_read_to_its_end():
    def endless():
        while True:
            yield bytes(32)

    with pytest.raises(ProofError, match="more leaves"):
        check_range(endless(), [], 0, 5, 5, bytes(32))


@pytest.mark.parametrize(
    "prove",
    [
        lambda: prove_inclusion(5, 5, read),
        lambda: prove_inclusion(-1, 5, read),
        lambda: prove_inclusion(0, 2**63, read),
        lambda: prove_consistency(0, 5, read),
        lambda: prove_consistency(6, 5, read),
        lambda: prove_range(0, 0, 5, read),
        lambda: prove_range(3, 2, 5, read),
        lambda: prove_range(0, 6, 5, read),
        lambda: prove_range(-1, 2, 5, read),
    ],
)
def test_proofs_of_what_is_not_there_cannot_be_asked_for(prove: Callable[[], object]):
    with pytest.raises(ValueError, match="no "):
        prove()


def test_a_proof_asks_for_its_hashes_in_one_call():
    calls = []

    def counting(coordinates: Sequence[tuple[int, int]]):
        calls.append(coordinates)
        return read(coordinates)

    prove_inclusion(17, 299, counting)
    prove_consistency(100, 299, counting)
    prove_range(17, 23, 299, counting)
    assert len(calls) == 3


def test_proofs_reach_the_largest_trees():
    asked = []

    def zeros(coordinates: Sequence[tuple[int, int]]):
        asked.extend(coordinates)
        return [bytes(32)] * len(coordinates)

    size = 2**63 - 1
    proof = prove_inclusion(size - 1, size, zeros)
    assert len(proof) == 62
    assert max(level for level, _ in asked) == 62
    with pytest.raises(ProofError, match="does not lead"):
        check_inclusion(proof, size - 1, bytes(32), size, bytes(32))


def _proof_vectors(vector: Callable[[str], bytes], name: str):
    return [json.loads(line) for line in vector(f"merkle/{name}.jsonl").splitlines()]


def _decode(text: str):
    return base64.b64decode(text or "")


def _verdict(check: Callable[..., None], *arguments: object):
    try:
        check(*arguments)
    except ProofError:
        return True
    return False


def test_published_inclusion_proofs(vector: Callable[[str], bytes]):
    cases = _proof_vectors(vector, "inclusion")
    assert len(cases) == 98
    for case in cases:
        proof = [_decode(hash_) for hash_ in case["proof"] or []]
        arguments = (proof, case["leafIdx"], _decode(case["leafHash"]), case["treeSize"], _decode(case["root"]))
        assert _verdict(check_inclusion, *arguments) is case["wantErr"], case["file"]


def test_published_consistency_proofs(vector: Callable[[str], bytes]):
    cases = _proof_vectors(vector, "consistency")
    assert len(cases) == 98
    for case in cases:
        proof = [_decode(hash_) for hash_ in case["proof"] or []]
        arguments = (proof, case["size1"], case["size2"], _decode(case["root1"]), _decode(case["root2"]))
        assert _verdict(check_consistency, *arguments) is case["wantErr"], case["file"]


def test_proofs_of_the_worked_example(vector: Callable[[str], bytes]):
    example = json.loads(vector("record-v1.json"))
    hashes = [_decode(record["leaf_hash"]) for record in example["records"]]
    root, size = _decode(example["root"]), len(hashes)

    def reader(coordinates: Sequence[tuple[int, int]]):
        return [mth(hashes[index << level : (index + 1) << level]) for level, index in coordinates]

    assert hashes == leaf_hashes([record["leaf_data"].encode() for record in example["records"]])
    assert tree_root(hashes) == root
    assert len(example["inclusion"]) == size
    for index, encoded in enumerate(example["inclusion"]):
        proof = [_decode(hash_) for hash_ in encoded]
        assert prove_inclusion(index, size, reader) == proof
        check_inclusion(proof, index, hashes[index], size, root)
    assert len(example["range_proofs"]) == 15
    for bounds, encoded in example["range_proofs"].items():
        begin, end = map(int, bounds.split(","))
        proof = [_decode(hash_) for hash_ in encoded]
        assert prove_range(begin, end, size, reader) == proof
        check_range(hashes[begin:end], proof, begin, end, size, root)
