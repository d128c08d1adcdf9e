"""One row of the vault as a COPY line, and the leaf it stands for."""

from dataclasses import dataclass
from hashlib import sha256

from pgseal.copytext import NULL, format_time, unescape
from pgseal.core.leaf import ACTOR_PREFIX, DATA_PREFIX, LeafBuilder
from pgseal.errors import FormatError

_COLUMNS = 15


@dataclass(frozen=True, slots=True)
class VaultRow:
    """A sealed record as the vault has it. ``content`` is what the trail must have too, as COPY fields."""

    leaf_index: int
    trail: str
    incarnation: int
    id: int
    content: tuple[bytes, ...]
    leaf_data: bytes

    @property
    def xid(self) -> int:
        """The transaction that wrote the trail's row."""
        return int(self.content[1])


def parse_row(line: bytes, leaves: LeafBuilder) -> VaultRow:
    """Read a COPY line of vault.record and rebuild its leaf; raises ``FormatError`` if no record looks like that."""
    fields = line.split(b"\t")
    if len(fields) != _COLUMNS:
        raise FormatError(f"expected {_COLUMNS} columns, got {len(fields)}", source="vault row")
    index, trail, incarnation, record_id, time, xid, *constants, actor, actor_salt, data, data_salt = fields
    if NULL in (actor, actor_salt, data, data_salt):
        raise FormatError("a part or its salt is missing", source="vault row")
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
    leaf_data = template % (
        sha256(ACTOR_PREFIX + _salt(actor_salt) + unescape(actor)).hexdigest().encode(),
        sha256(DATA_PREFIX + _salt(data_salt) + unescape(data)).hexdigest().encode(),
        record_id,
        format_time(time),
        xid,
    )
    content = (time, xid, *constants, actor, data)
    return VaultRow(_number(index), _text(trail), _number(incarnation), _number(record_id), content, leaf_data)


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
