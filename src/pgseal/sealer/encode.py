"""From a trail's COPY lines to leaves and the vault's COPY lines: the inner loop of sealing.

Written for speed: a record costs one split, two commitments, one template and one line. What repeats (the head) is
formed once; fields that the vault takes as the trail wrote them stay escaped and are copied as they are.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256

from pgseal.copytext import escape, format_time, unescape
from pgseal.core.leaf import ACTOR_PREFIX, DATA_PREFIX
from pgseal.core.record import SALT_BYTES
from pgseal.errors import FormatError
from pgseal.trail.rows import Head, HeadCache

_LINES_AT_ONCE = 256
_SALTS = 2 * SALT_BYTES
_HEX = 2 * _SALTS


@dataclass(frozen=True, slots=True)
class MalformedRow:
    """A trail row that cannot be a record: its id as the trail prints it, hash of its COPY line, and why."""

    id: str
    sha256: str
    reason: str


@dataclass(slots=True)
class EncodedChunk:
    """What a chunk became: leaf_data in leaf order, rows that cannot be records, and the last id read."""

    leaves: list[bytes] = field(default_factory=list[bytes])
    malformed: list[MalformedRow] = field(default_factory=list[MalformedRow])
    last_id: int = 0
    rows: int = 0


class ChunkEncoder:
    """Encodes the rows of one trail and incarnation."""

    def __init__(self, trail: str, incarnation: int) -> None:
        """Encode records of ``trail`` in ``incarnation``."""
        self._prefix = b"%b\t%d" % (escape(trail.encode()), incarnation)
        self._heads = HeadCache(trail, incarnation)

    def encode(
        self,
        lines: Iterable[bytes],
        first_leaf_index: int,
        write: Callable[[bytes], object],
        known_ids: frozenset[int] | None = None,
    ) -> EncodedChunk:
        """Encode ``lines``; hand the vault's COPY lines to ``write`` as they come.

        ``known_ids`` is given when the vault has refused the chunk for an id it has already: ids in it, and ids
        that come twice, are malformed then.
        """
        chunk = EncodedChunk()
        leaves, heads, prefix = chunk.leaves, self._heads, self._prefix
        pending: list[bytes] = []
        seen = set(known_ids) if known_ids is not None else None
        leaf_index = first_leaf_index
        line = last = b""
        for line in lines:
            chunk.rows += 1
            if len(pending) >= _LINES_AT_ONCE:
                write(b"".join(pending))
                pending.clear()
            record_id, xid, stamp, rest = line.split(b"\t", 3)
            last = record_id
            try:
                found = heads(rest[: rest.rindex(b"\t")])
                time = format_time(stamp)
                _check_row(record_id, found, seen)
            except FormatError as error:
                chunk.malformed.append(MalformedRow(record_id.decode(), sha256(line).hexdigest(), str(error)))
                continue
            assert found.template is not None  # noqa: S101  _check_row
            copied = rest[rest.rindex(b"\t") + 1 :]
            salts = os.urandom(_SALTS)
            actor_hex = sha256(ACTOR_PREFIX + salts[:SALT_BYTES] + found.actor).hexdigest().encode()
            data_hex = sha256(DATA_PREFIX + salts[SALT_BYTES:] + unescape(copied)).hexdigest().encode()
            leaves.append(found.template % (actor_hex, data_hex, record_id, time, xid))
            digits = salts.hex().encode()
            pending.append(
                b"%d\t%b\t%b\t%b\t%b\t%b\t%b\t\\\\x%b\t%b\t\\\\x%b\n"
                % (
                    leaf_index, prefix, record_id, stamp, xid, found.columns,
                    found.actor_copy, digits[:_SALTS], copied, digits[_SALTS:],
                ),
            )  # fmt: skip
            leaf_index += 1
        if pending:
            write(b"".join(pending))
        chunk.last_id = int(last or 0)
        return chunk


def _check_row(record_id: bytes, head: Head, seen: set[int] | None) -> None:
    if head.template is None:
        raise FormatError(head.problem)
    if record_id[:1] in b"-0":
        raise FormatError(f"expected an id of at least 1, got {record_id.decode()}")
    if seen is not None:
        if int(record_id) in seen:
            raise FormatError(f"id {record_id.decode()} is taken by a record that is sealed already")
        seen.add(int(record_id))
