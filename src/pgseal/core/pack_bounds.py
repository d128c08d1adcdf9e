"""HEARTBEAT records: how an answer about a time is shown to be complete (FORMATS.md section 4).

Leaf order is not time order. A HEARTBEAT of the vault's own trail says of every trail which times are behind and which
are ahead of it; its data is::

    {"trails":{"clinic":{"future":[],"high":"2026-11-23T09:31:47.530001Z","low":"2026-11-23T09:59:59.000000Z"}}}

- ``high``: no leaf of that trail before this one is later, those listed in ``future`` apart (they were stamped ahead of
  the sealer's clock);
- ``low``: no leaf of that trail after this one is earlier.

So all records of [since, until) are among leaves that begin at a HEARTBEAT all of whose ``high`` are before ``since``
and end after one all of whose ``low`` are not before ``until``. A HEARTBEAT is a claim of the sealer, sealed like
everything else: a leaf that contradicts it is a finding.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heappush, heappushpop

from pgseal.core.canonical import MAX_SAFE_INTEGER, parse_json
from pgseal.core.envelope import Envelope, require_members
from pgseal.core.fields import parse_time
from pgseal.core.record import DisclosedPart, RecordLine
from pgseal.errors import FormatError, TimeBoundError

#: The action of such a record; it counts only in the vault's own trail, from source ``system``.
HEARTBEAT = "HEARTBEAT"
#: The one trail whose records of pgseal's own acts count.
VAULT_TRAIL = "vault"
#: More than any number of trails needs.
MAX_DATA_BYTES = 4 << 20

_MAX_DEPTH = 4
# The latest leaves of a trail that are remembered, so that those stamped ahead of the clock can be left out.
_LATEST = 64


@dataclass(frozen=True, slots=True)
class Bound:
    """What a HEARTBEAT says of one trail."""

    high: str
    low: str
    future: frozenset[int]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One HEARTBEAT: where it stands, and what it says of each trail."""

    index: int
    trails: Mapping[str, Bound]

    def is_after(self, time: str, trails: Iterable[str]) -> bool:
        """Return whether no leaf of ``trails`` before this one is at ``time`` or later, those in the future apart."""
        return self.trails.keys() >= set(trails) and all(bound.high < time for bound in self.trails.values())

    def is_beyond(self, time: str, trails: Iterable[str]) -> bool:
        """Return whether no leaf of ``trails`` after this one is before ``time``."""
        return self.trails.keys() >= set(trails) and all(bound.low >= time for bound in self.trails.values())

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
        return parse_heartbeat(record.data.text, record.index)
    except FormatError:
        return None  # it bounds nothing, whoever wrote it


def parse_heartbeat(data: bytes, leaf_index: int, *, source: str = "HEARTBEAT record") -> Heartbeat:
    """Return what the data of the HEARTBEAT at ``leaf_index`` says; raises ``FormatError``."""
    value = parse_json(data, source=source, max_bytes=MAX_DATA_BYTES, max_depth=_MAX_DEPTH)
    trails = require_members(value, ("trails",), source)["trails"]
    if not isinstance(trails, dict) or not trails:
        raise FormatError("expected trails as an object with a member for each trail", source=source)
    bounds: dict[str, Bound] = {}
    for trail, bound in trails.items():
        members = require_members(bound, ("future", "high", "low"), source)
        high, low, future = members["high"], members["low"], members["future"]
        if not isinstance(high, str) or not isinstance(low, str) or not isinstance(future, list):
            raise FormatError("expected high and low as times and future as a list", source=source)
        parse_time(high, source=source)
        parse_time(low, source=source)
        indexes = [index for index in future if type(index) is int and 0 <= index <= MAX_SAFE_INTEGER]
        if len(indexes) != len(future):
            raise FormatError("expected future as a list of leaf indexes", source=source)
        bounds[trail] = Bound(high, low, frozenset(indexes))
    return Heartbeat(leaf_index, bounds)


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
            low = self._lows.get(trail)
            if low is None or bound.low > low[0]:
                self._lows[trail] = bound.low, heartbeat.index
            known = [pair for pair in self._latest.get(trail, ()) if pair[1] not in bound.future]
            if known and (latest := max(known))[0] > bound.high:
                errors.append(
                    TimeBoundError(
                        f"the HEARTBEAT says that no earlier leaf of trail {trail!r} is after {bound.high}, and leaf "
                        f"{latest[1]} is of {latest[0]}",
                        where="pack",
                        trail=envelope.trail,
                        record_id=envelope.id,
                        leaf_index=heartbeat.index,
                    )
                )
        return errors
