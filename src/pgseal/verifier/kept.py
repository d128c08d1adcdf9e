"""``FileKeptCheckpoint``: the verifier's memory as one small file for each origin in a state directory."""

import errno
import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from pgseal.errors import StorageError

_MAX_BYTES = 1024 * 1024
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class FileKeptCheckpoint:
    """Keeps signed notes as ``<directory>/verified-<hex sha256(origin)>``, replaced atomically.

    The directory is made when the first note is stored. Raises ``StorageError`` for what the file system refuses.
    """

    def __init__(self, directory: Path) -> None:
        """Keep the files in ``directory``."""
        self._directory = directory

    def path(self, origin: str) -> Path:
        """Return the file that keeps the checkpoint of ``origin``."""
        return self._directory / f"verified-{sha256(origin.encode()).hexdigest()}"

    def load(self, origin: str) -> bytes | None:
        """Return the note kept for ``origin``, or None."""
        path = self.path(origin)
        try:
            with path.open("rb") as file:
                return file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read the kept checkpoint {str(path)!r}: {error.strerror}") from error

    def store(self, origin: str, note: bytes) -> None:
        """Replace the note of ``origin``; durable when it returns."""
        path = self.path(origin)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(note)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            descriptor = os.open(self._directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            way_out = "free some space" if error.errno in _FULL else "make the directory writable"
            raise StorageError(f"cannot keep the checkpoint in {str(path)!r}: {error.strerror}; {way_out}") from error
