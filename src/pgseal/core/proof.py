"""Inclusion proof files, ``.tlog-proof``: one record proved, offline, with nothing but the log's key (C2SP tlog-proof).

::

    c2sp.org/tlog-proof@v1
    extra <base64 of the record line, FORMATS.md section 4>
    index 1
    pt1G1DP55DYQZNrmVLCkjdwsmrPmeHwwDdoUJnLX3cg=
    yBNbgmChrN5+6VPW+mUal8Wbc3sI0KhWvB1HR4IfH1k=
    l18LTIyQafN2nY0v3KJuhNmReuajI+0BUtAf89QA8co=

    example.org/clinic
    5
    YXgDtUyiIx/sS3Man3J4aXAUC6fXVVCjGSP4r4VCsMk=

    — example.org/clinic fk1u8twl…

The hashes are the RFC 6962 audit path, the leaf's sibling first; the checkpoint stands as it was signed. ``extra`` is
opaque to C2SP and may be missing there; for pgseal it is the record line without its newline, and what it claims
counts only after ``check_proof_file`` has tied it to the signed root: signature, then inclusion of the envelope, then
the parts' commitments. Only the checkpoint's own size is used.

Spec: https://c2sp.org/tlog-proof.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pgseal.core.checkpoint import Checkpoint, open_checkpoint
from pgseal.core.encoding import MAX_TREE_SIZE, format_base64, parse_base64, parse_decimal, shorten
from pgseal.core.merkle import HASH_BYTES, check_inclusion, leaf_hash
from pgseal.core.note import Signature, VerifierKey, parse_note
from pgseal.core.record import MAX_LINE_BYTES, RecordLine, check_record_line, format_envelope, parse_record_line
from pgseal.errors import FormatError

HEADER = "c2sp.org/tlog-proof@v1"
#: A tree below 2^63 leaves is at most 63 levels high.
MAX_PROOF_HASHES = 63
#: A record line in base64 and room for everything else.
MAX_PROOF_BYTES = MAX_LINE_BYTES // 3 * 4 + 2 * 1024 * 1024

_EXTRA = "extra "
_INDEX = "index "


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """What a ``.tlog-proof`` file holds; ``checkpoint`` is the signed note as it stands, nothing of it is verified."""

    extra: bytes
    leaf_index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes


@dataclass(frozen=True, slots=True)
class CheckedProof:
    """A record that is proved to be in the log, and the checkpoint and signatures that prove it."""

    record: RecordLine
    checkpoint: Checkpoint
    signatures: tuple[Signature, ...]


def format_proof_file(proof: InclusionProof) -> bytes:
    """Return the bytes of a ``.tlog-proof`` file; raises ``FormatError`` for values without the right form."""
    if not 0 <= proof.leaf_index <= MAX_TREE_SIZE or len(proof.hashes) > MAX_PROOF_HASHES:
        raise FormatError(
            f"expected an index below 2^63 and at most {MAX_PROOF_HASHES} hashes, got index {proof.leaf_index}",
            source="proof",
        )
    if any(len(hash_) != HASH_BYTES for hash_ in proof.hashes):
        raise FormatError(f"expected hashes of {HASH_BYTES} bytes", source="proof")
    parse_note(proof.checkpoint, source="proof")
    extra = [_EXTRA + format_base64(proof.extra)] if proof.extra else []
    lines = [HEADER, *extra, f"{_INDEX}{proof.leaf_index}", *map(format_base64, proof.hashes), "", ""]
    data = "\n".join(lines).encode("ascii") + proof.checkpoint
    _check_size(data, "proof")
    return data


def parse_proof_file(data: bytes, *, source: str = "proof") -> InclusionProof:
    """Return what a ``.tlog-proof`` file holds, nothing of it verified; raises ``FormatError``."""
    _check_size(data, source)
    # The first empty line ends the proof; the checkpoint after it has one of its own.
    head, separator, checkpoint = data.partition(b"\n\n")
    if not separator or not head.isascii():
        raise FormatError("expected proof lines in ASCII, an empty line and a checkpoint", source=source)
    lines = head.decode("ascii").split("\n")
    if lines.pop(0) != HEADER:
        raise FormatError(
            f"expected a file that begins with {HEADER}, got {shorten(head[:40])}", source=source, offset=0
        )
    extra = b""
    if lines and lines[0].startswith(_EXTRA):
        extra = parse_base64(lines.pop(0).removeprefix(_EXTRA), source=source)
        if not extra:
            raise FormatError("an empty extra line is left out", source=source)
    if not lines or not lines[0].startswith(_INDEX):
        raise FormatError("expected the line 'index <n>'", source=source)
    leaf_index = parse_decimal(lines.pop(0).removeprefix(_INDEX), source=source)
    if len(lines) > MAX_PROOF_HASHES:
        raise FormatError(f"expected at most {MAX_PROOF_HASHES} hashes, got {len(lines)}", source=source)
    hashes = tuple(parse_base64(line, source=source, length=HASH_BYTES) for line in lines)
    parse_note(checkpoint, source=source)
    return InclusionProof(extra, leaf_index, hashes, checkpoint)


def check_proof_file(data: bytes, known: Sequence[VerifierKey], *, source: str = "proof") -> CheckedProof:
    """Return the record that a ``.tlog-proof`` file proves under the log's key (and witnesses') in ``known``.

    Raises ``FormatError`` if it is not such a file, ``SignatureError`` for the checkpoint, ``ProofError`` if the
    record's envelope is not the leaf at its index, ``AlteredRecordError`` if a disclosed part is not what the
    envelope commits to.
    """
    proof = parse_proof_file(data, source=source)
    opened = open_checkpoint(proof.checkpoint, known, source=source)
    record = parse_record_line(proof.extra, source=source)
    if record.index != proof.leaf_index:
        raise FormatError(
            f"two indexes in one proof: {proof.leaf_index} in the file, {record.index} in the record line",
            source=source,
        )
    check_inclusion(
        proof.hashes,
        proof.leaf_index,
        leaf_hash(format_envelope(record.envelope)),
        opened.checkpoint.size,
        opened.checkpoint.root,
    )
    check_record_line(record, where=source)
    return CheckedProof(record, opened.checkpoint, opened.signatures)


def _check_size(data: bytes, source: str) -> None:
    if len(data) > MAX_PROOF_BYTES:
        raise FormatError(f"expected at most {MAX_PROOF_BYTES} bytes, got {len(data)}", source=source)
