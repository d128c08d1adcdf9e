"""HEARTBEAT records in a pack: how an answer about a time is shown to be complete (FORMATS.md section 4).

Leaf order is not time order. A HEARTBEAT (``pgseal.core.heartbeat``) says of every trail that no leaf before it is
later than ``high``, but for those in ``future``, and no leaf after it is earlier than ``low``. So all records of
[since, until) are among leaves that begin at a HEARTBEAT all of whose ``high`` are before ``since`` and end after one
all of whose ``low`` are not before ``until``. A HEARTBEAT is a claim of the sealer, sealed like everything else: a leaf
that contradicts it is a finding.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heappush, heappushpop

from pgseal.core.envelope import Envelope
from pgseal.core.fields import format_time, parse_time
from pgseal.core.heartbeat import HEARTBEAT, Bounds, parse_heartbeat
from pgseal.core.record import DisclosedPart, RecordLine
from pgseal.errors import FormatError, TimeBoundError

#: The one trail whose records of pgseal's own acts count.
VAULT_TRAIL = "vault"

# The latest leaves of a trail that are remembered, so that those stamped ahead of the clock can be left out.
_LATEST = 64


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One HEARTBEAT: where it stands, and what it says of each trail."""

    index: int
    trails: Mapping[str, Bounds]

    def is_after(self, time: str, trails: Iterable[str]) -> bool:
        """Return whether no leaf of ``trails`` before this one is at ``time`` or later, those in the future apart."""
        moment = parse_time(time)
        return self._knows(trails) and all(bound.high < moment for bound in self.trails.values())

    def is_beyond(self, time: str, trails: Iterable[str]) -> bool:
        """Return whether no leaf of ``trails`` after this one is before ``time``."""
        moment = parse_time(time)
        return self._knows(trails) and all(bound.low >= moment for bound in self.trails.values())

    def _knows(self, trails: Iterable[str]) -> bool:
        return bool(self.trails) and self.trails.keys() >= set(trails)

    @property
    def future(self) -> set[int]:
        """Leaves before this one that were stamped ahead of the sealer's clock."""
        return {index for bound in self.trails.values() for index in bound.future}


def is_act(envelope: Envelope, *actions: str) -> bool:
    """Return whether a record is an act of pgseal itself, which nobody who writes to a source can make."""
    return envelope.action in actions and envelope.source == "system" and envelope.trail == VAULT_TRAIL


def find_heartbeat(record: RecordLine) -> Heartbeat | None:
    """Return what a record says if it is a HEARTBEAT that is disclosed and has the form of one."""
    if not is_act(record.envelope, HEARTBEAT) or not isinstance(record.data, DisclosedPart):
        return None
    try:
        return Heartbeat(record.index, parse_heartbeat(record.data.text))
    except FormatError:
        return None  # it bounds nothing, whoever wrote it


class TimeBounds:
    """What the HEARTBEAT records among leaves that come in order say, and whether any leaf contradicts them."""

    def __init__(self) -> None:
        """Begin before the first leaf."""
        self._lows: dict[str, tuple[str, int]] = {}
        self._latest: dict[str, list[tuple[str, int]]] = {}

    def check(self, envelope: Envelope, leaf_index: int, heartbeat: Heartbeat | None) -> list[TimeBoundError]:
        """Take the next leaf; return what contradicts a bound."""
        errors: list[TimeBoundError] = []
        trail, time = envelope.trail, envelope.time
        low = self._lows.get(trail)
        if low is not None and time < low[0]:
            errors.append(
                TimeBoundError(
                    f"record {trail}/{envelope.id} is of {time}, and the HEARTBEAT of leaf {low[1]} says that no later "
                    f"leaf of its trail is before {low[0]}",
                    where="pack",
                    trail=trail,
                    record_id=envelope.id,
                    leaf_index=leaf_index,
                )
            )
        if heartbeat is not None:
            errors += self._take(envelope, heartbeat)
        latest = self._latest.setdefault(trail, [])
        if len(latest) < _LATEST:
            heappush(latest, (time, leaf_index))
        elif time > latest[0][0]:
            heappushpop(latest, (time, leaf_index))
        return errors

    def _take(self, envelope: Envelope, heartbeat: Heartbeat) -> list[TimeBoundError]:
        errors: list[TimeBoundError] = []
        for trail, bound in heartbeat.trails.items():
            low, high = format_time(bound.low), format_time(bound.high)
            if trail not in self._lows or low > self._lows[trail][0]:
                self._lows[trail] = low, heartbeat.index
            known = [pair for pair in self._latest.get(trail, ()) if pair[1] not in bound.future]
            if known and (latest := max(known))[0] > high:
                errors.append(
                    TimeBoundError(
                        f"the HEARTBEAT says that no earlier leaf of trail {trail!r} is after {high}, and leaf "
                        f"{latest[1]} is of {latest[0]}",
                        where="pack",
                        trail=envelope.trail,
                        record_id=envelope.id,
                        leaf_index=heartbeat.index,
                    )
                )
        return errors
