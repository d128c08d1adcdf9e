"""Checkpoints: the text a log signs to say "log ORIGIN has SIZE leaves and root ROOT" (C2SP tlog-checkpoint).

::

    example.org/clinic
    5
    YXgDtUyiIx/sS3Man3J4aXAUC6fXVVCjGSP4r4VCsMk=

Three lines: origin, size in decimal without leading zeros, base64 of the 32-byte root. Foreign checkpoints may have
further, opaque, non-empty lines; they are kept, because signatures cover them. An origin is 1 to 255 bytes of UTF-8
without spaces, ``+`` or control characters, and names the log's key as well, so ``open_checkpoint`` demands a
signature of a key named like the origin: a witness's signature alone says nothing about who runs the log.

Spec: https://c2sp.org/tlog-checkpoint, FORMATS.md section 2.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from pgseal.core.encoding import MAX_TREE_SIZE, format_base64, parse_base64, parse_decimal, shorten
from pgseal.core.merkle import HASH_BYTES
from pgseal.core.note import KeyType, Signature, VerifierKey, is_key_name, open_note
from pgseal.errors import FormatError, SignatureError

#: Bytes of UTF-8 in the longest origin.
MAX_ORIGIN_BYTES = 255
_FIXED_LINES = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Log ``origin`` has ``size`` leaves and the 32-byte ``root``; ``extensions`` are lines without their newline."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenedCheckpoint:
    """A checkpoint and the verified signatures on it, the log's own among them."""

    checkpoint: Checkpoint
    signatures: tuple[Signature, ...]


def check_origin(origin: str, *, source: str = "origin") -> None:
    """Raise ``FormatError`` unless ``origin`` may name a log and its key."""
    try:
        size = len(origin.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise FormatError(f"an origin holds a lone surrogate: {shorten(origin)}", source=source) from error
    if not is_key_name(origin) or any(unicodedata.category(character) == "Cc" for character in origin):
        raise FormatError(
            f"expected an origin without spaces, plus and control characters, got {shorten(origin)}", source=source
        )
    if size > MAX_ORIGIN_BYTES:
        raise FormatError(f"expected an origin of at most {MAX_ORIGIN_BYTES} bytes, got {size}", source=source)


def format_checkpoint(checkpoint: Checkpoint) -> str:
    """Return the text that is signed; raises ``FormatError`` for values without the right form."""
    check_origin(checkpoint.origin, source="checkpoint")
    if not 0 <= checkpoint.size <= MAX_TREE_SIZE or len(checkpoint.root) != HASH_BYTES:
        raise FormatError(
            f"expected a size below 2^63 and a root of {HASH_BYTES} bytes, got size {checkpoint.size}",
            source="checkpoint",
        )
    lines = (checkpoint.origin, str(checkpoint.size), format_base64(checkpoint.root), *checkpoint.extensions)
    text = "".join(line + "\n" for line in lines)
    if parse_checkpoint(text) != checkpoint:
        raise FormatError("extension lines hold newlines", source="checkpoint")
    return text


def parse_checkpoint(text: str, *, source: str = "checkpoint") -> Checkpoint:
    """Return the checkpoint that ``text``, the text of an opened note, states; raises ``FormatError``."""
    lines = text.split("\n")
    if len(lines) <= _FIXED_LINES or lines.pop() != "":
        raise FormatError("expected at least three lines, each ending in a newline", source=source)
    origin, size, root, *extensions = lines
    check_origin(origin, source=source)
    for line in extensions:
        if not line or any(unicodedata.category(character) in ("Cc", "Cs") for character in line):
            raise FormatError(
                f"expected extension lines that are not empty and have no control characters, got {shorten(line)}",
                source=source,
            )
    return Checkpoint(
        origin,
        parse_decimal(size, source=source),
        parse_base64(root, source=source, length=HASH_BYTES),
        tuple(extensions),
    )


def open_checkpoint(
    note: bytes, known: Sequence[VerifierKey], *, origin: str | None = None, source: str = "checkpoint"
) -> OpenedCheckpoint:
    """Return the checkpoint in a signed note, verified against ``known`` keys (the log's, and witnesses').

    At least one Ed25519 signature must be of a key named like the origin, and the origin must be ``origin`` where
    given. Raises ``FormatError``, ``SignatureError``, and ``ConfigError`` as ``open_note`` does.
    """
    opened = open_note(note, known, source=source)
    checkpoint = parse_checkpoint(opened.text, source=source)
    if origin is not None and checkpoint.origin != origin:
        raise SignatureError(f"checkpoint of another log: expected {origin!r}, got {checkpoint.origin!r}", where=source)
    if not any(is_log_signature(signature, checkpoint.origin) for signature in opened.signatures):
        signers = ", ".join(signature.key.name for signature in opened.signatures)
        raise SignatureError(
            f"expected a signature of the log {checkpoint.origin!r} itself, got only {signers}", where=source
        )
    return OpenedCheckpoint(checkpoint, opened.signatures)


def is_log_signature(signature: Signature, origin: str) -> bool:
    """Return whether a verified signature is the log's own, not a witness's."""
    return signature.key.type is KeyType.ED25519 and signature.key.name == origin
