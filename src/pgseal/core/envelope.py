"""The envelope: a record's non-personal part, whose canonical bytes are the Merkle leaf (FORMATS.md section 1).

An envelope says who wrote what kind of fact, where and when, and binds the personal part by two commitments. It has
exactly the members of FORMATS.md; ``leaf_data`` is its RFC 8785 form, so a leaf has one spelling and can be parsed
by one regular expression. Example (one line)::

    {"action":"INSERT","category":"data_modification","commitments":{"actor":"fa74…","data":"4652…"},"id":"1",
     "incarnation":1,"outcome":"success","relation":"public.patients","source":"row",
     "time":"2026-11-23T09:14:02.118000Z","trail":"clinic","v":1,"xid":"7431"}

``id`` and ``xid`` are strings because they exceed what JSON numbers hold everywhere.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from pgseal.core.canonical import MAX_SAFE_INTEGER, JsonValue, encode_canonical, parse_canonical_string, parse_json
from pgseal.core.encoding import shorten
from pgseal.core.fields import parse_relation, parse_time
from pgseal.errors import FormatError

SOURCES = ("row", "ddl", "statement", "session", "app", "catalog", "system")
CATEGORIES = (
    "authentication",
    "authorization",
    "data_access",
    "data_modification",
    "configuration",
    "administration",
)
OUTCOMES = ("success", "failure", "denied", "unknown")

#: The version every envelope carries in ``v``.
VERSION = 1
#: Bytes of a commitment (SHA-256).
COMMITMENT_BYTES = 32
#: An entry of the ledger carries its length in 16 bits (FORMATS.md section 2).
MAX_LEAF_BYTES = 65_535
MAX_ID = 2**63 - 1
MAX_XID = 2**64 - 1
MAX_INCARNATION = MAX_SAFE_INTEGER

_TRAIL = re.compile(r"[a-z0-9_-]{1,63}")
_ACTION = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[1-9][0-9]{0,18}")
_XID = re.compile(r"0|[1-9][0-9]{0,19}")
_ENVELOPE_DEPTH = 2


@dataclass(frozen=True, slots=True)
class Envelope:
    """One record's envelope; members as in FORMATS.md section 1, commitments as 32 raw bytes.

    Building one checks nothing; ``check_envelope``, ``format_envelope`` and ``parse_envelope`` do.
    """

    trail: str
    incarnation: int
    id: int
    time: str
    xid: int
    source: str
    category: str
    action: str
    outcome: str
    relation: str | None
    actor_commitment: bytes
    data_commitment: bytes


def check_envelope(envelope: Envelope, *, source: str = "envelope") -> None:
    """Raise ``FormatError`` unless every member has the form FORMATS.md section 1 gives it."""
    check_constants(
        envelope.trail,
        envelope.incarnation,
        envelope.source,
        envelope.category,
        envelope.action,
        envelope.outcome,
        envelope.relation,
        where=source,
    )
    _check_range("id", envelope.id, 1, MAX_ID, source)
    _check_range("xid", envelope.xid, 0, MAX_XID, source)
    parse_time(envelope.time, source=source)
    for name, value in (("actor", envelope.actor_commitment), ("data", envelope.data_commitment)):
        if len(value) != COMMITMENT_BYTES:
            raise FormatError(
                f"expected a {name} commitment of {COMMITMENT_BYTES} bytes, got {len(value)}", source=source
            )


def check_constants(  # noqa: PLR0913 - the members that LeafBuilder keeps constant, in the envelope's order
    trail: str,
    incarnation: int,
    source: str,
    category: str,
    action: str,
    outcome: str,
    relation: str | None,
    *,
    where: str = "envelope",
) -> None:
    """Raise ``FormatError`` unless the members that many envelopes share have the right form."""
    _check_pattern("trail", trail, _TRAIL, where)
    _check_range("incarnation", incarnation, 1, MAX_INCARNATION, where)
    _check_choice("source", source, SOURCES, where)
    _check_choice("category", category, CATEGORIES, where)
    _check_pattern("action", action, _ACTION, where)
    _check_choice("outcome", outcome, OUTCOMES, where)
    if relation is not None:
        parse_relation(relation, source=where)


def format_envelope(envelope: Envelope) -> bytes:
    """Return ``leaf_data``: the RFC 8785 bytes of ``envelope``.

    Raises ``FormatError`` for a member without the right form, or beyond 65,535 bytes.
    """
    check_envelope(envelope)
    leaf_data = encode_canonical(
        {
            "v": VERSION,
            "trail": envelope.trail,
            "incarnation": envelope.incarnation,
            "id": str(envelope.id),
            "time": envelope.time,
            "xid": str(envelope.xid),
            "source": envelope.source,
            "category": envelope.category,
            "action": envelope.action,
            "outcome": envelope.outcome,
            "relation": envelope.relation,
            "commitments": {"actor": envelope.actor_commitment.hex(), "data": envelope.data_commitment.hex()},
        }
    )
    if len(leaf_data) > MAX_LEAF_BYTES:
        raise FormatError(f"expected at most {MAX_LEAF_BYTES} bytes, got {len(leaf_data)}", source="envelope")
    return leaf_data


# Canonical bytes have one spelling, so the grammar is regular; what it leaves open (calendar, 64-bit bounds, relation
# quoting) is checked after the match. About ten times as fast as parsing and encoding again.
_CATEGORY, _OUTCOME, _SOURCE = ("|".join(words) for words in (CATEGORIES, OUTCOMES, SOURCES))
_LEAF = re.compile(
    r'\{"action":"([A-Z][A-Z0-9_]{0,62})",'
    rf'"category":"({_CATEGORY})",'
    r'"commitments":\{"actor":"([0-9a-f]{64})","data":"([0-9a-f]{64})"\},'
    r'"id":"([1-9][0-9]{0,18})",'
    r'"incarnation":([1-9][0-9]{0,15}),'
    rf'"outcome":"({_OUTCOME})",'
    r'"relation":(null|"[^"\\]*+(?:\\.[^"\\]*+)*+"),'
    rf'"source":"({_SOURCE})",'
    r'"time":"([0-9T:.-]{26}Z)",'
    r'"trail":"([a-z0-9_-]{1,63})",'
    r'"v":1,'
    r'"xid":"(0|[1-9][0-9]{0,19})"\}'
)


def parse_envelope(leaf_data: bytes, *, source: str = "leaf") -> Envelope:
    """Return the envelope whose canonical bytes are ``leaf_data``.

    Strict: ``format_envelope`` of the result gives the same bytes. Raises ``FormatError`` naming ``source``.
    """
    if len(leaf_data) > MAX_LEAF_BYTES:
        raise FormatError(f"expected at most {MAX_LEAF_BYTES} bytes, got {len(leaf_data)}", source=source)
    try:
        match = _LEAF.fullmatch(leaf_data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise FormatError("invalid UTF-8", source=source, offset=error.start) from error
    if match is None:
        raise _explain(leaf_data, source)
    action, category, actor, data, id_, incarnation, outcome, relation, origin, time, trail, xid = match.groups()
    envelope = Envelope(
        trail=trail,
        incarnation=int(incarnation),
        id=int(id_),
        time=time,
        xid=int(xid),
        source=origin,
        category=category,
        action=action,
        outcome=outcome,
        relation=None if relation == "null" else _parse_quoted_relation(relation, source),
        actor_commitment=bytes.fromhex(actor),
        data_commitment=bytes.fromhex(data),
    )
    parse_time(time, source=source)
    _check_range("incarnation", envelope.incarnation, 1, MAX_INCARNATION, source)
    _check_range("id", envelope.id, 1, MAX_ID, source)
    _check_range("xid", envelope.xid, 0, MAX_XID, source)
    return envelope


@lru_cache(maxsize=256)  # a ledger names few relations; the bound is for hostile ones
def _parse_quoted_relation(quoted: str, source: str) -> str:
    relation = parse_canonical_string(quoted, source=source)
    parse_relation(relation, source=source)
    return relation


def _explain(leaf_data: bytes, source: str) -> FormatError:
    """Return why ``leaf_data``, which the grammar refused, is not an envelope."""
    try:
        envelope_from_json(
            parse_json(leaf_data, source=source, max_bytes=MAX_LEAF_BYTES, max_depth=_ENVELOPE_DEPTH), source=source
        )
    except FormatError as error:
        return error
    return FormatError("not in canonical form (RFC 8785)", source=source)


def envelope_from_json(value: JsonValue, *, source: str = "envelope") -> Envelope:
    """Return the envelope that a parsed JSON object describes: exactly its members, each of the right form.

    Raises ``FormatError``. Says nothing about the bytes the object was parsed from.
    """
    members = require_members(value, _MEMBERS, source)
    commitments = require_members(members["commitments"], ("actor", "data"), source)
    version, incarnation, relation = members["v"], members["incarnation"], members["relation"]
    if type(version) is not int or version != VERSION:
        raise FormatError(f"expected v 1, got {shorten(version)}: written by a newer pgseal?", source=source)
    if type(incarnation) is not int:
        raise FormatError(f"expected incarnation to be a whole number, got {shorten(incarnation)}", source=source)
    envelope = Envelope(
        trail=_string(members, "trail", None, source),
        incarnation=incarnation,
        id=int(_string(members, "id", _ID, source)),
        time=_string(members, "time", None, source),
        xid=int(_string(members, "xid", _XID, source)),
        source=_string(members, "source", None, source),
        category=_string(members, "category", None, source),
        action=_string(members, "action", None, source),
        outcome=_string(members, "outcome", None, source),
        relation=None if relation is None else _string(members, "relation", None, source),
        actor_commitment=bytes.fromhex(_string(commitments, "actor", _HEX64, source)),
        data_commitment=bytes.fromhex(_string(commitments, "data", _HEX64, source)),
    )
    check_envelope(envelope, source=source)
    return envelope


_MEMBERS = (
    "v",
    "trail",
    "incarnation",
    "id",
    "time",
    "xid",
    "source",
    "category",
    "action",
    "outcome",
    "relation",
    "commitments",
)


def require_members(value: JsonValue, names: tuple[str, ...], source: str) -> Mapping[str, JsonValue]:
    """Return ``value`` if it is an object with exactly the members ``names``; raises ``FormatError``."""
    if not isinstance(value, dict):
        raise FormatError(f"expected an object with members {', '.join(names)}, got {shorten(value)}", source=source)
    missing = [name for name in names if name not in value]
    unknown = [name for name in value if name not in names]
    if missing or unknown:
        raise FormatError(
            f"expected exactly the members {', '.join(names)}; missing {missing}, unknown {shorten(unknown)}",
            source=source,
        )
    return value


def _string(members: Mapping[str, JsonValue], name: str, pattern: re.Pattern[str] | None, source: str) -> str:
    value = members[name]
    if not isinstance(value, str):
        raise FormatError(f"expected {name} to be a string, got {shorten(value)}", source=source)
    if pattern is not None:
        _check_pattern(name, value, pattern, source)
    return value


def _check_pattern(name: str, value: str, pattern: re.Pattern[str], source: str) -> None:
    if not pattern.fullmatch(value):
        raise FormatError(f"expected {name} to match {pattern.pattern}, got {shorten(value)}", source=source)


def _check_choice(name: str, value: str, choices: tuple[str, ...], source: str) -> None:
    if value not in choices:
        raise FormatError(f"expected {name} to be one of {', '.join(choices)}, got {shorten(value)}", source=source)


def _check_range(name: str, value: int, minimum: int, maximum: int, source: str) -> None:
    if not minimum <= value <= maximum:
        raise FormatError(f"expected {name} between {minimum} and {maximum}, got {shorten(value)}", source=source)
