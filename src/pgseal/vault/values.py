"""JSON of record parts, read and written without losing a digit.

PostgreSQL's ``numeric`` has up to 131,072 digits, a float 15; and what the application stored is what a person has to
see. So numbers stay the text they were.

PostgreSQL takes JSON that is nested thousands of levels deep, which hardly any other program reads. What lies deeper
than ``MAX_DEPTH`` is given as text, so that nobody can keep others from reading by writing such a value.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pgseal.errors import FormatError

#: Levels of nesting; below the limits of JSON parsers, and of Python's recursion when such a value is written.
MAX_DEPTH = 200
_BRACKETS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)


class Number(str):
    """A JSON number, as it was written."""

    __slots__ = ()


def parse_part(text: str, *, source: str) -> dict[str, Any]:
    """Return the JSON object in a part's text; numbers are ``Number``. Raises ``FormatError`` naming ``source``."""
    try:
        value = json.loads(_flatten(text), parse_int=Number, parse_float=Number, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        # Not chained: the cause keeps the whole text.
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "not finite"
        raise FormatError(
            f"not the JSON of a record ({reason}); pgseal verify says what was changed", source=source
        ) from None
    if not isinstance(value, dict):
        raise FormatError("expected a JSON object; pgseal verify says what was changed", source=source)
    return cast("dict[str, Any]", value)


def _flatten(text: str) -> str:
    """Replace what is nested too deep by ``{"pgseal": "deep", "text": …}`` with the JSON that stands there."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return text
    pieces: list[str] = []
    depth = done = start = 0
    for found in _BRACKETS.finditer(text):
        if found[0] in "[{":
            depth += 1
            if depth == MAX_DEPTH:
                start = found.start()
        elif found[0] in "]}":
            if depth == MAX_DEPTH:
                deep = {"pgseal": "deep", "text": text[start : found.end()]}
                pieces += [text[done:start], json.dumps(deep, ensure_ascii=False)]
                done = found.end()
            depth -= 1
    return "".join((*pieces, text[done:]))


def format_json(value: object) -> str:
    """Return ``value`` as JSON in one line; a ``Number`` is written as it was read."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, Mapping):
        members = cast("Mapping[str, object]", value).items()
        return "{" + ",".join(f"{format_json(name)}:{format_json(inner)}" for name, inner in members) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(format_json, cast("Sequence[object]", value))) + "]"
    return json.dumps(value, ensure_ascii=False)


def format_key(key: Mapping[str, Any]) -> str:
    """Return one text for one key as it is spelled; 1.5 and 1.50 are two."""
    return format_json(dict(sorted(key.items())))


def _refuse(constant: str) -> object:
    raise ValueError(constant)
