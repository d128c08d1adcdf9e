"""Go's sumdb/note and sumdb/tlog open and check what we write, and we what they write."""

import json
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from tests.interop.conftest import RefusedError, Run
from tests.unit.ledger.stores import SIGNER, make_leaves, seal

from pgseal.core.checkpoint import open_checkpoint
from pgseal.core.keys import format_signer_key, format_verifier_key, parse_signer_key, parse_verifier_key
from pgseal.core.merkle import (
    EMPTY_ROOT,
    check_consistency,
    check_inclusion,
    leaf_hash,
    leaf_hashes,
    prove_consistency,
    prove_inclusion,
    tree_root,
)
from pgseal.core.note import sign_note
from pgseal.errors import ProofError, SignatureError
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import DirectoryStore
from pgseal.ledger.writer import LedgerWriter

VKEY = format_verifier_key(SIGNER.verifier)
SIZES = (1, 2, 255, 256, 257, 700)


def make_ledger(directory: Path, *sizes: int) -> LedgerReader:
    writer = LedgerWriter.open(DirectoryStore(directory), 0, EMPTY_ROOT)
    for size in sizes:
        seal(writer, make_leaves(writer.size, size))
    return LedgerReader(DirectoryStore(directory))


def test_go_opens_our_checkpoint_and_proves_every_entry_and_every_growth_from_our_tiles(go_log: Run, tmp_path: Path):
    for size in SIZES:
        (tmp_path / str(size)).mkdir()
        make_ledger(tmp_path / str(size), size)
        assert go_log("audit", VKEY, tmp_path / str(size)) == f"{size}\n"
    grown = tmp_path / "grown"
    grown.mkdir()
    make_ledger(grown, *SIZES)
    assert go_log("audit", VKEY, grown) == "700\n"


@pytest.mark.parametrize("file", ["checkpoint", "tile/0/001", "tile/0/002.p/188", "tile/1/000.p/2", "tile/entries/001"])
def test_go_refuses_our_ledger_with_one_bit_changed(go_log: Run, tmp_path: Path, file: str):
    make_ledger(tmp_path, 700)
    content = bytearray((tmp_path / file).read_bytes())
    content[7 if file == "checkpoint" else 40] ^= 1
    (tmp_path / file).write_bytes(content)
    with pytest.raises(RefusedError):
        go_log("audit", VKEY, tmp_path)


def test_go_accepts_our_proofs_and_no_other(go_log: Run, tmp_path: Path):
    reader = make_ledger(tmp_path, 700)
    file = tmp_path / "proofs.json"
    hashes = reader.hashes(700)

    def check(index: int, old_size: int, claimed: int | None = None) -> str:
        inclusion = prove_inclusion(index, 700, hashes)
        growth = prove_consistency(old_size, 700, hashes)
        root = tree_root(leaf_hashes(make_leaves(0, old_size)))
        shown = {
            "Checkpoint": encode(reader.checkpoint_note()), "Leaf": encode(reader.leaf(index, 700)),
            "Index": index if claimed is None else claimed, "Inclusion": [encode(one) for one in inclusion],
            "OldSize": old_size, "OldRoot": encode(root), "Consistency": [encode(one) for one in growth],
        }  # fmt: skip
        file.write_text(json.dumps(shown))
        return go_log("check", VKEY, file)

    for index, old_size in ((0, 1), (255, 256), (256, 257), (699, 512), (300, 700)):
        assert check(index, old_size) == "700\n"
    with pytest.raises(RefusedError):
        check(300, 256, claimed=301)


def encode(data: bytes) -> str:
    return b64encode(data).decode()


@pytest.mark.parametrize("size", SIZES)
def test_we_open_what_go_signs_and_check_its_tiles_entries_and_proofs(go_log: Run, tmp_path: Path, size: int):
    made = json.loads(go_log("make", "example.org/go", tmp_path, size))
    key = parse_verifier_key(made["vkey"])
    reader = LedgerReader(DirectoryStore(tmp_path))
    checkpoint = open_checkpoint(reader.checkpoint_note(), [key], origin="example.org/go").checkpoint
    assert checkpoint.size == size
    entries = [entry for bundle in reader.read_entries(0, size, size) for entry in bundle]
    assert entries == [b"entry %d of example.org/go" % number for number in range(size)]
    for index in {0, size // 2, size - 1}:
        proof = prove_inclusion(index, size, reader.hashes(size))
        check_inclusion(proof, index, leaf_hash(entries[index]), size, checkpoint.root)

    proofs = made["proofs"]
    path = [b64decode(one) for one in proofs["Inclusion"] or []]
    leaf = leaf_hash(b64decode(proofs["Leaf"]))
    check_inclusion(path, proofs["Index"], leaf, size, checkpoint.root)
    if size > 1:
        growth = [b64decode(one) for one in proofs["Consistency"] or []]
        check_consistency(growth, proofs["OldSize"], size, b64decode(proofs["OldRoot"]), checkpoint.root)
        with pytest.raises(ProofError):
            check_inclusion(path, (proofs["Index"] + 1) % size, leaf, size, checkpoint.root)
    with pytest.raises(SignatureError):
        open_checkpoint(reader.checkpoint_note().replace(b"\n%d\n" % size, b"\n%d\n" % (size + 1)), [key])


def test_keys_and_signatures_are_byte_for_byte_the_same(go_log: Run, tmp_path: Path):
    made = json.loads(go_log("make", "example.org/go", tmp_path, 3))
    signer = parse_signer_key(made["skey"])
    assert format_signer_key(signer) == made["skey"]
    assert format_verifier_key(signer.verifier) == made["vkey"]
    signed = b64decode(made["proofs"]["Checkpoint"])
    assert sign_note(signed.decode().partition("\n\n")[0] + "\n", signer) == signed
