r"""PostgreSQL's COPY text format, as far as rows of trail and vault need it. Pure.

One row a line, columns separated by tabs, NULL as ``\N``; backslash, tab, newline, carriage return and three more
control characters are written with a backslash (PostgreSQL manual, COPY, "Text Format").
"""

import re

from pgseal.errors import FormatError

NULL = rb"\N"

_ESCAPES = {
    b"\\\\": b"\\",
    b"\\t": b"\t",
    b"\\n": b"\n",
    b"\\r": b"\r",
    b"\\b": b"\b",
    b"\\f": b"\f",
    b"\\v": b"\v",
}
_CHARACTERS = {character: escaped for escaped, character in _ESCAPES.items()}
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_SPECIAL = re.compile(rb"[\\\t\n\r\x08\x0c\x0b]")
_SECONDS = 19  # of YYYY-MM-DD HH:MM:SS
_MICROSECONDS = 26
_TIME = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?\+00")


def unescape(field: bytes) -> bytes:
    """Return the value of a field that is not NULL; raises ``FormatError`` for an unknown escape."""
    if b"\\" not in field:
        return field
    try:
        return _ESCAPED.sub(lambda match: _ESCAPES[match.group()], field)
    except KeyError as error:
        raise FormatError(f"unknown escape {error.args[0]!r}", source="COPY row") from error


def escape(value: bytes) -> bytes:
    """Return ``value`` as a field."""
    return _SPECIAL.sub(lambda match: _CHARACTERS[match.group()], value)


def format_time(field: bytes) -> bytes:
    """Turn a timestamptz printed in UTC and ISO style into FORMATS.md's form, always six digits.

    Raises ``FormatError`` for what has no such form: infinity, BC, years beyond 9999.
    """
    if _TIME.fullmatch(field) is None:
        raise FormatError(f"no time within years 0001 to 9999: {field[:40]!r}", source="trail row")
    text = field[:10] + b"T" + field[11:-3]
    if len(text) == _SECONDS:
        return text + b".000000Z"
    return text.ljust(_MICROSECONDS, b"0") + b"Z"
