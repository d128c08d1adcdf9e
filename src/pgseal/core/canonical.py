r"""JSON with one spelling (RFC 8785, "JCS") and a JSON parser that accepts nothing doubtful.

Hashes and signatures are over bytes, so a JSON value that is hashed needs exactly one byte form. RFC 8785 fixes it:

- no space; members sorted by the UTF-16 code units of their names (section 3.2.3);
- numbers as ECMAScript prints a double: ``1e+21``, ``0.000001``, ``1e-7``, and ``0`` for minus zero (section 3.2.2.3);
- strings with the shortest escapes: ``\b \t \n \f \r \" \\``, other control characters as ``\u001f`` in lower
  case, everything else as plain UTF-8 (section 3.2.2.2).

What has no faithful form is refused, never rounded: NaN and infinities, integers beyond ±(2^53 - 1), which a double
cannot hold, lone surrogates, member names that are not strings.

``parse_json`` is the other direction for untrusted bytes: bounded in size and depth, and refusing what parsers are
known to disagree about (duplicate members, NaN, a byte order mark, lone surrogates, numbers that overflow a double).

Spec: https://www.rfc-editor.org/rfc/rfc8785 and https://www.rfc-editor.org/rfc/rfc8259.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, cast

from pgseal.core.encoding import shorten
from pgseal.errors import FormatError

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"

#: The largest integer a double holds exactly together with its neighbours (RFC 7493 section 2.2).
MAX_SAFE_INTEGER = 2**53 - 1

#: Deepest nesting ``encode_canonical`` follows; far below Python's recursion limit.
MAX_DEPTH = 200

_CANONICAL = "canonical JSON"

# With ensure_ascii off, the standard encoder escapes strings exactly as RFC 8785 section 3.2.2.2 demands.
_encode_string = json.JSONEncoder(ensure_ascii=False).encode
# Takes a text, where its string's content begins, and whether to be strict; gives the string and where it ends.
_scan_string = cast(
    "Callable[[str, int, bool], tuple[str, int]]",
    json.decoder.scanstring,  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
)

# ECMAScript switches to an exponent at 1e21 and below 1e-6 (ECMA-262, Number::toString).
_MAX_PLAIN_POINT = 21
_MIN_PLAIN_POINT = -6


def encode_canonical(value: JsonValue) -> bytes:
    """Return the RFC 8785 bytes of ``value``.

    ``value`` is built of None, bool, int, float, str, lists or tuples, and mappings with str keys. Raises
    ``FormatError`` for whatever has no canonical form (see the module).
    """
    pieces: list[str] = []
    _append(value, pieces, 0)
    try:
        return "".join(pieces).encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError(
            f"a string holds the lone surrogate U+{ord(error.object[error.start]):04X}", source=_CANONICAL
        ) from error


def format_number(value: float) -> str:
    """Return a number as ECMAScript prints it (RFC 8785 section 3.2.2.3); raises ``FormatError``.

    Ints beyond ±(2^53 - 1) are refused; floats of any finite size are exact already.
    """
    if isinstance(value, int):
        if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
            raise FormatError(
                f"integers beyond ±(2^53 - 1) have no exact form, write it as a string: {shorten(value)}",
                source=_CANONICAL,
            )
        return int.__repr__(value)
    if not math.isfinite(value):
        raise FormatError(f"expected a finite number, got {value!r}", source=_CANONICAL)
    if not value:
        return "0"
    return "-" + _format_positive(-value) if value < 0 else _format_positive(value)


def _format_positive(value: float) -> str:
    # repr gives the shortest digits that read back as the same double, which is what ECMAScript prints; only the
    # place of the point differs. `point` counts digits before it, as n does in ECMA-262.
    mantissa, _, exponent = float.__repr__(value).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if len(digits) <= point <= _MAX_PLAIN_POINT:
        return digits + "0" * (point - len(digits))
    if 0 < point <= _MAX_PLAIN_POINT:
        return digits[:point] + "." + digits[point:]
    if _MIN_PLAIN_POINT < point <= 0:
        return "0." + "0" * -point + digits
    tail = "." + digits[1:] if len(digits) > 1 else ""
    return f"{digits[0]}{tail}e{point - 1:+d}"


def _append(value: object, pieces: list[str], depth: int) -> None:
    if value is None:
        pieces.append("null")
    elif isinstance(value, str):
        pieces.append(_encode_string(value))
    elif isinstance(value, bool):
        pieces.append("true" if value else "false")
    elif isinstance(value, int | float):
        pieces.append(format_number(value))
    elif isinstance(value, list | tuple | Mapping):
        if depth >= MAX_DEPTH:
            raise FormatError(f"nested deeper than {MAX_DEPTH}", source=_CANONICAL)
        if isinstance(value, Mapping):
            _append_object(cast("Mapping[object, object]", value), pieces, depth + 1)
        else:
            _append_array(cast("Sequence[object]", value), pieces, depth + 1)
    else:
        raise FormatError(f"expected a JSON value, got {type(value).__name__}", source=_CANONICAL)


def _append_array(value: Sequence[object], pieces: list[str], depth: int) -> None:
    separator = "["
    for item in value:
        pieces.append(separator)
        _append(item, pieces, depth)
        separator = ","
    pieces.append("]" if value else "[]")


def _append_object(value: Mapping[object, object], pieces: list[str], depth: int) -> None:
    names: list[str] = []
    for name in value:
        if not isinstance(name, str):
            raise FormatError(f"expected member names to be strings, got {shorten(name)}", source=_CANONICAL)
        names.append(name)
    names.sort(key=_utf16)
    separator = "{"
    for name in names:
        pieces.append(separator + _encode_string(name) + ":")
        _append(value[name], pieces, depth)
        separator = ","
    pieces.append("}" if names else "{}")


def _utf16(name: str) -> bytes:
    # Big-endian code units compare as bytes the way RFC 8785 section 3.2.3 compares them as numbers. Lone surrogates
    # pass here and are refused when the whole text is encoded.
    return name.encode("utf-16-be", "surrogatepass")


def format_canonical_string(text: bytes) -> bytes:
    """Return the canonical JSON of a string given as UTF-8; raises ``UnicodeDecodeError``."""
    return _encode_string(text.decode("utf-8")).encode("utf-8")


def parse_canonical_string(quoted: str, *, source: str) -> str:
    """Return the string whose canonical JSON text is ``quoted``, quotes included; raises ``FormatError``."""
    try:
        value, end = _scan_string(quoted, 1, True)  # noqa: FBT003 - strict: no control characters
    except ValueError as error:  # without anything at all, not even a JSONDecodeError
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise FormatError(f"not JSON: {reason[:1].lower()}{reason[1:]}", source=source) from error
    # An escaped half of a character becomes one that is not escaped, and so is refused here, too.
    if end != len(quoted) or _encode_string(value) != quoted:
        raise FormatError(f"string is not in canonical form (RFC 8785): {shorten(quoted)}", source=source)
    return value


class _RefusedError(ValueError):
    """A hook of the standard parser met something this parser refuses."""


# A string, or what begins as one: running on to the end when unterminated keeps the scan linear.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(data: bytes, *, source: str, max_bytes: int, max_depth: int) -> JsonValue:
    """Return the JSON value in ``data`` (UTF-8), which is untrusted.

    ``max_bytes`` and ``max_depth`` (levels of arrays and objects) bound the work. Objects come back as ``dict``, arrays
    as ``list``, numbers without fraction or exponent as ``int``. Raises ``FormatError`` naming ``source``.
    """
    if len(data) > max_bytes:
        raise FormatError(f"expected at most {max_bytes} bytes, got {len(data)}", source=source)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("invalid UTF-8", source=source, offset=error.start) from error
    if text.startswith("\ufeff"):
        raise FormatError("begins with a byte order mark", source=source, offset=0)
    if data.count(b"[") + data.count(b"{") > max_depth:
        _check_depth(data, max_depth, source)
    try:
        value = cast("JsonValue", _DECODER.decode(text))
    except json.JSONDecodeError as error:
        raise FormatError(
            f"not JSON: {error.msg[:1].lower()}{error.msg[1:]}",
            source=source,
            offset=len(text[: error.pos].encode("utf-8")),
        ) from error
    except _RefusedError as error:
        raise FormatError(str(error), source=source) from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits; a caller's huge max_depth
        raise FormatError("not JSON that can be read: number too long or nesting too deep", source=source) from error
    if _SURROGATE_ESCAPE.search(data):
        _check_surrogates(value, source)
    return value


def _check_depth(data: bytes, max_depth: int, source: str) -> None:
    depth = 0
    for match in _BRACKET.finditer(_STRING.sub(_blank, data)):
        depth += 1 if match[0] in b"[{" else -1
        if depth > max_depth:
            raise FormatError(f"nested deeper than {max_depth}", source=source, offset=match.start())


def _blank(match: re.Match[bytes]) -> bytes:
    return b" " * (match.end() - match.start())  # same length, so that offsets stay true


def _check_surrogates(value: object, source: str) -> None:
    # \ud83d\ude00 is one character and fine; half of it is not text in any encoding.
    pending: list[object] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            try:
                item.encode("utf-8")
            except UnicodeEncodeError as error:
                raise FormatError(
                    f"a string holds the lone surrogate U+{ord(item[error.start]):04X}", source=source
                ) from error
        elif isinstance(item, list):
            pending.extend(cast("list[object]", item))
        elif isinstance(item, dict):
            members = cast("dict[str, object]", item)
            pending.extend(members.keys())
            pending.extend(members.values())


def _unique_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _RefusedError(f"member {shorten(name)} appears twice")
            seen.add(name)
    return members


def _refuse_constant(name: str) -> object:
    raise _RefusedError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise _RefusedError(f"number does not fit a double: {shorten(digits)}")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_members, parse_constant=_refuse_constant, parse_float=_finite, strict=True
)
