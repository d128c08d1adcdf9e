"""The checkpoint, what the verifier remembers, and the order of the steps."""

from dataclasses import replace

import pytest
from tests.unit.verifier.samples import (
    ORIGIN,
    OTHER_SIGNER,
    SIGNER,
    MemoryFiles,
    MemoryKept,
    MemoryTrail,
    MemoryVault,
    Sample,
    build_files,
    make_row,
    make_sample,
    sign,
)

from pgseal.errors import StorageError, UnavailableError
from pgseal.verifier import FileKeptCheckpoint, Verifier
from pgseal.verifier.compare import form_leaf


def kinds(sample: Sample, sealer_note: bytes | None = None) -> list[tuple[str, str]]:
    return [(finding.kind, finding.where) for finding in sample.verify(sealer_note).findings]


def root_of(size: int) -> bytes:
    return build_files([form_leaf(make_row(index)) or b"" for index in range(size)])[1]


def test_first_clean_run_keeps_the_checkpoint(sample: Sample):
    assert sample.verify().ok
    assert sample.kept.note == sample.files["checkpoint"]


def test_kept_checkpoint_advances_with_the_log(sample: Sample):
    sample.kept = MemoryKept(sign(300, root_of(300)))
    assert sample.verify().ok
    assert sample.kept.note == sample.files["checkpoint"]


@pytest.mark.parametrize("by", ["kept", "sealer"])
def test_older_checkpoint_is_a_rollback(sample: Sample, by: str):
    newest = sample.files["checkpoint"]
    older, _ = build_files([form_leaf(make_row(index)) or b"" for index in range(300)])
    sample.files |= {path: older[path] for path in older.keys() - sample.files.keys()}
    sample.files["checkpoint"] = sign(300, root_of(300))
    if by == "kept":
        sample.kept = MemoryKept(newest)
    assert kinds(sample, newest if by == "sealer" else None) == [("rollback", "checkpoint")]
    assert sample.kept.note == (newest if by == "kept" else None)


@pytest.mark.parametrize("size", [600, 599, 512, 1])
@pytest.mark.parametrize("by", ["kept", "sealer"])
def test_other_history_is_a_fork(sample: Sample, size: int, by: str):
    other = sign(size, b"r" * 32)
    if by == "kept":
        sample.kept = MemoryKept(other)
    assert kinds(sample, other if by == "sealer" else None) == [("fork", "checkpoint")]
    assert sample.kept.note == (other if by == "kept" else None)


def test_consistency_that_cannot_be_shown_in_a_damaged_ledger_is_no_fork(sample: Sample):
    sample.kept = MemoryKept(kept := sign(300, root_of(300)))
    sample.files["tile/0/001"] = bytes(8192)
    assert kinds(sample) == [("proof", "ledger"), ("proof", "checkpoint")]
    assert sample.kept.note == kept


def test_key_of_someone_else_is_a_signature_finding(sample: Sample):
    sample.files["checkpoint"] = sign(600, sample.root, OTHER_SIGNER)
    assert kinds(sample) == [("signature", "checkpoint")]
    assert sample.kept.note is None


def test_replaced_key_is_found_by_the_kept_checkpoint(sample: Sample):
    sample.kept = MemoryKept(kept := sign(300, root_of(300), OTHER_SIGNER))
    assert kinds(sample) == [("signature", "checkpoint")]
    assert sample.kept.note == kept


@pytest.mark.parametrize("note", [None, b"", b"junk\n", b"\xff\n\n"])
def test_lost_checkpoint_is_found_and_the_kept_one_used(sample: Sample, note: bytes | None):
    sample.kept = MemoryKept(sample.files.pop("checkpoint"))
    if note is not None:
        sample.files["checkpoint"] = note
    del sample.trail.rows[4]
    expected = "proof" if note is None else "signature"
    assert kinds(sample) == [(expected, "checkpoint"), ("missing_record", "trail")]


def test_without_any_checkpoint_nothing_is_checked(sample: Sample):
    del sample.files["checkpoint"]
    report = sample.verify()
    assert [finding.kind for finding in report.findings] == ["proof"]
    assert report.checked == {"trail": 0, "vault": 0, "ledger": 0}


def test_findings_in_vault_and_trail_do_not_hold_the_memory_back(sample: Sample):
    sample.rows[1] = replace(sample.rows[1], xid=1)
    del sample.trail.rows[2]
    assert not sample.verify().ok
    assert sample.kept.note == sample.files["checkpoint"]


def test_damaged_ledger_holds_the_memory_back(sample: Sample):
    sample.files["tile/1/000.p/2"] = bytes(64)
    assert not sample.verify().ok
    assert sample.kept.note is None


def test_damaged_memory_is_no_finding(sample: Sample):
    sample.kept = MemoryKept(b"junk")
    with pytest.raises(StorageError, match="kept by this verifier"):
        sample.verify()


def test_empty_log_is_clean_and_grows():
    sample = make_sample(0)
    assert sample.verify().ok
    grown = make_sample(5)
    grown.kept = sample.kept
    assert grown.verify().ok
    assert grown.kept.note == grown.files["checkpoint"]


def test_storage_error_ends_the_run_and_nothing_is_kept(sample: Sample):
    class Unreachable(MemoryVault):
        def copy_rows(self, begin: int, end: int):
            raise UnavailableError(f"vault is away, {begin} to {end} cannot be read")

    verifier = Verifier(ORIGIN, SIGNER.verifier, MemoryFiles(sample.files), sample.kept)
    verifier.check_checkpoint()
    with pytest.raises(UnavailableError):
        verifier.check_leaves(Unreachable(sample.rows))
    with pytest.raises(RuntimeError, match="out of order"):
        verifier.finish()
    assert sample.kept.note is None


def test_steps_out_of_order_are_refused(sample: Sample):
    def start() -> Verifier:
        return Verifier(ORIGIN, SIGNER.verifier, MemoryFiles(sample.files), sample.kept)

    with pytest.raises(RuntimeError, match="out of order"):
        start().check_leaves(None)
    with pytest.raises(RuntimeError, match="out of order"):
        start().check_trail(MemoryTrail([]))
    with pytest.raises(RuntimeError, match="out of order"):
        start().finish()
    verifier = start()
    verifier.check_checkpoint()
    with pytest.raises(RuntimeError, match="out of order"):
        verifier.check_checkpoint()


def test_file_memory_keeps_notes_by_origin(tmp_path):
    kept = FileKeptCheckpoint(tmp_path / "state")
    assert kept.load(ORIGIN) is None
    kept.store(ORIGIN, b"one")
    kept.store(ORIGIN, b"two")
    kept.store("other", b"three")
    assert (kept.load(ORIGIN), kept.load("other")) == (b"two", b"three")
    assert len(list((tmp_path / "state").iterdir())) == 2


def test_file_memory_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "state").write_bytes(b"a file")
    with pytest.raises(StorageError, match="cannot keep the checkpoint"):
        FileKeptCheckpoint(tmp_path / "state").store(ORIGIN, b"note")


def test_report_is_the_document_of_the_command_line(sample: Sample):
    del sample.trail.rows[0]
    document = sample.verify().to_json()
    assert document["ok"] is False
    assert document["checked"] == {"trail": 599, "vault": 600, "ledger": 600}
    assert document["findings"] == [
        {"kind": "missing_record", "where": "trail", "trail": "clinic", "id": 1, "index": 0,
         "detail": "record clinic/1: sealed at leaf 0, gone from the trail"},
    ]  # fmt: skip
