"""The keys that sign notes, and how they are written (C2SP signed-note, FORMATS.md section 2).

A key is known by its name and its id, ``SHA-256(name ‖ 0x0A ‖ type ‖ public key)[:4]``. The id is a label, not a hash
to trust: what is trusted is the whole verifier key. Two types of key:

- ``0x01`` Ed25519, for logs: the signature is over the text of a note;
- ``0x04`` cosignature/v1, for witnesses: over a time and a checkpoint, and nothing else.

Written, both split at ``+``, which names cannot hold (base64 can, and comes last)::

    name+hex8(id)+base64(type ‖ public key)         PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW
    PRIVATE+KEY+name+hex8(id)+base64(type ‖ seed)   PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx0…

The second is a secret: nothing here shows it except ``format_signer_key``. The key above is from the public
documentation of golang.org/x/mod/sumdb/note.
"""

import re
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pgseal.core.encoding import format_base64, parse_base64, shorten
from pgseal.errors import FormatError

KEY_ID_BYTES = 4
SEED_BYTES = 32
_PUBLIC_KEY_BYTES = 32
_MAX_KEY_CHARACTERS = 1024

_SIGNER_PREFIX = "PRIVATE+KEY+"
_HEX8 = re.compile(r"[0-9a-f]{8}")
_CONTROL = re.compile(r"[\x00-\x1f]")


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
        check_key_name(self.name, "verifier key")
        if len(self.public_key) != _PUBLIC_KEY_BYTES:
            raise FormatError(
                f"expected a public key of {_PUBLIC_KEY_BYTES} bytes, got {len(self.public_key)}", source="verifier key"
            )
        preimage = self.name.encode("utf-8") + b"\n" + bytes([self.type]) + self.public_key
        object.__setattr__(self, "key_id", sha256(preimage).digest()[:KEY_ID_BYTES])

    def __str__(self) -> str:
        """Return the text form, as ``format_verifier_key`` does."""
        return format_verifier_key(self)


class Signer(Protocol):
    """What signs notes under a name: a key in this process (``SignerKey``), or one that stays in a device.

    ``verifier`` is its public half. ``sign`` returns the 64-byte Ed25519 signature of a message, or raises
    ``UnavailableError`` if it cannot now; called by one thread at a time.
    """

    @property
    def verifier(self) -> VerifierKey:
        """The public half."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of ``message``."""
        ...

    def close(self) -> None:
        """Let go of what signing takes; it signs no more."""
        ...


class SignerKey:
    """A secret key that signs notes under a name. Neither ``repr`` nor ``str`` shows the secret."""

    __slots__ = ("_private_key", "_seed", "verifier")

    def __init__(self, name: str, seed: bytes, type: KeyType = KeyType.ED25519) -> None:  # noqa: A002
        """Make the key of a 32-byte ``seed`` (from ``secrets.token_bytes``); raises ``FormatError``."""
        if len(seed) != SEED_BYTES:
            raise FormatError(f"expected a seed of {SEED_BYTES} bytes, got {len(seed)}", source="signer key")
        self._seed = bytes(seed)
        self._private_key = Ed25519PrivateKey.from_private_bytes(self._seed)
        #: The public half.
        self.verifier = VerifierKey(name, self._private_key.public_key().public_bytes_raw(), type)

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of ``message``. Notes are signed with ``note.sign_note``."""
        return self._private_key.sign(message)

    def close(self) -> None:
        """Do nothing: a key in this process holds nothing open."""

    @property
    def name(self) -> str:
        """The name it signs under."""
        return self.verifier.name

    def __repr__(self) -> str:
        """Name the key by what is public."""
        return f"SignerKey({format_verifier_key(self.verifier)!r})"


def generate_signer(name: str, seed: bytes, key_type: KeyType = KeyType.ED25519) -> SignerKey:
    """Return the signer key of 32 random bytes, which the caller makes; raises ``FormatError``."""
    return SignerKey(name, seed, key_type)


def format_verifier_key(key: VerifierKey) -> str:
    """Return ``name+hex8(id)+base64(type ‖ public key)``."""
    return f"{key.name}+{key.key_id.hex()}+{format_base64(bytes([key.type]) + key.public_key)}"


def parse_verifier_key(text: str, *, source: str = "verifier key") -> VerifierKey:
    """Return the key that ``text`` writes; raises ``FormatError``, also if the id does not fit the key."""
    if _SIGNER_PREFIX in text:  # before any message quotes it
        raise FormatError("this is a signer key, which is secret: give the verifier key instead", source=source)
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
        raise FormatError(f"expected a key that begins with {_SIGNER_PREFIX}", source=source)
    try:
        parsed = _parse_key(text.removeprefix(_SIGNER_PREFIX), source)
    except FormatError:
        parsed = None
    if parsed is None:  # raised here, not above: that error quotes what it could not read, which may be the seed
        raise FormatError("expected PRIVATE+KEY+name+id+base64, got something else (not shown: secret)", source=source)
    name, key_id, key_type, seed = parsed
    signer = SignerKey(name, seed, key_type)
    _check_key_id(signer.verifier, key_id, source)
    return signer


def is_key_name(name: str) -> bool:
    """Return whether ``name`` may name a key: not empty, no Unicode spaces, no plus, no control characters."""
    return bool(name) and "+" not in name and not any(map(str.isspace, name)) and not _CONTROL.search(name)


def check_key_name(name: str, source: str) -> None:
    """Raise ``FormatError`` unless ``name`` may name a key."""
    if not is_key_name(name):
        raise FormatError(f"expected a key name without spaces and plus, got {shorten(name)}", source=source)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError(f"a key name holds a lone surrogate: {shorten(name)}", source=source) from error


def _parse_key(text: str, source: str) -> tuple[str, bytes, KeyType, bytes]:
    # Split at the first two pluses: base64 has pluses of its own, names have none.
    name, _, rest = text.partition("+")
    key_id, _, encoded = rest.partition("+")
    if len(text) > _MAX_KEY_CHARACTERS or not _HEX8.fullmatch(key_id):
        raise FormatError(
            f"expected name+id+base64 with an id of 8 lower-case hex digits, got {shorten(text)}", source=source
        )
    check_key_name(name, source)
    decoded = parse_base64(encoded, source=source, length=1 + _PUBLIC_KEY_BYTES)
    try:
        key_type = KeyType(decoded[0])
    except ValueError as error:
        raise FormatError(f"expected key type 0x01 or 0x04, got 0x{decoded[0]:02x}", source=source) from error
    return name, bytes.fromhex(key_id), key_type, decoded[1:]


def _check_key_id(key: VerifierKey, key_id: bytes, source: str) -> None:
    if key.key_id != key_id:
        raise FormatError(
            f"key id does not fit the key: expected {key.key_id.hex()}, got {key_id.hex()}", source=source
        )
