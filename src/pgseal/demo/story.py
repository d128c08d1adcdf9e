"""The story, from two empty servers to fifteen attacks, and the numbers it ends with."""

import os
import shlex
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgseal import settings
from pgseal.core.keys import VerifierKey
from pgseal.core.proof import check_proof_file
from pgseal.demo.attacks import ATTACKS
from pgseal.demo.binaries import find_binaries, find_server_user
from pgseal.demo.commands import Pgseal, require_success
from pgseal.demo.made_up import make_tables
from pgseal.demo.narration import Narrator
from pgseal.demo.scene import VAULT_DATABASE, Attack, Place, Scene, Sighting
from pgseal.demo.servers import Servers
from pgseal.demo.synthea import read_tables
from pgseal.demo.tables import Table
from pgseal.demo.workload import ADMINISTRATOR, DATABASE, DOCTOR, STAR, Workload, set_up
from pgseal.errors import ConfigError, PgsealError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ORIGIN = "clinic.example/demo"


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for: ``data`` has Synthea's files; ``directory`` is where to keep everything, if named."""

    data: Path | None = None
    keep: bool = False
    directory: Path | None = None
    program: str = "pgseal"


@dataclass(slots=True)
class Verdict:
    """What the demo came to."""

    captured: int = 0
    sealed: int = 0
    verified: int = 0
    is_clean: bool = False
    attacks: list[tuple[Attack, Sighting | None]] = field(default_factory=list[tuple[Attack, Sighting | None]])
    seconds: float = 0.0

    @property
    def caught(self) -> int:
        """How many attacks were caught."""
        return sum(sighting is not None for _, sighting in self.attacks)

    @property
    def ok(self) -> bool:
        """Whether everything captured was sealed and verified, and every attack caught."""
        return (
            self.is_clean
            and 0 < self.captured == self.sealed == self.verified
            and self.caught == len(self.attacks) == len(ATTACKS)
        )

    def __str__(self) -> str:
        """Return the line that the demo ends with."""
        return (
            f"demo: {self.captured:,} captured, {self.sealed:,} sealed, {self.verified:,} verified, "
            f"{self.caught}/{len(self.attacks)} attacks caught"
        )


class Home:
    """The demo's directory; made by us, or empty before."""

    def __init__(self, options: Options) -> None:
        """Make it; raises ``ConfigError`` if the one that was named cannot be used."""
        self._is_ours = True
        if options.directory is None:
            # Not below TMPDIR: the path of a socket has at most about 100 bytes.
            base = "/tmp" if os.path.isdir("/tmp") else None  # noqa: PTH112, S108 - mkdtemp makes it safely
            self.path = Path(tempfile.mkdtemp(prefix="pgseal-demo-", dir=base))
        else:
            self.path = options.directory.absolute()
            try:
                self._is_ours = not self.path.exists()
                self.path.mkdir(mode=0o700, exist_ok=True)
                is_empty = not any(self.path.iterdir())
            except OSError as error:
                raise ConfigError(
                    f"--keep: cannot make {str(self.path)!r} ({(error.strerror or 'failed').lower()})"
                ) from error
            if not is_empty:
                raise ConfigError(f"--keep: {str(self.path)!r} is not empty: choose a directory that is, or a new one")
        if self._is_ours and os.geteuid() == 0:
            self.path.chmod(0o711)  # the servers run as another user, who has to get to its own directories

    def remove(self) -> None:
        """Remove everything that was made."""
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if self._is_ours:
            self.path.rmdir()


@dataclass(slots=True)
class Stage:
    """What the chapters share."""

    options: Options
    home: Home
    narrator: Narrator
    pgseal: Pgseal
    servers: Servers
    tables: Mapping[str, Table]
    verdict: Verdict

    def show(self, *arguments: str) -> None:
        """Run a command in front of everybody; raises ``PgsealError`` if it fails."""
        self.narrator.command(arguments)
        require_success(arguments, self.pgseal.run(arguments, show=True))

    def skip(self, what: str) -> None:
        """Tell what is left out."""
        self.narrator.note(what)


def tell(options: Options, narrator: Narrator, pgseal: Pgseal, home: Home) -> tuple[Verdict, dict[str, Any]]:
    """Tell the whole story; returns the verdict and what ``--json`` prints.

    Servers are stopped and everything removed at the end, however it comes, unless it is to be kept and came well.

    Raises:
        ConfigError: no embedded PostgreSQL, unusable data or directory.
        PgsealError: a step could not be made.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        stack.callback(_let_signals_through)
        stack.callback(home.remove)
        # Before a word is said: there is nothing to tell without servers.
        find_binaries()
        find_server_user()
        narrator.line(("pgseal demo", "bold"), ": who changed what in a clinic's database, and can anybody hide it?")
        tables = make_tables() if options.data is None else read_tables(options.data, narrator.note)
        narrator.chapter(
            "Two servers",
            "The clinic's database is the source. What is sealed is copied to the vault, another",
            "server, and bound by the ledger: signed files that belong into a third pair of hands.",
        )
        servers = Servers(home.path)
        stack.callback(servers.close)
        stack.callback(_hold_signals)  # a second Ctrl-C must not leave a server behind
        stage = Stage(options, home, narrator, pgseal, servers, tables, Verdict())
        old_checkpoint = _install(stage)
        _work(stage)
        history = _look(stage)
        scene = Scene(
            pgseal,
            servers,
            settings.load(home.path / "pgseal.toml"),
            crime=_find(history, ADMINISTRATOR),
            visit=_find(history, DOCTOR),
            old_checkpoint=old_checkpoint,
        )
        _prove(stage, scene)
        _attack(stage, scene)
        _count(stage)
        stage.verdict.seconds = time.monotonic() - began
        kept = _keep(stage) if options.keep else None
        if kept is not None:
            stack.pop_all()
    verdict = stage.verdict
    narrator.line("")
    narrator.line(f"{'kept' if kept else 'stopped and removed'} after {verdict.seconds:.0f} s")
    return verdict, _to_json(verdict, history, kept)


def _hold_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _let_signals_through() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _install(stage: Stage) -> bytes:
    """Set up clinic and pgseal; returns the checkpoint over the baseline."""
    narrator, servers, home = stage.narrator, stage.servers, stage.home
    rows = set_up(servers.source, stage.tables, stage.skip)
    servers.vault.rename_database(VAULT_DATABASE)
    narrator.done(
        f"source: PostgreSQL {servers.source.binaries.version}, {len(stage.tables) + 1} tables, {rows:,} rows"
    )
    narrator.done(f"vault:  PostgreSQL {servers.vault.binaries.version}, empty")
    sources = {"--source": servers.source.dsn(DATABASE), "--vault": servers.vault.dsn(VAULT_DATABASE)}
    paths = {"--ledger": home.path / "ledger", "--key": home.path / "pgseal.key"}
    arguments = [str(part) for pair in {**sources, **paths, "--origin": ORIGIN}.items() for part in pair]
    narrator.command(["init", "--source", "…", "--vault", "…", "--ledger", "ledger", "--origin", ORIGIN])
    require_success(["init"], stage.pgseal.run(["init", *arguments], show=True))
    columns = stage.tables["patients"].columns
    hide = ["--mask", "patients.ssn=redact"] * ("ssn" in columns)
    hide += ["--exclude", "patients.passport"] * ("passport" in columns)
    stage.show("track", "public.*", *hide)
    stage.show("seal", "--once")
    servers.source.stop()
    servers.source.back_up()  # for whoever will want to turn back time
    servers.source.start()
    return (home.path / "ledger" / "checkpoint").read_bytes()


def _work(stage: Stage) -> None:
    stage.narrator.chapter(
        "A morning's work",
        "Reception registers, a doctor treats, billing sends reminders: three applications at once,",
        "each saying who acts. One transaction stays open: it holds nobody up. And an administrator",
        "sets a patient's bill to zero.",
    )
    workload = Workload(stage.servers.source, stage.tables)
    try:
        workload.run()
        stage.show("seal", "--once")
        workload.finish()
    finally:
        workload.close()
    stage.show("seal", "--once")


def _look(stage: Stage) -> list[dict[str, Any]]:
    stage.narrator.chapter("Who did what", "Every version of one row, from the vault; the source is not asked.")
    stage.show("history", "patients", STAR)
    history: list[dict[str, Any]] = stage.pgseal.read("history", "patients", STAR)
    return history


def _find(history: list[dict[str, Any]], who: str) -> Place:
    for record in history:
        actor = record["actor"]
        claimed: dict[str, Any] = actor.get("claimed") or {}
        if who == claimed.get("actor", actor["role"]):
            return Place(record["id"], record["index"])
    raise PgsealError("a change that was made in the demo is not in the row's history")


def _prove(stage: Stage, scene: Scene) -> None:
    stage.narrator.chapter(
        "Is it true?",
        "verify recomputes everything: trail against vault, vault against ledger, ledger against",
        "its signature. A proof of one record convinces anybody who has the public key.",
    )
    stage.show("verify")
    name = f"{DATABASE}/{scene.crime.id}"
    path = stage.home.path / "record.tlog-proof"
    stage.narrator.command(["prove", name, "-o", path.name])
    require_success(["prove"], stage.pgseal.run(["prove", name, "-o", str(path)], show=False))
    key: VerifierKey = scene.settings.read_verifier()
    check_proof_file(path.read_bytes(), [key])
    stage.narrator.done(f"{path.name}, {path.stat().st_size:,} bytes, checked with nothing but the public key")


def _attack(stage: Stage, scene: Scene) -> None:
    narrator = stage.narrator
    narrator.chapter(
        f"{len(ATTACKS)} attacks",
        f"Everybody tries to get rid of record {scene.crime.id}, or of the rest. Each attack is really made, looked",
        "for with pgseal verify or seal, and undone before the next.",
    )
    attacker = ""
    for attack in ATTACKS:
        if attack.attacker != attacker:
            attacker = attack.attacker
            narrator.attacker(attacker)
        sighting = attack.run(scene)
        stage.verdict.attacks.append((attack, sighting))
        narrator.attack(attack.title, sighting and sighting.kind, sighting.what if sighting else "")


def _count(stage: Stage) -> None:
    """Count on every side, from what the commands say after all attacks were undone."""
    stage.narrator.chapter("Everything put back")
    verdict = stage.verdict
    stage.narrator.command(["verify"])
    outcome = stage.pgseal.run(["verify", "--json"])
    if outcome.code not in {0, 1}:
        require_success(["verify"], outcome)
    report, status = outcome.document, stage.pgseal.read("status")
    checked = report["checked"]
    verdict.captured = sum(trail["records"] or 0 for trail in status["trails"])
    verdict.sealed = status["ledger"]["size"] or 0
    verdict.verified = checked["ledger"]
    verdict.is_clean = (
        outcome.code == 0
        and report["ok"]
        and set(checked.values()) == {verdict.verified}
        and status["vault"]["records"] == verdict.sealed
    )
    if verdict.is_clean:
        stage.narrator.done("nothing was changed, removed or added behind pgseal's back")
    else:
        stage.narrator.failed(f"not clean: checked {checked}, findings {report['findings'][:3]}")


def _keep(stage: Stage) -> dict[str, Any]:
    """Say how to go on; returns the same for programs."""
    home, servers, program = stage.home.path, stage.servers, stage.options.program
    pids = [server.pid for server in servers.all]
    psql = shlex.join([str(servers.source.binaries.bin / "psql"), servers.source.dsn(DATABASE, ADMINISTRATOR)])
    stop = f"kill -INT {' '.join(map(str, pids))}"
    stage.narrator.chapter("Yours now", "Both servers go on running. Change something, seal it, attack it:")
    commands = (
        f"cd {shlex.quote(str(home))}",
        f"{program} status",
        f"{program} history patients {STAR}",
        f"{program} seal --once",
        f"{program} verify",
        psql,
    )
    for command in commands:
        stage.narrator.line("   ", (command, "cyan"))
    stage.narrator.line("   and when you have seen enough:")
    stage.narrator.line("   ", (f"{stop} && rm -rf {shlex.quote(str(home))}", "cyan"))
    return {
        "directory": str(home),
        "config": str(home / "pgseal.toml"),
        "row": ["patients", STAR],
        "pids": pids,
        "psql": psql,
        "stop": stop,
    }


def _to_json(verdict: Verdict, history: list[dict[str, Any]], kept: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "ok": verdict.ok,
        "captured": verdict.captured,
        "sealed": verdict.sealed,
        "verified": verdict.verified,
        "attacks": [
            {
                "number": attack.number,
                "attacker": attack.attacker,
                "attack": attack.title,
                "caught": sighting is not None,
                "kind": sighting and sighting.kind,
                "what": sighting and sighting.what,
            }
            for attack, sighting in verdict.attacks
        ],
        "history": history,
        "kept": kept,
        "seconds": round(verdict.seconds, 1),
    }
