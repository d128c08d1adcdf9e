"""The few file operations a ledger in a directory is made of, each durable or harmless to repeat.

They raise ``OSError``; ``explain_error`` turns that into the error a person reads. Kept apart so that the crash tests
can break every single one of them.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from pgseal.errors import ConfigError, PgsealError, UnavailableError

# O_EXCL neither follows a symbolic link nor opens a pipe or device that somebody planted.
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
# O_NONBLOCK: a pipe planted in a file's place must not hang the reader.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FILE_MODE = 0o644

_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_OTHER_KIND = frozenset({errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EEXIST, errno.ENXIO})
#: What reading raises where there is no regular file, whatever else there may be.
ABSENT = _OTHER_KIND | {errno.ENOENT}


def read_file(path: Path, limit: int) -> bytes | None:
    """Return what a regular file holds, None if that is more than ``limit`` bytes."""
    descriptor = os.open(path, _READ)
    try:
        status = os.fstat(descriptor)
        if not S_ISREG(status.st_mode):
            raise OSError(errno.EISDIR, "not a regular file", str(path))
        if status.st_size > limit:
            return None
        data = os.read(descriptor, status.st_size)
        while len(data) < status.st_size and (more := os.read(descriptor, status.st_size - len(data))):
            data += more
        return data
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Make a new file in place of whatever stands there; neither content nor name are durable yet."""
    try:
        descriptor = os.open(path, _CREATE, _FILE_MODE)
    except FileExistsError:
        # A leftover of a crash. It is unlinked, not truncated: hard links made by a backup keep what they have.
        path.unlink()
        descriptor = os.open(path, _CREATE, _FILE_MODE)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of a file durable; an error of writing it back that nobody was told of is raised here."""
    descriptor = os.open(path, _READ)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_file(source: Path, target: Path) -> None:
    """Put one file in another's place, at once for every reader; the change is not durable yet."""
    source.replace(target)


def delete_file(path: Path) -> None:
    """Remove a file if it is there."""
    path.unlink(missing_ok=True)


def make_directory(path: Path) -> None:
    """Make a directory unless it is there; a symbolic link to one is not taken for one."""
    try:
        path.mkdir()
    except FileExistsError:
        if not S_ISDIR(path.lstat().st_mode):
            raise OSError(errno.ENOTDIR, "not a directory", str(path)) from None


def delete_directory(path: Path) -> None:
    """Remove a directory if it is there and empty."""
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST}:
            raise


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


#: Every operation that changes something on disk, for tests that break them one after the other.
CHANGES: tuple[Callable[..., None], ...] = (
    write_file,
    sync_file,
    rename_file,
    delete_file,
    make_directory,
    delete_directory,
    sync_directory,
)


def explain_error(error: OSError, action: str, path: Path) -> PgsealError:
    """Return the error to raise for ``error``: what failed, on what, and the way out.

    ``ConfigError`` where somebody has to change something first, ``UnavailableError`` where trying again may do.
    """
    failed = f"cannot {action} {str(error.filename or path)!r}: {error.strerror or error}"
    if error.errno in _FORBIDDEN:
        return ConfigError(f"{failed}: give the user who runs pgseal the right to {action} there")
    if error.errno in _FULL:
        return UnavailableError(f"{failed}: free some space; nothing sealed is lost, and it can be repeated")
    if error.errno in _OTHER_KIND:
        return ConfigError(f"{failed}: something that is no part of a ledger stands there: move it away")
    if error.errno == errno.ENOENT:
        return UnavailableError(f"{failed}: check that the ledger's disk is mounted")
    return UnavailableError(f"{failed}: check the disk; nothing sealed is lost, and it can be repeated")
