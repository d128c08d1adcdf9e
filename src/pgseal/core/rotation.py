r"""Changing a log's key: KEY_ROTATE records, and which key has to have signed which checkpoint (FORMATS.md section 2).

A record's data is ``{"from_size":n,"new":VKEY,"old":VKEY}``, ``n`` the size that was signed last when it was written.
Whoever writes into the vault's trail can write such a record, so it proves nothing by itself, not even with its
inclusion proof: what it leads to is signed with the very key that is in question. Therefore the actor part of ours
holds an *endorsement*, ``{"claimed":{"endorsement":NOTE}}``: a signed note of both keys, old and new, over::

    pgseal key rotation v1
    {"from_size":18204,"new":"clinic.example/prod+…","old":"clinic.example/prod+…"}

(the second line is RFC 8785). No checkpoint looks like that: its first line would be an origin, which has no spaces.

So a verifier with either key can tell that the holders of both wanted this, from the record alone, with any checkpoint,
in any pack, for ever. ``LogKeys`` makes the chain of keys of it, and holds to these rules:

- a checkpoint of a size above ``from_size`` is signed with the new key; with the old one only, it is refused;
- one that does not have the record yet (its size is at most the record's index) is signed with the old key;
- in between, and until the old key retires, both sign.

That the records are in the log is for the caller to check: an endorsement says who wanted it, not that it is on record.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pgseal.core.canonical import MAX_SAFE_INTEGER, JsonValue, encode_canonical, parse_json
from pgseal.core.checkpoint import OpenedCheckpoint, open_checkpoint
from pgseal.core.envelope import require_members
from pgseal.core.keys import KeyType, Signer, VerifierKey, parse_verifier_key
from pgseal.core.note import MAX_NOTE_BYTES, open_note, sign_note
from pgseal.core.ranges import parse_number
from pgseal.errors import FormatError, SignatureError

#: The action of such a record; it counts only in the vault's own trail, from source ``system``.
KEY_ROTATE = "KEY_ROTATE"

_HEADER = "pgseal key rotation v1"
_MAX_DATA_BYTES = 16 * 1024
_MAX_DEPTH = 8
_MEMBERS = ("from_size", "new", "old")


@dataclass(frozen=True, slots=True)
class Rotation:
    """What one KEY_ROTATE record says: above ``from_size`` the log is signed with ``new``, which follows ``old``."""

    from_size: int
    new: VerifierKey
    old: VerifierKey

    def to_json(self) -> dict[str, JsonValue]:
        """Return the record's data."""
        return {"from_size": self.from_size, "new": str(self.new), "old": str(self.old)}


@dataclass(frozen=True, slots=True)
class RecordedRotation:
    """A rotation that both keys endorse, and the leaf index of its record (None: not sealed yet)."""

    rotation: Rotation
    leaf_index: int | None = None


def parse_rotation(data: bytes, *, source: str = "KEY_ROTATE record") -> Rotation:
    """Return what the data of a KEY_ROTATE record says; raises ``FormatError`` unless it has exactly that form."""
    value = parse_json(data, source=source, max_bytes=_MAX_DATA_BYTES, max_depth=_MAX_DEPTH)
    members = require_members(value, _MEMBERS, source)
    from_size = parse_number(members, "from_size", source, least=0)
    new, old = members["new"], members["old"]
    if not isinstance(new, str) or not isinstance(old, str) or from_size > MAX_SAFE_INTEGER:
        raise FormatError("expected from_size as a size, new and old as verifier keys", source=source)
    rotation = Rotation(from_size, parse_verifier_key(new, source=source), parse_verifier_key(old, source=source))
    check_rotation(rotation, source=source)
    return rotation


def check_rotation(rotation: Rotation, *, source: str = "rotation") -> None:
    """Raise ``FormatError`` unless it leads from one key of a log to another of the same log."""
    new, old = rotation.new, rotation.old
    # (Ids are four bytes of a hash. Two keys with one id could not both sign a note.)
    if new.key_id == old.key_id or new.name != old.name or {new.type, old.type} != {KeyType.ED25519}:
        raise FormatError("expected two different keys of one log", source=source)


def endorse_rotation(rotation: Rotation, old: Signer, new: Signer) -> str:
    """Return the endorsement of a rotation by both its keys; raises ``FormatError`` for keys that are not its own."""
    check_rotation(rotation)
    if (old.verifier, new.verifier) != (rotation.old, rotation.new):
        raise FormatError("a rotation is endorsed by the two keys it names", source="rotation")
    return sign_note(_to_text(rotation), old, new).decode("utf-8")


def read_rotation(
    data: bytes, actor: bytes, leaf_index: int | None = None, *, source: str = "KEY_ROTATE record"
) -> RecordedRotation:
    """Return what a KEY_ROTATE record says, given as its two parts, if both keys endorse it.

    Raises ``FormatError`` if it is none, ``SignatureError`` if a key does not endorse it.
    """
    rotation = parse_rotation(data, source=source)
    if leaf_index is not None and leaf_index < rotation.from_size:
        raise FormatError(f"from_size {rotation.from_size} is beyond its own leaf {leaf_index}", source=source)
    value = parse_json(actor, source=source, max_bytes=MAX_NOTE_BYTES, max_depth=_MAX_DEPTH)
    claimed = value.get("claimed") if isinstance(value, dict) else None
    note = claimed.get("endorsement") if isinstance(claimed, dict) else None
    if not isinstance(note, str):
        raise SignatureError("a KEY_ROTATE record that neither key endorses: anybody may have written it", where=source)
    opened = open_note(note.encode("utf-8", "surrogatepass"), [rotation.old, rotation.new], source=source)
    if opened.text != _to_text(rotation) or {one.key for one in opened.signatures} != {rotation.old, rotation.new}:
        raise SignatureError("a KEY_ROTATE record that its two keys do not endorse as it stands", where=source)
    return RecordedRotation(rotation, leaf_index)


def _to_text(rotation: Rotation) -> str:
    return f"{_HEADER}\n{encode_canonical(rotation.to_json()).decode('utf-8')}\n"


class LogKeys:
    """The keys of one log, from the one that is trusted on, and before it."""

    def __init__(self, trusted: VerifierKey) -> None:
        """Trust one key; others only through rotations."""
        self._keys = [trusted]
        self._links: list[RecordedRotation] = []

    @property
    def newest(self) -> VerifierKey:
        """The last key of the chain."""
        return self._keys[-1]

    @property
    def keys(self) -> tuple[VerifierKey, ...]:
        """All keys, the oldest first."""
        return tuple(self._keys)

    @property
    def rotations(self) -> tuple[RecordedRotation, ...]:
        """What leads from each key to the next."""
        return tuple(self._links)

    def learn(self, found: Iterable[RecordedRotation]) -> list[RecordedRotation]:
        """Take up rotations that join the chain at one of its ends, in any order; return those that do not.

        Of two that lead on from one key the record with the lower index counts: who has got hold of a key that was
        replaced cannot have it followed by another. What is known already is taken up again with its leaf index.
        """
        left = sorted(found, key=lambda one: MAX_SAFE_INTEGER if one.leaf_index is None else one.leaf_index)
        while joined := next((one for one in left if self._join(one)), None):
            left.remove(joined)
        return left

    def _join(self, found: RecordedRotation) -> bool:
        rotation = found.rotation
        for number, link in enumerate(self._links):
            if link.rotation == rotation:
                if link.leaf_index is None or found.leaf_index == link.leaf_index:
                    self._links[number] = found
                # Written twice, by whoever copied it, it says no more and no less than once.
                return True
        # One after the other, and never back to a key that the log had before.
        first, last = (self._links[0].rotation, self._links[-1].rotation) if self._links else (None, None)
        is_later = last is None or rotation.from_size > last.from_size
        is_earlier = first is None or rotation.from_size < first.from_size
        if rotation.old == self._keys[-1] and rotation.new not in self._keys and is_later:
            self._keys.append(rotation.new)
            self._links.append(found)
            return True
        if rotation.new == self._keys[0] and rotation.old not in self._keys and is_earlier:
            self._keys.insert(0, rotation.old)
            self._links.insert(0, found)
            return True
        return False

    def open(
        self,
        note: bytes,
        *,
        origin: str | None = None,
        others: Sequence[VerifierKey] = (),
        source: str = "checkpoint",
    ) -> OpenedCheckpoint:
        """Return the checkpoint in a signed note, verified as ``open_checkpoint`` does with ``others`` known as well.

        Raises as that, and ``SignatureError`` if the key that had to sign at its size has not.
        """
        opened = open_checkpoint(note, [*self._keys, *others], origin=origin, source=source)
        size = opened.checkpoint.size
        signers = {signature.key for signature in opened.signatures}
        for link in reversed(self._links):
            rotation = link.rotation
            if size <= rotation.from_size:
                continue
            self._check(rotation.new, signers, f"size {size} is above {rotation.from_size}, {_SINCE}", source)
            if link.leaf_index is not None and size > link.leaf_index:
                break  # what came before is settled by that record
            self._check(rotation.old, signers, f"size {size} does not have the record of its successor yet", source)
            return opened
        else:
            self._check(self._keys[0], signers, "it is from before the first rotation", source)
        return opened

    def _check(self, key: VerifierKey, signers: set[VerifierKey], why: str, source: str) -> None:
        if key not in signers:
            names = ", ".join(f"{one.name}+{one.key_id.hex()}" for one in signers if one in self._keys)
            raise SignatureError(
                f"expected a signature of key {key.key_id.hex()}, got only {names}: {why}", where=source
            )


_SINCE = "from where on that key signs"
