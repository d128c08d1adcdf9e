"""From a trail's COPY lines to leaves and the vault's COPY lines: the inner loop of sealing.

Written for speed: a record costs one split, two commitments, one template and one line. What repeats (the head) is
formed once; fields that the vault takes as the trail wrote them stay escaped and are copied as they are.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice

from pgseal.copytext import TimeFormatter, escape, unescape
from pgseal.core.leaf import ACTOR_PREFIX, DATA_PREFIX
from pgseal.core.record import SALT_BYTES
from pgseal.errors import FormatError
from pgseal.trail.rows import Head, HeadCache

_LINES_AT_ONCE = 512
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
    """What a chunk became: leaf_data in leaf order, the vault's COPY lines in blocks, rows that cannot be records."""

    leaves: list[bytes] = field(default_factory=list[bytes])
    blocks: list[bytes] = field(default_factory=list[bytes])
    malformed: list[MalformedRow] = field(default_factory=list[MalformedRow])
    last_id: int = 0
    rows: int = 0


class ChunkEncoder:
    """Encodes the rows of one trail and incarnation."""

    def __init__(self, trail: str, incarnation: int) -> None:
        """Encode records of ``trail`` in ``incarnation``."""
        self._prefix = b"%b\t%d" % (escape(trail.encode()), incarnation)
        self._heads = HeadCache(trail, incarnation)
        self._times = TimeFormatter()

    def encode(
        self, lines: Iterable[bytes], first_leaf_index: int, known_ids: Iterable[int] | None = None
    ) -> EncodedChunk:
        """Encode ``lines``, the first of which becomes leaf ``first_leaf_index``.

        ``known_ids`` is given when the vault has refused the chunk for an id it has already: ids in it, and ids
        that come twice, are malformed then.
        """
        chunk = EncodedChunk()
        leaves, heads, format_time, prefix = chunk.leaves, self._heads, self._times.format, self._prefix
        seen = set(known_ids) if known_ids is not None else None
        stream = iter(lines)
        while batch := list(islice(stream, _LINES_AT_ONCE)):
            chunk.rows += len(batch)
            chunk.last_id = int(batch[-1].partition(b"\t")[0])
            salts = os.urandom(_SALTS * len(batch))
            digits = salts.hex().encode()
            pending: list[bytes] = []
            leaf_index = first_leaf_index + len(leaves)
            for number, line in enumerate(batch):
                record_id, xid, stamp, rest = line.split(b"\t", 3)
                head, _, copied = rest.rpartition(b"\t")
                try:
                    found = heads[head]
                    time = format_time(stamp)
                    if found.template is None or record_id <= b"0" or seen is not None:
                        _check_row(record_id, found, seen)
                except FormatError as error:
                    chunk.malformed.append(MalformedRow(record_id.decode(), sha256(line).hexdigest(), str(error)))
                    continue
                assert found.template is not None  # noqa: S101  _check_row
                data = unescape(copied) if b"\\" in copied else copied
                salt, hexed = number * _SALTS, number * _HEX
                actor_hex = sha256(ACTOR_PREFIX + salts[salt : salt + SALT_BYTES] + found.actor).hexdigest().encode()
                data_hex = sha256(DATA_PREFIX + salts[salt + SALT_BYTES : salt + _SALTS] + data).hexdigest().encode()
                leaves.append(found.template % (actor_hex, data_hex, record_id, time, xid))
                pending.append(
                    b"\t".join((
                        b"%d" % leaf_index, prefix, record_id, stamp, xid, found.columns,
                        found.actor_copy, b"\\\\x" + digits[hexed : hexed + _SALTS],
                        copied, b"\\\\x" + digits[hexed + _SALTS : hexed + _HEX],
                    ))
                )  # fmt: skip
                leaf_index += 1
            pending.append(b"")
            chunk.blocks.append(b"\n".join(pending))
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
