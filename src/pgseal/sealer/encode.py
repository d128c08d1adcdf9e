"""From a trail's rows to leaves and the vault's rows: the inner loop of sealing. Both in binary COPY.

Written for speed: a record costs one unpack, two commitments, one template and one pack. What repeats (the head) is
formed once, and the data part is copied as it is.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from struct import Struct
from struct import error as struct_error

from pgseal.copybinary import EPOCH_MICROSECONDS, format_field, split_fields
from pgseal.core.erasure import ERASED
from pgseal.core.leaf import ACTOR_PREFIX, DATA_PREFIX, Seconds, text_template
from pgseal.core.record import SALT_BYTES
from pgseal.errors import FormatError
from pgseal.trail.rows import SEALED_COUNT, BinaryHeadCache, read_id

_ROWS_AT_ONCE = 512
_BYTES_AT_ONCE = 1 << 20
#: A chunk ends early when its rows have so many bytes: three chunks are in memory at a time.
CHUNK_BYTES = 32 << 20
_SALTS = Struct(f"{SALT_BYTES}s{SALT_BYTES}s")

# SEALED_COLUMNS: int16 number of columns, then length and value of id, xid, time; length of data.
_ROW = Struct(">hiqiQiqi")
_BIGINT_BYTES = 8
_COUNT_BYTES = 2
_ERASED_BYTES = len(ERASED)
_FIXED = 3  # id, xid, time
_MICROSECONDS = 1_000_000
# WRITTEN_COLUMNS: the same of leaf_index, id, time, xid, actor_salt, data_salt; then trail to actor, and data.
_VAULT_ROW = Struct(">hiqiqiqiQi32si32s")
_LENGTH = Struct(">i")
_VAULT_COLUMNS = 15


@dataclass(frozen=True, slots=True)
class MalformedRow:
    """A trail row that cannot be a record: its id, hash of the row in binary COPY (``SEALED_COLUMNS``), and why."""

    id: str
    sha256: str
    reason: str


@dataclass(slots=True)
class EncodedChunk:
    """What a chunk became: leaf_data in leaf order, the vault's rows in blocks, and rows that cannot be records.

    ``rows`` is the number of rows it took, ``is_full`` says that it left some for the next one.
    """

    leaves: list[bytes] = field(default_factory=list[bytes])
    blocks: list[bytes] = field(default_factory=list[bytes])
    malformed: list[MalformedRow] = field(default_factory=list[MalformedRow])
    last_id: int = 0
    rows: int = 0
    is_full: bool = False


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A head as the loop needs it: ``columns`` are the vault's, trail to actor."""

    actor: bytes
    template: str
    columns: bytes


class _PreparedHeads(dict[bytes, _Prepared]):
    """Prepares heads and keeps them; bounded. Raises ``FormatError`` for one that no record has."""

    def __init__(self, trail: str, incarnation: int, *, max_heads: int = 8192) -> None:
        super().__init__()
        self._trail = format_field(trail.encode()) + format_field(incarnation.to_bytes(4, "big"))
        self._heads = BinaryHeadCache(trail, incarnation)
        self._max_heads = max_heads

    def __missing__(self, key: bytes) -> _Prepared:
        head = self._heads[key]
        if head.template is None:
            raise FormatError(head.problem)
        fields = [None if value is None else value.encode() for value in head.values]
        columns = self._trail + b"".join(map(format_field, [*fields, head.actor]))
        if len(self) >= self._max_heads:
            self.clear()
        prepared = self[key] = _Prepared(head.actor, text_template(head.template), columns)
        return prepared


class ChunkEncoder:
    """Encodes the rows of one trail and incarnation."""

    def __init__(self, trail: str, incarnation: int) -> None:
        """Encode records of ``trail`` in ``incarnation``."""
        self._heads = _PreparedHeads(trail, incarnation)
        self._seconds = Seconds()

    def encode(
        self, rows: Iterable[bytes], first_leaf_index: int, known_ids: Iterable[int] | None = None
    ) -> EncodedChunk:
        """Encode ``rows``, the first of which becomes leaf ``first_leaf_index``.

        ``known_ids`` is given when the vault has refused the chunk for an id it has already: ids in it, and ids
        that come twice, are malformed then.
        """
        chunk = EncodedChunk()
        seen = None if known_ids is None else set(known_ids)
        total = 0
        for batch in _batches(rows):
            chunk.rows += len(batch)
            chunk.last_id = read_id(batch[-1])
            block = self._encode_batch(batch, first_leaf_index, chunk, seen)
            chunk.blocks.append(block)
            total += len(block)
            if total >= CHUNK_BYTES:
                chunk.is_full = True
                break
        return chunk

    def _encode_batch(
        self, batch: list[bytes], first_leaf_index: int, chunk: EncodedChunk, seen: set[int] | None
    ) -> bytes:
        leaves, heads, seconds = chunk.leaves, self._heads, self._seconds
        unpack, head_bytes = _ROW.unpack_from, _ROW.size
        salts = _SALTS.iter_unpack(os.urandom(_SALTS.size * len(batch)))
        block: list[bytes] = []
        leaf_index = first_leaf_index + len(leaves)
        for row, (actor_salt, data_salt) in zip(batch, salts, strict=True):
            try:
                _, length1, record_id, length2, xid, length3, time, data_bytes = unpack(row)
                data_end = head_bytes + data_bytes
                if (
                    record_id < 1
                    or seen is not None
                    or data_bytes == _ERASED_BYTES
                    or not length1 == length2 == length3 == _BIGINT_BYTES
                ):
                    _check_row(row, seen)
                found = heads[row[data_end:]]
                second, fraction = divmod(time + EPOCH_MICROSECONDS, _MICROSECONDS)
                moment = seconds[second]
            except (FormatError, struct_error) as error:
                chunk.malformed.append(MalformedRow(str(read_id(row)), sha256(row).hexdigest(), str(error)))
                continue
            data = row[head_bytes:data_end]
            leaf = found.template % (
                sha256(ACTOR_PREFIX + actor_salt + found.actor).hexdigest(),
                sha256(DATA_PREFIX + data_salt + data).hexdigest(),
                record_id,
                moment,
                fraction,
                xid,
            )
            leaves.append(leaf.encode())
            block += (
                _VAULT_ROW.pack(
                    _VAULT_COLUMNS, 8, leaf_index, 8, record_id, 8, time, 8, xid,
                    SALT_BYTES, actor_salt, SALT_BYTES, data_salt,
                ),
                found.columns,
                _LENGTH.pack(data_bytes),
                data,
            )  # fmt: skip
            leaf_index += 1
        return b"".join(block)


def _batches(rows: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield rows by the hundreds, fewer if they are long."""
    batch: list[bytes] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row)
        if size >= _BYTES_AT_ONCE or len(batch) == _ROWS_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _check_row(row: bytes, seen: set[int] | None) -> None:
    fields = split_fields(row[_COUNT_BYTES:], SEALED_COUNT, source="trail row")
    if fields[:_FIXED].count(None):
        raise FormatError("expected an id, an xid and a time, and none of them NULL")
    if fields[_FIXED] == ERASED:
        raise FormatError("data: it is marked as erased, and was never sealed")
    record_id = read_id(row)
    if record_id < 1:
        raise FormatError(f"expected an id of at least 1, got {record_id}")
    if seen is not None:
        if record_id in seen:
            raise FormatError(f"id {record_id} is taken by a record that is sealed already")
        seen.add(record_id)
