"""A record: its envelope, its two personal parts, the commitments that bind them, and the line a pack carries.

A part (``actor``: who; ``data``: what) is a JSON text, kept and committed as the exact UTF-8 bytes that were written.
Its commitment is ``SHA-256(0x02 ‖ P ‖ salt ‖ text)`` with P = ``A`` or ``D`` and 32 random bytes of salt: without the
salt the text cannot be guessed from the leaf, so destroying both erases it while every proof stays valid.

The *record line* of FORMATS.md section 4 is what leaves the vault as evidence: the canonical JSON of
``{"actor":PART,"data":PART,"envelope":{…},"index":n}``. A PART is disclosed (salt and text), withheld, or erased (the
leaf index of the record that allows it).

The envelope itself lives in ``pgseal.core.envelope``, times and names in ``pgseal.core.fields``; both are re-exported
here, so that this module is the one to import.
"""

import re
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from hmac import compare_digest
from typing import TypeAlias

from pgseal.core.canonical import MAX_SAFE_INTEGER, JsonValue, encode_canonical, parse_canonical_string, parse_json
from pgseal.core.encoding import format_base64, parse_base64, shorten
from pgseal.core.envelope import (
    CATEGORIES,
    MAX_LEAF_BYTES,
    OUTCOMES,
    SOURCES,
    Envelope,
    check_envelope,
    envelope_from_json,
    format_envelope,
    parse_envelope,
    require_members,
)
from pgseal.core.fields import format_relation, format_time, parse_relation, parse_time
from pgseal.errors import AlteredRecordError, FormatError

__all__ = [
    "CATEGORIES",
    "MAX_LEAF_BYTES",
    "MAX_LINE_BYTES",
    "OUTCOMES",
    "SALT_BYTES",
    "SOURCES",
    "DisclosedPart",
    "Envelope",
    "ErasedPart",
    "LinePart",
    "Part",
    "RecordLine",
    "WithheldPart",
    "check_envelope",
    "check_record_line",
    "commit_part",
    "format_envelope",
    "format_leaf_line",
    "format_record_line",
    "format_relation",
    "format_time",
    "parse_envelope",
    "parse_leaf_line",
    "parse_record_line",
    "parse_relation",
    "parse_time",
]

#: Bytes of salt in front of every part.
SALT_BYTES = 32
#: Largest record line read by default: a row image may be big, a line of evidence is not a bulk format.
MAX_LINE_BYTES = 64 * 1024 * 1024

_LINE_DEPTH = 3


class Part(Enum):
    """The two parts of a record; the value is the prefix of the commitment's preimage."""

    ACTOR = b"\x02A"
    DATA = b"\x02D"


@dataclass(frozen=True, slots=True)
class DisclosedPart:
    """A part that can be read and checked: 32 bytes of salt and the exact UTF-8 bytes of the text."""

    salt: bytes
    text: bytes


@dataclass(frozen=True, slots=True)
class WithheldPart:
    """A part that exists and was left out of this evidence."""


@dataclass(frozen=True, slots=True)
class ErasedPart:
    """A part that no longer exists; ``leaf_index`` is the ERASE or RETENTION record that allows it."""

    leaf_index: int


LinePart: TypeAlias = DisclosedPart | WithheldPart | ErasedPart


@dataclass(frozen=True, slots=True)
class RecordLine:
    """One line of ``records.jsonl``: a leaf, where it stands, and what is disclosed of its record."""

    actor: LinePart
    data: LinePart
    envelope: Envelope
    index: int


def commit_part(part: Part, salt: bytes, text: bytes) -> bytes:
    """Return the 32-byte commitment of a part's exact UTF-8 bytes (FORMATS.md section 1).

    Raises ``FormatError`` unless ``salt`` has 32 bytes: a preimage of another length would be ambiguous.
    """
    if len(salt) != SALT_BYTES:
        raise FormatError(f"expected a salt of {SALT_BYTES} bytes, got {len(salt)}", source=f"{part.name.lower()} part")
    return sha256(part.value + salt + text).digest()


def check_record_line(line: RecordLine, *, where: str = "pack") -> None:
    """Raise ``AlteredRecordError`` if a disclosed part does not match the commitment in the envelope.

    Says nothing about whether the envelope is in a log: that is what inclusion and range proofs are for.
    """
    envelope = line.envelope
    for part, disclosed, commitment in (
        (Part.ACTOR, line.actor, envelope.actor_commitment),
        (Part.DATA, line.data, envelope.data_commitment),
    ):
        if isinstance(disclosed, DisclosedPart) and not compare_digest(
            commit_part(part, disclosed.salt, disclosed.text), commitment
        ):
            raise AlteredRecordError(
                f"{part.name.lower()} of record {envelope.trail}/{envelope.id} is not what was sealed",
                where=where,
                trail=envelope.trail,
                record_id=envelope.id,
                leaf_index=line.index,
            )


def format_record_line(line: RecordLine) -> bytes:
    """Return the canonical bytes of ``line``, without the newline that ends it in ``records.jsonl``.

    Raises ``FormatError`` for values without the right form.
    """
    return format_leaf_line(line, format_envelope(line.envelope))


def format_leaf_line(line: RecordLine, leaf_data: bytes) -> bytes:
    """Return what ``format_record_line`` returns; ``leaf_data`` is what the envelope was parsed from."""
    _check_index(line.index, "record line")
    # Members are in RFC 8785 order already, and leaf_data is the envelope's canonical form.
    return b'{"actor":%b,"data":%b,"envelope":%b,"index":%d}' % (
        _format_part(line.actor),
        _format_part(line.data),
        leaf_data,
        line.index,
    )


def parse_record_line(line: bytes, *, source: str = "record line", max_bytes: int = MAX_LINE_BYTES) -> RecordLine:
    """Return the record line in ``line`` (without its newline).

    Strict: exactly the members, and canonical bytes. Raises ``FormatError``. Follow with ``check_record_line``.
    """
    return parse_leaf_line(line, source=source, max_bytes=max_bytes)[0]


def parse_leaf_line(
    line: bytes, *, source: str = "record line", max_bytes: int = MAX_LINE_BYTES
) -> tuple[RecordLine, bytes]:
    """Return what ``parse_record_line`` returns, and the leaf_data of its envelope; raises ``FormatError``."""
    if len(line) > max_bytes:
        raise FormatError(f"expected at most {max_bytes} bytes, got {len(line)}", source=source)
    try:
        match = _LINE.fullmatch(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise FormatError("invalid UTF-8", source=source, offset=error.start) from error
    if match is None:
        raise _explain(line, source)
    leaf_data = match["envelope"].encode("utf-8")
    record = RecordLine(
        actor=_matched_part(match["actor_erased"], match["actor_salt"], match["actor_text"], source),
        data=_matched_part(match["data_erased"], match["data_salt"], match["data_text"], source),
        envelope=parse_envelope(leaf_data, source=source),
        index=_check_index(int(match["index"]), source),
    )
    return record, leaf_data


# As for leaves, canonical bytes have one spelling; a regular expression finds the pieces several times as fast as JSON.
_LINE_PART = (
    r'\{{"erased":(?P<{0}_erased>0|[1-9][0-9]{{0,15}})\}}'
    r'|\{{"salt":"(?P<{0}_salt>[A-Za-z0-9+/]{{43}}=)","text":(?P<{0}_text>"[^"\\]*+(?:\\.[^"\\]*+)*+")\}}'
    r'|\{{"withheld":true\}}'
)
_LINE = re.compile(
    rf'\{{"actor":(?:{_LINE_PART.format("actor")}),"data":(?:{_LINE_PART.format("data")}),'
    r'"envelope":(?P<envelope>\{.*\}),"index":(?P<index>0|[1-9][0-9]{0,15})\}'
)


def _matched_part(erased: str | None, salt: str | None, text: str | None, source: str) -> LinePart:
    if erased is not None:
        return ErasedPart(_check_index(int(erased), source))
    if salt is None or text is None:
        return WithheldPart()
    return DisclosedPart(
        parse_base64(salt, source=source, length=SALT_BYTES),
        parse_canonical_string(text, source=source).encode("utf-8"),
    )


def _explain(line: bytes, source: str) -> FormatError:
    """Return why ``line``, which the grammar refused, is not a record line."""
    try:
        value = parse_json(line, source=source, max_bytes=len(line), max_depth=_LINE_DEPTH)
        members = require_members(value, ("actor", "data", "envelope", "index"), source)
        _check_part(members["actor"], source)
        _check_part(members["data"], source)
        envelope_from_json(members["envelope"], source=source)
        _check_index(members["index"], source)
    except FormatError as error:
        return error
    return FormatError("not in canonical form (RFC 8785)", source=source)


def _format_part(part: LinePart) -> bytes:
    if isinstance(part, WithheldPart):
        return b'{"withheld":true}'
    if isinstance(part, ErasedPart):
        return b'{"erased":%d}' % _check_index(part.leaf_index, "record line")
    if len(part.salt) != SALT_BYTES:
        raise FormatError(f"expected a salt of {SALT_BYTES} bytes, got {len(part.salt)}", source="record line")
    try:
        text = part.text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("text of a part is not UTF-8", source="record line", offset=error.start) from error
    return b'{"salt":"%b","text":%b}' % (format_base64(part.salt).encode("ascii"), encode_canonical(text))


def _check_part(value: JsonValue, source: str) -> None:
    if isinstance(value, dict) and "withheld" in value:
        if require_members(value, ("withheld",), source)["withheld"] is not True:
            raise FormatError("expected withheld to be true", source=source)
    elif isinstance(value, dict) and "erased" in value:
        _check_index(require_members(value, ("erased",), source)["erased"], source)
    else:
        members = require_members(value, ("salt", "text"), source)
        salt, text = members["salt"], members["text"]
        if not isinstance(salt, str) or not isinstance(text, str):
            raise FormatError("expected salt and text of a part to be strings", source=source)
        parse_base64(salt, source=source, length=SALT_BYTES)


def _check_index(value: JsonValue, source: str) -> int:
    # A JSON number, so bounded as RFC 8785 bounds integers; a ledger of 2^53 leaves is out of reach.
    if type(value) is not int or not 0 <= value <= MAX_SAFE_INTEGER:
        raise FormatError(f"expected a leaf index from 0 to 2^53 - 1, got {shorten(value)}", source=source)
    return value
