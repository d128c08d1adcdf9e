"""Two PostgreSQL servers, source and vault, which we start ourselves and stop by their pids.

They listen on unix sockets only, in directories that nobody else may enter, so everybody who gets there is trusted.
Nothing is fsynced: a crash of the machine may take the demo with it.
"""

import os
import pwd
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
from psycopg import conninfo, sql

from pgseal.demo.binaries import Binaries, find_binaries, find_server_user, make_reachable, may_everybody_enter
from pgseal.errors import ConfigError, UnavailableError
from pgseal.postgres import Connection

SUPERUSER = "postgres"
_START_SECONDS = 120.0
_STOP_SECONDS = 60.0
_MAX_SOCKET_BYTES = 103  # the shortest limit among Linux (107) and the BSDs
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "40",
    "shared_buffers": "32MB",
    "fsync": "off",
    "jit": "off",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}


class Server:
    """One PostgreSQL server: data, socket and log in a directory of its own."""

    def __init__(self, binaries: Binaries, directory: Path, user: pwd.struct_passwd | None) -> None:
        """Make the directory; ``start`` makes the server."""
        self.binaries = binaries
        self.directory = directory
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(mode=0o700)
        if user is not None:
            os.chown(directory, user.pw_uid, user.pw_gid)

    @property
    def pid(self) -> int:
        """The postmaster's pid, while it runs."""
        return self._process.pid if self._process else 0

    def dsn(self, database: str, user: str = SUPERUSER) -> str:
        """Return a connection string."""
        return conninfo.make_conninfo("", host=str(self.directory), dbname=database, user=user)

    def connect(self, database: str, user: str = SUPERUSER, *, application: str = "pgseal demo") -> Connection:
        """Open an autocommit connection."""
        return psycopg.connect(self.dsn(database, user), autocommit=True, application_name=application)

    def rename_database(self, name: str) -> None:
        """Give the only database for users another name: on slow disks, much quicker than to make another."""
        with closing(self.connect("template1")) as connection:
            connection.execute(sql.SQL("ALTER DATABASE postgres RENAME TO {}").format(sql.Identifier(name)))

    def start(self) -> None:
        """Start the server, made by the first call, and wait until it answers; raises ``UnavailableError``."""
        data = self.directory / "data"
        if not data.exists():
            self._run(
                "initdb", "-D", data, "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync",
                "--wal-segsize=1",
            )  # fmt: skip
        options = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        with (self.directory / "log").open("ab") as log:
            self._process = self._popen(
                "postgres", "-D", data, f"--unix_socket_directories={self.directory}", *options, output=log.fileno()
            )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self.connect("template1").close()
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise self._explain("start") from error
                time.sleep(0.02)
            else:
                return

    def stop(self, *, immediately: bool = False) -> None:
        """Stop the server; ``immediately``: without the tidying that its files would need to be copied."""
        if self._process is None:
            return
        for number in (*(() if immediately else (signal.SIGINT,)), signal.SIGQUIT, signal.SIGKILL):
            self._process.send_signal(number)
            try:
                self._process.wait(_STOP_SECONDS)
                break
            except subprocess.TimeoutExpired:
                continue
        self._process = None

    def back_up(self) -> None:
        """Copy the files of the stopped server."""
        # cp keeps owner and modes.
        subprocess.run(["cp", "-a", self.directory / "data", self.directory / "backup"], check=True)  # noqa: S603, S607

    def restore(self) -> None:
        """Put the copy, which is used up by that, in the place of the stopped server's files."""
        (self.directory / "data").rename(self.directory / "newest")
        (self.directory / "backup").rename(self.directory / "data")

    def undo_restore(self) -> None:
        """Put the files of the stopped server back that ``restore`` set aside."""
        if (self.directory / "newest").exists():
            (self.directory / "data").rename(self.directory / "backup")
            (self.directory / "newest").rename(self.directory / "data")
            shutil.rmtree(self.directory / "backup", ignore_errors=True)

    def _run(self, program: str, *arguments: str | Path) -> None:
        with (self.directory / "log").open("ab") as log:
            process = self._popen(program, *arguments, output=log.fileno())
            if process.wait():
                raise self._explain(program)

    def _popen(self, program: str, *arguments: str | Path, output: int) -> subprocess.Popen[bytes]:
        user = self._user
        return subprocess.Popen(  # noqa: S603
            [self.binaries.bin / program, *arguments],
            cwd=self.directory,
            # Nothing of the caller's: no PGDATA, no locale.
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the demo, which stops its servers itself
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
        )

    def _explain(self, what: str) -> UnavailableError:
        lines = (self.directory / "log").read_text(errors="replace").strip().splitlines() or ["its log is empty"]
        return UnavailableError(
            f"the embedded PostgreSQL {self.binaries.version} failed to {what}: {lines[-1].strip()[:200]}"
        )


class Servers:
    """Source and vault below one directory."""

    def __init__(self, home: Path) -> None:
        """Start both, of two versions if there are two; raises ``ConfigError`` and ``UnavailableError``."""
        versions, user = find_binaries(), find_server_user()
        _check_home(home, user)
        newest, oldest = (make_reachable(binaries, user, home) for binaries in (versions[0], versions[-1]))
        self.source = Server(newest, home / "source", user)
        self.vault = Server(oldest, home / "vault", user)
        try:
            with ThreadPoolExecutor() as threads:
                list(threads.map(Server.start, self.all))
        except BaseException:
            self.close()
            raise

    @property
    def all(self) -> tuple[Server, Server]:
        """Both."""
        return self.source, self.vault

    def close(self) -> None:
        """Stop both at once; their files are of no use any more."""
        for server in self.all:
            server.stop(immediately=True)


def _check_home(home: Path, user: pwd.struct_passwd | None) -> None:
    length = len(os.fsencode(home / "source" / ".s.PGSQL.5432"))
    if length > _MAX_SOCKET_BYTES:
        raise ConfigError(f"{str(home)!r} is too long a path for the socket of a server: choose a shorter one")
    if user is not None and not may_everybody_enter(home):
        raise ConfigError(
            f"{str(home)!r}: as root the servers run as {user.pw_name!r}, who cannot enter it: choose one below /tmp"
        )
