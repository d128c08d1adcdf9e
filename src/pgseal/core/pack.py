"""What stands in an evidence pack (FORMATS.md section 4), its container apart (``pgseal.core.pack_zip``).

======================  =====================================================================
``pack.json``           what the pack claims to be: information, never trusted
``checkpoint``          the signed note, cosignatures included
``range-proof``         base64 hashes of a range proof (FORMATS.md section 3), one a line
``records.jsonl``       the record line of every leaf [begin, end), in order
``proofs.jsonl``        record lines with an inclusion proof, of records outside that are referred to
``README.txt``          how to verify by hand
======================  =====================================================================

Parsers are strict and bounded. What they return is what somebody wrote; ``pgseal.verifier.pack`` ties it to the
checkpoint's signature.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pgseal.core.canonical import MAX_SAFE_INTEGER, JsonValue, encode_canonical, parse_json
from pgseal.core.encoding import format_base64, parse_base64, shorten
from pgseal.core.envelope import require_members
from pgseal.core.merkle import HASH_BYTES
from pgseal.core.note import MAX_NOTE_BYTES
from pgseal.core.pack_zip import MAX_ARCHIVE_BYTES
from pgseal.core.proof import MAX_PROOF_HASHES
from pgseal.core.record import MAX_LINE_BYTES, RecordLine, format_leaf_line, parse_leaf_line
from pgseal.errors import FormatError

PACK_JSON = "pack.json"
CHECKPOINT = "checkpoint"
RANGE_PROOF = "range-proof"
RECORDS = "records.jsonl"
PROOFS = "proofs.jsonl"
README = "README.txt"
#: The members of a pack in the order they are written, each with the most bytes it may have.
LIMITS: Mapping[str, int] = {
    PACK_JSON: 64 * 1024,
    CHECKPOINT: MAX_NOTE_BYTES,
    RANGE_PROOF: 64 * 1024,
    RECORDS: MAX_ARCHIVE_BYTES,
    PROOFS: 256 * 1024 * 1024,
    README: 1024 * 1024,
}
#: Hashes in a range proof: the way up on either side.
MAX_RANGE_HASHES = 2 * MAX_PROOF_HASHES
VERSION = 1

_DEPTH = 4
_MEMBERS = ("v", "origin", "vkey", "begin", "end", "filter", "created", "tool")
_TEXTS = ("origin", "vkey", "created", "tool")
_PROOF = re.compile(rb',"proof":\[((?:"[A-Za-z0-9+/]{43}=",?){0,63})\]\}')


@dataclass(frozen=True, slots=True)
class PackInfo:
    """``pack.json``: what the maker of a pack says about it. ``filter`` is what it was made for."""

    origin: str
    vkey: str
    begin: int
    end: int
    filter: Mapping[str, JsonValue]
    created: str
    tool: str


@dataclass(frozen=True, slots=True)
class ProofLine:
    """One line of ``proofs.jsonl``: a record, its leaf_data, and its audit path, sibling first."""

    record: RecordLine
    leaf_data: bytes
    hashes: tuple[bytes, ...]


def format_info(info: PackInfo) -> bytes:
    """Return the canonical bytes of ``pack.json``; raises ``FormatError``."""
    return encode_canonical(
        {
            "v": VERSION,
            "origin": info.origin,
            "vkey": info.vkey,
            "begin": info.begin,
            "end": info.end,
            "filter": info.filter,
            "created": info.created,
            "tool": info.tool,
        }
    )


def parse_info(data: bytes, *, source: str = PACK_JSON) -> PackInfo:
    """Return what ``pack.json`` says; raises ``FormatError`` unless it has exactly its members."""
    value = parse_json(data, source=source, max_bytes=LIMITS[PACK_JSON], max_depth=_DEPTH)
    members = require_members(value, _MEMBERS, source)
    if type(members["v"]) is not int or members["v"] != VERSION:
        raise FormatError(f"expected v 1, got {shorten(members['v'])}: written by a newer pgseal?", source=source)
    texts = [members[name] for name in _TEXTS]
    begin, end, filter_ = members["begin"], members["end"], members["filter"]
    if not isinstance(filter_, dict) or not all(isinstance(text, str) for text in texts):
        raise FormatError(f"expected filter as an object and {', '.join(_TEXTS)} as strings", source=source)
    if type(begin) is not int or type(end) is not int or not 0 <= begin < end <= MAX_SAFE_INTEGER:
        raise FormatError(
            f"expected leaves [begin, end) with 0 <= begin < end, got {shorten(begin)} and {shorten(end)}",
            source=source,
        )
    origin, vkey, created, tool = map(str, texts)
    return PackInfo(origin, vkey, begin, end, filter_, created, tool)


def format_range_proof(hashes: Iterable[bytes]) -> bytes:
    """Return the hashes in base64, one a line."""
    return "".join(format_base64(hash_) + "\n" for hash_ in hashes).encode("ascii")


def parse_range_proof(data: bytes, *, source: str = RANGE_PROOF) -> list[bytes]:
    """Return the hashes of a range proof; raises ``FormatError``."""
    if not data:
        return []
    if not data.isascii():
        raise FormatError("expected hashes in base64, one a line", source=source)
    lines = data.decode("ascii").removesuffix("\n").split("\n")
    if len(lines) > MAX_RANGE_HASHES:
        raise FormatError(f"expected at most {MAX_RANGE_HASHES} hashes, got {len(lines)}", source=source)
    return [parse_base64(line, source=source, length=HASH_BYTES) for line in lines]


def format_proof_line(proved: ProofLine) -> bytes:
    """Return a line of ``proofs.jsonl`` without its newline; raises ``FormatError``."""
    proof = ",".join(f'"{format_base64(hash_)}"' for hash_ in proved.hashes)
    return b'%b,"proof":[%b]}' % (format_leaf_line(proved.record, proved.leaf_data)[:-1], proof.encode("ascii"))


def parse_proof_line(line: bytes, *, source: str = PROOFS) -> ProofLine:
    """Return what a line of ``proofs.jsonl``, without its newline, holds; raises ``FormatError``."""
    # No string of a record line can hold these bytes: its quotes would be escaped.
    begin = line.rfind(b',"proof":')
    match = _PROOF.fullmatch(line, begin) if begin >= 0 else None
    if match is None or match[1].endswith(b","):
        raise FormatError(f"expected a record line that ends in a proof of at most {MAX_PROOF_HASHES} hashes",
                          source=source)  # fmt: skip
    record, leaf_data = parse_leaf_line(line[:begin] + b"}", source=source)
    texts = match[1].decode("ascii").split(",") if match[1] else []
    hashes = tuple(parse_base64(text[1:-1], source=source, length=HASH_BYTES) for text in texts)
    return ProofLine(record, leaf_data, hashes)


def iter_lines(pieces: Iterable[bytes], *, source: str, max_bytes: int = MAX_LINE_BYTES) -> Iterator[bytes]:
    """Yield the lines of a member, each without the newline that must end it.

    Holds one line and one piece at a time; raises ``FormatError`` for a line of more than ``max_bytes``.
    """
    waiting: list[bytes] = []
    waiting_bytes = number = 0
    for piece in pieces:
        head, *lines = piece.split(b"\n")
        waiting.append(head)
        waiting_bytes += len(head)
        if waiting_bytes > max_bytes:
            raise FormatError(f"expected at most {max_bytes} bytes in line {number + 1}", source=source)
        if not lines:
            continue
        rest = lines.pop()
        number += 1 + len(lines)
        yield b"".join(waiting)
        yield from lines
        waiting, waiting_bytes = [rest], len(rest)
    if waiting_bytes:
        raise FormatError(f"line {number + 1} does not end in a newline", source=source)
