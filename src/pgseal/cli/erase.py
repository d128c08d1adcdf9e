"""``pgseal erase``: destroy what trail and vault hold about a data subject; leaves and proofs stay.

The subject's records are found by table and key, actor, or one by one; a legal hold stops it. Then, once more if
records of the subject arrived meanwhile, ``pgseal.sealer.erasure`` takes its steps.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from pgseal.cli.erasing import Kind, Order, Outcome, print_outcome, show_counts, show_end, show_notes, show_returned
from pgseal.cli.failures import FOUND
from pgseal.cli.invocation import load_settings
from pgseal.cli.options import AsJson, parse_record_name
from pgseal.errors import ConfigError, ConflictError

if TYPE_CHECKING:
    from pgseal.core.hold import Hold
    from pgseal.postgres import Connection
    from pgseal.settings import Settings
    from pgseal.vault.subject import Subject, Target, Wanted
    from pgseal.verifier import Report

EXAMPLE = "pgseal erase --table public.patients --key 42 --reason 'request 2026-17' --approved-by j.doe"

_MAX_ROUNDS = 5
_LOCK_SECONDS = 60.0
_DISTINCTIVE = 4


def erase(
    context: typer.Context,
    *,
    tables: Annotated[
        list[str] | None,
        typer.Option("--table", metavar="TABLE", help="Table of the subject's row; several, each with its --key."),
    ] = None,
    keys: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="KEY", help="Its key, a value or a JSON object; several of one --table, too."),
    ] = None,
    actors: Annotated[
        list[str] | None, typer.Option("--actor", metavar="ACTOR", help="Who acted: erases who, not what was done.")
    ] = None,
    records: Annotated[
        list[str] | None, typer.Option("--record", metavar="[TRAIL/]ID", help="A single record, too.")
    ] = None,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why; sealed, and never erased: name nobody.")
    ] = None,
    approved_by: Annotated[
        str | None, typer.Option(metavar="WHO", help="Who decided it; sealed, and never erased.")
    ] = None,
    keep_actors: Annotated[
        bool, typer.Option("--keep-actors", help="Of records about a row, keep who made the change.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Erase what sealed ERASE records speak of and a backup brought back.")
    ] = False,
    rewrite: Annotated[
        bool, typer.Option("--rewrite", help="Write the tables anew, which locks them: nothing stays in freed space.")
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
        print_outcome(outcome, order, is_clean=is_clean)
    else:
        show_end(outcome, order)
    return 0 if is_clean else FOUND


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
        self._vault = VaultStore(connect(settings.vault.dsn.reveal(), side="vault", role=SEALER_ROLE))
        self._eraser = Eraser(settings, self._vault)
        self._outcome = Outcome()

    def close(self) -> None:
        self._eraser.close()
        self._vault.connection.close()

    def run(self) -> Outcome:
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
                show_counts(outcome, "will be erased")
                show_notes(outcome)
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
            outcome.counts[Kind(record.trail, record.relation, record.source, record.action, parts)] += 1
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
                show_returned(found.trails, found.vault, "will be erased again")
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
            f"every --table needs its --key, in the same order: got {len(tables)} and {len(keys)} of them"
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
