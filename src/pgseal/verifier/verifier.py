"""``Verifier``: a state machine over what others give, from the pinned key to the trails' rows.

The caller feeds it the steps in order; out of order is ``RuntimeError``, the caller's mistake::

    verifier = Verifier(origin, key, ledger, kept)
    verifier.check_checkpoint(sealer_note)      1  the ledger's checkpoint
    verifier.check_leaves(vault)                2  ledger and vault
    verifier.check_trail(trail)                 3  once for each trail
    report = verifier.finish()                  4  the verdict, and the memory

Each step stands on what the one before it established, and on nothing else:

1. **Checkpoint.** The pinned key, or one that it passed the log to (``core.rotation``), says that the ledger's
   checkpoint is the log's own, under the expected origin. The checkpoint kept from the last run, and the newest one the
   sealer knows to be published, must be prefixes of it: a smaller size is ``rollback``, the same size with another root
   is ``fork``, a larger size needs a consistency proof from the ledger's tiles. Where the proof cannot be made or
   fails, step 2 tells which it is: ``fork`` if every file of the ledger is sound, ``proof`` if not. A ledger that shows
   no valid checkpoint is checked on against the newest of the others. Where witnesses are configured, the ledger's
   ``witnessed`` must be a checkpoint that as many of them have cosigned as the policy wants, and a prefix in the same
   way; so must be what the witnesses themselves show.
2. **Leaves.** Every file that a ledger of the signed size must have is read, every hash computed from the entries, and
   the root must be the signed one (``tree``, ``upper``). In the same pass the vault's rows must, in leaf order,
   rebuild to exactly the entries (``leaves``, ``compare``). The two are one step because the entries are then read
   once, and judged and used in the same reading. Rows at or above the size wait to be sealed; their indexes must follow
   without gap. A part may be gone with its salt if a later ERASE record of the vault's own trail says so (``erasure``);
   then it must be gone from the trail, too.
3. **Trails.** The rows of each trail must equal the vault's rows, now known to be what was sealed (``trails``). A row
   may be gone if a RETENTION record covers its leaf: one of the vault's own trail, sealed under the checkpoint, with
   the count of what it covers. One that covers anything else than it says explains nothing. Likewise RECOVER: a trail
   at incarnation n needs one for each incarnation from 2 to n, and the newest says which leaves are gone for good.
4. **Keys.** Every rotation that step 1 went by is a sealed record, and every KEY_ROTATE record of the vault's own trail
   is endorsed by both its keys and joins the chain of keys; what it says of earlier checkpoints holds.

``TamperError`` becomes a finding and the step goes on. ``StorageError`` and ``ConfigError`` mean that the check could
not be made, and end the verification: the machine takes no further step.

**What is remembered.** ``finish`` keeps the ledger's checkpoint, for the next run to compare with, if steps 1 and 2
were made and nothing speaks against *it*: signature, consistency with what was kept before, every file of the
ledger down to the signed root. Findings in the vault or a trail do not hold it back. They say nothing against the
checkpoint, and a verifier that forgot the log's state because of them would let whoever altered the vault also roll the
ledger back unnoticed. (A witness decides alike.) What is kept never shrinks, never gives way to another history: after
``rollback`` or ``fork`` every later run finds the same, until somebody who knows why removes the kept file.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import islice

from pgseal.copybinary import iter_rows
from pgseal.core.checkpoint import Checkpoint
from pgseal.core.cosignature import WitnessPolicy
from pgseal.core.encoding import format_base64
from pgseal.core.envelope import parse_envelope
from pgseal.core.erasure import ERASED, PARTS, Erased, Erasure
from pgseal.core.keys import VerifierKey
from pgseal.core.merkle import EMPTY_ROOT, check_consistency, prove_consistency
from pgseal.core.ranges import LeafRanges
from pgseal.core.recovery import Recovery
from pgseal.core.retention import Retention
from pgseal.core.rotation import LogKeys, RecordedRotation, read_rotation
from pgseal.errors import (
    ConfigError,
    ForgedRecordError,
    ForkError,
    FormatError,
    MissingRecordError,
    ProofError,
    RollbackError,
    SignatureError,
    StorageError,
    TamperError,
)
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import CHECKPOINT, LedgerStore, MissingObjectError
from pgseal.verifier.bounds import check_bounds, find_gaps
from pgseal.verifier.compare import find_differences
from pgseal.verifier.erasure import GoneParts, find_content, settle_gone
from pgseal.verifier.leaves import RANGE, Log, RangeResult, Segment
from pgseal.verifier.pool import MIN_PARALLEL_RANGES, check_ranges, count_processors
from pgseal.verifier.report import MAX_FINDINGS, FindingLog, Report
from pgseal.verifier.retention import Match, match_rows
from pgseal.verifier.rows import Row, parse_row
from pgseal.verifier.sources import KeptCheckpoint, TrailSource, VaultSource
from pgseal.verifier.trails import Known, TrailCheck
from pgseal.verifier.upper import UpperTiles
from pgseal.verifier.witnessed import Witnessed, describe_lag, open_witnessed

#: Called with the step (``ledger``, ``vault`` or ``trail NAME``), what is done, and the total where it is known.
Progress = Callable[[str, int, int | None], None]

#: Damaged vault rows that are remembered for judging the trails; with more, trails are not compared with that vault.
_MAX_DAMAGED = 200_000


class _Step(IntEnum):
    NEW = 0
    CHECKPOINT = 1
    LEAVES = 2
    FINISHED = 3
    FAILED = 4


@dataclass(frozen=True, slots=True)
class _Trusted:
    """A checkpoint that is trusted beside the ledger's own, and what to call it."""

    name: str
    checkpoint: Checkpoint


class Verifier:
    """Verifies one log with its vault and trails; see the module. Not safe for concurrent use."""

    def __init__(
        self,
        origin: str,
        key: VerifierKey,
        ledger: LedgerStore,
        kept: KeptCheckpoint,
        *,
        workers: int | None = None,
        progress: Progress | None = None,
        max_findings: int = MAX_FINDINGS,
    ) -> None:
        """Verify the log ``origin`` with the pinned ``key``.

        Args:
            origin: the log's name.
            key: the verifier key that is trusted; it may have passed the log to another since, or have followed one.
            ledger: the ledger; picklable.
            kept: the verifier's memory.
            workers: processes that check leaves, by default one for each processor; 1 works in this process.
                Otherwise the main module must be importable without side effects (``multiprocessing``, spawn).
            progress: is told how far it has come.
            max_findings: how many findings are listed in full.
        """
        self._origin = origin
        self._keys = LogKeys(key)
        self._ledger = ledger
        self._reader = LedgerReader(ledger)
        self._kept = kept
        self._workers = count_processors() if workers is None else workers
        self._progress: Progress = progress or (lambda _step, _done, _total: None)
        self._findings = FindingLog(max_findings)
        self._step = _Step.NEW
        self._checkpoint: Checkpoint | None = None
        self._note = b""
        self._vault: VaultSource | None = None
        self._unproven: list[tuple[_Trusted, str]] = []
        self._is_own_checkpoint = False
        self._ledger_findings = 0
        self._checked = {"trail": 0, "vault": 0, "ledger": 0}
        self._waiting = 0
        self._sealed_trails: set[tuple[str, int]] = set()
        self._checked_trails: set[tuple[str, int]] = set()
        self._malformed: dict[str, dict[int, int]] = {}
        self._damaged: dict[tuple[str, int], dict[int, int]] = {}
        self._damaged_leaves: dict[int, bool] = {}
        self._not_compared: list[str] = []
        self._retentions: list[Retention] = []
        self._recoveries: list[tuple[int, Recovery]] = []
        self._rotations: list[tuple[int, bytes, bytes]] = []
        self._erasures: list[tuple[int, Erasure]] = []
        self._gone: list[GoneParts] = []
        self._erased = Erased()
        self._segments: dict[int, list[Segment]] = {}
        self._retained: dict[str, int] = {}
        self._warnings: list[str] = []
        self._witnessed: Witnessed | None = None

    # -- step 1

    def check_checkpoint(
        self,
        sealer_note: bytes | None = None,
        *,
        policy: WitnessPolicy | None = None,
        held: Mapping[str, bytes] | None = None,
        now: float = 0.0,
        rotations: Sequence[RecordedRotation] = (),
    ) -> None:
        """Check the ledger's checkpoint against key, memory, sealer and witnesses.

        ``sealer_note`` is the newest checkpoint that the sealer knows it has published. The caller reads it *before* it
        calls this, because a running sealer publishes newer ones all the time. With a ``policy`` that many witnesses
        must have cosigned; ``now``, in seconds since the Unix epoch, is what their times are judged by. ``held`` are
        the checkpoints that witnesses show themselves, by name: a rollback shows there without any memory of ours.
        ``rotations`` are what the vault's KEY_ROTATE records say, endorsed by their keys; step 2 shows which are
        sealed.
        """
        self._enter(_Step.NEW)
        kept_note = self._kept.load(self._origin)
        self._keys.learn(rotations)
        # Before the ledger's checkpoint: a sealer replaces that first.
        unwitnessed: SignatureError | None = None
        if policy is not None:
            try:
                self._witnessed = open_witnessed(self._reader, self._origin, self._keys, policy, now)
            except SignatureError as error:
                unwitnessed = error
        witnessed = self._witnessed
        trusted = [
            found
            for found in (
                self._open_trusted("kept by this verifier", kept_note),
                self._open_trusted("published by the sealer", sealer_note),
                witnessed and _Trusted(f"cosigned by {', '.join(witnessed.cosigners)}", witnessed.checkpoint),
                *(self._open_held(name, note) for name, note in (held or {}).items()),
            )
            if found is not None
        ]
        self._checkpoint = self._open_published()
        if self._checkpoint is None:
            newest = max(trusted, key=lambda found: found.checkpoint.size, default=None)
            self._checkpoint = newest and newest.checkpoint
        else:
            self._is_own_checkpoint = True
            for found in trusted:
                self._compare(found, self._checkpoint)
            if witnessed is not None and policy is not None:
                lag = describe_lag(self._reader, witnessed, self._checkpoint, policy, now)
                self._warnings += [] if lag is None else [lag]
        self._ledger_findings = self._findings.total
        # It says nothing against the checkpoint, which is remembered all the same.
        if unwitnessed is not None:
            self._findings.add(unwitnessed)
        self._step = _Step.CHECKPOINT

    def _open_published(self) -> Checkpoint | None:
        try:
            self._note = self._reader.checkpoint_note()
            return self._keys.open(self._note, origin=self._origin).checkpoint
        except MissingObjectError:
            self._findings.add(ProofError("the ledger has no checkpoint: nothing says what it holds", where=CHECKPOINT))
        except FormatError as error:
            self._findings.add(SignatureError(f"the ledger's checkpoint is none: {error}", where=CHECKPOINT))
        except SignatureError as error:
            self._findings.add(SignatureError(f"the ledger's {CHECKPOINT}: {error.detail}", where=CHECKPOINT))
        return None

    def _open_trusted(self, name: str, note: bytes | None) -> _Trusted | None:
        if note is None:
            return None
        try:
            return _Trusted(name, self._keys.open(note, origin=self._origin).checkpoint)
        except FormatError as error:
            raise StorageError(
                f"the checkpoint {name} for {self._origin!r} is damaged ({error}): find out why; without it the ledger "
                "can be trusted anew, but not compared with the past"
            ) from error
        except SignatureError as error:
            self._findings.add(
                SignatureError(f"the checkpoint {name}: {error.detail}; was the log's key replaced?", where=CHECKPOINT)
            )
            return None

    def _open_held(self, name: str, note: bytes) -> _Trusted | None:
        try:
            opened = self._keys.open(note, origin=self._origin)
        except (FormatError, SignatureError) as error:
            self._warnings.append(f"witness {name} shows no checkpoint that is signed with this log's key: {error}")
            return None
        return _Trusted(f"held by witness {name}", opened.checkpoint)

    def _compare(self, trusted: _Trusted, published: Checkpoint) -> None:
        old = trusted.checkpoint
        if published.size < old.size:
            self._findings.add(
                RollbackError(
                    f"the ledger shows size {published.size}; the checkpoint {trusted.name} has size {old.size}",
                    where=CHECKPOINT,
                )
            )
        elif published.size == old.size:
            if published.root != old.root:
                self._add_fork(trusted, published)
        elif old.size:
            try:
                proof = prove_consistency(old.size, published.size, self._reader.hashes(published.size))
                check_consistency(proof, old.size, published.size, old.root, published.root)
            except (MissingObjectError, FormatError, ProofError) as error:
                self._unproven.append((trusted, str(error)))
        elif old.root != EMPTY_ROOT:
            self._add_fork(trusted, published)

    def _add_fork(self, trusted: _Trusted, published: Checkpoint) -> None:
        old = trusted.checkpoint
        self._findings.add(
            ForkError(
                f"two histories are signed: the ledger's, of size {published.size} and root "
                f"{format_base64(published.root)}, does not continue the one {trusted.name}, of size {old.size} and "
                f"root {format_base64(old.root)}",
                where=CHECKPOINT,
            )
        )

    # -- step 2

    def check_leaves(self, vault: VaultSource | None) -> None:
        """Check the ledger's files and, unless it is None, the vault's rows. Does nothing without a checkpoint."""
        self._enter(_Step.CHECKPOINT)
        self._vault = vault
        if self._checkpoint is None:
            self._not_compared += ["ledger", "vault"]
        else:
            self._check_leaves(self._checkpoint, vault)
            self._settle_unproven(self._checkpoint)
            if vault is not None:
                self._check_rotations(self._checkpoint.size)
                self._check_outside(vault, self._checkpoint.size)
        self._step = _Step.LEAVES

    def _check_leaves(self, checkpoint: Checkpoint, vault: VaultSource | None) -> None:
        size = checkpoint.size
        log = Log(self._ledger, vault, size, checkpoint.root, self._findings.limit)
        own = FindingLog(self._findings.limit)
        upper = UpperTiles(self._ledger, size, checkpoint.root, own)
        ranges = -(-size // RANGE)
        workers = self._workers if ranges >= MIN_PARALLEL_RANGES else 1
        for result in check_ranges(log, upper.tasks(), min(workers, ranges)):
            upper.take(result)
            self._findings.extend(result.findings, result.total)
            self._ledger_findings += result.ledger_findings
            self._checked["ledger"] += result.entries
            self._checked["vault"] += result.rows
            self._sealed_trails |= result.trails
            self._note_damage(result)
            self._retentions += result.retentions
            self._recoveries += result.recoveries
            self._rotations += result.rotations
            self._erasures += result.erasures
            self._gone += result.gone
            self._segments[result.index] = result.segments
            self._progress("ledger", self._checked["ledger"], size)
            if vault is not None:
                self._progress("vault", self._checked["vault"], size)
        upper.check_root()
        if vault is not None:
            for error in check_bounds(self._in_order(), vault, size):
                self._findings.add(error)
            self._settle_erasures()
        self._findings.extend(own.listed, own.total)
        self._ledger_findings += own.total

    def _settle_erasures(self) -> None:
        """Judge what is gone from the vault by all ERASE records there are, and what is not gone."""
        self._erased = Erased(self._erasures)
        damaged = set(self._damaged_leaves)
        for one, error in settle_gone(self._gone, self._erased):
            self._findings.add(error)
            if len(self._damaged_leaves) <= _MAX_DAMAGED:
                name = (one.trail or "", one.incarnation or 0)
                self._damaged_leaves[one.leaf_index] = True
                self._damaged.setdefault(name, {})[one.record_id or 0] = one.leaf_index
        for error in find_content(self._gone, self._erased, damaged):
            self._findings.add(error)

    def _in_order(self) -> Iterator[Segment]:
        return (segment for _, segments in sorted(self._segments.items()) for segment in segments)

    def _note_damage(self, result: RangeResult) -> None:
        for trail, id_, leaf_index in result.malformed:
            self._malformed.setdefault(trail, {})[id_] = leaf_index
        for leaf_index, sealed in result.damaged.items():
            if len(self._damaged_leaves) > _MAX_DAMAGED:
                return
            self._damaged_leaves[leaf_index] = sealed is not None
            if sealed is not None:
                trail, incarnation, id_ = sealed
                self._damaged.setdefault((trail, incarnation), {})[id_] = leaf_index

    def _settle_unproven(self, published: Checkpoint) -> None:
        damaged = bool(self._ledger_findings)
        for trusted, problem in self._unproven:
            if damaged:
                self._findings.add(
                    ProofError(
                        f"cannot show that the ledger continues the checkpoint {trusted.name}, of size "
                        f"{trusted.checkpoint.size}, while its files are damaged: {problem}",
                        where=CHECKPOINT,
                    )
                )
            else:
                self._add_fork(trusted, published)
            self._ledger_findings += 1

    def _check_rotations(self, tree_size: int) -> None:
        """Compare the rotations that were gone by with those that are sealed, and the checkpoint with all of these."""
        sealed: list[RecordedRotation] = []
        for index, data, actor in self._rotations:
            try:
                sealed.append(read_rotation(data, actor, index))
            except (FormatError, SignatureError) as error:
                self._add_forged_rotation(index, error.detail if isinstance(error, SignatureError) else str(error))
        for one in self._keys.learn(sealed):
            self._add_forged_rotation(one.leaf_index, "the keys of this log never came to it")
        # (What is not sealed yet may be about to be: no checkpoint of this size can do without the old key then.)
        for one in self._keys.rotations:
            is_due = one.leaf_index is not None and one.leaf_index < tree_size
            if is_due and one not in sealed and one.leaf_index not in self._damaged_leaves:
                self._add_forged_rotation(one.leaf_index, "it is in the vault, and was never sealed")
        if self._is_own_checkpoint:
            try:
                self._keys.open(self._note, origin=self._origin)
            except SignatureError as error:
                self._findings.add(SignatureError(f"the ledger's {CHECKPOINT}: {error.detail}", where=CHECKPOINT))
                self._ledger_findings += 1

    def _add_forged_rotation(self, leaf_index: int | None, problem: str) -> None:
        self._findings.add(
            ForgedRecordError(
                f"the KEY_ROTATE record of leaf {leaf_index} says that the log passed to another key: {problem}; trust "
                "no key that it names",
                where="vault",
                trail="vault",
                leaf_index=leaf_index,
            )
        )

    def _check_outside(self, vault: VaultSource, tree_size: int) -> None:
        expected = tree_size
        for row in iter_rows(vault.copy_outside(tree_size)):
            parsed = parse_row(row)
            index = parsed.leaf_index
            if index is None or index < expected:
                error: type[TamperError] = ForgedRecordError
                detail = f"claims leaf {index}, which no row can have" if index is None or index < 0 else (
                    f"claims leaf {index}, which another row has"
                )  # fmt: skip
            elif index > expected:
                error, detail = MissingRecordError, f"follows a gap: no row for leaves {expected} to {index - 1}"
                expected = index + 1
            else:
                expected += 1
                continue
            self._findings.add(
                error(
                    f"record {parsed.trail}/{parsed.id}, not sealed: {detail}",
                    where="vault",
                    trail=parsed.trail,
                    record_id=parsed.id,
                    leaf_index=index,
                )
            )

    # -- step 3

    def check_trail(self, trail: TrailSource) -> None:
        """Compare one trail's rows with the vault's.

        Does nothing without a checkpoint, nor with a vault so wrecked that it cannot serve to judge a trail.
        """
        self._enter(_Step.LEAVES)
        if self._vault is None:
            raise RuntimeError("a trail is compared with a vault: give check_leaves one")
        if self._checkpoint is not None and len(self._damaged_leaves) <= _MAX_DAMAGED:
            lost = self._find_lost(trail, self._vault)
            damaged = [self._damaged.get((trail.name, number), {}) for number in range(1, trail.incarnation + 1)]
            known = Known(
                tree_size=self._checkpoint.size,
                malformed=self._malformed.get(trail.name, {}),
                damaged={id_: leaf for one in damaged for id_, leaf in one.items() if leaf not in lost},
                damaged_leaves=self._damaged_leaves,
                find_differences=self._find_differences,
                retained=self._find_retained(trail, self._vault),
                lost=lost,
                erased=self._erased,
            )
            is_sound = True
            try:
                trail.check_feed()
            except TamperError as error:
                self._findings.add(error)
                is_sound = False
            check = TrailCheck(trail, self._vault, known, self._findings)
            done = self._checked["trail"]
            try:
                check.run(lambda checked: self._progress(f"trail {trail.name}", checked, None))
            except (ConfigError, StorageError):
                if is_sound:
                    raise
                # What the finding is about may also be what keeps us from reading.
                self._not_compared.append(f"trail {trail.name}")
            self._checked["trail"] = done + check.checked
            self._waiting += check.waiting
            if check.retained:
                self._retained[trail.name] = self._retained.get(trail.name, 0) + check.retained
        else:
            self._not_compared.append(f"trail {trail.name}")
        self._step = _Step.LEAVES

    def match_partition(self, partition: TrailSource) -> Match:
        """Compare the rows of one partition of a trail with the vault's, after ``check_trail``; see ``retention``."""
        self._enter(_Step.LEAVES)
        if self._vault is None or self._checkpoint is None or len(self._damaged_leaves) > _MAX_DAMAGED:
            match = Match(LeafRanges(), count=0, waiting=0)  # there are findings that say why
        else:
            own = FindingLog(self._findings.limit)
            match = match_rows(partition, self._vault, self._checkpoint.size, self._damaged_leaves, own)
            if not self._findings.total:  # otherwise check_trail has most likely found the same
                self._findings.extend(own.listed, own.total)
        self._step = _Step.LEAVES
        return match

    def _find_lost(self, trail: TrailSource, vault: VaultSource) -> LeafRanges:
        """Return the leaves that the newest RECOVER record of a trail says are gone from it.

        Notes as checked the incarnations that RECOVER records lead from and to; ``finish`` finds the others.
        """
        self._checked_trails.add((trail.name, trail.incarnation))
        recoveries: dict[int, Recovery] = {}
        for index, one in sorted(self._recoveries, key=lambda found: found[0]):
            if one.trail != trail.name:
                continue
            if one.incarnation in recoveries or one.incarnation > trail.incarnation:
                self._findings.add(
                    ForgedRecordError(
                        f"the RECOVER record of leaf {index} speaks of incarnation {one.incarnation} of trail "
                        f"{trail.name!r}, and no pgseal recover began that then: it says nothing",
                        where="vault",
                        trail=trail.name,
                        leaf_index=index,
                    )
                )
            else:
                recoveries[one.incarnation] = one
        for incarnation in range(trail.incarnation, 1, -1):
            if incarnation not in recoveries:
                break
            self._checked_trails.add((trail.name, incarnation - 1))
        newest = recoveries.get(trail.incarnation)
        base_id = newest.base_id if newest else 0
        if trail.base_id != base_id:
            self._findings.add(
                RollbackError(
                    f"the vault notes that xids up to id {trail.base_id} of trail {trail.name!r} are another server's, "
                    f"and the sealed records say up to id {base_id}: vault.feed was altered",
                    where="vault",
                    trail=trail.name,
                )
            )
        if newest is None:
            return LeafRanges()
        earlier = range(1, trail.incarnation)
        is_true = self._has_count(vault, trail.name, earlier, newest.lost, newest.lost_count)
        return LeafRanges(newest.lost if is_true else ())

    def _find_retained(self, trail: TrailSource, vault: VaultSource) -> LeafRanges:
        """Return the leaves of a trail that sealed RETENTION records explain the absence of."""
        found: list[tuple[int, int]] = []
        for one in self._retentions:
            if one.trail == trail.name and self._has_count(vault, trail.name, [one.incarnation], one.leaves, one.count):
                found += one.leaves
        return LeafRanges(found)

    def _has_count(
        self,
        vault: VaultSource,
        trail: str,
        incarnations: Iterable[int],
        leaves: Sequence[tuple[int, int]],
        said: int,
    ) -> bool:
        """Return whether as many leaves of a trail's incarnations are within ``leaves`` as a record says."""
        ranges = LeafRanges(leaves)
        left_out = [leaf for leaf in self._damaged_leaves if leaf in ranges]
        count = 0
        for incarnation in incarnations:
            # The vault's rows were compared with the ledger; where they are damaged, the ledger says whose leaf it is.
            damaged = self._damaged.get((trail, incarnation), {}).values()
            count += sum(leaf in ranges for leaf in damaged)
            count += sum(vault.count_leaves(trail, incarnation, begin, end, left_out) for begin, end in leaves)
        doubtful = sum(not self._damaged_leaves[leaf] for leaf in left_out)
        return count <= said <= count + doubtful

    def _find_differences(self, leaf_index: int, row: Row) -> list[str]:
        """Return the columns of a trail's row that differ from the entry of a leaf whose vault row is damaged."""
        size = 0 if self._checkpoint is None else self._checkpoint.size
        try:
            entry = self._reader.leaf(leaf_index, size)
        except (MissingObjectError, FormatError):
            return []  # nothing to judge by, which is a finding already
        rows = () if self._vault is None else iter_rows(self._vault.copy_rows(leaf_index, leaf_index + 1))
        vault_row = next((parse_row(found) for found in rows), None)
        for part in PARTS:
            if getattr(row, part) == ERASED and self._erased.allows(leaf_index, part):
                row = replace(row, **{part: None})  # rightly so
        return find_trail_differences(entry, row, vault_row)

    # -- step 4

    def finish(self) -> Report:
        """Return the report, after keeping the checkpoint if nothing speaks against it."""
        self._enter(_Step.LEAVES)
        checkpoint = self._checkpoint
        unchecked = sorted(self._sealed_trails - self._checked_trails)
        compared: dict[str, int] = {}
        for trail, incarnation in self._checked_trails:
            compared[trail] = max(incarnation, compared.get(trail, 0))
        for trail, incarnation in unchecked:
            # (With damaged rows in the vault, which are findings of their own, an incarnation may be one of theirs.)
            if trail in compared and not self._damaged_leaves:
                self._findings.add(
                    RollbackError(
                        f"records of trail {trail!r} are sealed as incarnation {incarnation}, but the vault says the "
                        f"trail is at incarnation {compared[trail]}, and no sealed record says why "
                        "(directly after pgseal recover: run pgseal seal first)",
                        where="vault",
                        trail=trail,
                    )
                )
        if self._is_own_checkpoint and not self._ledger_findings and self._kept.load(self._origin) != self._note:
            self._kept.store(self._origin, self._note)
        self._step = _Step.FINISHED
        return Report(
            ok=not self._findings.total,
            origin=self._origin,
            size=checkpoint.size if checkpoint else 0,
            root=checkpoint.root if checkpoint else EMPTY_ROOT,
            checked=dict(self._checked),
            findings=tuple(self._findings.listed),
            total_findings=self._findings.total,
            waiting=self._waiting,
            unchecked_trails=tuple(f"{trail} (incarnation {incarnation})" for trail, incarnation in unchecked),
            not_compared=tuple(self._not_compared),
            retained=dict(self._retained),
            erased=len({one.leaf_index for one in self._gone if one.leaf_index not in self._damaged_leaves}),
            recovered=tuple(one for _, one in sorted(self._recoveries, key=lambda found: found[0])),
            warnings=tuple(self._warnings),
            witnessed=self._witnessed.checkpoint.size if self._witnessed else None,
            gaps=tuple(islice(find_gaps(self._in_order()), MAX_FINDINGS)),
        )

    def _enter(self, expected: _Step) -> None:
        if self._step is not expected:
            raise RuntimeError(f"verification steps out of order: expected {expected.name}, is {self._step.name}")
        self._step = _Step.FAILED  # until the step has been made


def find_trail_differences(entry: bytes, row: Row, vault_row: Row | None) -> list[str]:
    """Return the columns of a trail's row that differ from the sealed ``entry``.

    A part can be judged only with the vault's salt: where the vault's own part does not fit its commitment, the salt
    may be what was changed, and the trail's part is given the benefit of the doubt.
    """
    try:
        envelope = parse_envelope(entry)
    except FormatError:
        return []
    if vault_row is None:
        return find_differences(envelope, row)
    salted = replace(row, actor_salt=vault_row.actor_salt, data_salt=vault_row.data_salt)
    doubtful = set(find_differences(envelope, vault_row))
    names = [name for name in find_differences(envelope, salted) if not (" salt" in name and name in doubtful)]
    return [name.removesuffix(" or its salt") for name in names]
