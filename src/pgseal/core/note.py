r"""Signed notes: a text and the signatures under it (C2SP signed-note, FORMATS.md section 2).

::

    If you think cryptography is the answer to your problem,
    then you don't know what your problem is.

    — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=

A note is a text that ends in a newline, an empty line, and one or more signature lines ``— <name> <base64>``
(U+2014), the base64 holding a 4-byte key id and the signature. The text may have empty lines itself: the note is
split at its *last* one. It is UTF-8 without control characters (below U+0020) other than newline. At most 100
signatures and 1 MiB are read.

A log signs the text itself; a witness cosigns ``cosignature/v1\ntime <decimal>\n ‖ text`` and puts the time, in
seconds since the Unix epoch as uint64 big-endian, in front of the signature. Keys are in ``pgseal.core.keys``,
re-exported here.

Signatures of unknown keys are ignored, so a log can be cosigned by witnesses we have never heard of. A signature of a
known key that fails rejects the whole note. Until ``open_note`` has returned, the text is only what somebody sent.

Specs: https://c2sp.org/signed-note, https://c2sp.org/tlog-cosignature.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pgseal.core.encoding import format_base64, parse_base64, shorten
from pgseal.core.keys import (
    KEY_ID_BYTES,
    SEED_BYTES,
    KeyType,
    Signer,
    SignerKey,
    VerifierKey,
    check_key_name,
    format_signer_key,
    format_verifier_key,
    generate_signer,
    is_key_name,
    parse_signer_key,
    parse_verifier_key,
)
from pgseal.errors import ConfigError, FormatError, SignatureError

__all__ = [
    "KEY_ID_BYTES",
    "MAX_NOTE_BYTES",
    "MAX_SIGNATURES",
    "MAX_TIMESTAMP",
    "SEED_BYTES",
    "KeyType",
    "OpenedNote",
    "Signature",
    "SignatureLine",
    "Signer",
    "SignerKey",
    "VerifierKey",
    "add_signatures",
    "cosign_note",
    "format_signer_key",
    "format_verifier_key",
    "generate_signer",
    "is_key_name",
    "open_note",
    "parse_note",
    "parse_signer_key",
    "parse_verifier_key",
    "select_signatures",
    "sign_note",
]

#: Limits on what is read.
MAX_NOTE_BYTES = 1024 * 1024
MAX_SIGNATURES = 100
#: A cosignature's time, in seconds since the Unix epoch, fits a signed 64-bit integer (C2SP tlog-cosignature).
MAX_TIMESTAMP = 2**63 - 1

_SIGNATURE_BYTES = 64
_TIMESTAMP_BYTES = 8

_DASH = "— "
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature that was verified: by whom and, for a cosignature, at what time (seconds since the Unix epoch)."""

    key: VerifierKey
    timestamp: int | None = None


@dataclass(frozen=True, slots=True)
class OpenedNote:
    """The text of a note and the verified signatures, one for each key, in the order they stand in the note."""

    text: str
    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class SignatureLine:
    """A signature line as it stands in a note, not verified: ``payload`` is what follows the key id."""

    name: str
    key_id: bytes
    payload: bytes


def sign_note(text: str, *signers: Signer) -> bytes:
    """Return ``text`` signed by each of the Ed25519 ``signers``, in their order.

    Deterministic. Raises ``FormatError`` for a text that cannot be a note's, ``ConfigError`` without signers or for a
    witness's key, which signs nothing but cosignatures.
    """
    lines: list[str] = []
    for signer in signers:
        if signer.verifier.type is not KeyType.ED25519:
            raise ConfigError(
                f"key {signer.verifier.name!r} signs cosignatures only: sign the note with the log's own key"
            )
        lines.append(_format_line(signer.verifier, signer.sign(text.encode("utf-8", "surrogatepass"))))
    if not lines:
        raise ConfigError("a note needs at least one signer")
    return _format_note(text, lines)


def cosign_note(text: str, signer: SignerKey, timestamp: int) -> str:
    """Return one cosignature/v1 line, newline included, over the body of a checkpoint.

    ``timestamp`` is in seconds since the Unix epoch. The caller has checked that ``text`` is a checkpoint consistent
    with all it cosigned before. Raises ``FormatError`` for the timestamp, ``ConfigError`` for a key of another type.
    """
    if signer.verifier.type is not KeyType.COSIGNATURE:
        raise ConfigError(f"key {signer.name!r} is not a witness key (type 0x04): make one for the witness")
    if not 0 <= timestamp <= MAX_TIMESTAMP:
        raise FormatError(f"expected a time from 0 to 2^63 - 1 seconds, got {timestamp}", source="cosignature")
    _check_text(text, "cosignature")
    signature = signer.sign(_cosigned_message(text.encode("utf-8"), timestamp))
    return _format_line(signer.verifier, timestamp.to_bytes(_TIMESTAMP_BYTES, "big") + signature)


def add_signatures(note: bytes, lines: Iterable[str]) -> bytes:
    """Return ``note`` with signature lines added below, leaving out those it has already.

    Each line ends in a newline, as ``cosign_note`` returns it and a witness sends it. Nothing is verified. Raises
    ``FormatError`` if the result would not be a note.
    """
    text, before = parse_note(note)
    present = note.decode("utf-8").split("\n")
    added = [line for line in dict.fromkeys(lines) if line.removesuffix("\n") not in present]
    signed = note + "".join(added).encode("utf-8", "surrogatepass")
    signed_text, after = parse_note(signed)
    # A "line" with an empty line in it would move the split, and with it the text that was signed.
    if signed_text != text or len(after) != len(before) + len(added):
        raise FormatError("expected signature lines, each ending in a newline", source="note")
    return signed


def select_signatures(note: bytes, keys: Iterable[VerifierKey], *, source: str = "note") -> list[str]:
    """Return the signature lines of ``keys`` as they stand in ``note``, newline included, the first one of each key.

    Nothing is verified. Raises ``FormatError`` if ``note`` is not a note.
    """
    _, lines = parse_note(note, source=source)
    wanted = {(key.name, key.key_id) for key in keys}
    found: dict[tuple[str, bytes], str] = {}
    for line in lines:
        if (line.name, line.key_id) in wanted:
            found.setdefault(
                (line.name, line.key_id), f"{_DASH}{line.name} {format_base64(line.key_id + line.payload)}\n"
            )
    return list(found.values())


def open_note(note: bytes, known: Sequence[VerifierKey], *, source: str = "note") -> OpenedNote:
    """Return the text of ``note`` with the signatures of ``known`` keys, each verified.

    Raises ``FormatError`` if ``note`` is not a note, ``SignatureError`` if a known key's signature is wrong or no
    known key has signed, ``ConfigError`` if two different known keys share name and id.
    """
    keys = _index_keys(known)
    text, lines = parse_note(note, source=source)
    body = text.encode("utf-8")
    verified: dict[VerifierKey, Signature] = {}
    for line in lines:
        key = keys.get((line.name, line.key_id))
        if key is not None:
            # Repeated signatures of one key are all verified and count once.
            verified.setdefault(key, _verify(key, body, line.payload, source))
    if not verified:
        wanted = ", ".join(f"{key.name}+{key.key_id.hex()}" for key in keys.values()) or "none"
        signed_by = ", ".join(f"{line.name}+{line.key_id.hex()}" for line in lines[:3])
        raise SignatureError(
            f"no signature of a known key: expected one of {wanted}, got {shorten(signed_by)}", where=source
        )
    return OpenedNote(text, tuple(verified.values()))


def parse_note(note: bytes, *, source: str = "note") -> tuple[str, list[SignatureLine]]:
    """Return the text and the signature lines of ``note`` WITHOUT verifying any; raises ``FormatError``."""
    if len(note) > MAX_NOTE_BYTES:
        raise FormatError(f"expected at most {MAX_NOTE_BYTES} bytes, got {len(note)}", source=source)
    try:
        decoded = note.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("invalid UTF-8", source=source, offset=error.start) from error
    if control := _CONTROL.search(decoded):
        raise FormatError(
            f"control character U+{ord(control[0]):04X}",
            source=source,
            offset=len(decoded[: control.start()].encode("utf-8")),
        )
    split = decoded.rfind("\n\n")
    if split < 0 or not decoded.endswith("\n"):
        raise FormatError("expected a text, an empty line and signature lines, each ending in a newline", source=source)
    text, signatures = decoded[: split + 1], decoded[split + 2 :]
    lines = signatures.split("\n")[:-1]
    if not 1 <= len(lines) <= MAX_SIGNATURES:
        raise FormatError(f"expected 1 to {MAX_SIGNATURES} signatures, got {len(lines)}", source=source)
    return text, [_parse_line(line, source) for line in lines]


def _parse_line(line: str, source: str) -> SignatureLine:
    name, separator, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not separator:
        raise FormatError(f"expected a signature line '— name base64', got {shorten(line)}", source=source)
    check_key_name(name, source)
    signature = parse_base64(encoded, source=source)
    if len(signature) <= KEY_ID_BYTES:
        raise FormatError(f"expected a key id and a signature, got {len(signature)} bytes", source=source)
    return SignatureLine(name, signature[:KEY_ID_BYTES], signature[KEY_ID_BYTES:])


def _verify(key: VerifierKey, body: bytes, payload: bytes, source: str) -> Signature:
    timestamp = None
    signature, message = payload, body
    if key.type is KeyType.COSIGNATURE:
        timestamp = int.from_bytes(payload[:_TIMESTAMP_BYTES], "big")
        signature, message = payload[_TIMESTAMP_BYTES:], _cosigned_message(body, timestamp)
    try:
        if len(signature) != _SIGNATURE_BYTES or (timestamp is not None and timestamp > MAX_TIMESTAMP):
            raise InvalidSignature  # noqa: TRY301 - one outcome for every way a signature can be wrong
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(
            f"wrong signature of {key.name}+{key.key_id.hex()}: text or signature was changed", where=source
        ) from error
    return Signature(key, timestamp)


def _cosigned_message(body: bytes, timestamp: int) -> bytes:
    return b"cosignature/v1\ntime %d\n" % timestamp + body


def _format_line(key: VerifierKey, payload: bytes) -> str:
    return f"{_DASH}{key.name} {format_base64(key.key_id + payload)}\n"


def _format_note(text: str, lines: Sequence[str]) -> bytes:
    _check_text(text, "note")
    note = f"{text}\n{''.join(lines)}".encode()
    if len(note) > MAX_NOTE_BYTES or len(lines) > MAX_SIGNATURES:
        raise FormatError(f"expected at most {MAX_NOTE_BYTES} bytes and {MAX_SIGNATURES} signatures", source="note")
    return note


def _check_text(text: str, source: str) -> None:
    if not text.endswith("\n") or _CONTROL.search(text):
        raise FormatError("expected a text that ends in a newline and has no other control characters", source=source)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError("the text holds a lone surrogate", source=source) from error


def _index_keys(known: Iterable[VerifierKey]) -> dict[tuple[str, bytes], VerifierKey]:
    keys: dict[tuple[str, bytes], VerifierKey] = {}
    for key in known:
        other = keys.setdefault((key.name, key.key_id), key)
        if other != key:
            raise ConfigError(
                f"two different keys share the name {key.name!r} and id {key.key_id.hex()}: trust one of them"
            )
    return keys
