"""Inclusion proof files: made from the worked example, opened, and forged in every part."""

import base64
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import hashes, leaves

from pgseal.core.checkpoint import Checkpoint, format_checkpoint
from pgseal.core.merkle import leaf_hash, tree_root
from pgseal.core.note import SignerKey, parse_verifier_key, sign_note
from pgseal.core.proof import InclusionProof, check_proof_file, format_proof_file, parse_proof_file
from pgseal.core.record import (
    DisclosedPart,
    Envelope,
    Part,
    RecordLine,
    commit_part,
    format_envelope,
    format_record_line,
)
from pgseal.errors import AlteredRecordError, FormatError, ProofError, SignatureError, TamperError

LOG = SignerKey("example.org/log", bytes(range(32)))
OTHER = SignerKey("example.org/log", bytes(range(1, 33)))
ENVELOPE = Envelope(
    trail="clinic",
    incarnation=1,
    id=42,
    time="2026-11-23T09:14:02.118000Z",
    xid=7431,
    source="row",
    category="data_modification",
    action="INSERT",
    outcome="success",
    relation="public.patients",
    actor_commitment=commit_part(Part.ACTOR, bytes(32), b"{}"),
    data_commitment=commit_part(Part.DATA, bytes(32), b'{"new":{"id":1}}'),
)
RECORD = RecordLine(DisclosedPart(bytes(32), b"{}"), DisclosedPart(bytes(32), b'{"new":{"id":1}}'), ENVELOPE, 1)
SIBLING, NEXT = leaves(2)
TREE = [SIBLING, leaf_hash(format_envelope(ENVELOPE)), NEXT]
CHECKPOINT = sign_note(format_checkpoint(Checkpoint(LOG.name, 3, tree_root(TREE))), LOG)
PROOF = InclusionProof(format_record_line(RECORD), 1, (SIBLING, NEXT), CHECKPOINT)
FILE = format_proof_file(PROOF)


def _check(**change: Any):
    return check_proof_file(format_proof_file(replace(PROOF, **change)), [LOG.verifier])


def test_file_has_the_lines_of_tlog_proof():
    head, checkpoint = FILE.split(b"\n\n", 1)
    assert head.decode().split("\n") == [
        "c2sp.org/tlog-proof@v1",
        "extra " + base64.b64encode(format_record_line(RECORD)).decode(),
        "index 1",
        base64.b64encode(SIBLING).decode(),
        base64.b64encode(NEXT).decode(),
    ]
    assert checkpoint == CHECKPOINT


def test_record_is_proved():
    checked = check_proof_file(FILE, [LOG.verifier])
    assert checked.record == RECORD
    assert checked.checkpoint == Checkpoint(LOG.name, 3, tree_root(TREE))
    assert [signature.key for signature in checked.signatures] == [LOG.verifier]


def test_worked_example_is_proved_record_by_record(vector: Callable[[str], bytes]):
    example = json.loads(vector("record-v1.json"))
    with zipfile.ZipFile(io.BytesIO(vector("pack-v1.zip"))) as pack:
        lines = pack.read("records.jsonl").splitlines()
    assert len(lines) == len(example["inclusion"]) == 5
    for index, line in enumerate(lines):
        path = tuple(base64.b64decode(hash_) for hash_ in example["inclusion"][index])
        data = format_proof_file(InclusionProof(line, index, path, example["checkpoint"].encode()))
        checked = check_proof_file(data, [parse_verifier_key(example["vkey"])])
        assert format_envelope(checked.record.envelope) == example["records"][index]["leaf_data"].encode()


@given(
    st.builds(
        InclusionProof,
        extra=st.binary(max_size=100),
        leaf_index=st.integers(0, 2**63 - 1),
        hashes=st.lists(hashes, max_size=63).map(tuple),
        checkpoint=st.just(CHECKPOINT),
    )
)
def test_files_read_back(proof: InclusionProof):
    assert parse_proof_file(format_proof_file(proof)) == proof


def test_another_key_does_not_prove_it():
    with pytest.raises(SignatureError, match="no signature of a known key"):
        check_proof_file(FILE, [OTHER.verifier])


@pytest.mark.parametrize(
    "change",
    [
        {"hashes": ()},
        {"hashes": (SIBLING,)},
        {"hashes": (NEXT, SIBLING)},
        {"hashes": (SIBLING, NEXT, NEXT)},
        {"hashes": (SIBLING, NEXT[::-1])},
        {"extra": format_record_line(replace(RECORD, index=0)), "leaf_index": 0},
        {"extra": format_record_line(replace(RECORD, index=3)), "leaf_index": 3},
        {"extra": format_record_line(replace(RECORD, envelope=replace(ENVELOPE, action="DELETE")))},
    ],
)
def test_records_that_are_not_in_the_log_are_not_proved(change: dict[str, Any]):
    with pytest.raises(ProofError):
        _check(**change)


def test_content_that_was_changed_is_named():
    altered = replace(RECORD, data=DisclosedPart(bytes(32), b'{"new":{"id":2}}'))
    with pytest.raises(AlteredRecordError, match="data of record clinic/42") as caught:
        _check(extra=format_record_line(altered))
    assert caught.value.leaf_index == 1


def test_content_and_commitment_changed_together_are_not_in_the_log():
    text = b'{"new":{"id":2}}'
    envelope = replace(ENVELOPE, data_commitment=commit_part(Part.DATA, bytes(32), text))
    with pytest.raises(ProofError):
        _check(extra=format_record_line(replace(RECORD, data=DisclosedPart(bytes(32), text), envelope=envelope)))


def test_a_proof_without_a_record_or_with_two_indexes_proves_nothing():
    assert parse_proof_file(format_proof_file(replace(PROOF, extra=b""))).extra == b""
    with pytest.raises(FormatError):
        _check(extra=b"")
    with pytest.raises(FormatError, match="two indexes"):
        _check(leaf_index=2)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        FILE.replace(b"@v1", b"@v2"),
        FILE[1:],
        b"\n" + FILE,
        FILE.replace(b"\n", b"\r\n"),
        FILE.replace(b"index 1", b"index 01"),
        FILE.replace(b"index 1", b"index -1"),
        FILE.replace(b"index 1", b"index 9223372036854775808"),
        FILE.replace(b"index 1\n", b""),
        FILE.replace(b"index 1\n", b"index 1\nindex 1\n"),
        FILE.replace(b"extra ", b"extra  "),
        FILE.replace(b"extra ", b"more "),
        FILE.replace(b"\nextra ", b"\nextra \nextra "),
        FILE.replace(b"=\n\nexample", b"\n\nexample"),
        FILE.replace(base64.b64encode(NEXT), base64.b64encode(NEXT[:31])),
        FILE.replace(base64.b64encode(NEXT), b"\xc3\xa9"),
        FILE.replace(base64.b64encode(NEXT), b"\n".join([base64.b64encode(NEXT)] * 63)),
        FILE.removesuffix(CHECKPOINT),
        FILE.replace(b"\n\nexample", b"\nexample"),
        FILE[:-1],
        FILE + b"\n",
    ],
)
def test_other_files_are_refused(data: bytes):
    assert data != FILE
    with pytest.raises(FormatError):
        parse_proof_file(data)


@pytest.mark.parametrize(
    "change",
    [
        {"leaf_index": -1},
        {"leaf_index": 2**63},
        {"hashes": (bytes(31),)},
        {"hashes": (bytes(32),) * 64},
        {"checkpoint": b"no note"},
    ],
)
def test_other_values_are_not_written(change: dict[str, Any]):
    with pytest.raises(FormatError):
        format_proof_file(replace(PROOF, **change))


@given(st.integers(0, len(FILE) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(position: int, flip: int):
    changed = FILE[:position] + bytes([FILE[position] ^ flip]) + FILE[position + 1 :]
    with pytest.raises((FormatError, TamperError)):
        check_proof_file(changed, [LOG.verifier])


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_refused(data: bytes):
    for prefix in (b"", b"c2sp.org/tlog-proof@v1\n"):
        with pytest.raises((FormatError, TamperError)):
            check_proof_file(prefix + data, [LOG.verifier])
