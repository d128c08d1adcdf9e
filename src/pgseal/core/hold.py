"""HOLD and RELEASE records: what must be kept, whatever erasure and retention say.

A HOLD's data is ``{"hold":NAME,"relation":TABLE|null,"keys":{"salt":HEX,"sha256":[HEX…]}|null,"reason":…}``: everything
is held without a relation, the whole table without keys. A RELEASE's is ``{"hold":NAME,"reason":…}``. Both count only
in the vault's own trail, from source ``system``, and are never erased. So a HOLD does not name a row: it has a salted
hash of each key that the row is known by, from which the row can be recognised and not read.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from pgseal.core.canonical import JsonValue, parse_json
from pgseal.core.envelope import require_members
from pgseal.errors import FormatError

HOLD = "HOLD"
RELEASE = "RELEASE"
MAX_NAME_LENGTH = 64
_MAX_DATA_BYTES = 1 << 20
_MAX_DEPTH = 4
_SALT_HEX = _HASH_HEX = 64


@dataclass(frozen=True, slots=True)
class Hold:
    """What one HOLD record says. ``keys`` are hashes with ``salt`` (``hash_key``); None: the whole table."""

    name: str
    relation: str | None
    salt: bytes | None
    keys: tuple[str, ...] | None
    reason: str

    def to_json(self) -> dict[str, JsonValue]:
        """Return the record's data."""
        keys: JsonValue = None
        if self.keys is not None and self.salt is not None:
            keys = {"salt": self.salt.hex(), "sha256": list(self.keys)}
        return {"hold": self.name, "relation": self.relation, "keys": keys, "reason": self.reason}

    def covers(self, relation: str | None, keys: Iterable[str] = ()) -> bool:
        """Return whether a record of ``relation``, of a row with one of ``keys``, must be kept."""
        if self.relation is None:
            return True
        if relation is None or relation != self.relation:
            return False
        if self.keys is None or self.salt is None:
            return True
        return any(hash_key(self.salt, relation, key) in self.keys for key in keys)


@dataclass(frozen=True, slots=True)
class Release:
    """What one RELEASE record says."""

    name: str
    reason: str

    def to_json(self) -> dict[str, JsonValue]:
        """Return the record's data."""
        return {"hold": self.name, "reason": self.reason}


def hash_key(salt: bytes, relation: str, key: str) -> str:
    """Return the hash of a row's key (JSON without blanks, members by name) in a table, lower-case hex."""
    return sha256(salt + relation.encode() + b"\0" + key.encode()).hexdigest()


def parse_hold(data: bytes, *, source: str = "HOLD record") -> Hold:
    """Return what the data of a HOLD record says; raises ``FormatError`` unless it has exactly that form."""
    value = parse_json(data, source=source, max_bytes=_MAX_DATA_BYTES, max_depth=_MAX_DEPTH)
    members = require_members(value, ("hold", "relation", "keys", "reason"), source)
    name, relation, keys, reason = (members[member] for member in ("hold", "relation", "keys", "reason"))
    if not isinstance(name, str) or not isinstance(reason, str) or not (relation is None or isinstance(relation, str)):
        raise FormatError("expected hold and reason as strings, and relation as a string or null", source=source)
    if keys is None:
        return Hold(name, relation, None, None, reason)
    said = require_members(keys, ("salt", "sha256"), source)
    salt, hashes = said["salt"], said["sha256"]
    if relation is None or not isinstance(hashes, list) or not all(_is_hex(one, _HASH_HEX) for one in [salt, *hashes]):
        raise FormatError("expected keys as a salt and hashes in hex, of a relation", source=source)
    return Hold(name, relation, bytes.fromhex(str(salt)), tuple(map(str, hashes)), reason)


def parse_release(data: bytes, *, source: str = "RELEASE record") -> Release:
    """Return what the data of a RELEASE record says; raises ``FormatError`` unless it has exactly that form."""
    value = parse_json(data, source=source, max_bytes=_MAX_DATA_BYTES, max_depth=_MAX_DEPTH)
    members = require_members(value, ("hold", "reason"), source)
    name, reason = members["hold"], members["reason"]
    if not isinstance(name, str) or not isinstance(reason, str):
        raise FormatError("expected hold and reason as strings", source=source)
    return Release(name, reason)


def _is_hex(value: JsonValue, length: int) -> bool:
    return isinstance(value, str) and len(value) == length and not set(value) - set("0123456789abcdef")
