"""How an envelope writes time and relation names (FORMATS.md section 1): each value in exactly one way.

Time is ``YYYY-MM-DDTHH:MM:SS.ffffffZ``: UTC, always six digits, years 0001 to 9999, no leap seconds (PostgreSQL has
none). A relation is ``schema.name``; a part is bare if it matches ``[a-z_][a-z0-9_]*`` and otherwise in double quotes
with ``"`` doubled. Keywords are not special, so the rule is simpler than SQL's own: ``public.user`` stays bare.
"""

import re
from datetime import datetime, timedelta

from pgseal.core.encoding import shorten
from pgseal.errors import FormatError

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - all arithmetic here is UTC; naive values skip tzinfo lookups
_MICROSECOND = timedelta(microseconds=1)

#: Microseconds since the Unix epoch of 0001-01-01T00:00:00.000000Z and 9999-12-31T23:59:59.999999Z.
MIN_TIME = (datetime.min - _EPOCH) // _MICROSECOND  # noqa: DTZ901
MAX_TIME = (datetime.max - _EPOCH) // _MICROSECOND  # noqa: DTZ901

_TIME = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})\.([0-9]{6})Z")
_BARE = re.compile(r"[a-z_][a-z0-9_]*")
_RELATION = re.compile(r'([a-z_][a-z0-9_]*|"(?:[^"\x00]|"")++")\.([a-z_][a-z0-9_]*|"(?:[^"\x00]|"")++")')


def format_time(microseconds: int) -> str:
    """Return the text of a time given in microseconds since the Unix epoch.

    Raises ``FormatError`` outside years 0001 to 9999.
    """
    if not MIN_TIME <= microseconds <= MAX_TIME:
        raise FormatError(
            f"expected a time in years 0001 to 9999, got {microseconds} microseconds since the epoch", source="time"
        )
    return (_EPOCH + timedelta(microseconds=microseconds)).isoformat(timespec="microseconds") + "Z"


def parse_time(text: str, *, source: str = "time") -> int:
    """Return microseconds since the Unix epoch; raises ``FormatError`` unless ``text`` is the one spelling."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise FormatError(f"expected YYYY-MM-DDTHH:MM:SS.ffffffZ, got {shorten(text)}", source=source)
    try:
        # The constructor rather than fromisoformat: newer Pythons read 24:00 as the next day.
        year, month, day, hour, minute, second, microsecond = map(int, match.groups())
        moment = datetime(year, month, day, hour, minute, second, microsecond)  # noqa: DTZ001
    except ValueError as error:
        raise FormatError(f"no such date or time: {shorten(text)}", source=source) from error
    return (moment - _EPOCH) // _MICROSECOND


def format_relation(schema: str, name: str) -> str:
    """Return ``schema.name`` with each part quoted where needed.

    Raises ``FormatError`` for a part that PostgreSQL cannot hold: empty, or with a NUL or a lone surrogate.
    """
    return f"{_quote(schema)}.{_quote(name)}"


def parse_relation(text: str, *, source: str = "relation") -> tuple[str, str]:
    """Return ``(schema, name)``; raises ``FormatError`` unless ``text`` is the one spelling."""
    match = _RELATION.fullmatch(text)
    if match is None:
        raise FormatError(
            f"expected schema.name, each part bare or in double quotes, got {shorten(text)}", source=source
        )
    schema, name = _unquote(match[1]), _unquote(match[2])
    canonical = format_relation(schema, name)
    if canonical != text:
        raise FormatError(
            f"quotes that are not needed: expected {shorten(canonical)}, got {shorten(text)}", source=source
        )
    return schema, name


def _quote(part: str) -> str:
    if _BARE.fullmatch(part):
        return part
    if not part or "\x00" in part:
        raise FormatError(f"expected a name that is not empty and has no NUL, got {shorten(part)}", source="relation")
    try:
        part.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError(f"a name holds a lone surrogate: {shorten(part)}", source="relation") from error
    return '"' + part.replace('"', '""') + '"'


def _unquote(part: str) -> str:
    return part[1:-1].replace('""', '"') if part.startswith('"') else part
