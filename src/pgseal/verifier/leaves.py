"""One range of leaves: the ledger's entries and tiles, and in the same pass the vault's rows.

A range is the leaves below one level-1 tile, 65,536 of them. Both sides are read once, a bundle at a time; in the usual
case a bundle costs a handful of C-level operations a record and one comparison. Whatever is unusual sends the bundle
down the slow path of ``compare``.
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from pgseal.copybinary import iter_rows
from pgseal.core.canonical import parse_json
from pgseal.core.envelope import Envelope
from pgseal.core.erasure import ERASE, Erasure, parse_erase
from pgseal.core.fields import parse_time
from pgseal.core.heartbeat import HEARTBEAT, Bounds, parse_heartbeat
from pgseal.core.recovery import RECOVER, Recovery, parse_recovery
from pgseal.core.retention import RETENTION, Retention, parse_retention
from pgseal.core.rotation import KEY_ROTATE
from pgseal.core.tiles import TILE_WIDTH
from pgseal.errors import ForgedRecordError, FormatError, TamperError
from pgseal.verifier.compare import Sealed, find_gone, judge_rows
from pgseal.verifier.erasure import GoneParts
from pgseal.verifier.report import Finding, FindingLog
from pgseal.verifier.rows import MALFORMED, LeafFormer, Row, parse_row, read_leaf_index
from pgseal.verifier.sources import LedgerFiles, VaultSource
from pgseal.verifier.tree import Bundle, TreeReader, hash_at

#: Leaves in a range: one full level-1 tile.
RANGE = TILE_WIDTH * TILE_WIDTH
#: Rows that may claim one leaf before the rest is only counted.
_MAX_CLAIMS = 64
_MAX_DATA_BYTES = 64 * 1024
_MAX_DATA_DEPTH = 8
_ID = re.compile(r"-?[0-9]{1,19}")
#: The one trail whose RETENTION, RECOVER and ERASE records count.
_VAULT_TRAIL = "vault"


@dataclass(frozen=True, slots=True)
class Log:
    """What every range has in common: the ledger, the vault (None: leave it out), the signed size and root."""

    files: LedgerFiles
    vault: VaultSource | None
    tree_size: int
    root: bytes
    max_findings: int


@dataclass(frozen=True, slots=True)
class RangeTask:
    """Which range, the stored hash of its level-1 tile in the level above, and whether that level's tile is sound."""

    index: int
    parent: bytes | None
    parent_sound: bool


@dataclass(slots=True)
class Segment:
    """Leaves from a HEARTBEAT (None: from the range's beginning) up to the next: earliest and latest time by trail.

    ``heartbeat`` is its leaf index, its own time and what it says. Times are in microseconds since the Unix epoch.
    """

    heartbeat: tuple[int, int, Mapping[str, Bounds]] | None = None
    times: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])

    def add(self, trail: str, earliest: int, latest: int) -> None:
        """Note the times of leaves."""
        before = self.times.get(trail, (earliest, latest))
        self.times[trail] = min(earliest, before[0]), max(latest, before[1])


@dataclass(slots=True)
class RangeResult:
    """What one range came to.

    ``root`` is the settled hash of the full level-1 tile; of a range that is cut off by the end of the tree,
    ``hashes`` holds the settled hashes of level 0 (beyond the last full bundle) and of level 1. ``damaged`` gives, by
    leaf index, the sealed trail, incarnation and id of every leaf whose vault row has a finding, None where the ledger
    cannot say either. ``malformed`` lists trail, id and leaf index of the rows that MALFORMED records stand for.
    ``retentions`` and ``recoveries`` list what the vault's own RETENTION and RECOVER records say, those that speak of
    leaves before their own; ``erasures`` what its ERASE records say, by their leaf, and ``gone`` what is not there;
    ``rotations`` index, data and actor of its KEY_ROTATE records. ``segments`` are the range's parts between
    HEARTBEATs, in order.
    """

    index: int
    entries: int = 0
    rows: int = 0
    root: bytes | None = None
    hashes: tuple[list[bytes] | None, list[bytes | None]] = (None, [])
    findings: list[Finding] = field(default_factory=list[Finding])
    total: int = 0
    ledger_findings: int = 0
    trails: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])
    damaged: dict[int, tuple[str, int, int] | None] = field(default_factory=dict[int, "tuple[str, int, int] | None"])
    malformed: list[tuple[str, int, int]] = field(default_factory=list[tuple[str, int, int]])
    retentions: list[Retention] = field(default_factory=list[Retention])
    recoveries: list[tuple[int, Recovery]] = field(default_factory=list[tuple[int, Recovery]])
    rotations: list[tuple[int, bytes, bytes]] = field(default_factory=list[tuple[int, bytes, bytes]])
    erasures: list[tuple[int, Erasure]] = field(default_factory=list[tuple[int, Erasure]])
    gone: list[GoneParts] = field(default_factory=list[GoneParts])
    segments: list[Segment] = field(default_factory=lambda: [Segment()])


class RangeChecker:
    """Checks ranges of one log, one after the other. One for each process."""

    def __init__(self, log: Log) -> None:
        """Check ranges of ``log``."""
        self._log = log
        self._former = LeafFormer()

    def check(self, task: RangeTask) -> RangeResult:
        """Return what the range came to; raises ``StorageError`` where the check cannot be made."""
        return _RangePass(self._log, self._former, task).run()


class _RangePass:
    """The state of one pass over one range."""

    def __init__(self, log: Log, former: LeafFormer, task: RangeTask) -> None:
        self._log = log
        self._former = former
        self._task = task
        self._ledger_findings = FindingLog(log.max_findings)
        self._vault_findings = FindingLog(log.max_findings)
        self._tree = TreeReader(log.files, log.tree_size, log.root, self._ledger_findings)
        self._result = RangeResult(task.index)
        self._begin = task.index * RANGE
        self._end = min(self._begin + RANGE, log.tree_size)
        rows = () if log.vault is None else iter_rows(log.vault.copy_rows(self._begin, self._end))
        self._rows = _RowStream(iter(rows))
        self._last = Sealed(-1, None, None)  # the leaf before the one that is looked at

    def run(self) -> RangeResult:
        result = self._result
        self._check_bundles()
        for row in self._rows:
            self._report_stray(parse_row(row))
        result.findings = [*self._ledger_findings.listed, *self._vault_findings.listed]
        result.ledger_findings = self._ledger_findings.total
        result.total = self._ledger_findings.total + self._vault_findings.total
        result.trails = set(self._former.trails)
        return result

    def _check_bundles(self) -> None:
        task, result, tree = self._task, self._result, self._tree
        stored, sound = (None, False)
        if self._begin + TILE_WIDTH <= self._end:  # otherwise there is no tile above level 0
            stored, sound = tree.read_inner(1, task.index, task.parent)
        settled: list[bytes | None] = []
        last: list[bytes] | None = []
        for number, first in enumerate(range(self._begin, self._end, TILE_WIDTH)):
            width = min(TILE_WIDTH, self._end - first)
            vouched = sound if width == TILE_WIDTH else tree.is_anchored
            bundle = tree.read_bundle(first // TILE_WIDTH, hash_at(stored, number), vouched=vouched)
            if width == TILE_WIDTH:
                settled.append(bundle.root)
            else:
                last = bundle.hashes
            result.entries += width
            if self._log.vault is not None:
                self._check_rows(first, width, bundle)
        if settled:
            result.root = tree.judge_inner(
                1, task.index, stored, settled, sound=sound, parent=task.parent, parent_sound=task.parent_sound
            )
        if self._end - self._begin < RANGE:
            result.hashes = (last, settled)

    def _check_rows(self, first: int, width: int, bundle: Bundle) -> None:
        rows = self._rows.take(width)
        if len(rows) == width:
            leaves = self._former.form(rows, first)
            # No leaf of ours has a newline in it, so the joined texts are equal only if every leaf is.
            if leaves is not None and "\n".join(leaves).encode() == bundle.joined:
                self._result.rows += width
                self._last = bundle.sealed(first, width - 1)
                for trail, times in self._former.take_times().items():
                    self._result.segments[-1].add(trail, *times)
                return
        self._former.take_times()  # of rows that are looked at again now, one by one
        self._rows.give_back(rows)
        for number in range(width):
            index = first + number
            sealed = bundle.sealed(first, number)
            envelope = sealed.envelope()
            if envelope is not None:
                self._former.trails.add((envelope.trail, envelope.incarnation))
            self._last = sealed
            self._check_leaf(index, sealed, envelope, self._take_claims(index))

    def _check_leaf(self, index: int, sealed: Sealed, envelope: Envelope | None, claims: Sequence[Row]) -> None:
        self._result.rows += bool(claims)
        errors = judge_rows(sealed, claims)
        if errors:
            self._report(sealed, errors)
        elif gone := find_gone(claims[0]):
            self._note_gone(index, envelope, claims[0], gone)
        elif sealed.entry is not None:
            self._note_malformed(index, claims[0])
            self._note_explanation(index, claims[0])
        if envelope is not None:
            moment = parse_time(envelope.time)
            if not errors:
                self._note_heartbeat(index, moment, claims[0])
            self._result.segments[-1].add(envelope.trail, moment, moment)

    def _take_claims(self, index: int) -> list[Row]:
        """Return the rows at one leaf index; what stands before them in the stream has no right to."""
        claims: list[Row] = []
        for row in self._rows:
            found = read_leaf_index(row)
            if found is not None and found > index:
                self._rows.give_back([row])
                break
            if found == index and len(claims) < _MAX_CLAIMS:
                claims.append(parse_row(row))
            else:
                self._report_stray(parse_row(row))
        return claims

    def _report_stray(self, row: Row) -> None:
        index = -1 if row.leaf_index is None else row.leaf_index
        sealed = self._last if self._last.leaf_index == index else Sealed(index, None, None)
        error = ForgedRecordError(
            f"record {row.trail}/{row.id} claims leaf {index}, which another row has",
            where="vault",
            trail=row.trail,
            record_id=row.id,
            leaf_index=index,
        )
        self._report(sealed, [error])

    def _report(self, sealed: Sealed, errors: Sequence[TamperError]) -> None:
        for error in errors:
            self._vault_findings.add(error)
        envelope = sealed.envelope()
        self._result.damaged[sealed.leaf_index] = envelope and (envelope.trail, envelope.incarnation, envelope.id)

    def _note_gone(self, index: int, envelope: Envelope | None, row: Row, parts: tuple[str, ...]) -> None:
        if envelope is None:
            noted = GoneParts(index, parts, row.trail, row.incarnation, row.id, row.source)
        else:
            noted = GoneParts(index, parts, envelope.trail, envelope.incarnation, envelope.id, envelope.source)
        self._result.gone.append(noted)

    def _note_malformed(self, index: int, row: Row) -> None:
        if row.action == MALFORMED and row.data is not None:
            named = parse_malformed(row.data)
            if named is not None:
                self._result.malformed.append((*named, index))

    def _note_explanation(self, index: int, row: Row) -> None:
        if (row.trail, row.source) != (_VAULT_TRAIL, "system") or row.data is None:
            return
        if row.action == KEY_ROTATE and row.actor is not None:
            self._result.rotations.append((index, row.data, row.actor))
        with suppress(FormatError):
            if row.action == RETENTION:
                retention = parse_retention(row.data)
                if retention.leaves[-1][1] <= index:
                    self._result.retentions.append(retention)
            elif row.action == RECOVER:
                recovery = parse_recovery(row.data)
                if not recovery.lost or recovery.lost[-1][1] <= index:
                    self._result.recoveries.append((index, recovery))
            elif row.action == ERASE:
                self._result.erasures.append((index, parse_erase(row.data)))

    def _note_heartbeat(self, index: int, moment: int, row: Row) -> None:
        if (row.trail, row.source, row.action) == (_VAULT_TRAIL, "system", HEARTBEAT) and row.data is not None:
            with suppress(FormatError):
                self._result.segments.append(Segment((index, moment, parse_heartbeat(row.data))))


class _RowStream:
    """An iterator that takes rows back."""

    def __init__(self, rows: Iterator[bytes]) -> None:
        self._rows = rows
        self._returned: deque[bytes] = deque()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._returned.popleft() if self._returned else next(self._rows)

    def take(self, count: int) -> list[bytes]:
        """Return up to ``count`` rows."""
        if not self._returned:
            return list(islice(self._rows, count))
        return list(islice(self, count))

    def give_back(self, rows: Sequence[bytes]) -> None:
        """Put rows that were taken in front again."""
        self._returned.extendleft(reversed(rows))


def parse_malformed(data: bytes) -> tuple[str, int] | None:
    """Return trail and id of the row that a MALFORMED record stands for; None if its data does not say."""
    try:
        value = parse_json(data, source="MALFORMED record", max_bytes=_MAX_DATA_BYTES, max_depth=_MAX_DATA_DEPTH)
    except FormatError:
        return None
    if not isinstance(value, dict):
        return None
    trail, id_ = value.get("trail"), value.get("id")
    if isinstance(id_, str) and _ID.fullmatch(id_):
        id_ = int(id_)
    return (trail, id_) if isinstance(trail, str) and type(id_) is int else None
