"""HEARTBEAT records (FORMATS.md section 4): bounds on the times of a trail's leaves, from which answers are complete.

A record's data is ``{"trails":{NAME:{"future":[INDEX…],"high":TIME,"low":TIME}}}``: of the leaves before it none of the
trail is later than ``high``, but for those in ``future``, which are stamped ahead of the sealer's clock; of the leaves
after it none is earlier than ``low``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pgseal.core.canonical import JsonValue, parse_json
from pgseal.core.envelope import require_members
from pgseal.core.fields import format_time, parse_time
from pgseal.errors import FormatError

#: The action of such a record; it counts only in the vault's own trail, from source ``system``.
HEARTBEAT = "HEARTBEAT"
#: One is written at least so often, idle or not.
INTERVAL_SECONDS = 60
#: Leaves ahead of the sealer's clock that are listed; with more, ``high`` is the latest of them.
MAX_FUTURE = 10_000
_MAX_DATA_BYTES = 4 << 20
_MAX_DEPTH = 5


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a HEARTBEAT says of one trail: ``high`` and ``low`` in microseconds since the Unix epoch, leaf indexes."""

    high: int
    low: int
    future: tuple[int, ...] = ()

    def to_json(self) -> dict[str, JsonValue]:
        """Return the member of the record."""
        return {"future": list(self.future), "high": format_time(self.high), "low": format_time(self.low)}


def parse_heartbeat(data: bytes, *, source: str = "HEARTBEAT record") -> Mapping[str, Bounds]:
    """Return the bounds by trail; raises ``FormatError`` unless the data has exactly that form."""
    value = parse_json(data, source=source, max_bytes=_MAX_DATA_BYTES, max_depth=_MAX_DEPTH)
    trails = require_members(value, ("trails",), source)["trails"]
    if not isinstance(trails, dict):
        raise FormatError("expected trails as an object", source=source)
    return {name: _parse_bounds(one, source) for name, one in trails.items()}


def _parse_bounds(value: JsonValue, source: str) -> Bounds:
    members = require_members(value, ("future", "high", "low"), source)
    future, high, low = members["future"], members["high"], members["low"]
    if not isinstance(high, str) or not isinstance(low, str):
        raise FormatError("expected high and low as times", source=source)
    if not isinstance(future, list):
        raise FormatError("expected future as a list of leaf indexes", source=source)
    indexes = [index for index in future if type(index) is int and index >= 0]
    if len(indexes) != len(future):
        raise FormatError("expected future as a list of leaf indexes", source=source)
    return Bounds(parse_time(high, source=source), parse_time(low, source=source), tuple(indexes))
