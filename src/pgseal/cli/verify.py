"""``pgseal verify``: trails, vault and ledger of this configuration against each other and the signature; or a pack."""

import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pgseal.cli.failures import FOUND
from pgseal.cli.invocation import load_settings
from pgseal.cli.options import Action, Actor, AsJson, Category, InUtc, Outcome, Since, Table, Until
from pgseal.cli.question import Question
from pgseal.errors import ConfigError, ConflictError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgseal.core.keys import VerifierKey
    from pgseal.core.rotation import RecordedRotation
    from pgseal.errors import TamperError
    from pgseal.settings import Settings
    from pgseal.trail.feed import FeedState
    from pgseal.vault.source import VaultRows
    from pgseal.vault.store import VaultStore
    from pgseal.verifier import FileKeptCheckpoint, Finding, Report, Verifier
    from pgseal.verifier.pack import PackReport

EXAMPLE = "pgseal verify"

_SHOWN_GAPS = 3
_SHOWN_FINDINGS = 50
_LOCK_SECONDS = 60.0


def verify(
    context: typer.Context,
    pack: Annotated[Path | None, typer.Argument(help="An evidence pack: check this, and nothing else.")] = None,
    *,
    vkey: Annotated[str | None, typer.Option(metavar="KEY", help="PACK: the verifier key of its log.")] = None,
    since: Since = None,
    until: Until = None,
    table: Table = None,
    action: Action = None,
    category: Category = None,
    outcome: Outcome = None,
    actor: Actor = None,
    require_complete: Annotated[
        bool, typer.Option("--require-complete", help="PACK: exit code 3 unless the answer is complete.")
    ] = False,
    utc: InUtc = False,
    as_json: AsJson = False,
) -> int:
    """Was anything changed behind pgseal's back?

    Compares every trail with the vault, the vault with the ledger, and the ledger with its signature and with what
    was seen the last time. Ends with exit code 1 if something was changed, removed or added.

    With PACK it checks an evidence pack instead, offline and without a configuration: against the key of its log
    (--vkey) and for what you ask (--since to --actor), whatever the pack says about itself.
    """
    question = Question(since, until, table, action, category, outcome, actor, utc=utc)
    if pack is not None:
        from pgseal.cli.verify_pack import verify_pack

        return verify_pack(pack, vkey, question, as_json=as_json, require_complete=require_complete)
    if vkey is not None or question.is_asked or require_complete:
        raise ConfigError("--vkey, --require-complete and filters are for a pack: pgseal verify PACK --vkey KEY")
    settings = load_settings(context)
    key = settings.read_verifier()

    from pgseal.cli.output import print_json
    from pgseal.verifier import FileKeptCheckpoint

    kept = FileKeptCheckpoint(settings.state)
    try:
        kept_on = datetime.fromtimestamp(kept.path(settings.origin).stat().st_mtime).astimezone().date().isoformat()
    except OSError:
        kept_on = None
    report, rows = verify_all(settings, key, kept, quiet=as_json)
    if as_json:
        print_json(report.to_json())
    else:
        _show(report, rows, kept_on)
    return 0 if report.ok else FOUND


def verify_all(
    settings: "Settings",
    key: "VerifierKey",
    kept: "FileKeptCheckpoint",
    *,
    quiet: bool,
    trails: bool = True,
    look_closer: "Callable[[Verifier, VaultRows], None] | None" = None,
) -> "tuple[Report, dict[str, int]]":
    """Return the report, and how many rows of each trail were compared.

    Without ``trails`` only vault and ledger are looked at. ``look_closer`` is called with the verifier when the trails
    have been compared, and with the vault.

    Raises ``ConflictError`` while ``pgseal retain`` drops what this would miss, and others as the verifier.
    """
    from pgseal.cli.output import show_steps
    from pgseal.ledger.store import DirectoryStore
    from pgseal.sealer.state import read_published
    from pgseal.sealer.witnessing import ask_witnesses
    from pgseal.vault.source import VaultRows
    from pgseal.verifier import VAULT_COLUMNS, Verifier

    rows: dict[str, int] = {}
    vault = VaultRows(settings.vault.dsn.reveal(), VAULT_COLUMNS)
    with closing(vault), _reading(settings), show_steps(quiet=quiet) as show:

        def progress(step: str, done: int, total: int | None) -> None:
            """Count the rows of trails, and show how far it has come."""
            kind, _, name = step.partition(" ")
            if kind == "trail":
                rows[name] = done
            show(step, done, total)

        verifier = Verifier(settings.origin, key, DirectoryStore(settings.ledger), kept, progress=progress)
        # Before the ledger is read: a sealer at work publishes newer ones all the time.
        sealer_note = read_published(settings.state)
        held, silent = ask_witnesses(settings)
        policy = settings.find_witness_policy()
        verifier.check_checkpoint(
            sealer_note, policy=policy, held=held, now=time.time(), rotations=_read_rotations(settings)
        )
        verifier.check_leaves(vault)
        if trails:
            _check_trails(verifier, settings, rows)
        if look_closer is not None:
            look_closer(verifier, vault)
        report = verifier.finish()
        return replace(report, warnings=(*report.warnings, *silent)), rows


def _read_rotations(settings: "Settings") -> "list[RecordedRotation]":
    """Return how the log passed from key to key, as the vault has it."""
    from pgseal.postgres import connect
    from pgseal.sealer.keys import read_rotations
    from pgseal.sealer.trails import SEALER_ROLE
    from pgseal.vault.store import VaultStore

    with closing(connect(settings.vault.dsn.reveal(), side="vault", role=SEALER_ROLE)) as connection:
        return read_rotations(VaultStore(connection).read_rotations())


@contextmanager
def _reading(settings: "Settings") -> Generator[None]:
    """Keep `pgseal retain` from dropping rows between the reading of the ledger and that of a trail."""
    from pgseal.postgres import connect
    from pgseal.sealer.trails import SEALER_ROLE
    from pgseal.vault.store import READING_LOCK, VaultStore

    with closing(connect(settings.vault.dsn.reveal(), side="vault", role=SEALER_ROLE)) as connection:
        store = VaultStore(connection)
        store.check_installed()
        until = time.monotonic() + _LOCK_SECONDS
        while not store.try_lock(READING_LOCK, shared=True):
            if time.monotonic() > until:
                raise ConflictError("pgseal retain is dropping what is past its retention: verify when it has ended")
            time.sleep(0.1)
        yield


def _check_trails(verifier: "Verifier", settings: "Settings", rows: dict[str, int]) -> None:
    """Compare each trail, seen with the state its feed has when its turn comes."""
    from pgseal.postgres import connect
    from pgseal.sealer.trails import SEALER_ROLE, trail_addresses
    from pgseal.trail.source import TrailRows
    from pgseal.vault.store import VaultStore

    with closing(connect(settings.vault.dsn.reveal(), side="vault", role=SEALER_ROLE)) as connection:
        store = VaultStore(connection)
        for address in trail_addresses(settings):
            with closing(address.connect()) as trail:
                rows[address.name] = 0
                state, damage = read_feed_state(store, address.name)
                verifier.check_trail(TrailRows(trail, state, address.side, damage))


def read_feed_state(store: "VaultStore", trail: str) -> "tuple[FeedState, TamperError | None]":
    """Return how far a trail is sealed; without what was damaged, and then with the finding that says so."""
    from pgseal.errors import TamperError
    from pgseal.sealer.trails import to_state
    from pgseal.trail.feed import FeedState

    row = store.read_feed(trail)
    if row is None:
        return FeedState(trail), None
    try:
        return to_state(row), None
    except TamperError as error:
        return FeedState(row.trail, row.incarnation, row.snapshot, row.pending, row.position), error


def _show(report: "Report", rows: dict[str, int], kept_on: str | None) -> None:
    from pgseal.cli.output import format_count, printable, say

    sides = {finding.where for finding in report.findings}
    damaged = {finding.trail for finding in report.findings if finding.where == "trail"}
    ledger_words = _describe_ledger(report, kept_on)
    lines = [
        (f"trail {name}", f"trail   {printable(name)}", format_count(count, "row"), name not in damaged, "ok")
        for name, count in rows.items()
    ]
    lines.append(("vault", "vault", format_count(report.checked["vault"], "row"), "vault" not in sides, "ok"))
    is_ledger_ok = not sides & {"ledger", "checkpoint"}
    leaves = format_count(report.checked["ledger"], "leaf", "leaves")
    lines.append(("ledger", "ledger", leaves, is_ledger_ok, ledger_words))
    width, count_width = max(len(line[1]) for line in lines), max(len(line[2]) for line in lines)
    for what, label, count, ok, words in lines:
        if what in report.not_compared:
            say(f"{label:<{width}}  {'':>{count_width}}  ", ("not compared", "red"))
        else:
            say(f"{label:<{width}}  {count:>{count_width}}  ", (words, "green") if ok else ("findings below", "red"))
    _show_notes(report, rows)
    if report.ok:
        say(("✓ ", "green"), "nothing was changed, removed or added behind pgseal's back")
    else:
        show_findings(report)


def _show_notes(report: "Report", rows: "dict[str, int]") -> None:
    """Say what is no finding, and has to be known."""
    from pgseal.cli.output import format_count, printable, say

    for name, count in report.retained.items():
        say(
            f"  {format_count(count, 'more record')} of trail {printable(name)} dropped past their retention, as sealed"
        )
    for one in report.recovered:
        lost = f"{format_count(one.lost_count, 'sealed record')} gone from it" if one.lost_count else "nothing lost"
        name = f"trail {printable(one.trail)}"
        say(f"  {name} is at incarnation {one.incarnation}, {one.kind.replace('_', ' ')}: {lost}, as sealed")
        if one.unconfirmed:
            count = sum(end - begin for begin, end in one.unconfirmed)
            say(
                ("! ", "yellow"),
                f"{count:,} of these were never compared with the trail: only the vault says what they hold",
            )
    for gap in report.gaps[:_SHOWN_GAPS]:
        say(("! ", "yellow"), f"no heartbeat from {gap.begin} to {gap.end}: nothing says that sealing went on")
    if len(report.gaps) > _SHOWN_GAPS:
        say(f"  and {len(report.gaps) - _SHOWN_GAPS:,} more such gaps:  pgseal verify --json")
    if report.waiting:
        say(f"  {format_count(report.waiting, 'row')} not sealed yet:  pgseal seal")
    for name in report.unchecked_trails:
        say(("! ", "yellow"), f"trail {printable(name)} was not compared: {_why_unchecked(report, name, rows)}")
    for warning in report.warnings:
        say(("! ", "yellow"), printable(warning))


def _describe_ledger(report: "Report", kept_on: str | None) -> str:
    words = "root and signature ok"
    if kept_on is not None:
        words += f", consistent with the checkpoint kept on {kept_on}"
    if report.witnessed is not None:
        words += f", witnessed up to leaf {report.witnessed:,}"
    return words


def _why_unchecked(report: "Report", unchecked: str, rows: "dict[str, int]") -> str:
    """Return why a trail that has sealed records was not compared; ``unchecked`` ends with its incarnation."""
    name = unchecked.partition(" ")[0]
    if name not in rows:
        return "its source is not in the configuration"
    if f"trail {name}" in report.not_compared:
        return "the vault is too damaged to judge it by"
    return "its source is at another incarnation"


def show_findings(report: "Report | PackReport") -> None:
    """List findings for a person, the first ones in full."""
    from pgseal.cli.output import format_count, printable, say

    shown = report.findings[:_SHOWN_FINDINGS]
    width = max(len(finding.kind) for finding in shown)
    for finding in shown:
        say(
            ("✗ ", "red"),
            (f"{finding.kind:<{width}}", "bold"),
            f"   {printable(_place(finding))}: {printable(finding.detail)}",
        )
    if len(shown) < report.total_findings:
        more = report.total_findings - len(shown)
        say(f"  and {more:,} more:  pgseal verify --json lists up to {len(report.findings):,}")
    records = [finding for finding in shown if finding.id is not None and finding.trail is not None]
    advice = ""
    if records:
        advice = f" What was sealed is in the vault:  pgseal history --id {records[0].trail}/{records[0].id}"
    say(f"{format_count(report.total_findings, 'finding')}.{advice}")


def _place(finding: "Finding") -> str:
    """Return where a finding was made, and about which record unless the detail says so itself."""
    where = finding.where
    if finding.trail is not None and where == "trail":
        where += f" {finding.trail}"
    if finding.id is not None and str(finding.id) not in finding.detail:
        where += f", record {finding.trail}/{finding.id}"
    if finding.index is not None and f"leaf {finding.index}" not in finding.detail:
        where += f", leaf {finding.index}"
    return where
