"""RECOVER records (FORMATS.md section 5): a trail's server is another one, or an earlier state of the same.

A record's data is::

    {"trail":…, "incarnation":n,         the incarnation it raises the trail to, one more than before
     "kind":…,                           one of ``KINDS``
     "signs":[…], "reason":…,            what spoke for it, and what the operator said (or null)
     "old":{"system_identifier":…,"timeline":n}, "new":{…},
     "last_id":ID, "matching":n,         the greatest id among the rows that equal a sealed record, and their number
     "base_id":ID,                       see below
     "lost":{"count":n,"leaves":[[begin,end]…]},
     "unconfirmed":[[begin,end]…]}   the lost leaves that were signed without having been compared with the trail

Identifiers and ids are decimal strings. ``lost`` are all leaves of the trail's earlier incarnations, and not only those
that went missing this time, that its rows do not have any more; their number is ``count``. So the newest record of a
trail says all there is to say. Rows that RETENTION explains are not lost.

Where the server's transaction ids began anew (a dump that was loaded elsewhere), xids in rows up to ``base_id`` are
those of another server, and say nothing about when they were written; elsewhere it is 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pgseal.core.canonical import JsonValue, parse_json
from pgseal.core.encoding import parse_decimal
from pgseal.core.envelope import require_members
from pgseal.core.ranges import parse_number, parse_ranges
from pgseal.errors import FormatError

#: The action of such a record; it counts only in the vault's own trail, from source ``system``.
RECOVER = "RECOVER"
#: An earlier state came back, a standby took over, ``pg_upgrade``, or another server altogether.
KINDS = ("restored", "failed_over", "upgraded", "recreated")
#: More than any trail needs; writers keep to it, too.
MAX_DATA_BYTES = 4 << 20
_MAX_DEPTH = 4
_MEMBERS = (
    "trail", "incarnation", "kind", "signs", "reason", "old", "new", "last_id", "matching", "base_id", "lost",
    "unconfirmed",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Server:
    """What tells one server, and one history of it, from another: system identifier and timeline."""

    system_identifier: str
    timeline: int

    def to_json(self) -> dict[str, JsonValue]:
        """Return the member of the record."""
        return {"system_identifier": self.system_identifier, "timeline": self.timeline}


@dataclass(frozen=True, slots=True)
class Recovery:
    """What one RECOVER record says."""

    trail: str
    incarnation: int
    kind: str
    old: Server
    new: Server
    last_id: int
    matching: int
    base_id: int
    lost_count: int
    lost: tuple[tuple[int, int], ...]
    signs: tuple[str, ...] = ()
    reason: str | None = None
    unconfirmed: tuple[tuple[int, int], ...] = ()

    def to_json(self) -> dict[str, JsonValue]:
        """Return the record's data."""
        return {
            "trail": self.trail,
            "incarnation": self.incarnation,
            "kind": self.kind,
            "signs": list(self.signs),
            "reason": self.reason,
            "old": self.old.to_json(),
            "new": self.new.to_json(),
            "last_id": str(self.last_id),
            "matching": self.matching,
            "base_id": str(self.base_id),
            "lost": {"count": self.lost_count, "leaves": [list(pair) for pair in self.lost]},
            "unconfirmed": [list(pair) for pair in self.unconfirmed],
        }


def parse_recovery(data: bytes, *, source: str = "RECOVER record") -> Recovery:
    """Return what the data of a RECOVER record says; raises ``FormatError`` unless it has exactly that form."""
    value = parse_json(data, source=source, max_bytes=MAX_DATA_BYTES, max_depth=_MAX_DEPTH)
    members = require_members(value, _MEMBERS, source)
    trail, kind, reason, signs = (members[name] for name in ("trail", "kind", "reason", "signs"))
    if not isinstance(trail, str) or not isinstance(kind, str) or kind not in KINDS:
        raise FormatError(f"expected trail as a string and kind as one of {', '.join(KINDS)}", source=source)
    if not (reason is None or isinstance(reason, str)) or not isinstance(signs, list):
        raise FormatError("expected reason as a string or null, and signs as a list", source=source)
    lost = require_members(members["lost"], ("count", "leaves"), source)
    leaves, count = parse_ranges(lost["leaves"], source), parse_number(lost, "count", source, least=0)
    if count > sum(end - begin for begin, end in leaves) or bool(leaves) != bool(count):
        raise FormatError(f"expected no more lost records than there are leaves, got {count}", source=source)
    return Recovery(
        trail,
        parse_number(members, "incarnation", source, least=2),
        kind,
        _parse_server(members["old"], source),
        _parse_server(members["new"], source),
        _parse_id(members, "last_id", source),
        parse_number(members, "matching", source, least=0),
        _parse_id(members, "base_id", source),
        count,
        leaves,
        tuple(str(sign) for sign in signs),
        reason,
        parse_ranges(members["unconfirmed"], source),
    )


def _parse_server(value: JsonValue, source: str) -> Server:
    members = require_members(value, ("system_identifier", "timeline"), source)
    identifier = members["system_identifier"]
    if not isinstance(identifier, str):
        raise FormatError("expected a system identifier as a string", source=source)
    return Server(identifier, parse_number(members, "timeline", source))


def _parse_id(members: Mapping[str, JsonValue], name: str, source: str) -> int:
    value = members[name]
    if not isinstance(value, str):
        raise FormatError(f"expected {name} as a decimal string", source=source)
    return parse_decimal(value, source=f"{source}, {name}")
