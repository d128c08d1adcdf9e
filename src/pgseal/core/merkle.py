"""Merkle trees of RFC 6962 section 2.1: hashes, roots, proofs made and proofs checked.

Leaves hash as ``SHA-256(0x00 ‖ leaf_data)``, nodes as ``SHA-256(0x01 ‖ left ‖ right)``, the empty tree as
``SHA-256("")``. A tree of size n > 1 splits at k, the largest power of two smaller than n: left ``[0, k)``, right
``[k, n)``. Everything below follows from that one rule.

Three proofs, each a list of 32-byte hashes:

- *inclusion* (RFC 6962 section 2.1.1): leaf i is in the tree of size n, sibling of the leaf first;
- *consistency* (section 2.1.2): the tree of size m is a prefix of the tree of size n;
- *range* (FORMATS.md section 3): these are all the leaves ``[begin, end)``, outside hashes left to right.

``prove_*`` read the tree through a ``HashReader``, so a log on disk, in a bucket or in memory proves alike; all
hashes a proof needs are asked for in one call. A prover's arguments are the caller's own, so a wrong one is
``ValueError``. ``check_*`` take a proof from someone who is not trusted and raise ``ProofError`` for whatever does
not lead to the root: sizes out of order, hashes that are not 32 bytes, too few, too many. The roots and sizes they
are given must come from a verified checkpoint. An old size of 0 is refused: every tree extends the empty one, so such
a proof would say nothing while looking like one that does.

Spec: https://www.rfc-editor.org/rfc/rfc6962#section-2.1.
"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from itertools import islice
from typing import TypeAlias

from pgseal.core.encoding import MAX_TREE_SIZE
from pgseal.errors import ProofError

#: Bytes of every hash.
HASH_BYTES = 32
#: Root of the tree without leaves.
EMPTY_ROOT = sha256(b"").digest()

#: ``(level, index)`` names the root of the full subtree over leaves ``[index * 2**level, (index + 1) * 2**level)``.
Coordinate: TypeAlias = tuple[int, int]
#: Returns the hashes at the given coordinates, in their order.
HashReader: TypeAlias = Callable[[Sequence[Coordinate]], Sequence[bytes]]

_LEAF = b"\x00"
_NODE = b"\x01"
_CHUNK = 4096  # leaves hashed together: enough to be fast, and few enough that their hashes stay in cache


def leaf_hash(leaf_data: bytes) -> bytes:
    """Return the hash of a leaf (RFC 6962 section 2.1)."""
    return sha256(_LEAF + leaf_data).digest()


def leaf_hashes(entries: Iterable[bytes]) -> list[bytes]:
    """Return ``leaf_hash`` of each entry, with less overhead than a call for each."""
    hash_, prefix = sha256, _LEAF
    return [hash_(prefix + entry).digest() for entry in entries]


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node (RFC 6962 section 2.1)."""
    return sha256(_NODE + left + right).digest()


def hash_pairs(hashes: Sequence[bytes]) -> list[bytes]:
    """Return the parents of hashes 0 and 1, 2 and 3, and so on; a last one without a partner is left out."""
    hash_, prefix = sha256, _NODE
    return [hash_(prefix + left + right).digest() for left, right in zip(hashes[::2], hashes[1::2], strict=False)]


def tree_root(hashes: Sequence[bytes]) -> bytes:
    """Return the root over all leaf hashes of a tree; for a growing tree see ``CompactRange``."""
    if not hashes:
        return EMPTY_ROOT
    # Pairing level by level and carrying a lone last node up unchanged is the recursion of RFC 6962 read bottom-up.
    level = hashes
    while len(level) > 1:
        parents = hash_pairs(level)
        if len(level) % 2:
            parents.append(level[-1])
        level = parents
    return level[0]


class CompactRange:
    """The right edge of a tree: all that is needed to append to it and to know its root.

    ``hashes`` holds the roots of the full subtrees that make up leaves ``[0, size)``, largest (leftmost) first: one for
    each bit set in ``size``. ``size`` and ``hashes`` together are the serialised form.
    """

    __slots__ = ("_hashes", "_size")

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        """Take up a tree of ``size`` leaves whose right edge is ``hashes``.

        Raises ``ValueError`` unless there is one 32-byte hash for each bit set in ``size``.
        """
        self._size = size
        self._hashes = list(hashes)
        if not 0 <= size <= MAX_TREE_SIZE:
            raise ValueError(f"expected a tree size from 0 to 2^63 - 1, got {size}")
        if len(self._hashes) != size.bit_count() or any(len(hash_) != HASH_BYTES for hash_ in self._hashes):
            raise ValueError(f"expected {size.bit_count()} hashes of 32 bytes at the edge of a tree of size {size}")

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._size

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """The right edge, largest subtree first."""
        return tuple(self._hashes)

    def __repr__(self) -> str:
        """Show the size; the hashes say little to a reader."""
        return f"CompactRange(size={self._size})"

    def copy(self) -> "CompactRange":
        """Return an independent copy."""
        return CompactRange(self._size, self._hashes)

    def append(self, leaf_hash_: bytes) -> None:
        """Add one leaf by its hash."""
        self.append_subtree(0, leaf_hash_)

    def append_subtree(self, level: int, hash_: bytes) -> None:
        """Add a full subtree of ``2**level`` leaves by its root; raises ``ValueError`` if it cannot stand there."""
        position, misfit = divmod(self._size, 1 << level)
        if misfit or len(hash_) != HASH_BYTES:
            raise ValueError(f"a subtree of level {level} cannot follow {self._size} leaves")
        # As in adding binary numbers, each bit that is set carries into the next.
        while position & 1:
            hash_ = node_hash(self._hashes.pop(), hash_)
            position >>= 1
        self._hashes.append(hash_)
        self._size += 1 << level

    def extend(self, hashes: Sequence[bytes]) -> None:
        """Add many leaves by their hashes: the same as appending each, level by level and several times as fast."""
        for start in range(0, len(hashes), _CHUNK):
            self._extend(list(hashes[start : start + _CHUNK]))

    def _extend(self, pending: list[bytes]) -> None:
        position, edge = self._size, self._hashes
        self._size += len(pending)
        added: list[bytes] = []  # new edge, smallest subtree first
        while pending:
            if position & 1:
                pending.insert(0, edge.pop())
            if len(pending) % 2:
                added.append(pending[-1])
            pending = hash_pairs(pending)
            position >>= 1
        edge.extend(reversed(added))

    def root(self) -> bytes:
        """Return the root of the tree."""
        return fold_right(self._hashes) if self._hashes else EMPTY_ROOT


def fold_right(hashes: Sequence[bytes]) -> bytes:
    """Return the root over subtrees of falling size, left to right: each joins all that stands to its right."""
    root = hashes[-1]
    for left in hashes[-2::-1]:
        root = node_hash(left, root)
    return root


def prove_inclusion(leaf_index: int, tree_size: int, reader: HashReader) -> list[bytes]:
    """Return the audit path of a leaf, its sibling first (RFC 6962 section 2.1.1, PATH).

    Raises ``ValueError`` unless 0 <= leaf_index < tree_size, and what ``reader`` raises.
    """
    _require(0 <= leaf_index < tree_size <= MAX_TREE_SIZE, f"no leaf {leaf_index} in a tree of size {tree_size}")
    siblings: list[tuple[int, int]] = []
    begin, end = 0, tree_size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if leaf_index < middle:
            siblings.append((middle, end))
            end = middle
        else:
            siblings.append((begin, middle))
            begin = middle
    return _read_ranges(siblings[::-1], reader)


def prove_consistency(old_size: int, tree_size: int, reader: HashReader) -> list[bytes]:
    """Return the proof that the tree of ``old_size`` is a prefix of that of ``tree_size`` (RFC 6962 section 2.1.2).

    Empty when the sizes are equal. Raises ``ValueError`` unless 0 < old_size <= tree_size, and what ``reader`` raises.
    """
    _require(0 < old_size <= tree_size <= MAX_TREE_SIZE, f"no proof from size {old_size} to size {tree_size}")
    ranges: list[tuple[int, int]] = []
    begin, end = 0, tree_size
    while end != old_size:
        middle = begin + _split(end - begin)
        if old_size <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((begin, middle))
            begin = middle
    if begin:  # otherwise [begin, end) is the whole old tree, whose root the verifier has
        ranges.append((begin, end))
    return _read_ranges(ranges[::-1], reader)


def prove_range(begin: int, end: int, tree_size: int, reader: HashReader) -> list[bytes]:
    """Return the proof for leaves ``[begin, end)``: the hashes around them, left to right (FORMATS.md section 3).

    Raises ``ValueError`` unless 0 <= begin < end <= tree_size, and what ``reader`` raises.
    """
    _require(0 <= begin < end <= tree_size <= MAX_TREE_SIZE, f"no leaves [{begin}, {end}) in size {tree_size}")
    return _read_ranges(_subtrees(0, begin) + _right_ranges(end, tree_size), reader)


def check_inclusion(proof: Sequence[bytes], leaf_index: int, leaf_hash: bytes, tree_size: int, root: bytes) -> None:
    """Raise ``ProofError`` unless ``proof`` shows the leaf at ``leaf_index`` of the tree (RFC 6962 section 2.1.1)."""
    if not 0 <= leaf_index < tree_size <= MAX_TREE_SIZE:
        raise ProofError(f"no leaf {leaf_index} in a tree of size {tree_size}")
    _check_hashes([root, leaf_hash, *proof])
    sides = _sibling_sides(leaf_index, tree_size - 1)
    if len(proof) != len(sides):
        raise ProofError(
            f"inclusion proof of leaf {leaf_index} of {tree_size}: expected {len(sides)} hashes, got {len(proof)}",
            leaf_index=leaf_index,
        )
    hash_ = leaf_hash
    for sibling, is_left in zip(proof, sides, strict=True):
        hash_ = node_hash(sibling, hash_) if is_left else node_hash(hash_, sibling)
    if hash_ != root:
        raise ProofError(
            f"inclusion proof of leaf {leaf_index} does not lead to the root of size {tree_size}",
            leaf_index=leaf_index,
        )


def check_consistency(proof: Sequence[bytes], old_size: int, tree_size: int, old_root: bytes, root: bytes) -> None:
    """Raise ``ProofError`` unless the old tree is shown to be a prefix of the new one (RFC 6962 section 2.1.2).

    Of equal sizes the proof must be empty and the roots equal. ``old_size`` 0 is refused.
    """
    if not 0 < old_size <= tree_size <= MAX_TREE_SIZE:
        raise ProofError(f"no proof is possible from size {old_size} to size {tree_size}")
    failed = f"consistency proof from size {old_size} to size {tree_size}"
    if old_size == tree_size:
        if proof or old_root != root:
            raise ProofError(f"{failed}: equal sizes need an empty proof and equal roots")
        return  # nothing is hashed, so nothing is asked of the roots but that they are the same
    _check_hashes([old_root, root, *proof])
    # Both roots grow from the largest full subtree at the old right edge. If the old size is a power of two, that
    # subtree is the whole old tree, and the prover leaves it out because the verifier has it.
    level = (old_size & -old_size).bit_length() - 1
    sides = _sibling_sides((old_size - 1) >> level, (tree_size - 1) >> level)
    path = [old_root, *proof] if old_size == 1 << level else proof
    if len(path) != len(sides) + 1:
        raise ProofError(f"{failed}: expected {len(sides) + 1 - len(path) + len(proof)} hashes, got {len(proof)}")
    old_hash = hash_ = path[0]
    for sibling, is_left in zip(path[1:], sides, strict=True):
        if is_left:  # shared by both trees; what stands to the right is new
            old_hash = node_hash(sibling, old_hash)
            hash_ = node_hash(sibling, hash_)
        else:
            hash_ = node_hash(hash_, sibling)
    if old_hash != old_root or hash_ != root:
        raise ProofError(f"{failed} does not lead to both roots")


def _sibling_sides(index: int, last: int) -> list[bool]:
    # Whether each sibling on the way from node `index` to the root stands to the left; `last` is the last node of that
    # level. The last node of a level has no sibling if its index is even: it is carried up.
    sides: list[bool] = []
    while last:
        if index & 1:
            sides.append(True)
        elif index < last:
            sides.append(False)
        index >>= 1
        last >>= 1
    return sides


def check_range(
    hashes: Iterable[bytes], proof: Sequence[bytes], begin: int, end: int, tree_size: int, root: bytes
) -> None:
    """Raise ``ProofError`` unless ``hashes`` are the leaves ``[begin, end)`` of the tree (FORMATS.md section 3).

    ``hashes`` is read once, a few thousand at a time. The leaves left of ``begin`` come as the right edge of a tree
    of that size, so the walk is: take up that edge, append the leaves, then append what the proof holds of the right
    side.
    """
    if not 0 <= begin < end <= tree_size <= MAX_TREE_SIZE:
        raise ProofError(f"no leaves [{begin}, {end}) in a tree of size {tree_size}")
    right = _right_ranges(end, tree_size)
    expected = begin.bit_count() + len(right)
    if len(proof) != expected:
        raise ProofError(
            f"range proof for [{begin}, {end}) of size {tree_size}: expected {expected} hashes, got {len(proof)}"
        )
    _check_hashes([root, *proof])
    tree = CompactRange(begin, proof[: begin.bit_count()])
    stream = iter(hashes)
    while chunk := list(islice(stream, _CHUNK)):
        _check_hashes(chunk)
        if tree.size + len(chunk) > end:
            raise ProofError(f"more leaves than the range [{begin}, {end}) has")
        tree.extend(chunk)
    if tree.size != end:
        raise ProofError(f"expected {end - begin} leaves for the range [{begin}, {end}), got {tree.size - begin}")
    if root_with_right(tree, proof[begin.bit_count() :], tree_size) != root:
        raise ProofError(f"leaves [{begin}, {end}) do not lead to the root of size {tree_size}")


def root_with_right(tree: CompactRange, right: Sequence[bytes], tree_size: int) -> bytes:
    """Return the root of ``tree_size`` leaves: those of ``tree``, then the sub-ranges hashed in ``right``.

    ``right`` are the hashes of the maximal sub-ranges right of ``tree.size`` > 0, as in a range proof.
    """
    whole = tree.copy()
    cut_off: list[bytes] = []  # at most one: the last sub-range, where the tree ends before a full subtree does
    for (begin, end), hash_ in zip(_right_ranges(tree.size, tree_size), right, strict=True):
        if end - begin == begin & -begin:
            whole.append_subtree((end - begin).bit_length() - 1, hash_)
        else:
            cut_off.append(hash_)
    return fold_right([*whole.hashes, *cut_off])


def _split(size: int) -> int:
    # The largest power of two smaller than size, for size > 1.
    return 1 << ((size - 1).bit_length() - 1)


def _subtrees(begin: int, end: int) -> list[tuple[int, int]]:
    # [begin, end) as full subtrees, left to right. begin must be aligned to the first, as every range of the
    # recursion is.
    ranges: list[tuple[int, int]] = []
    while begin < end:
        width = 1 << ((end - begin).bit_length() - 1)
        ranges.append((begin, begin + width))
        begin += width
    return ranges


def _right_ranges(begin: int, tree_size: int) -> list[tuple[int, int]]:
    # The maximal sub-ranges of [0, tree_size) right of begin > 0: each full subtree that starts where the last one
    # ended, the last cut off by the end of the tree.
    ranges: list[tuple[int, int]] = []
    while begin < tree_size:
        end = min(begin + (begin & -begin), tree_size)
        ranges.append((begin, end))
        begin = end
    return ranges


def _read_ranges(ranges: Sequence[tuple[int, int]], reader: HashReader) -> list[bytes]:
    # A range that is cut off by the end of the tree is stored nowhere: its hash is folded from full subtrees.
    parts = [_subtrees(begin, end) for begin, end in ranges]
    coordinates = [((end - begin).bit_length() - 1, begin // (end - begin)) for part in parts for begin, end in part]
    if not coordinates:
        return []
    hashes = iter(reader(coordinates))
    return [fold_right(list(islice(hashes, len(part)))) for part in parts]


def _check_hashes(hashes: Sequence[bytes]) -> None:
    for hash_ in hashes:
        if len(hash_) != HASH_BYTES:
            raise ProofError(f"expected hashes of {HASH_BYTES} bytes, got one of {len(hash_)}")


def _require(condition: bool, message: str) -> None:  # noqa: FBT001
    if not condition:
        raise ValueError(message)
