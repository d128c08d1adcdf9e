"""Signing keys in files, mode 0600."""

import fcntl
import os
import secrets
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pgseal.errors import ConfigError

if TYPE_CHECKING:
    from pgseal.core.keys import SignerKey


def write_new_key(path: Path, signer: "SignerKey") -> None:
    """Write a key to a file that is not there yet, durably; raises ``ConfigError``."""
    from pgseal.core.keys import format_signer_key

    # Complete before it has its name, and never over another: a torn or a replaced key would end what it signs.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(format_signer_key(signer) + "\n")
            file.flush()
            os.fsync(descriptor)
        path.hardlink_to(temporary)
    except OSError as error:
        raise ConfigError(f"cannot make the key {str(path)!r} ({(error.strerror or 'failed').lower()})") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def changing_key(path: Path) -> Generator[None]:
    """Be the only one that changes the keys in a directory; raises ``ConfigError``."""
    try:
        descriptor = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"cannot change the key {str(path)!r} ({(error.strerror or 'failed').lower()})") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def replace_key(path: Path, lines: Sequence[str]) -> None:
    """Replace the lines of a key file, all at once and durably, within ``changing_key``; raises ``ConfigError``.

    A crash leaves the old lines or the new ones. What it may leave beside has mode 0600, too, and is overwritten by the
    next call.
    """
    from pgseal.signing import format_ring

    target = path.resolve()
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            with suppress(PermissionError):  # the owner stays who it was, if we may say so
                os.fchown(descriptor, target.stat().st_uid, target.stat().st_gid)
            file.write(format_ring(lines))
            file.flush()
            os.fsync(descriptor)
        temporary.replace(target)
        directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise ConfigError(f"cannot change the key {str(path)!r} ({(error.strerror or 'failed').lower()})") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
