"""The container of an evidence pack: a ZIP archive with one spelling (FORMATS.md section 4).

ZIP readers disagree about archives that say things twice, and forgers live on that. So this is a subset that can be
read in one way only, from the front or from the back::

    local header ‖ name ‖ content     for each member, one directly after the other, from byte 0
    central header ‖ name             for each member, in the same order
    end record                        22 bytes, no comment

Every member is stored or deflated. Refused: encryption, data descriptors, extra fields, comments, ZIP64, several
disks, links and directories, duplicate or other names, a local header that is not, byte for byte, what the central one
says, and any byte that belongs to nothing. Sizes are looked at before anything is read, and no more is inflated than
was declared.

Pure: bytes come in and go out through whoever has a file.

Spec: APPNOTE.TXT of PKWARE, sections 4.3.7, 4.3.12, 4.3.16.
"""

import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from struct import Struct
from struct import error as struct_error
from typing import Protocol

from pgseal.core.encoding import shorten
from pgseal.errors import FormatError

#: Bytes of the largest archive, and of the largest member: what the format holds without ZIP64.
MAX_ARCHIVE_BYTES = 2**32 - 1

_SOURCE = "pack"
_LOCAL = Struct("<4s5H3I2H")
_CENTRAL = Struct("<4s6H3I5H2I")
_END = Struct("<4s4H2IH")
_LOCAL_SIGNATURE, _CENTRAL_SIGNATURE, _END_SIGNATURE = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
#: Bytes of the record that ends an archive.
END_BYTES = _END.size

_STORED, _DEFLATED = 0, 8
_NEEDED_VERSIONS = (10, 20)
# How hard it was compressed (1, 2) and that names are UTF-8 (11): what they say changes nothing for ASCII names.
_HARMLESS_FLAGS = 0x0806
_UNIX = 3
_FILE_TYPE, _REGULAR_FILE = 0o170000, 0o100000
_DOS_DIRECTORY = 0x10
_MADE_BY_UNIX = _UNIX << 8 | 20
_MODE = (_REGULAR_FILE | 0o644) << 16
_CHUNK = 256 * 1024
# Text of which half is random: the highest levels take three times as long for five per cent.
_LEVEL = 1
_RAW_DEFLATE = -15


class Output(Protocol):
    """Where an archive is written: a binary file that can go back."""

    def write(self, data: bytes, /) -> object:
        """Write all of ``data``."""
        ...

    def seek(self, offset: int, /) -> object:
        """Go to a byte."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """One member as the central directory declares it: ``header`` is the local header that must stand at ``offset``."""

    name: str
    offset: int
    header: bytes
    is_deflated: bool
    crc: int
    compressed_size: int
    size: int

    @property
    def content_offset(self) -> int:
        """Where the content begins, as it is stored."""
        return self.offset + len(self.header)


def parse_end(data: bytes, archive_size: int, member_count: int) -> tuple[int, int]:
    """Return offset and length of the central directory, as the last ``END_BYTES`` bytes of an archive say.

    Raises ``FormatError`` unless there are ``member_count`` members and the directory ends where the record begins.
    """
    if not len(data) <= archive_size <= MAX_ARCHIVE_BYTES:
        raise FormatError(f"expected at most {MAX_ARCHIVE_BYTES} bytes, got {archive_size}", source=_SOURCE)
    try:
        signature, disk, first_disk, here, total, length, offset, comment = _END.unpack(data)
    except struct_error as error:
        raise FormatError(f"too short to be a ZIP archive: {archive_size} bytes", source=_SOURCE) from error
    if signature != _END_SIGNATURE or comment:
        raise FormatError("not a ZIP archive, or one with bytes or a comment at its end", source=_SOURCE)
    if disk or first_disk or here != total or total != member_count:
        raise FormatError(f"expected one disk with {member_count} members, got {total}", source=_SOURCE)
    if offset + length + END_BYTES != archive_size:
        raise FormatError("bytes that belong to no member", source=_SOURCE, offset=offset)
    return offset, length


def parse_directory(data: bytes, offset: int, limits: Mapping[str, int]) -> list[Member]:
    """Return the members that the central directory at ``offset`` declares: those of ``limits``, each once.

    ``limits`` gives the greatest size of each. Raises ``FormatError``.
    """
    members: list[Member] = []
    position = end = 0
    while position < len(data):
        member, position = _parse_central(data, position, offset)
        if member.name not in limits or any(other.name == member.name for other in members):
            raise FormatError(
                f"expected exactly the members {', '.join(limits)}; got {shorten(member.name)}"
                f"{' twice' if member.name in limits else ''}",
                source=_SOURCE,
            )
        if member.offset != end:
            raise FormatError(f"{member.name} does not begin where the one before it ends", source=_SOURCE, offset=end)
        if member.size > limits[member.name]:
            raise FormatError(
                f"expected at most {limits[member.name]} bytes in {member.name}, got {member.size}", source=_SOURCE
            )
        end = member.content_offset + member.compressed_size
        members.append(member)
    if len(members) != len(limits):
        raise FormatError(f"expected exactly the members {', '.join(limits)}", source=_SOURCE)
    if end != offset:
        raise FormatError("bytes that belong to no member", source=_SOURCE, offset=end)
    return members


def _parse_central(data: bytes, position: int, offset: int) -> tuple[Member, int]:
    try:
        (
            signature, made_by, needed, flags, method, time, date, crc, compressed_size, size,
            name_length, extra_length, comment_length, disk, _, attributes, local_offset,
        ) = _CENTRAL.unpack_from(data, position)  # fmt: skip
    except struct_error as error:
        raise FormatError("the central directory is cut off", source=_SOURCE, offset=offset + position) from error
    begin = position + _CENTRAL.size
    raw_name = data[begin : begin + name_length]
    problem = None
    if signature != _CENTRAL_SIGNATURE or len(raw_name) != name_length:
        problem = "not a header of the central directory"
    elif flags & ~_HARMLESS_FLAGS:
        problem = "encrypted, or with sizes that stand behind the content"
    elif needed not in _NEEDED_VERSIONS or method not in {_STORED, _DEFLATED}:
        problem = f"compression method {method} of version {needed}; expected stored or deflated"
    elif extra_length or comment_length or disk:
        problem = "an extra field, a comment or a disk number"
    elif method == _STORED and compressed_size != size:
        problem = "stored, and of two sizes"
    elif attributes & _DOS_DIRECTORY or (
        made_by >> 8 == _UNIX and (attributes >> 16 & _FILE_TYPE) not in {0, _REGULAR_FILE}
    ):
        problem = "something else than a regular file"
    if problem is not None:
        raise FormatError(problem, source=_SOURCE, offset=offset + position)
    name = raw_name.decode("ascii", "replace")
    fields = needed, flags, method, time, date, crc, compressed_size, size, name_length, 0
    header = _LOCAL.pack(_LOCAL_SIGNATURE, *fields) + raw_name
    member = Member(name, local_offset, header, method == _DEFLATED, crc, compressed_size, size)
    return member, begin + name_length


def check_local_header(member: Member, data: bytes) -> None:
    """Raise ``FormatError`` unless ``data``, found at the member's offset, is the header the directory declares."""
    if data != member.header:
        raise FormatError(
            f"{member.name}: the header beside the content says something else than the central directory",
            source=_SOURCE,
            offset=member.offset,
        )


def iter_content(member: Member, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a member's content from its stored bytes, a few hundred KiB at a time.

    Raises ``FormatError`` as soon as there is more than was declared; at the end if there is less, if the checksum
    is another, or if stored bytes are left over.
    """
    crc = size = 0
    for piece in _inflate(member, chunks) if member.is_deflated else chunks:
        size += len(piece)
        if size > member.size:
            raise FormatError(f"expected {member.size} bytes of content, got more", source=f"{_SOURCE}, {member.name}")
        crc = zlib.crc32(piece, crc)
        yield piece
    if size != member.size or crc != member.crc:
        raise FormatError(
            f"damaged: expected {member.size} bytes of content with checksum {member.crc:08x}, "
            f"got {size} with {crc:08x}",
            source=f"{_SOURCE}, {member.name}",
        )


def _inflate(member: Member, chunks: Iterable[bytes]) -> Iterator[bytes]:
    source = f"{_SOURCE}, {member.name}"
    inflater = zlib.decompressobj(_RAW_DEFLATE)
    try:
        for chunk in chunks:
            waiting = chunk
            while waiting and not inflater.eof:
                yield inflater.decompress(waiting, _CHUNK)
                waiting = inflater.unconsumed_tail
            if inflater.unused_data or (waiting and inflater.eof):
                raise FormatError("bytes after the end of the deflated content", source=source)
        while not inflater.eof and (piece := inflater.decompress(b"", _CHUNK)):
            yield piece
    except zlib.error as error:
        raise FormatError("not deflated as the directory says", source=source) from error
    if not inflater.eof:
        raise FormatError("the deflated content is cut off", source=source)


class ZipWriter:
    """Writes members one after the other, deflated; ``output`` must be empty. Nothing is valid before ``finish``.

    ``date`` and ``time`` are stamped on all members (year from 1980, month, day; hour, minute, second).
    """

    def __init__(self, output: Output, date: tuple[int, int, int], time: tuple[int, int, int]) -> None:
        """Begin an archive."""
        self._output = output
        self._date = (min(max(date[0] - 1980, 0), 127) << 9) | date[1] << 5 | date[2]
        self._time = time[0] << 11 | time[1] << 5 | time[2] >> 1
        self._directory: list[bytes] = []
        self._offset = 0

    def add(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write one member; raises ``FormatError`` if it or the archive gets larger than a pack may be."""
        raw_name = name.encode("ascii")
        begin = self._offset
        self._output.write(bytes(_LOCAL.size) + raw_name)  # written anew when the sizes are known
        sizes = _Sizes()
        for piece in _deflate(pieces, sizes):
            self._output.write(piece)
            sizes.compressed_size += len(piece)
            self._offset = begin + _LOCAL.size + len(raw_name) + sizes.compressed_size
            if max(self._offset, sizes.size) > MAX_ARCHIVE_BYTES:
                raise FormatError(
                    f"more than {MAX_ARCHIVE_BYTES} bytes: choose a shorter range, or withhold data", source=_SOURCE
                )
        fields = (
            20, 0, _DEFLATED, self._time, self._date, sizes.crc, sizes.compressed_size, sizes.size, len(raw_name), 0,
        )  # fmt: skip
        self._output.seek(begin)
        self._output.write(_LOCAL.pack(_LOCAL_SIGNATURE, *fields))
        self._output.seek(self._offset)
        self._directory.append(
            _CENTRAL.pack(_CENTRAL_SIGNATURE, _MADE_BY_UNIX, *fields, 0, 0, 0, _MODE, begin) + raw_name
        )

    def finish(self) -> int:
        """Write the directory and return the archive's size."""
        directory = b"".join(self._directory)
        count = len(self._directory)
        size = self._offset + len(directory) + END_BYTES
        if size > MAX_ARCHIVE_BYTES:
            raise FormatError(f"more than {MAX_ARCHIVE_BYTES} bytes: choose a shorter range", source=_SOURCE)
        end = _END.pack(_END_SIGNATURE, 0, 0, count, count, len(directory), self._offset, 0)
        self._output.write(directory + end)
        return size


@dataclass(slots=True)
class _Sizes:
    size: int = 0
    compressed_size: int = 0
    crc: int = 0


def _deflate(pieces: Iterable[bytes], sizes: _Sizes) -> Generator[bytes]:
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW_DEFLATE)
    for piece in pieces:
        sizes.size += len(piece)
        sizes.crc = zlib.crc32(piece, sizes.crc)
        yield deflater.compress(piece)
    yield deflater.flush()
