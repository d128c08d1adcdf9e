"""A working pgseal on real servers, set up through its own commands: what most tests of more than one part begin with.

`deploy` installs both sides into two databases, makes key and ledger and writes `pgseal.toml` into a directory. The
commands run in this process (`call`, quick) or as the installed program (`run`, `start`), as the test wants.
"""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from tests.clusters import Cluster

from pgseal import settings as pgseal_settings
from pgseal.cli.app import run as run_command
from pgseal.core.checkpoint import Checkpoint, open_checkpoint
from pgseal.core.merkle import leaf_hashes, tree_root
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import DirectoryStore
from pgseal.postgres import connect, install_schema
from pgseal.sealer.seal import Sealer, SealResult

#: The program that `pip install` put beside this interpreter.
PGSEAL = Path(sys.executable).with_name("pgseal")
ORIGIN = "clinic.example/test"
TRAIL = "clinic"
WAIT_SECONDS = 300.0


@dataclass(frozen=True)
class Deployment:
    """One source and one vault (superusers' connection strings), and the directory with everything else."""

    source: str
    vault: str
    directory: Path

    @property
    def config(self) -> Path:
        return self.directory / "pgseal.toml"

    @property
    def ledger(self) -> Path:
        return self.directory / "ledger"

    @property
    def settings(self) -> pgseal_settings.Settings:
        return pgseal_settings.load(self.config)

    # -- commands

    def call(self, *arguments: str, expect: int = 0) -> Any:
        """Run a command in this process with --json; what it printed, parsed. Another exit code fails the test."""
        with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
            code = run_command(["--config", str(self.config), *arguments, "--json"])
        assert code == expect, f"pgseal {' '.join(arguments)}: exit code {code}\n{errors.getvalue()}{output.getvalue()}"
        return json.loads(output.getvalue()) if output.getvalue() else None

    def run(self, *arguments: str, expect: int = 0) -> Any:
        """Run the installed command with --json; what it printed, parsed. Another exit code fails the test."""
        with self.start(*arguments, "--json") as process:
            output, errors = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == expect, (
            f"pgseal {' '.join(arguments)}: exit code {process.returncode}\n{errors}{output}"
        )
        assert "Traceback" not in errors, errors
        return json.loads(output) if output else None

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the installed command; the caller waits for it or kills it."""
        return subprocess.Popen(
            [PGSEAL, "--config", self.config, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith(("PG", "PGSEAL_"))},
        )

    def seal(self) -> SealResult:
        """Seal what is committed, as `pgseal seal --once` does; errors arrive as they are raised."""
        with contextlib.closing(Sealer.open(self.settings)) as sealer:
            return sealer.seal_once()

    def track(self, *tables: str) -> None:
        self.call("track", *tables)

    def elsewhere(self, directory: Path) -> "Deployment":
        """The same log seen by somebody with a configuration and a memory of his own."""
        directory.mkdir()
        text, count = re.subn(r"(?m)^state = .*$", 'state = "state"', self.config.read_text())
        assert count == 1
        text = text.replace('"ledger"', f'"{self.ledger}"').replace(":pgseal.key", f":{self.directory}/pgseal.key")
        (directory / "pgseal.toml").write_text(text)
        return Deployment(self.source, self.vault, directory)

    # -- what is there

    def trail_ids(self) -> list[int]:
        """Ids of the source's trail, ascending."""
        return [row[0] for row in query(self.source, "SELECT id FROM audit.record ORDER BY id")]

    def sealed_ids(self, trail: str = TRAIL) -> list[int]:
        """Ids of a trail's records in the vault, in leaf order."""
        return [
            row[0]
            for row in query(self.vault, "SELECT id FROM vault.record WHERE trail = %s ORDER BY leaf_index", trail)
        ]

    def checkpoint(self) -> Checkpoint:
        """The ledger's published checkpoint, its signature checked."""
        note = LedgerReader(DirectoryStore(self.ledger)).checkpoint_note()
        return open_checkpoint(note, [self.settings.read_verifier()], origin=ORIGIN).checkpoint

    def entries(self) -> list[bytes]:
        """The ledger's leaves; their root is recomputed and must be the signed one."""
        checkpoint = self.checkpoint()
        reader = LedgerReader(DirectoryStore(self.ledger))
        entries = [leaf for bundle in reader.read_entries(0, checkpoint.size, checkpoint.size) for leaf in bundle]
        assert len(entries) == checkpoint.size
        assert tree_root(leaf_hashes(entries)) == checkpoint.root
        return entries

    def check_sealed(self) -> None:
        """Everything committed is sealed: nothing lost, doubled or out of order; entries are the vault's rows."""
        entries = [json.loads(entry) for entry in self.entries()]
        rows = query(self.vault, "SELECT leaf_index, trail, incarnation, id FROM vault.record ORDER BY leaf_index")
        assert [row[0] for row in rows] == list(range(len(entries))), "leaf indexes have gaps, or ledger != vault"
        assert [(entry["trail"], entry["incarnation"], int(entry["id"])) for entry in entries] == [
            row[1:] for row in rows
        ], "ledger and vault hold different records"
        assert sorted(self.sealed_ids()) == self.trail_ids(), "trail and vault hold different records"

    def check_verified(self) -> None:
        """`pgseal verify` finds nothing."""
        document = self.call("verify")
        assert document["ok"]
        assert document["findings"] == []


class RunningSealer:
    """`pgseal seal` as a process of its own, to be killed or stopped."""

    def __init__(self, deployment: Deployment) -> None:
        self.process = deployment.start("seal")
        self.output: list[str] = []
        self._is_at_work = threading.Event()
        self._readers = [
            threading.Thread(target=self._collect, args=(stream,), daemon=True)
            for stream in (self.process.stdout, self.process.stderr)
        ]
        for reader in self._readers:
            reader.start()

    def _collect(self, stream: Any) -> None:
        # A full pipe would hold the sealer up.
        with stream:
            for line in stream:
                self.output.append(line)
                self._is_at_work.set()

    def _wait(self) -> int:
        code = self.process.wait(WAIT_SECONDS)
        for reader in self._readers:
            reader.join(WAIT_SECONDS)
        return code

    def kill(self) -> None:
        """SIGKILL; it must have been at work until then."""
        assert self.process.poll() is None, "".join(self.output)
        self.process.kill()
        assert self._wait() == -signal.SIGKILL

    def stop(self) -> None:
        """SIGTERM, once it has said that it seals; it must end well and say nothing unexpected."""
        self._is_at_work.wait(WAIT_SECONDS)
        assert self.process.poll() is None, "".join(self.output)
        self.process.terminate()
        assert self._wait() == 0, "".join(self.output)
        assert "Traceback" not in "".join(self.output)

    def abandon(self) -> None:
        """End it, however it is."""
        if self.process.poll() is None:
            self.process.kill()
        self._wait()


def deploy(source: str, vault: str, directory: Path, *, installed: bool = False) -> Deployment:
    """Run `pgseal init`: the installed command if `installed`, otherwise in this process."""
    deployment = Deployment(source, vault, directory)
    arguments: Sequence[str] = (
        *("init", "--source", source, "--vault", vault, "--origin", ORIGIN, "--name", TRAIL),
        *("--ledger", str(deployment.ledger)),
        *("--key", str(directory / "pgseal.key"), "--state", str(directory / "state")),
    )
    (deployment.run if installed else deployment.call)(*arguments)
    return deployment


def query(dsn: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Run a statement as the superuser in a connection of its own; the rows, if there are any."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement, values or None)  # pyright: ignore[reportArgumentType]
        return cursor.fetchall() if cursor.description else []


def make_trail_template(cluster: Cluster) -> str:
    """Name a database with a trail and nothing else, made once for each cluster: copying is quicker than installing."""
    name = "pgseal_trail"
    if (name,) not in cluster.execute("SELECT datname::text FROM pg_database"):
        with open_trail(cluster.create_database(name)):
            pass
    return name


@contextmanager
def open_trail(dsn: str) -> Iterator[psycopg.Connection]:
    """Install a trail in an empty database, and connect to it."""
    with connect(dsn, side="source") as installer:
        install_schema(installer, "audit", "pgseal.trail", side="source")
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection
