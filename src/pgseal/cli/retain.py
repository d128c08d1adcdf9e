"""``pgseal retain``: drop from the trails what is past its retention and proven to be in vault and ledger.

A crash between any two steps loses nothing, and the next run goes on or starts over:

    seal, verify everything   a finding: nothing is dropped; a row that is not sealed: its partition stays
    RETENTION record sealed   from here on the partition's rows may be gone
    close, detach, drop       (``pgseal.trail.retention``); before the drop the rows are compared once more
    fill                      what that leaves open at the beginning of time; every start of the sealer does, too
"""

import time
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from pgseal.cli.failures import FOUND
from pgseal.cli.invocation import load_settings
from pgseal.cli.options import AsJson
from pgseal.errors import ConflictError, StorageError

if TYPE_CHECKING:
    from pgseal.core.retention import Retention
    from pgseal.settings import Settings, Source
    from pgseal.trail.partitions import Partition
    from pgseal.trail.retention import PartitionOwner
    from pgseal.trail.source import TrailRows
    from pgseal.vault.source import VaultRows
    from pgseal.verifier import Report, Verifier
    from pgseal.verifier.retention import Match

EXAMPLE = "pgseal retain --dry-run"

_LOCK = "pgseal retain"
_WAIT_SECONDS = 30.0
_LOCK_SECONDS = 60.0


def retain(
    context: typer.Context,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Verify and say what would be dropped; change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Drop from the trails what is past its retention.

    Only whole partitions, whose records were verified against vault and ledger and stay there for ever, and only once
    a RETENTION record of them is sealed. How long a trail keeps its records is `retention` of its source in
    pgseal.toml; without it, for ever.
    """
    settings = load_settings(context)
    with closing(_Retainer(settings, quiet=as_json)) as retainer:
        outcome = retainer.run(dry_run=dry_run)
    is_clean = not outcome.kept and (outcome.report is None or not has_obstacles(outcome.report))
    if as_json:
        _print(outcome, is_clean=is_clean, dry_run=dry_run)
    else:
        _show(outcome, settings, dry_run=dry_run)
    return 0 if is_clean else FOUND


@dataclass(frozen=True, slots=True)
class _Plan:
    """A partition that is to go: what its RETENTION records say, one for each incarnation, and what its rows are."""

    source: "Source"
    partition: "Partition"
    retentions: "Sequence[Retention]"
    match: "Match"

    @property
    def count(self) -> int:
        """How many records it has."""
        return sum(one.count for one in self.retentions)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A partition that is past its retention and stays, and why."""

    plan: _Plan
    reason: str


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What was dropped, or would be; what stays; and the verification, if there was one."""

    dropped: Sequence[_Plan] = ()
    kept: Sequence[_Kept] = ()
    report: "Report | None" = None


class _Retainer:
    """One run, with its connections."""

    def __init__(self, settings: "Settings", *, quiet: bool) -> None:
        from pgseal.postgres import connect
        from pgseal.sealer.trails import SEALER_ROLE
        from pgseal.vault.store import VaultStore

        self._settings = settings
        self._quiet = quiet
        self._sources = [source for source in settings.sources if source.retention is not None]
        self._vault: VaultStore = VaultStore(connect(settings.vault.dsn.reveal(), side="vault", role=SEALER_ROLE))
        self._owners: dict[str, PartitionOwner] = {}

    def close(self) -> None:
        for owner in self._owners.values():
            owner.close()
        self._vault.connection.close()

    def run(self, *, dry_run: bool) -> _Outcome:
        """Find, verify, drop.

        Raises ``ConflictError`` beside another run, and whatever keeps it from going on.
        """
        from pgseal.sealer.acts import seal_all
        from pgseal.sealer.holds import alone_with_holds

        if not self._vault.try_lock(_LOCK):
            raise ConflictError("another pgseal retain is at work on this vault; there can be one at a time")
        if not dry_run:
            for source in self._sources:
                self._start_over(source)
        if not any(self._find_work(source) for source in self._sources):
            return _Outcome()
        if not dry_run:
            seal_all(self._settings)
        plans, report = self._verify()
        if has_obstacles(report):
            return _Outcome(report=report)
        # Nobody adds a hold between the look at them and the end.
        with alone_with_holds(self._vault):
            ready, kept = _split(plans, self._read_held(plans))
            if dry_run:
                return _Outcome(ready, kept, report)
            with self._alone():
                return self._drop_all(ready, kept, report)

    def _read_held(self, plans: "Sequence[_Plan]") -> dict[str, str]:
        """Return the partitions with records that must be kept, and the hold that says so.

        Of a held row's table every record keeps its partition: a hold does not say which row it is about.
        """
        from pgseal.sealer.holds import read_active

        held: dict[str, str] = {}
        for hold in read_active(self._settings, self._vault):
            for plan in plans:
                ranges = [pair for one in plan.retentions for pair in one.leaves]
                if hold.relation is None or self._vault.has_relation(plan.source.name, hold.relation, ranges):
                    held.setdefault(plan.partition.relation, hold.name)
        return held

    def _start_over(self, source: "Source") -> None:
        """Undo what a former run that was killed had begun and nothing speaks of yet."""
        owner = self._owner(source)
        for relation in owner.read_closed(attached=True):
            owner.open_partition(relation)
        owner.fill()

    def _find_work(self, source: "Source") -> bool:
        return bool(self._read_expired(source) or self._owner(source).read_closed(attached=False))

    def _read_expired(self, source: "Source") -> "list[Partition]":
        return self._owner(source).read_expired(source.retention or "", time.time())

    def _owner(self, source: "Source") -> "PartitionOwner":
        from pgseal.trail.retention import PartitionOwner

        if source.name not in self._owners:
            self._owners[source.name] = PartitionOwner(source.admin_dsn.reveal(), side=f"source {source.name!r}")
        return self._owners[source.name]

    # -- verifying

    def _verify(self) -> "tuple[list[_Plan], Report]":
        from pgseal.cli.verify import verify_all
        from pgseal.verifier import FileKeptCheckpoint

        plans: list[_Plan] = []

        def look_closer(verifier: "Verifier", vault: "VaultRows") -> None:
            """Match the rows of each partition that is to go."""
            for source in self._sources:
                for partition in self._read_expired(source):
                    if not partition.is_detaching:  # otherwise its rows are not to be seen, and were matched once
                        rows = self._partition_rows(source, partition.relation)
                        match = verifier.match_partition(rows)
                        plans.append(_plan(source, partition, rows.incarnation, match, vault))

        report, _ = verify_all(
            self._settings,
            self._settings.read_verifier(),
            FileKeptCheckpoint(self._settings.state),
            quiet=self._quiet,
            look_closer=look_closer,
        )
        return plans, report

    def _partition_rows(self, source: "Source", relation: str) -> "TrailRows":
        from pgseal.sealer.trails import read_state
        from pgseal.trail.source import TrailRows

        owner = self._owner(source)
        return TrailRows(owner.connection, read_state(self._vault, source.name), owner.side, partition=relation)

    # -- dropping

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Let no verification begin that would read the ledger before and a trail after the rows are gone."""
        from pgseal.vault.store import READING_LOCK

        until = time.monotonic() + _LOCK_SECONDS
        while not self._vault.try_lock(READING_LOCK):
            if time.monotonic() > until:
                raise ConflictError("a pgseal verify is at work; nothing is dropped beside it, run it again later")
            time.sleep(0.1)
        yield  # the lock ends with the connection

    def _drop_all(self, plans: Sequence[_Plan], kept: list[_Kept], report: "Report") -> _Outcome:
        from pgseal.sealer.retention import ensure_sealed

        dropped: list[_Plan] = []
        for owner in {plan.source.name: self._owner(plan.source) for plan in plans}.values():
            owner.wait_for_users(_WAIT_SECONDS)
        # From here on the rows may be gone. Killed now, the next run finds the records and does not repeat them.
        # (All of them first: sealing fills the gaps that dropping leaves.)
        ensure_sealed(self._settings, self._vault, [one for plan in plans for one in plan.retentions])
        try:
            for source in self._sources:
                self._finish(source)
                for plan in plans:
                    if plan.source is not source:
                        continue
                    if not self._drop(plan):
                        kept.append(_Kept(plan, "rows arrived while it was looked at; run it again"))
                        break
                    dropped.append(plan)
        finally:
            for source in self._sources:
                self._owner(source).fill()
        return _Outcome(dropped, kept, report)

    def _finish(self, source: "Source") -> None:
        """Finish what a former run had begun to detach, or had detached."""
        owner = self._owner(source)
        for partition in owner.read_partitions():
            if partition.is_detaching:
                owner.detach(partition, _WAIT_SECONDS)
                self._drop_detached(source, partition.relation)
        for relation in owner.read_closed(attached=False):
            self._drop_detached(source, relation)

    def _drop(self, plan: _Plan) -> bool:
        """Drop one partition; False if rows arrived since it was looked at, and it stays."""
        owner, relation = self._owner(plan.source), plan.partition.relation
        owner.wait_for_users(_WAIT_SECONDS)
        owner.close_partition(relation)
        if owner.count_rows(relation) != plan.count:
            owner.open_partition(relation)
            return False
        # Killed now, the next run opens it again first.
        owner.detach(plan.partition, _WAIT_SECONDS)
        # Killed in between or now, the next run finishes it.
        self._drop_detached(plan.source, relation)
        return True

    def _drop_detached(self, source: "Source", relation: str) -> None:
        """Compare the rows once more, now that nobody can add one, and drop them if sealed records cover all."""
        from pgseal.core.ranges import LeafRanges
        from pgseal.sealer.acts import read_sealed_size
        from pgseal.sealer.retention import read_sealed
        from pgseal.vault.source import VaultRows
        from pgseal.verifier import VAULT_COLUMNS
        from pgseal.verifier.report import FindingLog
        from pgseal.verifier.retention import match_rows

        owner, rows = self._owner(source), self._partition_rows(source, relation)
        covered = LeafRanges(
            pair for one in read_sealed(self._settings, self._vault) if one.trail == rows.name for pair in one.leaves
        )
        size, findings = read_sealed_size(self._settings), FindingLog()
        with closing(VaultRows(self._settings.vault.dsn.reveal(), VAULT_COLUMNS)) as vault, owner.dropping(relation):
            match = match_rows(rows, vault, size, {}, findings, owner.read_id_range(relation))
            if findings.total or match.waiting or not covered.covers(match.leaves):
                raise StorageError(
                    f"{owner.side}: {relation} was detached and has rows that no sealed RETENTION record covers: "
                    "somebody changed it. It was not dropped: find out who, and attach it again"
                )


def _plan(source: "Source", partition: "Partition", incarnation: int, match: "Match", vault: "VaultRows") -> _Plan:
    from pgseal.core.ranges import join_ranges
    from pgseal.core.retention import Retention

    retentions: list[Retention] = []
    if match.count:
        begin, end = match.leaves.ranges[0][0], match.leaves.end
        for number in range(1, incarnation + 1):
            own = list(vault.copy_leaf_indexes(source.name, number, begin, end))
            if count := sum(leaf in match.leaves for leaf in own):
                leaves = join_ranges(match.leaves, own)
                retentions.append(Retention(source.name, number, count, leaves, partition.relation))
    return _Plan(source, partition, retentions, match)


def has_obstacles(report: "Report", *, but_for: Collection[str] = ()) -> bool:
    """Return whether anything was found but what is found for ever: MALFORMED rows, and bounds a clock contradicted.

    Nor what is of a kind in ``but_for``, which the caller is about to mend.
    """
    return report.total_findings > len(report.findings) or any(
        finding.kind not in {"malformed_record", "time_bound", *but_for} for finding in report.findings
    )


def _split(plans: Sequence[_Plan], held: Mapping[str, str]) -> tuple[list[_Plan], list[_Kept]]:
    """Return what can go and what cannot: from the first one on that is held or has rows which are not sealed."""
    ready: list[_Plan] = []
    kept: list[_Kept] = []
    stopped: set[str] = set()
    for plan in plans:
        if plan.match.waiting or plan.match.wrong:
            what = (
                f"not sealed yet: {plan.match.waiting:,}" if plan.match.waiting else f"malformed: {plan.match.wrong:,}"
            )
            kept.append(_Kept(plan, f"{what} of its rows"))
            stopped.add(plan.source.name)
        elif plan.partition.relation in held:
            kept.append(_Kept(plan, f"kept by legal hold {held[plan.partition.relation]}"))
            stopped.add(plan.source.name)
        elif plan.source.name in stopped:
            kept.append(_Kept(plan, "an older partition stays"))
        else:
            ready.append(plan)
    return ready, kept


def _print(outcome: _Outcome, *, is_clean: bool, dry_run: bool) -> None:
    from dataclasses import asdict

    from pgseal.cli.output import print_json

    print_json({
        "ok": is_clean,
        "dry_run": dry_run,
        "dropped": [
            {
                "trail": plan.source.name,
                "relation": plan.partition.relation,
                "records": plan.count,
                "leaves": [list(pair) for one in plan.retentions for pair in one.leaves],
            }
            for plan in outcome.dropped
        ],
        "kept": [
            {"trail": one.plan.source.name, "relation": one.plan.partition.relation, "reason": one.reason}
            for one in outcome.kept
        ],
        "findings": [asdict(finding) for finding in outcome.report.findings] if outcome.report else [],
    })  # fmt: skip


def _show(outcome: _Outcome, settings: "Settings", *, dry_run: bool) -> None:
    from pgseal.cli.output import format_count, printable, say
    from pgseal.cli.verify import show_findings

    if outcome.report is not None and has_obstacles(outcome.report):
        say("nothing is dropped while there are findings:")
        show_findings(outcome.report)
        return
    for plan in outcome.dropped:
        count = format_count(plan.count, "record")
        words = f"{printable(plan.partition.relation)} of trail {printable(plan.source.name)}, {count}"
        say(*(("would drop ", words) if dry_run else (("✓", "green"), f" dropped {words}")))
    for one in outcome.kept:
        name = f"{printable(one.plan.partition.relation)} of trail {printable(one.plan.source.name)}"
        say(("! ", "yellow"), f"{name} stays: {one.reason}")
    if not outcome.dropped and not outcome.kept:
        kept = [f"{printable(source.name)} keeps {source.retention}" for source in settings.sources if source.retention]
        say(f"nothing to drop: {', '.join(kept) or 'no source has a retention in pgseal.toml, so all is kept'}")
