r"""PostgreSQL's binary COPY format, as far as rows of trail and vault need it. Pure.

A header, rows, a trailer. A row is the number of its fields (int16) and each field as its length (int32, -1 for NULL)
and its bytes, all big-endian: integers as themselves, ``timestamptz`` as microseconds since 2000-01-01 UTC (int64),
text and bytea as their bytes. No escapes, no time zones, and fields of fixed width can be read in one go.

Spec: https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.4.
"""

from collections.abc import Iterable, Iterator

from pgseal.errors import FormatError, StorageError

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"
#: Microseconds from 1970-01-01 to 2000-01-01.
EPOCH_MICROSECONDS = 946_684_800_000_000
_LENGTH_BYTES = 4


def iter_rows(messages: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the rows in CopyData messages of binary COPY: the header is cut from the first, the trailer left out.

    Raises ``StorageError`` for messages that are something else.
    """
    stream = iter(messages)
    first = next(stream, b"")
    if not first.startswith(HEADER):
        raise StorageError("the server did not answer with binary COPY: it and this pgseal do not fit")
    if (row := first[len(HEADER) :]) and row != TRAILER:
        yield row
    for row in stream:
        if row != TRAILER:
            yield row


def format_field(value: bytes | None) -> bytes:
    """Return a field with its length in front."""
    return b"\xff\xff\xff\xff" if value is None else len(value).to_bytes(_LENGTH_BYTES, "big") + value


def split_fields(data: bytes, count: int, *, source: str) -> list[bytes | None]:
    """Return the ``count`` fields that ``data`` consists of; raises ``FormatError`` naming ``source``."""
    fields: list[bytes | None] = []
    offset = 0
    for _ in range(count):
        begin = offset + _LENGTH_BYTES
        length = int.from_bytes(data[offset:begin], "big", signed=True)
        offset = begin + max(length, 0)
        if offset > len(data):
            raise FormatError("a value is cut off", source=source, offset=begin)
        fields.append(None if length < 0 else data[begin:offset])
    if offset != len(data):
        raise FormatError(f"expected {count} values, got {len(data) - offset} more bytes", source=source)
    return fields
