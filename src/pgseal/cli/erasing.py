"""What ``pgseal erase`` was asked for, what came of it, and how that is said."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pgseal.sealer.erasure import Destroyed
    from pgseal.vault.subject import Wanted
    from pgseal.verifier import Report

_SHOWN_MENTIONED = 20


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for."""

    wanted: "Wanted"
    reason: str
    approved_by: str
    again: bool
    rewrite: bool
    dry_run: bool


class Kind(NamedTuple):
    """What records have in common, for counting them."""

    trail: str
    relation: str | None
    source: str
    action: str
    parts: tuple[str, ...]

    def to_json(self, count: int) -> dict[str, object]:
        """Return one entry of the list of what is erased."""
        return {**self._asdict(), "parts": list(self.parts), "records": count}


@dataclass
class Outcome:
    """What was erased, or would be. ``counts`` by trail, table, source, action and parts."""

    counts: "Counter[Kind]" = field(default_factory=Counter[Kind])
    records: list[int] = field(default_factory=list[int])
    trail_rows: Counter[str] = field(default_factory=Counter[str])
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


def print_outcome(outcome: Outcome, order: Order, *, is_clean: bool) -> None:
    """Print the document of ``pgseal erase --json``."""
    from pgseal.cli.output import print_json

    print_json({
        "ok": is_clean,
        "dry_run": order.dry_run,
        "records": [kind.to_json(count) for kind, count in sorted(outcome.counts.items(), key=str)],
        "erase": outcome.records,
        "destroyed": {"trails": dict(outcome.trail_rows), "vault": outcome.vault_rows},
        "held_by": outcome.held,
        "acts_kept": outcome.acts,
        "mentioned": outcome.mentioned,
        "unfinished": outcome.is_unfinished,
        "not_vacuumed": dict(outcome.dead),
        "left_out": sorted(outcome.left_out),
        "unreachable": _list_unreachable(order),
        "findings": [asdict(one) for one in outcome.report.findings] if outcome.obstacles and outcome.report else [],
    })  # fmt: skip


def show_end(outcome: Outcome, order: Order) -> None:
    """Say what was done, or why not, and what is out of reach."""
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
            show_returned(outcome.trail_rows, outcome.vault_rows, "would be erased again")
        else:
            show_counts(outcome, "would be erased")
            show_notes(outcome)
    elif not (outcome.trail_rows.total() or outcome.vault_rows):
        say("nothing to erase" if not order.again else "nothing came back: all that was erased is gone")
    else:
        show_returned(outcome.trail_rows, outcome.vault_rows, "erased", mark="✓ ")
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
    _show_unreachable(order)


def show_counts(outcome: Outcome, what: str) -> None:
    """List what is about the subject, by table and action."""
    from pgseal.cli.output import format_count, printable, say

    if not outcome.counts:
        say("no record is about that")
        return
    total = outcome.counts.total()
    say(f"{format_count(total, 'record')} {what}:")
    for kind, count in sorted(outcome.counts.items(), key=str):
        place = f"{printable(kind.trail)}  {printable(kind.relation or kind.source)}  {printable(kind.action)}"
        say(f"  {count:>7,}  {place}  {' and '.join(kind.parts)}")


def show_notes(outcome: Outcome) -> None:
    """Say what stays, and may be about the subject."""
    from pgseal.cli.output import format_count, printable, say

    if outcome.acts:
        say(("! ", "yellow"), f"{format_count(outcome.acts, 'record')} of pgseal's own acts name that actor, and stay")
    if outcome.mentioned:
        names = ", ".join(printable(name) for name in outcome.mentioned[:_SHOWN_MENTIONED])
        rest = len(outcome.mentioned) - _SHOWN_MENTIONED
        more = f" and {rest:,} more" if rest > 0 else ""
        say(
            ("! ", "yellow"),
            f"these have the key somewhere in them, and stay unless named with --record: {names}{more}",
        )


def show_returned(trails: Mapping[str, int], vault: int, what: str, mark: str = "") -> None:
    """Say how many rows of each side there are."""
    from pgseal.cli.output import format_count, printable, say

    where = [f"{format_count(count, 'row')} of trail {printable(name)}" for name, count in sorted(trails.items())]
    say((mark, "green"), f"{', '.join([*where, f'{vault:,} of the vault'])} {what}")


def _show_unreachable(order: Order) -> None:
    from pgseal.cli.output import say

    say("out of reach, and yours to see to:")
    for what in _list_unreachable(order):
        say(f"  {what}")


def _list_unreachable(order: Order) -> list[str]:
    from pgseal.sealer.erasure import FREED, UNREACHABLE

    return [*([] if order.rewrite else [FREED]), *UNREACHABLE]
