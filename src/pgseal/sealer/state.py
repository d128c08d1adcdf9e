"""The sealer's own memory: the newest checkpoint it signed, in a directory outside vault and ledger.

Whoever restores vault or ledger to an older state does not restore this, and so the sealer notices. One process at a
time holds the directory.
"""

import fcntl
import os
import secrets
from pathlib import Path

from pgseal.errors import ConfigError, ConflictError, ForkError, UnavailableError

_CHECKPOINT = "checkpoint"
_PUBLISHED = "published"
_LOCK = "sealer.lock"


class SealerState:
    """The state directory, locked as long as the object is open."""

    def __init__(self, directory: Path) -> None:
        """Make ``directory`` (0700) if need be and lock it.

        Raises:
            ConflictError: another sealer holds it.
            ConfigError: it cannot be made or written.
        """
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"state directory {directory}: {error.strerror}; give the sealer a directory of its own"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            os.close(self._lock)
            raise ConflictError(
                f"another sealer works with {directory}{f' (process {holder})' if holder else ''}; "
                "there can be one at a time, stop it first",
            ) from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._lock)

    def read_checkpoint(self) -> bytes | None:
        """Return the signed checkpoint that was kept last, not verified; None if there never was one."""
        return _read(self._directory / _CHECKPOINT)

    def note_published(self, note: bytes) -> None:
        """Remember that ``note`` is published. Not fsynced: after a crash an older memory is as true."""
        temporary = self._directory / f".{_PUBLISHED}.{secrets.token_hex(4)}"
        try:
            temporary.write_bytes(note)
            temporary.replace(self._directory / _PUBLISHED)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise UnavailableError(f"cannot write to {self._directory} ({error.strerror})") from error

    def replace_checkpoint(self, expected: bytes | None, note: bytes) -> None:
        """Compare and swap: keep ``note`` if what is kept is ``expected``. Durable and atomic when it returns.

        Raises:
            ForkError: something else is kept: someone signs beside us.
            UnavailableError: it cannot be written.
        """
        if self.read_checkpoint() != expected:
            raise ForkError(
                "the kept checkpoint was changed by someone else; are two sealers using one key?", where="state"
            )
        temporary = self._directory / f".{_CHECKPOINT}.{secrets.token_hex(4)}"
        try:
            with temporary.open("xb") as file:
                file.write(note)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._directory / _CHECKPOINT)
            descriptor = os.open(self._directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise UnavailableError(f"cannot keep the checkpoint in {self._directory} ({error.strerror})") from error


def read_published(directory: Path) -> bytes | None:
    """Return the newest checkpoint that a sealer knows to be published, without locking; None if there is none.

    A ledger that shows an older one was set back. (The checkpoint kept for signing may be newer for a moment, and for
    longer if the sealer is killed before it publishes.)
    """
    return _read(directory / _PUBLISHED)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnavailableError(f"cannot read the kept checkpoint {path} ({error.strerror})") from error
