"""Proofs made from a ledger, for a tree size (and, where given, a root) taken from a verified checkpoint.

``prove_inclusion``, ``prove_consistency`` and ``prove_range`` read the few tiles they need and return what is stored
there; the other side checks. ``prove_leaf`` is for handing a proof to somebody: it returns only what holds, so a
damaged ledger shows here and not at the auditor's.

All raise ``ValueError`` for leaves that the tree does not have, and what ``LedgerReader`` raises.
"""

from pgseal.core import merkle
from pgseal.ledger.reader import LedgerReader


def prove_inclusion(reader: LedgerReader, leaf_index: int, tree_size: int) -> list[bytes]:
    """Return the audit path of a leaf in the tree of ``tree_size``, its sibling first."""
    return merkle.prove_inclusion(leaf_index, tree_size, reader.hashes(tree_size))


def prove_consistency(reader: LedgerReader, old_size: int, tree_size: int) -> list[bytes]:
    """Return the proof that the tree of ``old_size`` (at least 1) is a prefix of that of ``tree_size``."""
    return merkle.prove_consistency(old_size, tree_size, reader.hashes(tree_size))


def prove_range(reader: LedgerReader, begin: int, end: int, tree_size: int) -> list[bytes]:
    """Return the proof for leaves ``[begin, end)`` (FORMATS.md section 3)."""
    return merkle.prove_range(begin, end, tree_size, reader.hashes(tree_size))


def prove_leaf(reader: LedgerReader, leaf_index: int, tree_size: int, root: bytes) -> tuple[bytes, list[bytes]]:
    """Return a leaf's leaf_data and its audit path, checked to lead to ``root``; raises ``ProofError``."""
    leaf_data = reader.leaf(leaf_index, tree_size)
    proof = prove_inclusion(reader, leaf_index, tree_size)
    merkle.check_inclusion(proof, leaf_index, merkle.leaf_hash(leaf_data), tree_size, root)
    return leaf_data, proof
