"""The two spellings every text format of FORMATS.md shares: canonical base64 and canonical decimals.

Both exist in exactly one form, so that equal values mean equal bytes and nothing can hide in a second spelling:

- base64 is RFC 4648 section 4, standard alphabet, with padding, no line breaks, unused bits zero;
- a decimal is ASCII digits without sign, space, underscore or leading zero.
"""

import base64
import binascii
import re

from pgseal.errors import FormatError

#: Sizes and indexes are below this everywhere: they fit PostgreSQL's bigint and tlog's int64.
MAX_TREE_SIZE = 2**63 - 1

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,19}")
_SHOWN = 80


def format_base64(data: bytes) -> str:
    """Return the canonical base64 of ``data``."""
    return base64.b64encode(data).decode("ascii")


def parse_base64(text: str, *, source: str, length: int | None = None) -> bytes:
    """Return the bytes that ``text`` is the canonical base64 of.

    ``length``, where given, is the exact number of bytes expected. Raises ``FormatError``.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"not base64: {shorten(text)}", source=source) from error
    if format_base64(data) != text:
        raise FormatError(
            f"base64 is not canonical: expected {shorten(format_base64(data))}, got {shorten(text)}", source=source
        )
    if length is not None and len(data) != length:
        raise FormatError(f"expected base64 of {length} bytes, got {len(data)}", source=source)
    return data


def parse_decimal(text: str, *, source: str, maximum: int = MAX_TREE_SIZE) -> int:
    """Return the integer that ``text`` is the canonical decimal of; raises ``FormatError`` above ``maximum``."""
    if not _DECIMAL.fullmatch(text):
        raise FormatError(f"expected a decimal without leading zeros, got {shorten(text)}", source=source)
    value = int(text)
    if value > maximum:
        raise FormatError(f"expected at most {maximum}, got {value}", source=source)
    return value


def shorten(value: object) -> str:
    """Return ``repr(value)`` cut to what fits an error message."""
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
