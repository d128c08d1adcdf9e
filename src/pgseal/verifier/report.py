"""What a verification found: findings, counts, and the report that ``pgseal verify`` prints."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from pgseal.core.recovery import Recovery
from pgseal.errors import TamperError, kind_of

#: Findings listed in full; beyond that they are only counted, so that a wrecked vault does not fill memory.
MAX_FINDINGS = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """One piece of evidence.

    ``kind`` is the error class's name without ``Error`` in snake case; ``where`` the side that shows it (checkpoint,
    ledger, vault, trail). ``trail``, ``id`` and ``index`` name the record as it was sealed and its leaf, where there
    is one.
    """

    kind: str
    where: str
    detail: str
    trail: str | None = None
    id: int | None = None
    index: int | None = None


def finding_of(error: TamperError) -> Finding:
    """Return the finding that says what ``error`` says."""
    return Finding(
        kind_of(type(error)), error.where, error.detail, trail=error.trail, id=error.record_id, index=error.leaf_index
    )


@dataclass(slots=True)
class FindingLog:
    """Findings in the order they were made: the first ``limit`` in full, the others counted."""

    limit: int = MAX_FINDINGS
    listed: list[Finding] = field(default_factory=list[Finding])
    total: int = 0

    def add(self, error: TamperError) -> None:
        """Add what ``error`` says."""
        self.total += 1
        if len(self.listed) < self.limit:
            self.listed.append(finding_of(error))

    def extend(self, findings: Iterable[Finding], total: int) -> None:
        """Add findings made elsewhere, ``total`` of them, of which some may not be listed."""
        self.total += total
        self.listed.extend(list(findings)[: self.limit - len(self.listed)])


@dataclass(frozen=True, slots=True)
class Gap:
    """Two heartbeats with nothing between them for long; their times as records write them."""

    begin: str
    end: str


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a verification that could be made.

    ``checked`` counts what was compared: ``trail`` rows with their sealed record, ``vault`` rows with their leaf,
    ``ledger`` entries with the root. ``findings`` lists the first ``MAX_FINDINGS`` of ``total_findings``. ``waiting``
    counts trail rows that are not sealed yet. ``unchecked_trails`` names trails that have sealed records and were not
    compared: the configuration no longer has their source, or the vault is too damaged to judge them by.
    ``not_compared`` names what was to be compared and could not be for want of something sound to compare it with:
    ``ledger``, ``vault``, ``trail NAME``. There is a finding that says why. ``retained`` counts, by trail, the sealed
    records that are gone from it as sealed RETENTION records say. ``recovered`` is what sealed RECOVER records say.
    ``warnings`` are no findings: what is weaker than it should be. ``witnessed`` is the size that the witnesses vouch
    for, as the policy wants it; None without one.
    ``gaps`` are the first long stretches without a heartbeat: nothing says that sealing went on there.
    """

    ok: bool
    origin: str
    size: int
    root: bytes
    checked: dict[str, int]
    findings: tuple[Finding, ...]
    total_findings: int
    waiting: int
    unchecked_trails: tuple[str, ...]
    not_compared: tuple[str, ...]
    retained: dict[str, int] = field(default_factory=dict[str, int])
    recovered: tuple[Recovery, ...] = ()
    warnings: tuple[str, ...] = ()
    witnessed: int | None = None
    erased: int = 0
    gaps: tuple[Gap, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the document of ``pgseal verify --json``."""
        return {
            "ok": self.ok,
            "checked": self.checked,
            "findings": [asdict(finding) for finding in self.findings],
            "total_findings": self.total_findings,
            "waiting": self.waiting,
            "unchecked_trails": list(self.unchecked_trails),
            "not_compared": list(self.not_compared),
            "retained": self.retained,
            "erased": self.erased,
            "recovered": [one.to_json() for one in self.recovered],
            "witnessed": self.witnessed,
            "warnings": list(self.warnings),
            "gaps": [asdict(one) for one in self.gaps],
        }
