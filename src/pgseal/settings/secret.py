"""Secrets given as themselves, as ``env:NAME`` or ``file:PATH``; read when used, never shown."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pgseal.errors import ConfigError
from pgseal.settings.files import MAX_BYTES, describe_os_error

ENV_PREFIX, FILE_PREFIX = "env:", "file:"


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret given as itself, ``env:NAME`` or ``file:PATH``; ``where`` says which setting it is, for messages."""

    reference: str = field(repr=False)
    where: str
    base: Path
    environ: Mapping[str, str] = field(repr=False)

    def reveal(self) -> str:
        """Return the secret; raises ``ConfigError`` if the variable or the file is missing, unreadable or empty."""
        if self.reference.startswith(ENV_PREFIX):
            name = self.reference.removeprefix(ENV_PREFIX)
            value = self.environ.get(name, "")
            if not value:
                raise ConfigError(f"{self.where}: environment variable {name!r} is not set")
            return value
        path = self.path
        return self.reference if path is None else _read_secret_file(path, self.where)

    @property
    def path(self) -> Path | None:
        """The file it is kept in, where it is in one."""
        if not self.reference.startswith(FILE_PREFIX):
            return None
        return self.base / self.reference.removeprefix(FILE_PREFIX)

    def __str__(self) -> str:
        """Name the reference, never the secret."""
        return self.reference if self.reference.startswith((ENV_PREFIX, FILE_PREFIX)) else "(secret)"


@dataclass(frozen=True, slots=True)
class Dsn(Secret):
    """A connection string; ``str`` says where it leads, as ``describe_dsn`` does."""

    def reveal(self) -> str:
        """Return the connection string, password and all; raises ``ConfigError`` if it is not one."""
        dsn = Secret.reveal(self)
        _parse_dsn(dsn, self.where)
        return dsn

    def __str__(self) -> str:
        """Say where it leads; the reference if it cannot be read."""
        try:
            return describe_dsn(self.reveal())
        except ConfigError:
            return Secret.__str__(self)


def describe_dsn(dsn: str) -> str:
    """Return where a connection string leads, without user and password: ``clinic on db:5432``.

    Raises ``ConfigError`` if it is none.
    """
    given = _parse_dsn(dsn, "connection string")
    if "service" in given and "host" not in given:
        return f"service {given['service']}"
    host = given.get("host") or given.get("hostaddr") or ""
    ports = (given.get("port") or "5432").split(",")
    hosts = [
        f"{name or 'the local socket'}:{ports[number] if number < len(ports) else ports[-1]}"
        for number, name in enumerate(host.split(","))
    ]
    return f"{given.get('dbname') or given.get('user') or 'default database'} on {','.join(hosts)}"


def _read_secret_file(path: Path, where: str) -> str:
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            raise IsADirectoryError(0, "is a directory")
        with path.open(encoding="utf-8") as file:
            value = file.read(MAX_BYTES).strip()
    except OSError as error:
        raise ConfigError(f"{where}: cannot read {path} ({describe_os_error(error)})") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: {path} is not a text file") from None
    if not value:
        raise ConfigError(f"{where}: {path} is empty")
    return value


def _parse_dsn(dsn: str, where: str) -> dict[str, str]:
    """Return what a connection string says; raises ``ConfigError``, which quotes nothing of it."""
    from psycopg import ProgrammingError, conninfo  # noqa: PLC0415 - loads libpq: not for `pgseal --help`

    try:
        return {name: str(value) for name, value in conninfo.conninfo_to_dict(dsn).items() if value is not None}
    except (ProgrammingError, UnicodeError):
        # Not chained: they quote what it could not read, which may be the password.
        raise ConfigError(
            f"{where}: not a connection string; expected postgresql://user@host:port/database or "
            "'host=… dbname=… user=…' (special characters in a password are percent-encoded)"
        ) from None


def resolve_dsn(dsn: str, where: str, environ: Mapping[str, str] | None = None) -> str:
    """Return the connection string that an option gives, itself or as ``env:NAME`` or ``file:PATH``.

    Raises ``ConfigError`` naming ``where``.
    """
    return Dsn(dsn, where, Path.cwd(), dict(os.environ if environ is None else environ)).reveal()
