"""Signed notes: a text and the signatures under it (C2SP signed-note, FORMATS.md section 2).

::

    If you think cryptography is the answer to your problem,
    then you don't know what your problem is.

    — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=

A note is a text that ends in a newline, an empty line, and one or more signature lines ``— <name> <base64>`` (U+2014), the
base64 holding a 4-byte key id and the signature. The text may have empty lines itself: the note is split at its *last* one.
It is UTF-8 without control characters (below U+0020) other than newline. At most 100 signatures and 1 MiB are read.

A key is known by name and id, ``SHA-256(name ‖ 0x0A ‖ type ‖ public key)[:4]``. The id is a label, not a hash to trust: what
is trusted is the whole verifier key. Two types:

- ``0x01`` Ed25519: the signature is over the text;
- ``0x04`` cosignature/v1: ``uint64 big-endian unix time ‖ Ed25519`` over ``cosignature/v1\\ntime <decimal>\\n ‖ text``.

Keys are written as ``name+hex8(id)+base64(type ‖ public key)`` and, secret, ``PRIVATE+KEY+name+hex8(id)+base64(type ‖ seed)``.

Signatures of unknown keys are ignored, so a log can be cosigned by witnesses we have never heard of. A signature of a known
key that fails rejects the whole note. Until ``open_note`` has returned, the text is only what somebody sent.

Specs: https://c2sp.org/signed-note, https://c2sp.org/tlog-cosignature.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pgseal.core.encoding import format_base64, parse_base64, shorten
from pgseal.errors import ConfigError, FormatError, SignatureError

#: Limits on what is read.
MAX_NOTE_BYTES = 1024 * 1024
MAX_SIGNATURES = 100
#: A cosignature's time, in seconds since the Unix epoch, fits a signed 64-bit integer (C2SP tlog-cosignature).
MAX_TIMESTAMP = 2**63 - 1

KEY_ID_BYTES = 4
SEED_BYTES = 32
_PUBLIC_KEY_BYTES = 32
_SIGNATURE_BYTES = 64
_TIMESTAMP_BYTES = 8
_MAX_KEY_CHARACTERS = 1024

_DASH = "— "
_SIGNER_PREFIX = "PRIVATE+KEY+"
_HEX8 = re.compile(r"[0-9a-f]{8}")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


class KeyType(IntEnum):
    """The signature types pgseal writes and verifies."""

    ED25519 = 0x01
    COSIGNATURE = 0x04


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key that is trusted to sign notes under a name.

    Raises ``FormatError`` for a name or a key that cannot be one.
    """

    name: str
    public_key: bytes
    type: KeyType = KeyType.ED25519
    key_id: bytes = field(init=False)

    def __post_init__(self) -> None:
        """Check name and length, and derive the key id."""
        _check_name(self.name, "verifier key")
        if len(self.public_key) != _PUBLIC_KEY_BYTES:
            message = f"expected a public key of {_PUBLIC_KEY_BYTES} bytes, got {len(self.public_key)}"
            raise FormatError(message, source="verifier key")
        preimage = self.name.encode("utf-8") + b"\n" + bytes([self.type]) + self.public_key
        object.__setattr__(self, "key_id", sha256(preimage).digest()[:KEY_ID_BYTES])

    def __str__(self) -> str:
        """Return the text form, as ``format_verifier_key`` does."""
        return format_verifier_key(self)


class SignerKey:
    """A secret key that signs notes under a name. Neither ``repr`` nor ``str`` shows the secret."""

    __slots__ = ("_private_key", "_seed", "verifier")

    def __init__(self, name: str, seed: bytes, type: KeyType = KeyType.ED25519) -> None:  # noqa: A002
        """Make the key of a 32-byte ``seed`` (from ``secrets.token_bytes``); raises ``FormatError``."""
        if len(seed) != SEED_BYTES:
            message = f"expected a seed of {SEED_BYTES} bytes, got {len(seed)}"
            raise FormatError(message, source="signer key")
        self._seed = bytes(seed)
        self._private_key = Ed25519PrivateKey.from_private_bytes(self._seed)
        #: The public half.
        self.verifier = VerifierKey(name, self._private_key.public_key().public_bytes_raw(), type)

    @property
    def name(self) -> str:
        """The name it signs under."""
        return self.verifier.name

    def __repr__(self) -> str:
        """Name the key by what is public."""
        return f"SignerKey({format_verifier_key(self.verifier)!r})"


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


def generate_signer(name: str, seed: bytes, key_type: KeyType = KeyType.ED25519) -> SignerKey:
    """Return the signer key of 32 random bytes, which the caller makes; raises ``FormatError``."""
    return SignerKey(name, seed, key_type)


def format_verifier_key(key: VerifierKey) -> str:
    """Return ``name+hex8(id)+base64(type ‖ public key)``."""
    return f"{key.name}+{key.key_id.hex()}+{format_base64(bytes([key.type]) + key.public_key)}"


def parse_verifier_key(text: str, *, source: str = "verifier key") -> VerifierKey:
    """Return the key that ``text`` writes; raises ``FormatError``, also if the id does not fit the key."""
    name, key_id, key_type, public_key = _parse_key(text, source)
    key = VerifierKey(name, public_key, key_type)
    _check_key_id(key, key_id, source)
    return key


def format_signer_key(signer: SignerKey) -> str:
    """Return ``PRIVATE+KEY+name+hex8(id)+base64(type ‖ seed)``: a secret, to be stored with mode 0600."""
    key = signer.verifier
    seed = signer._seed  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return f"{_SIGNER_PREFIX}{key.name}+{key.key_id.hex()}+{format_base64(bytes([key.type]) + seed)}"


def parse_signer_key(text: str, *, source: str = "signer key") -> SignerKey:
    """Return the key that ``text`` writes; raises ``FormatError``, whose message never holds any of the secret."""
    if not text.startswith(_SIGNER_PREFIX):
        message = f"expected a key that begins with {_SIGNER_PREFIX}"
        raise FormatError(message, source=source)
    try:
        name, key_id, key_type, seed = _parse_key(text.removeprefix(_SIGNER_PREFIX), source)
    except FormatError:
        # Not chained: the cause quotes what it could not read, which may be the seed.
        message = "expected PRIVATE+KEY+name+id+base64, got something else (not shown, it may be secret)"
        raise FormatError(message, source=source) from None
    signer = SignerKey(name, seed, key_type)
    _check_key_id(signer.verifier, key_id, source)
    return signer


def sign_note(text: str, *signers: SignerKey) -> bytes:
    """Return ``text`` signed by each of the Ed25519 ``signers``, in their order.

    Deterministic. Raises ``FormatError`` for a text that cannot be a note's, ``ConfigError`` without signers or for a
    witness's key, which signs nothing but cosignatures.
    """
    lines: list[str] = []
    for signer in signers:
        if signer.verifier.type is not KeyType.ED25519:
            message = f"key {signer.name!r} signs cosignatures only: sign the note with the log's own key"
            raise ConfigError(message)
        lines.append(_format_line(signer.verifier, _sign(signer, text.encode("utf-8", "surrogatepass"))))
    if not lines:
        message = "a note needs at least one signer"
        raise ConfigError(message)
    return _format_note(text, lines)


def cosign_note(text: str, signer: SignerKey, timestamp: int) -> str:
    """Return one cosignature/v1 line, newline included, over the body of a checkpoint.

    ``timestamp`` is in seconds since the Unix epoch. The caller has checked that ``text`` is a checkpoint consistent with
    all it cosigned before. Raises ``FormatError`` for the timestamp, ``ConfigError`` for a key of another type.
    """
    if signer.verifier.type is not KeyType.COSIGNATURE:
        message = f"key {signer.name!r} is not a witness key (type 0x04): make one for the witness"
        raise ConfigError(message)
    if not 0 <= timestamp <= MAX_TIMESTAMP:
        message = f"expected a time from 0 to 2^63 - 1 seconds, got {timestamp}"
        raise FormatError(message, source="cosignature")
    _check_text(text, "cosignature")
    signature = _sign(signer, _cosigned_message(text.encode("utf-8"), timestamp))
    return _format_line(signer.verifier, timestamp.to_bytes(_TIMESTAMP_BYTES, "big") + signature)


def add_signatures(note: bytes, lines: Iterable[str]) -> bytes:
    """Return ``note`` with signature lines added below, leaving out those it has already.

    Each line ends in a newline, as ``cosign_note`` returns it and a witness sends it. Nothing is verified. Raises
    ``FormatError`` if the result would not be a note.
    """
    present = note.decode("utf-8", "replace").splitlines(keepends=True)
    added = [line for line in dict.fromkeys(lines) if line not in present]
    signed = note + "".join(added).encode("utf-8", "surrogatepass")
    parse_note(signed)
    return signed


def open_note(note: bytes, known: Sequence[VerifierKey], *, source: str = "note") -> OpenedNote:
    """Return the text of ``note`` with the signatures of ``known`` keys, each verified.

    Raises ``FormatError`` if ``note`` is not a note, ``SignatureError`` if a known key's signature is wrong or no known key
    has signed, ``ConfigError`` if two different known keys share name and id.
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
        detail = f"no signature of a known key: expected one of {wanted}, got {shorten(signed_by)}"
        raise SignatureError(detail, where=source)
    return OpenedNote(text, tuple(verified.values()))


def parse_note(note: bytes, *, source: str = "note") -> tuple[str, list[SignatureLine]]:
    """Return the text and the signature lines of ``note`` WITHOUT verifying any; raises ``FormatError``."""
    if len(note) > MAX_NOTE_BYTES:
        message = f"expected at most {MAX_NOTE_BYTES} bytes, got {len(note)}"
        raise FormatError(message, source=source)
    try:
        decoded = note.decode("utf-8")
    except UnicodeDecodeError as error:
        message = "invalid UTF-8"
        raise FormatError(message, source=source, offset=error.start) from error
    if control := _CONTROL.search(decoded):
        message = f"control character U+{ord(control[0]):04X}"
        raise FormatError(message, source=source, offset=len(decoded[: control.start()].encode("utf-8")))
    split = decoded.rfind("\n\n")
    if split < 0 or not decoded.endswith("\n"):
        message = "expected a text, an empty line and signature lines, each ending in a newline"
        raise FormatError(message, source=source)
    text, signatures = decoded[: split + 1], decoded[split + 2 :]
    lines = signatures.split("\n")[:-1]
    if not 1 <= len(lines) <= MAX_SIGNATURES:
        message = f"expected 1 to {MAX_SIGNATURES} signatures, got {len(lines)}"
        raise FormatError(message, source=source)
    return text, [_parse_line(line, source) for line in lines]


def _parse_line(line: str, source: str) -> SignatureLine:
    name, separator, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not separator:
        message = f"expected a signature line '— name base64', got {shorten(line)}"
        raise FormatError(message, source=source)
    _check_name(name, source)
    signature = parse_base64(encoded, source=source)
    if len(signature) <= KEY_ID_BYTES:
        message = f"expected a key id and a signature, got {len(signature)} bytes"
        raise FormatError(message, source=source)
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
        detail = f"wrong signature of {key.name}+{key.key_id.hex()}: text or signature was changed"
        raise SignatureError(detail, where=source) from error
    return Signature(key, timestamp)


def _sign(signer: SignerKey, message: bytes) -> bytes:
    return signer._private_key.sign(message)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


def _cosigned_message(body: bytes, timestamp: int) -> bytes:
    return b"cosignature/v1\ntime %d\n" % timestamp + body


def _format_line(key: VerifierKey, payload: bytes) -> str:
    return f"{_DASH}{key.name} {format_base64(key.key_id + payload)}\n"


def _format_note(text: str, lines: Sequence[str]) -> bytes:
    _check_text(text, "note")
    note = f"{text}\n{''.join(lines)}".encode()
    if len(note) > MAX_NOTE_BYTES or len(lines) > MAX_SIGNATURES:
        message = f"expected at most {MAX_NOTE_BYTES} bytes and {MAX_SIGNATURES} signatures"
        raise FormatError(message, source="note")
    return note


def _check_text(text: str, source: str) -> None:
    if not text.endswith("\n") or _CONTROL.search(text):
        message = "expected a text that ends in a newline and has no other control characters"
        raise FormatError(message, source=source)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        message = "the text holds a lone surrogate"
        raise FormatError(message, source=source) from error


def is_key_name(name: str) -> bool:
    """Return whether ``name`` may name a key: not empty, no Unicode spaces, no plus, no control characters."""
    return bool(name) and "+" not in name and not any(map(str.isspace, name)) and not _CONTROL.search(name)


def _check_name(name: str, source: str) -> None:
    if not is_key_name(name):
        message = f"expected a key name without spaces and plus, got {shorten(name)}"
        raise FormatError(message, source=source)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"a key name holds a lone surrogate: {shorten(name)}"
        raise FormatError(message, source=source) from error


def _parse_key(text: str, source: str) -> tuple[str, bytes, KeyType, bytes]:
    # Split at the first two pluses: base64 has pluses of its own, names have none.
    name, _, rest = text.partition("+")
    key_id, _, encoded = rest.partition("+")
    if len(text) > _MAX_KEY_CHARACTERS or not _HEX8.fullmatch(key_id):
        message = f"expected name+id+base64 with an id of 8 lower-case hex digits, got {shorten(text)}"
        raise FormatError(message, source=source)
    _check_name(name, source)
    decoded = parse_base64(encoded, source=source, length=1 + _PUBLIC_KEY_BYTES)
    try:
        key_type = KeyType(decoded[0])
    except ValueError as error:
        message = f"expected key type 0x01 or 0x04, got 0x{decoded[0]:02x}"
        raise FormatError(message, source=source) from error
    return name, bytes.fromhex(key_id), key_type, decoded[1:]


def _check_key_id(key: VerifierKey, key_id: bytes, source: str) -> None:
    if key.key_id != key_id:
        message = f"key id does not fit the key: expected {key.key_id.hex()}, got {key_id.hex()}"
        raise FormatError(message, source=source)


def _index_keys(known: Iterable[VerifierKey]) -> dict[tuple[str, bytes], VerifierKey]:
    keys: dict[tuple[str, bytes], VerifierKey] = {}
    for key in known:
        other = keys.setdefault((key.name, key.key_id), key)
        if other != key:
            message = f"two different keys share the name {key.name!r} and id {key.key_id.hex()}: trust one of them"
            raise ConfigError(message)
    return keys
