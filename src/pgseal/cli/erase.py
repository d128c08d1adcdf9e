"""``pgseal erase``: destroy what trail and vault hold about a data subject; leaves and proofs stay.

    find          by table and key, actor, or record; a legal hold stops it
    ERASE record  sealed first
    destroy       in the trails, then in the vault; once more, if records of the subject arrived meanwhile
    vacuum        what that leaves behind
"""

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from pgseal.cli.failures import FOUND
from pgseal.cli.invocation import load_settings
from pgseal.cli.options import AsJson, parse_record_name
from pgseal.errors import ConfigError, ConflictError

if TYPE_CHECKING:
    from pgseal.core.hold import Hold
    from pgseal.postgres import Connection
    from pgseal.sealer.erasure import Destroyed
    from pgseal.settings import Settings
    from pgseal.vault.store import VaultStore
    from pgseal.vault.subject import Subject, Target, Wanted
    from pgseal.verifier import Report

EXAMPLE = "pgseal erase --table public.patients --key 42 --reason 'request 2026-17' --approved-by j.doe"

_MAX_ROUNDS = 5
_LOCK_SECONDS = 60.0
_SHOWN_MENTIONED = 20
_DISTINCTIVE = 4


def erase(
    context: typer.Context,
    *,
    tables: Annotated[
        list[str] | None, typer.Option("--table", metavar="TABLE", help="Table of the subject's row; with --key, also several.")
    ] = None,
    keys: Annotated[
        list[str] | None, typer.Option("--key", metavar="KEY", help="Its key: a value, or a JSON object. One for each --table, or all of one.")
    ] = None,
    actors: Annotated[
        list[str] | None, typer.Option("--actor", metavar="ACTOR", help="Who acted: erases who, not what was done.")
    ] = None,
    records: Annotated[
        list[str] | None, typer.Option("--record", metavar="[TRAIL/]ID", help="A single record, too.")
    ] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; sealed, and never erased: name nobody.")] = None,
    approved_by: Annotated[str | None, typer.Option(metavar="WHO", help="Who decided it; sealed, and never erased.")] = None,
    keep_actors: Annotated[
        bool, typer.Option("--keep-actors", help="Of records about a row, keep who made the change.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Erase what sealed ERASE records speak of and a backup brought back.")
    ] = False,
    rewrite: Annotated[
        bool, typer.Option("--rewrite", help="Write the tables anew, which locks them: freed space is overwritten, too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be erased; change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> int:
    """Erase what is recorded about a data subject.

    The content and the salts of every record about the row, under whatever keys it had, of who changed it, and of
    application events and statements about it, are destroyed in trail and vault. That is sealed first, and every leaf
    still verifies. A legal hold (pgseal hold) stops it.
    """
    from pgseal.vault.subject import Wanted

    wanted = Wanted(
        _pair(tables or [], keys or []),
        actors or [],
        [parse_record_name(text) for text in records or []],
        ("data",) if keep_actors else ("actor", "data"),
    )
    order = Order(wanted, reason or "", approved_by or "", again=again, rewrite=rewrite, dry_run=dry_run)
    _check_order(order)
    settings = load_settings(context)
    with closing(_Eraser(settings, order, yes=yes, quiet=as_json)) as eraser:
        outcome = eraser.run()
    is_clean = not outcome.held and not outcome.obstacles
    if as_json:
        _print(outcome, order, is_clean=is_clean)
    else:
        _show_end(outcome, order)
    return 0 if is_clean else FOUND


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for."""

    wanted: "Wanted"
    reason: str
    approved_by: str
    again: bool
    rewrite: bool
    dry_run: bool


@dataclass
class _Outcome:
    """What was erased, or would be. ``counts`` by trail, table, source, action and parts."""

    counts: "Counter[tuple[str, str | None, str, str, tuple[str, ...]]]" = field(default_factory=Counter)
    records: list[int] = field(default_factory=list[int])
    trail_rows: "Counter[str]" = field(default_factory=Counter)
    vault_rows: int = 0
    acts: int = 0
    mentioned: list[str] = field(default_factory=list[str])
    held: list[str] = field(default_factory=list[str])
    left_out: set[str] = field(default_factory=set[str])
    dead: Mapping[str, int] = field(default_factory=dict[str, int])
    is_unfinished: bool = False
    report: "Report | None" = None

    @property
    def obstacles(self) -> bool:
        """Whether something was found that keeps evidence from being destroyed."""
        from pgseal.cli.retain import has_obstacles

        return self.report is not None and has_obstacles(self.report, but_for=("erased_content",))

    def add(self, found: "Destroyed") -> None:
        """Count what was destroyed."""
        self.trail_rows.update(found.trails)
        self.vault_rows += found.vault
        self.left_out |= found.left_out


class _Eraser:
    """One run, with its connections."""

    def __init__(self, settings: "Settings", order: Order, *, yes: bool, quiet: bool) -> None:
        from pgseal.postgres import connect
        from pgseal.sealer.erasure import Eraser
        from pgseal.sealer.trails import SEALER_ROLE
        from pgseal.vault.store import VaultStore

        self._settings = settings
        self._order = order
        self._yes = yes
        self._quiet = quiet
        self._vault: VaultStore = VaultStore(connect(settings.vault.dsn.reveal(), side="vault", role=SEALER_ROLE))
        self._eraser = Eraser(settings, self._vault)
        self._outcome = _Outcome()

    def close(self) -> None:
        self._eraser.close()
        self._vault.connection.close()

    def run(self) -> _Outcome:
        """Find, ask, seal, destroy; raises whatever keeps it from going on."""
        from pgseal.sealer.acts import seal_all
        from pgseal.sealer.holds import alone_with_holds

        with alone_with_holds(self._vault):
            if not self._order.dry_run:
                seal_all(self._settings)  # what is not sealed yet cannot be erased
            self._outcome.report = self._verify()
            if not self._outcome.obstacles:
                if self._order.again:
                    self._erase_again()
                else:
                    self._erase()
        return self._outcome

    def _verify(self) -> "Report":
        """Compare the vault with the ledger: holds, and what was erased before, are read there."""
        from pgseal.cli.verify import verify_all
        from pgseal.verifier import FileKeptCheckpoint

        key, kept = self._settings.read_verifier(), FileKeptCheckpoint(self._settings.state)
        return verify_all(self._settings, key, kept, quiet=self._quiet, trails=False)[0]

    # -- a subject

    def _erase(self) -> None:
        from pgseal.vault.subject import find_subject

        outcome = self._outcome
        with self._reading() as connection:
            subject = find_subject(connection, self._order.wanted)
            self._note(subject)
            if outcome.held or self._order.dry_run:
                return
            if not subject.targets:
                self._vacuum()  # a run that was killed may have left it undone
                return
            self._eraser.check_rights(
                {target.record.trail for target in subject.targets.values()} & self._eraser.known_trails
            )
            if not self._quiet:
                _show_counts(outcome, "will be erased")
                _show_notes(outcome)
            self._ask("Destroy this for ever?")
            with self._alone():
                for _ in range(_MAX_ROUNDS):
                    self._destroy(subject)
                    # What was made and sealed meanwhile.
                    subject = _find_more(connection, self._order.wanted)
                    if not subject.targets:
                        break
                    self._note(subject)
                    if outcome.held:
                        break
                else:
                    outcome.is_unfinished = True
        self._vacuum()

    def _note(self, subject: "Subject") -> None:
        from pgseal.sealer.holds import read_active

        outcome = self._outcome
        holds = read_active(self._settings, self._vault)
        for target in subject.targets.values():
            record = target.record
            parts = tuple(sorted(target.parts))
            outcome.counts[record.trail, record.relation, record.source, record.action, parts] += 1
            outcome.held += [hold.name for hold in holds if _is_held(hold, target) and hold.name not in outcome.held]
        outcome.acts = subject.acts
        outcome.mentioned = [f"{one.trail}/{one.id}" for one in subject.mentioned]

    def _destroy(self, subject: "Subject") -> None:
        from pgseal.vault.erasure import Meant

        groups: defaultdict[tuple[str, ...], list[Meant]] = defaultdict(list)
        for leaf, target in sorted(subject.targets.items()):
            one = target.record
            meant = Meant(leaf, one.trail, one.id, one.xid, one.time, one.relation, has_content=True)
            groups[tuple(sorted(target.parts))].append(meant)
        leaves = {parts: [one.leaf_index for one in meant] for parts, meant in groups.items()}
        self._outcome.records += self._eraser.seal(leaves, self._order.reason, self._order.approved_by)
        # Killed now, the same command goes on; pgseal verify says that content is left.
        for parts, meant in groups.items():
            self._outcome.add(self._eraser.destroy(meant, parts))

    # -- once more

    def _erase_again(self) -> None:
        outcome = self._outcome
        found = self._eraser.count_returned()
        holds = [one.name for one in self._read_holds() if one.relation is None]
        if found.vault or found.trails:
            outcome.held = holds
        if self._order.dry_run or outcome.held:
            outcome.add(found)
            return
        if found.vault or found.trails:
            if not self._quiet:
                self._show_records()
                _show_returned(found.trails, found.vault, "will be erased again")
            self._ask("Destroy this again?")
            with self._alone():
                outcome.add(self._eraser.destroy_again())
        self._vacuum()

    def _vacuum(self) -> None:
        self._eraser.check_rights(self._eraser.known_trails)
        self._outcome.dead = self._eraser.vacuum(rewrite=self._order.rewrite)

    def _read_holds(self) -> "list[Hold]":
        from pgseal.sealer.holds import read_active

        return read_active(self._settings, self._vault)

    def _show_records(self) -> None:
        from pgseal.cli.output import format_count, printable, say

        for index, erasure in self._eraser.read_records():
            count = sum(end - begin for begin, end in erasure.leaves)
            say(f"  ERASE record of leaf {index}: {format_count(count, 'record')}, {printable(erasure.reason, 80)}")

    # --

    def _ask(self, question: str) -> None:
        if self._yes:
            return
        if not sys.stdin.isatty():
            raise ConfigError("nobody is there to ask: look at it with --dry-run, then run it with --yes")
        if not typer.confirm(question):
            raise ConfigError("nothing was erased")

    @contextmanager
    def _reading(self) -> "Generator[Connection]":
        from pgseal.postgres import connect

        with closing(connect(self._settings.vault.dsn.reveal(), side="vault")) as connection:
            yield connection

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Let no verification run that would see one side before and the other after."""
        from pgseal.vault.store import READING_LOCK

        until = time.monotonic() + _LOCK_SECONDS
        while not self._vault.try_lock(READING_LOCK):
            if time.monotonic() > until:
                raise ConflictError("a pgseal verify is at work; nothing is erased beside it, run it again later")
            time.sleep(0.1)
        yield
        self._vault.unlock(READING_LOCK)


def _find_more(connection: "Connection", wanted: "Wanted") -> "Subject":
    """Return what is about the subject now; nothing, if nothing is left that its table is known by."""
    from pgseal.vault.subject import Subject, find_subject

    try:
        return find_subject(connection, wanted)
    except ConfigError:
        return Subject()


def _is_held(hold: "Hold", target: "Target") -> bool:
    relations = {target.relation, target.record.relation}
    return any(hold.covers(relation, target.keys) for relation in relations)


def _pair(tables: Sequence[str], keys: Sequence[str]) -> list[tuple[str, str]]:
    if len(tables) == 1 and keys:
        return [(tables[0], key) for key in keys]
    if len(tables) != len(keys):
        raise ConfigError(
            f"every --table needs its --key, in the same order: got {len(tables)} of the one and {len(keys)} of the other"
        )
    return list(zip(tables, keys, strict=True))


def _check_order(order: Order) -> None:
    from pgseal.core.erasure import MAX_REASON_LENGTH
    from pgseal.core.mentions import has_word

    wanted = order.wanted
    is_named = bool(wanted.rows or wanted.actors or wanted.records)
    if order.again == is_named:
        raise ConfigError("say whose records: --table with --key, --actor or --record; or only --again")
    if order.again or order.dry_run:
        return
    for option, text in (("--reason", order.reason), ("--approved-by", order.approved_by)):
        if not text.strip():
            raise ConfigError(f"{option} is missing: it is sealed with the ERASE record")
        if len(text) > MAX_REASON_LENGTH or not text.isprintable():
            raise ConfigError(f"{option}: expected one line of at most {MAX_REASON_LENGTH} characters")
    for value in (*(key for _, key in wanted.rows), *wanted.actors):
        if (len(value) >= _DISTINCTIVE or not value.isdigit()) and has_word(order.reason, value):
            raise ConfigError("--reason names the subject, and is never erased: name a request or a case instead")


def _print(outcome: _Outcome, order: Order, *, is_clean: bool) -> None:
    from pgseal.cli.output import print_json
    from pgseal.sealer.erasure import UNREACHABLE

    print_json({
        "ok": is_clean,
        "dry_run": order.dry_run,
        "records": [
            {"trail": trail, "relation": relation, "source": source, "action": action, "parts": list(parts), "count": count}
            for (trail, relation, source, action, parts), count in sorted(outcome.counts.items(), key=str)
        ],
        "erase": outcome.records,
        "destroyed": {"trails": dict(outcome.trail_rows), "vault": outcome.vault_rows},
        "held_by": outcome.held,
        "acts_kept": outcome.acts,
        "mentioned": outcome.mentioned,
        "unfinished": outcome.is_unfinished,
        "not_vacuumed": dict(outcome.dead),
        "left_out": sorted(outcome.left_out),
        "unreachable": list(UNREACHABLE),
        "findings": [asdict(finding) for finding in outcome.report.findings] if outcome.obstacles and outcome.report else [],
    })  # fmt: skip


def _show_end(outcome: _Outcome, order: Order) -> None:
    from pgseal.cli.output import format_count, printable, say
    from pgseal.cli.verify import show_findings

    if outcome.obstacles and outcome.report is not None:
        say("nothing is erased while there are findings:")
        show_findings(outcome.report)
        return
    if outcome.held:
        names = ", ".join(map(printable, outcome.held))
        say(("✗ ", "red"), f"kept by legal hold {names}: nothing was erased.  pgseal hold list")
        return
    if order.dry_run:
        if order.again:
            _show_returned(outcome.trail_rows, outcome.vault_rows, "would be erased again")
        else:
            _show_counts(outcome, "would be erased")
            _show_notes(outcome)
    elif not (outcome.trail_rows.total() or outcome.vault_rows):
        say("nothing to erase" if not order.again else "nothing came back: all that was erased is gone")
    else:
        _show_returned(outcome.trail_rows, outcome.vault_rows, "erased", mark="✓ ")
        for index in outcome.records:
            say(f"  sealed before as the ERASE record of leaf {index:,}")
    for name in sorted(outcome.left_out):
        say(("! ", "yellow"), f"trail {printable(name)} is not in the configuration: what it holds is still there")
    if outcome.is_unfinished:
        say(("! ", "yellow"), "records of the subject are still being made: run it again")
    for side, count in outcome.dead.items():
        say(
            ("! ", "yellow"),
            f"{side}: {format_count(count, 'old row version')} cannot be removed while an older transaction is open:  "
            "pgseal erase --again, once it has ended",
        )
    _show_unreachable()


def _show_counts(outcome: _Outcome, what: str) -> None:
    from pgseal.cli.output import format_count, printable, say

    if not outcome.counts:
        say("no record is about that")
        return
    total = outcome.counts.total()
    say(f"{format_count(total, 'record')} {what}:")
    for (trail, relation, source, action, parts), count in sorted(outcome.counts.items(), key=str):
        place = f"{printable(trail)}  {printable(relation or source)}  {printable(action)}"
        say(f"  {count:>7,}  {place}  {' and '.join(parts)}")


def _show_notes(outcome: _Outcome) -> None:
    from pgseal.cli.output import format_count, printable, say

    if outcome.acts:
        say(("! ", "yellow"), f"{format_count(outcome.acts, 'record')} of pgseal's own acts name that actor, and stay")
    if outcome.mentioned:
        names = ", ".join(printable(name) for name in outcome.mentioned[:_SHOWN_MENTIONED])
        more = f" and {len(outcome.mentioned) - _SHOWN_MENTIONED:,} more" if len(outcome.mentioned) > _SHOWN_MENTIONED else ""
        say(("! ", "yellow"), f"these have the key's value somewhere, and stay unless named with --record: {names}{more}")


def _show_returned(trails: Mapping[str, int], vault: int, what: str, mark: str = "") -> None:
    from pgseal.cli.output import format_count, printable, say

    where = [f"{format_count(count, 'row')} of trail {printable(name)}" for name, count in sorted(trails.items())]
    say((mark, "green"), f"{', '.join([*where, f'{vault:,} of the vault'])} {what}")


def _show_unreachable() -> None:
    from pgseal.cli.output import say
    from pgseal.sealer.erasure import UNREACHABLE

    say("out of reach, and yours to see to:")
    for what in UNREACHABLE:
        say(f"  {what}")
