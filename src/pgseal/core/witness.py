"""What a log sends to a witness, and how a witness decides (C2SP tlog-witness).

The request of ``add-checkpoint``, at most 128 KiB::

    old 2
    +8ygB3sx8HLyXX3VA80ZNsyFOkOmBpnMwTY3hAzBlkI=

    example.org/clinic
    3
    YXgDtUyiIx/sS3Man3J4aXAUC6fXVVCjGSP4r4VCsMk=

    — example.org/clinic fk1u8twl…

The size of the checkpoint that the witness is believed to hold (0: none), 0 to 63 hashes of the consistency proof from
there, an empty line, the checkpoint. It is split at its *first* empty line: the checkpoint has one of its own.

``decide`` takes the checks in the order of FORMATS.md section 2; the first that fails is the answer:

====  ==========================================================================================
404   the origin is unknown
403   no valid signature of a key known for that origin, or a known key's signature fails
400   malformed, or ``old`` is above the checkpoint's size
409   ``old`` is not the size that is held; the answer is that size
422   the proof fails, or there is one where nothing is to be proved; equal sizes with other roots;
      size 0 with a root other than the empty tree's
200   consistent: it may be kept and cosigned
====  ==========================================================================================

Nothing here signs or stores: whoever accepts a checkpoint must keep it, durably, before anyone sees the cosignature.

Spec: https://c2sp.org/tlog-witness.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pgseal.core.checkpoint import Checkpoint, check_origin, parse_checkpoint
from pgseal.core.encoding import MAX_TREE_SIZE, format_base64, parse_base64, parse_decimal, shorten
from pgseal.core.keys import VerifierKey
from pgseal.core.merkle import EMPTY_ROOT, HASH_BYTES, check_consistency
from pgseal.core.note import open_note, parse_note, select_signatures
from pgseal.errors import FormatError, ProofError, SignatureError

#: Limits on a request.
MAX_REQUEST_BYTES = 128 * 1024
MAX_PROOF_HASHES = 63

MALFORMED, FORBIDDEN, UNKNOWN, CONFLICT, UNPROVED = 400, 403, 404, 409, 422

_SOURCE = "add-checkpoint"
_OLD = "old "


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A request: the size believed to be held, the proof from there, and the signed checkpoint as it stands."""

    old_size: int
    proof: tuple[bytes, ...]
    checkpoint: bytes


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A checkpoint that may be kept and cosigned; ``note`` has the signatures of known keys only, all valid."""

    checkpoint: Checkpoint
    text: str
    note: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not: the status of FORMATS.md, a reason for people, and for 409 the size that is held."""

    status: int
    reason: str
    held_size: int | None = None


def format_request(request: AddCheckpoint) -> bytes:
    """Return the bytes of a request; raises ``FormatError`` for values without the right form."""
    if not 0 <= request.old_size <= MAX_TREE_SIZE or len(request.proof) > MAX_PROOF_HASHES:
        raise FormatError(
            f"expected a size below 2^63 and at most {MAX_PROOF_HASHES} hashes, got size {request.old_size} and "
            f"{len(request.proof)} hashes",
            source=_SOURCE,
        )
    if any(len(hash_) != HASH_BYTES for hash_ in request.proof):
        raise FormatError(f"expected hashes of {HASH_BYTES} bytes", source=_SOURCE)
    parse_note(request.checkpoint, source=_SOURCE)
    lines = [f"{_OLD}{request.old_size}", *map(format_base64, request.proof), "", ""]
    body = "\n".join(lines).encode("ascii") + request.checkpoint
    _check_size(body)
    return body


def parse_request(body: bytes) -> AddCheckpoint:
    """Return what a request holds, nothing of it verified; raises ``FormatError``."""
    head, checkpoint = _split(body)
    old_size, proof = _parse_head(head)
    parse_note(checkpoint, source=_SOURCE)
    return AddCheckpoint(old_size, proof, checkpoint)


def find_origin(body: bytes) -> str:
    """Return the origin that a request's checkpoint claims, the first line of it.

    Raises ``FormatError`` for a request that is too long, or whose checkpoint begins with something else.
    """
    _, checkpoint = _split(body)
    try:
        origin = checkpoint.partition(b"\n")[0].decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("invalid UTF-8 in the origin", source=_SOURCE) from error
    check_origin(origin, source=_SOURCE)
    return origin


def decide(body: bytes, keys: Sequence[VerifierKey], held: Checkpoint | None) -> Acceptance | Refusal:
    """Decide on a request for a log whose ``keys`` are known and whose newest cosigned checkpoint is ``held``.

    That the origin is known (404) the caller has seen with ``find_origin``. Raises nothing.
    """
    try:
        head, note = _split(body)
    except FormatError as error:
        return Refusal(MALFORMED, str(error))
    try:
        opened = open_note(note, keys, source=_SOURCE)
    except (SignatureError, FormatError) as error:
        # What is no signed note has no valid signature either.
        return Refusal(FORBIDDEN, str(error))
    try:
        checkpoint = parse_checkpoint(opened.text, source=_SOURCE)
        old_size, proof = _parse_head(head)
        if old_size > checkpoint.size:
            raise FormatError(f"old size {old_size} is above size {checkpoint.size}", source=_SOURCE)  # noqa: TRY301
    except FormatError as error:
        return Refusal(MALFORMED, str(error))
    held_size = held.size if held else 0
    if old_size != held_size:
        return Refusal(CONFLICT, f"the newest cosigned checkpoint has size {held_size}, not {old_size}", held_size)
    try:
        _check_growth(checkpoint, proof, held)
    except ProofError as error:
        return Refusal(UNPROVED, str(error))
    own = "".join(select_signatures(note, keys))
    return Acceptance(checkpoint, opened.text, f"{opened.text}\n{own}".encode())


def _check_growth(checkpoint: Checkpoint, proof: Sequence[bytes], held: Checkpoint | None) -> None:
    if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
        raise ProofError("size 0 with a root other than the empty tree's")
    if held is not None and held.size:
        check_consistency(proof, held.size, checkpoint.size, held.root, checkpoint.root)
    elif proof:  # every tree continues the empty one
        raise ProofError("there is nothing to be proved from size 0: expected no proof")


def _split(body: bytes) -> tuple[bytes, bytes]:
    _check_size(body)
    head, separator, checkpoint = body.partition(b"\n\n")
    if not separator:
        raise FormatError("expected 'old <size>', proof lines, an empty line and a checkpoint", source=_SOURCE)
    return head, checkpoint


def _parse_head(head: bytes) -> tuple[int, tuple[bytes, ...]]:
    if not head.isascii():
        raise FormatError("expected proof lines in ASCII", source=_SOURCE)
    first, *lines = head.decode("ascii").split("\n")
    if not first.startswith(_OLD):
        raise FormatError(f"expected a request that begins with 'old <size>', got {shorten(first)}", source=_SOURCE)
    if len(lines) > MAX_PROOF_HASHES:
        raise FormatError(f"expected at most {MAX_PROOF_HASHES} hashes, got {len(lines)}", source=_SOURCE)
    old_size = parse_decimal(first.removeprefix(_OLD), source=_SOURCE)
    return old_size, tuple(parse_base64(line, source=_SOURCE, length=HASH_BYTES) for line in lines)


def _check_size(body: bytes) -> None:
    if len(body) > MAX_REQUEST_BYTES:
        raise FormatError(f"expected at most {MAX_REQUEST_BYTES} bytes, got {len(body)}", source=_SOURCE)
