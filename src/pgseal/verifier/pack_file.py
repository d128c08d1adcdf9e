"""``PackFile``: the members of an evidence pack in a file, read strictly and never more of it than was declared."""

from collections.abc import Iterator
from typing import Protocol

from pgseal.core.pack import LIMITS
from pgseal.core.pack_zip import END_BYTES, check_local_header, iter_content, parse_directory, parse_end
from pgseal.errors import FormatError

_SEEK_END = 2
_CHUNK = 256 * 1024
# Six headers with the longest names there are, and then some.
_MAX_DIRECTORY_BYTES = 1024


class Input(Protocol):
    """A binary file that can go back."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes."""
        ...

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a byte, and return where that is."""
        ...


class PackFile:
    """The members of one pack.

    Raises ``FormatError`` for whatever is not exactly as FORMATS.md section 4 says, and what ``file`` raises.
    """

    def __init__(self, file: Input) -> None:
        """Read the directory of ``file``, and compare it with what stands beside each member."""
        self._file = file
        size = file.seek(0, _SEEK_END)
        offset, length = parse_end(self._read(max(size - END_BYTES, 0), min(size, END_BYTES)), size, len(LIMITS))
        if length > _MAX_DIRECTORY_BYTES:
            raise FormatError(f"expected a directory of at most {_MAX_DIRECTORY_BYTES} bytes, got {length}",
                              source="pack")  # fmt: skip
        members = parse_directory(self._read(offset, length), offset, LIMITS)
        for member in members:
            check_local_header(member, self._read(member.offset, len(member.header)))
        self._members = {member.name: member for member in members}

    def read(self, name: str) -> bytes:
        """Return the whole content of a member, as long as its limit allows at most."""
        return b"".join(self.stream(name))

    def stream(self, name: str) -> Iterator[bytes]:
        """Yield the content of a member, a few hundred KiB at a time."""
        member = self._members[name]
        return iter_content(member, self._chunks(member.content_offset, member.compressed_size))

    def _chunks(self, offset: int, length: int) -> Iterator[bytes]:
        # Another member may be read between two chunks.
        end = offset + length
        while offset < end:
            chunk = self._read(offset, min(_CHUNK, end - offset))
            yield chunk
            offset += len(chunk)

    def _read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(length)
        if len(data) != length:
            raise FormatError("the file got shorter while it was read", source="pack", offset=offset)
        return data
