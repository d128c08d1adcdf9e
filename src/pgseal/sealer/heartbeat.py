"""HEARTBEAT and CLOCK records: that the sealer is there, from when to when it knows all, and whose clock jumps.

A heartbeat's bounds are true only of leaves before and after its own, so the sealer writes it and seals it with nothing
of another trail in between. What the bounds stand on:

- ``high``: the vault's own times of the leaves since the last heartbeat, and that one's ``high``.
- ``low``: the feed's floors. Each trail is read to its end just before, idle or not, so that they are fresh.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime

from pgseal.core.canonical import parse_json
from pgseal.core.heartbeat import HEARTBEAT, MAX_FUTURE, Bounds, parse_heartbeat
from pgseal.errors import FormatError
from pgseal.ledger.reader import LedgerReader
from pgseal.sealer.explained import read_newest_act
from pgseal.settings import VAULT_TRAIL
from pgseal.trail.feed import FeedState, find_earliest_time
from pgseal.vault.store import VaultStore

_MICROSECONDS = 1_000_000
#: Source clocks may go back by as much without making a bound false; FORMATS.md's limit for CLOCK records.
CLOCK_SECONDS = 5
_MARGIN = CLOCK_SECONDS * _MICROSECONDS


class Heartbeat:
    """What the last heartbeat said, and what the next one will."""

    def __init__(self, vault: VaultStore, ledger: LedgerReader, tree_size: int) -> None:
        """Go on from the last heartbeat that is sealed.

        Raises ``AlteredRecordError`` where the vault's row of it does not give the ledger's entry.
        """
        self._vault = vault
        self._after = -1
        self._bounds: Mapping[str, Bounds] = {}
        last = read_newest_act(vault, ledger, tree_size, HEARTBEAT, parse_heartbeat)
        if last is not None:
            self._after, self._bounds = last
        self._offsets: dict[str, float] = {}

    def describe(self, states: Mapping[str, FeedState], tree_size: int) -> dict[str, Bounds]:
        """Return the bounds that hold at ``tree_size`` leaves, all of which the vault has."""
        now = time.time_ns() // 1000
        old_future = [leaf for one in self._bounds.values() for leaf in one.future]
        moment = datetime.fromtimestamp(now / _MICROSECONDS, UTC)
        times = {one.trail: one for one in self._vault.read_times(self._after, old_future, moment)}
        bounds: dict[str, Bounds] = {}
        for name in {*states, *times, *self._bounds}:
            high = self._bounds[name].high if name in self._bounds else 0
            future: tuple[int, ...] = ()
            if (found := times.get(name)) is not None:
                high = max(high, found.newest)
                future = tuple(found.future)
                if len(future) > MAX_FUTURE:
                    high, future = max(high, found.newest_of_all), ()
            # Of a trail that is not configured any more nothing new is known.
            low = self._bounds[name].low if name in self._bounds else 0
            if name in states:
                low = max(0, find_earliest_time(states[name]) - _MARGIN)
            bounds[name] = Bounds(high, low, future)
        self._after, self._bounds = tree_size - 1, bounds
        return bounds

    def record(self, bounds: Mapping[str, Bounds]) -> None:
        """Write a heartbeat into the vault's trail; durable when it returns."""
        self._vault.record_heartbeat({name: one.to_json() for name, one in bounds.items()}, VAULT_TRAIL)

    def note_clock(self, trail: str, source_clock: float, own_clock: float) -> None:
        """Record that a source's clock moved against ours by more than five seconds since it was noted last."""
        offset = source_clock - own_clock
        if trail not in self._offsets:
            self._offsets[trail] = self._read_offset(trail)
        before = self._offsets[trail]
        if abs(offset - before) > CLOCK_SECONDS:
            seconds = {"offset_seconds": round(offset, 3), "before_seconds": round(before, 3)}
            self._vault.record_act("CLOCK", {"trail": trail, **seconds})
            self._offsets[trail] = round(offset, 3)

    def _read_offset(self, trail: str) -> float:
        for data in reversed(self._vault.read_recorded_acts("CLOCK")):
            try:
                said = parse_json(data.encode(), source="CLOCK record", max_bytes=1 << 16, max_depth=2)
            except FormatError:
                continue
            if isinstance(said, dict) and said.get("trail") == trail:
                offset = said.get("offset_seconds")
                return float(offset) if isinstance(offset, int | float) else 0.0
        return 0.0
