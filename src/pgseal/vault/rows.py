"""One row of the vault as a COPY line, and the leaf it stands for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from pgseal.copytext import NULL, format_time, unescape
from pgseal.core.envelope import parse_envelope
from pgseal.core.erasure import ERASED, PARTS
from pgseal.core.leaf import ACTOR_PREFIX, DATA_PREFIX, LeafBuilder
from pgseal.errors import FormatError

_COLUMNS = 15


@dataclass(frozen=True, slots=True)
class VaultRow:
    """A sealed record as the vault has it. ``content`` is what the trail must have too, as COPY fields.

    ``gone`` are the parts (actor, data) that the vault does not have any more, ``ERASED`` in ``content``.
    """

    leaf_index: int
    trail: str
    incarnation: int
    id: int
    content: tuple[bytes, ...]
    leaf_data: bytes
    gone: tuple[str, ...] = ()

    @property
    def xid(self) -> int:
        """The transaction that wrote the trail's row."""
        return int(self.content[1])


def parse_row(line: bytes, leaves: LeafBuilder, read_entry: Callable[[int], bytes] | None = None) -> VaultRow:
    """Read a COPY line of vault.record and rebuild its leaf; raises ``FormatError`` if no record looks like that.

    A part may be gone with its salt only where ``read_entry`` is given: it returns the ledger's entry of a leaf, which
    has the commitment. Whether it may be gone is not judged here.
    """
    fields = line.split(b"\t")
    if len(fields) != _COLUMNS:
        raise FormatError(f"expected {_COLUMNS} columns, got {len(fields)}", source="vault row")
    index, trail, incarnation, record_id, time, xid, *constants, actor, actor_salt, data, data_salt = fields
    gone = tuple(
        name for name, text, salt in (("actor", actor, actor_salt), ("data", data, data_salt)) if text == salt == NULL
    )
    if [actor, actor_salt, data, data_salt].count(NULL) != 2 * len(gone) or (gone and read_entry is None):
        raise FormatError("a part or its salt is missing", source="vault row")
    entry = parse_envelope(read_entry(_number(index))) if gone and read_entry is not None else None
    source, category, action, outcome, relation = (
        None if constant == NULL else _text(constant) for constant in constants
    )
    template = leaves.template(
        _text(trail),
        _number(incarnation),
        source or "",
        category or "",
        action or "",
        outcome or "",
        relation,
    )
    commitments = (
        _commit(ACTOR_PREFIX, actor_salt, actor) if "actor" not in gone else entry and entry.actor_commitment,
        _commit(DATA_PREFIX, data_salt, data) if "data" not in gone else entry and entry.data_commitment,
    )
    actor_hash, data_hash = (b"" if one is None else one.hex().encode() for one in commitments)
    leaf_data = template % (actor_hash, data_hash, record_id, format_time(time), xid)
    content = (time, xid, *constants, ERASED if "actor" in gone else actor, ERASED if "data" in gone else data)
    return VaultRow(_number(index), _text(trail), _number(incarnation), _number(record_id), content, leaf_data, gone)


def is_same_content(ours: Sequence[bytes], sealed: Sequence[bytes], may_be_gone: Callable[[str], bool]) -> bool:
    """Return whether ``ours``, a trail's row, is what was sealed, as COPY fields that end with actor and data.

    A part for which ``may_be_gone`` holds may be ``ERASED`` on one side: an erasure that was interrupted, or undone by
    a backup, is made good by the next one.
    """
    if ours == sealed:
        return True
    return (
        len(ours) == len(sealed)
        and ours[:-2] == sealed[:-2]
        and all(
            a == b or (ERASED in {a, b} and may_be_gone(part))
            for part, a, b in zip(PARTS, ours[-2:], sealed[-2:], strict=True)
        )
    )


def _commit(prefix: bytes, salt: bytes, text: bytes) -> bytes:
    return sha256(prefix + _salt(salt) + unescape(text)).digest()


def _text(field: bytes) -> str:
    try:
        return unescape(field).decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"not UTF-8: {field[:40]!r}", source="vault row") from error


def _number(field: bytes) -> int:
    try:
        return int(field)
    except ValueError as error:
        raise FormatError(f"not a number: {field[:40]!r}", source="vault row") from error


def _salt(field: bytes) -> bytes:
    try:
        return bytes.fromhex(unescape(field).removeprefix(b"\\x").decode())
    except ValueError as error:
        raise FormatError("a salt is not hexadecimal", source="vault row") from error
