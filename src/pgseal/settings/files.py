"""Reading and replacing small text files."""

import contextlib
import os
import secrets
from pathlib import Path

from pgseal.errors import ConfigError

#: The longest configuration or secret that is read.
MAX_BYTES = 1024 * 1024


def read_text(path: Path) -> str:
    """Return the configuration in the file at ``path``; raises ``ConfigError``."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no such configuration file; make one with pgseal init, or name it with --config"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration ({describe_os_error(error)})") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: expected a configuration of at most {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: not valid TOML: line {line} is not UTF-8") from error


def write_temporary(path: Path, text: str, *, mode: int) -> Path:
    """Write ``text`` durably to a new file beside ``path``."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            with contextlib.suppress(PermissionError):  # the owner stays who it was, if we may say so
                if path.exists():
                    os.fchown(descriptor, path.stat().st_uid, path.stat().st_gid)
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot write the configuration ({describe_os_error(error)})") from error
    return temporary


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe_os_error(error: OSError) -> str:
    """Return what the operating system says, without path and number."""
    return (error.strerror or type(error).__name__).lower()
