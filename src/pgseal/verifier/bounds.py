"""What HEARTBEATs say of times, held against every leaf; and how long nothing said that sealing went on.

A heartbeat's ``high`` binds the leaves before it, its ``low`` those after it (FORMATS.md section 4). What is compared
are the earliest and the latest time of each stretch between heartbeats; only where these contradict a bound are single
leaves asked for.
"""

from collections.abc import Iterable, Iterator, Mapping

from pgseal.core.fields import format_time
from pgseal.core.heartbeat import INTERVAL_SECONDS, Bounds
from pgseal.errors import TimeBoundError
from pgseal.verifier.leaves import Segment
from pgseal.verifier.report import Gap
from pgseal.verifier.sources import VaultSource

#: Nothing is said about a silence that is shorter: a restart, a busy machine.
GAP_SECONDS = 5 * INTERVAL_SECONDS
_MICROSECONDS = 1_000_000


def find_gaps(segments: Iterable[Segment]) -> Iterator[Gap]:
    """Yield where heartbeats are missing, of ``segments`` in leaf order."""
    last: int | None = None
    for segment in segments:
        if segment.heartbeat is None:
            continue
        moment = segment.heartbeat[1]
        if last is not None and moment - last > GAP_SECONDS * _MICROSECONDS:
            yield Gap(format_time(last), format_time(moment))
        last = moment


def check_bounds(segments: Iterable[Segment], vault: VaultSource, tree_size: int) -> Iterator[TimeBoundError]:
    """Yield what contradicts the bounds of heartbeats, of ``segments`` in leaf order, one finding for each bound.

    Raises ``StorageError`` where the vault cannot answer.
    """
    checker = _Checker(vault)
    ordered = list(segments)
    begins = [segment.heartbeat[0] for segment in ordered if segment.heartbeat is not None]
    ends = iter([*begins[1:], tree_size])
    begin, end = 0, begins[0] if begins else tree_size
    for segment in ordered:
        if segment.heartbeat is not None:
            index, _, bounds = segment.heartbeat
            yield from checker.check_high(index, bounds)
            begin, end = index + 1, next(ends)
        yield from checker.check_low(segment, begin, end)


class _Checker:
    """What is known at one leaf.

    ``newest`` is, by trail, the latest time so far, without those ahead of the sealer's clock, which ``ahead`` has by
    leaf index; ``lows`` are heartbeat and lower bound in force.
    """

    def __init__(self, vault: VaultSource) -> None:
        self._vault = vault
        self._newest: dict[str, int] = {}
        self._ahead: dict[str, dict[int, int]] = {}
        self._lows: dict[str, tuple[int, int]] = {}

    def check_high(self, index: int, bounds: Mapping[str, Bounds]) -> Iterator[TimeBoundError]:
        """Compare a heartbeat with the leaves before it, and take over its lower bounds."""
        for trail, said in bounds.items():
            ahead = self._ahead.setdefault(trail, {})
            if self._newest.get(trail, 0) > said.high:
                ahead.update(self._vault.copy_times(trail, 0, index, None, said.high))
                self._newest[trail] = said.high
            future = set(said.future)
            wrong = [leaf for leaf, moment in ahead.items() if moment > said.high and leaf not in future]
            if wrong:
                yield _contradicted(trail, wrong[0], index, f"later than {format_time(said.high)}, ahead of it")
            self._ahead[trail] = {
                leaf: moment for leaf, moment in ahead.items() if moment > said.high and leaf in future
            }
            if said.low > self._lows.get(trail, (0, 0))[1]:
                self._lows[trail] = index, said.low

    def check_low(self, segment: Segment, begin: int, end: int) -> Iterator[TimeBoundError]:
        """Compare the leaves of a segment, which are in [begin, end), with the lower bounds in force."""
        for trail, (earliest, latest) in segment.times.items():
            self._newest[trail] = max(latest, self._newest.get(trail, 0))
            index, low = self._lows.get(trail, (0, 0))
            if earliest < low:
                for leaf, _ in self._vault.copy_times(trail, begin, end, low, None):
                    yield _contradicted(trail, leaf, index, f"earlier than {format_time(low)}, behind it")
                    del self._lows[trail]
                    break


def _contradicted(trail: str, leaf: int, heartbeat: int, how: str) -> TimeBoundError:
    return TimeBoundError(
        f"the HEARTBEAT of leaf {heartbeat} says that no leaf of trail {trail!r} is {how}, and leaf {leaf} is: answers "
        "by time are not complete around it; was a clock set back?",
        where="ledger",
        trail=trail,
        leaf_index=leaf,
    )
