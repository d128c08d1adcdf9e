"""What the leaves of a pack answer, and whether the answer is complete (FORMATS.md section 4).

A ``Judge`` takes the record lines of a range in order, whoever makes or verifies a pack, and never says more than the
lines show. That they are the leaves of the log is for the caller to prove.

An answer is *incomplete* if a matching record's data is withheld, or if it is by actor and not every actor part is
disclosed; *complete for these leaves only* if matching records may stand outside the range; otherwise *complete*.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pgseal.core.erasure import PARTS
from pgseal.core.pack_bounds import Heartbeat, TimeBounds, find_heartbeat
from pgseal.core.pack_erasure import Erasures
from pgseal.core.pack_filter import Filter
from pgseal.core.record import DisclosedPart, ErasedPart, RecordLine, WithheldPart
from pgseal.errors import TamperError

COMPLETE = "complete"
THESE_LEAVES = "complete for these leaves only"
INCOMPLETE = "incomplete"

_NAMED = 8


@dataclass(frozen=True, slots=True)
class Answer:
    """``verdict`` is one of the three above, ``reasons`` say why it is not the first.

    ``matching`` counts records that match the filter or may, ``withheld`` those of them without their data, ``erased``
    those of which a part was erased and a sealed record allows it.
    """

    verdict: str
    reasons: tuple[str, ...]
    matching: int
    withheld: int
    erased: int


class Judge:
    """Judges the leaves from ``begin`` on, taken in order."""

    def __init__(self, wanted: Filter, begin: int, outside: Iterable[RecordLine] = ()) -> None:
        """Judge what matches ``wanted``; ``outside`` are proved records of other leaves, those of ``proofs.jsonl``."""
        self._wanted = wanted
        self._begin = self._next = begin
        self._bounds = TimeBounds()
        self._erasures = Erasures()
        self._outside = sorted(outside, key=lambda record: record.index)
        self._matching = self._erased = self._undisclosed_actors = 0
        self._withheld: list[int] = []
        self._withheld_count = 0
        self._trails: set[str] = set()
        self._first: Heartbeat | None = None
        self._ends: set[frozenset[str]] = set()  # the trails of each HEARTBEAT that may end the answer
        self._early = [error for record in self._outside if record.index < begin for error in self._check(record)]

    def add_outside(self, record: RecordLine) -> None:
        """Take one more proved record of another leaf, at any time before ``finish``."""
        self._outside.append(record)
        self._erasures.learn(record)

    def is_match(self, record: RecordLine) -> bool:
        """Return whether a record matches, or may."""
        return self._wanted.matches_envelope(record.envelope) and self._wanted.matches_actor(record.actor)

    def take(self, record: RecordLine) -> list[TamperError]:
        """Take the record of the next leaf; return what it contradicts."""
        envelope = record.envelope
        self._trails.add(envelope.trail)
        errors = self._check(record)
        is_withheld = isinstance(record.data, WithheldPart)
        if self._wanted.actor is not None and not isinstance(record.actor, DisclosedPart):
            self._undisclosed_actors += 1
        if self.is_match(record):
            self._matching += 1
            if is_withheld:
                self._withheld_count += 1
                if len(self._withheld) < _NAMED:
                    self._withheld.append(record.index)
            if isinstance(record.actor, ErasedPart) or isinstance(record.data, ErasedPart):
                self._erased += 1
        self._next = record.index + 1
        return errors

    def _check(self, record: RecordLine) -> list[TamperError]:
        heartbeat = find_heartbeat(record)
        errors: list[TamperError] = [*self._bounds.check(record.envelope, record.index, heartbeat)]
        if heartbeat is not None and record.index >= self._begin:
            if record.index == self._begin:
                self._first = heartbeat
            if self._wanted.until is not None and heartbeat.is_beyond(self._wanted.until, ()):
                self._ends.add(frozenset(heartbeat.trails))
        self._erasures.learn(record)
        for name, part in zip(PARTS, (record.actor, record.data), strict=True):
            if isinstance(part, ErasedPart):
                self._erasures.claim(record, name, part.leaf_index)
        return errors

    def references(self) -> set[int]:
        """Return the leaves that records refer to so far: those that are to allow what is erased."""
        return self._erasures.references() | (self._first.future if self._first else set())

    def finish(self, tree_size: int) -> tuple[Answer, list[TamperError]]:
        """Return the answer that all leaves taken give in a log of ``tree_size``, and what else is wrong with them."""
        errors: list[TamperError] = list(self._early)
        for record in sorted(self._outside, key=lambda record: record.index):
            if record.index >= self._next:
                errors += self._check(record)
        errors += self._erasures.check()
        reasons = self._find_gaps()
        verdict = INCOMPLETE if reasons else COMPLETE
        outside = self._find_outside(tree_size)
        if outside:
            reasons.append(f"{THESE_LEAVES}: {outside}")
            verdict = verdict if verdict == INCOMPLETE else THESE_LEAVES
        return Answer(verdict, tuple(reasons), self._matching, self._withheld_count, self._erased), errors

    def _find_gaps(self) -> list[str]:
        reasons: list[str] = []
        if self._withheld_count:
            listed = ", ".join(map(str, self._withheld))
            more = ", …" if self._withheld_count > len(self._withheld) else ""
            reasons.append(
                f"{INCOMPLETE}: data withheld of {self._withheld_count} that match or may match, leaf {listed}{more}"
            )
        if self._undisclosed_actors:
            reasons.append(
                f"{INCOMPLETE}: by actor an answer needs every actor part of the range, and "
                f"{self._undisclosed_actors} are not disclosed"
            )
        return reasons

    def _find_outside(self, tree_size: int) -> str | None:
        """Return why matching records may stand outside the range; None if none can."""
        if not self._wanted.is_by_time:
            if self._begin == 0 and self._next == tree_size:
                return None
            return f"the log has {tree_size}, and nothing was asked about a time"
        problems = [problem for problem in (self._find_open_begin(), self._find_open_end()) if problem]
        return "; ".join(problems) or None

    def _find_open_begin(self) -> str | None:
        since, first = self._wanted.since, self._first
        if self._begin == 0:
            return None
        if since is None:
            return "without a beginning in time the range has to begin at leaf 0"
        if first is None or not first.is_after(since, self._trails):
            return "no HEARTBEAT at its first leaf shows that all before is earlier"
        known = {record.index for record in self._outside}
        if ahead := sorted(index for index in first.future if index < self._begin and index not in known):
            return f"leaf {ahead[0]} before it was stamped ahead of the sealer's clock"
        return None

    def _find_open_end(self) -> str | None:
        if self._wanted.until is None:
            return "without an end in time later leaves may match"
        trails = set(self._trails)
        if self._first is not None and self._begin:
            trails |= self._first.trails.keys()
        if any(end >= trails for end in self._ends):
            return None
        return "no HEARTBEAT in it shows that all after is later"
