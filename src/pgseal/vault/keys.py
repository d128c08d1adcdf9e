"""From the key that a person types to the keys that are recorded.

Records spell a key as PostgreSQL printed it: ``1.50``, ``2026-11-23T09:14:02+00:00``, ``'ab  '`` for a ``char(4)``. A
person may write it otherwise. Keys are compared by value: numbers whatever their trailing zeros; if nothing is
recorded under that, booleans, dates, times, uuids, floats and addresses as PostgreSQL reads them (a time without zone
is one in UTC, as it is recorded), and text without the blanks it is padded with.

The vault does not know the types of columns; it goes by how the newest recorded key looks.
"""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import psycopg
from psycopg import sql

from pgseal.errors import ConfigError, FormatError
from pgseal.postgres import Connection
from pgseal.vault.records import list_names
from pgseal.vault.values import Number, format_json, parse_part

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_DIGITS = 1000  # of a number that is looked for in several spellings
_SCALES = 38
_MOST_SPELLINGS = 2000  # of a key of several columns
# Types whose values are recorded as strings, and how: as JSON prints them, or as their output (FORMATS.md section 1).
_TYPES = {
    **dict.fromkeys(("timestamptz", "timestamp", "date", "timetz", "time", "uuid"), "to_jsonb({}::{}) #>> '{{}}'"),
    **dict.fromkeys(("float8", "float4", "interval", "inet", "cidr", "macaddr", "bytea"), "format('%%s', {}::{})"),
}


class TypedKey:
    """A key as a person wrote it, for a relation whose newest recorded key is ``sample``."""

    def __init__(self, relation: str, text: str, sample: Mapping[str, Any]) -> None:
        """Raise ``ConfigError`` if ``text`` is no key of the sample's columns."""
        self.relation, self.text = relation, text
        self._sample = sample
        self._values = _parse(relation, text, sample)

    def spell(self) -> list[str]:
        """Return the keys, as JSON, that are this one for certain, the likeliest first."""
        most = _SCALES if len(self._values) == 1 else 4
        return self._combine({name: _spell(value, self._sample[name], most) for name, value in self._values.items()})

    def spell_likely(self) -> list[str]:
        """Return the few of ``spell`` that a row has if it has any: in the sample's own manner, and as typed."""
        return self._combine({name: _spell(value, self._sample[name], 0) for name, value in self._values.items()})

    def guess(self, connection: Connection) -> list[str]:
        """Return further keys, as JSON, that this one may stand for; PostgreSQL at ``connection`` reads the values."""
        return self._combine(
            {
                name: [*_spell(value, self._sample[name], 0), *_guess(connection, value, self._sample[name])]
                for name, value in self._values.items()
            }
        )

    def _combine(self, spellings: Mapping[str, Iterable[str]]) -> list[str]:
        names = [json.dumps(name, ensure_ascii=False) for name in spellings]
        products = itertools.product(*(dict.fromkeys(some) for some in spellings.values()))
        return [
            "{" + ", ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True)) + "}"
            for values in itertools.islice(products, _MOST_SPELLINGS)
        ]


def _parse(relation: str, text: str, sample: Mapping[str, Any]) -> Mapping[str, Any]:
    given = _parse_object(text)
    if given is not None:
        if set(given) != set(sample):
            raise ConfigError(
                f"{relation} has the key {list_names(list(sample))}: expected a JSON object with these, got {text!r}"
            )
        return given
    if len(sample) != 1:
        example = json.dumps(dict.fromkeys(sample, "…"), ensure_ascii=False)
        raise ConfigError(f"{relation} has a key of several columns: give it as a JSON object, {example}")
    return dict.fromkeys(sample, text)


def _parse_object(text: str) -> Mapping[str, Any] | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        return parse_part(text, source="key")
    except FormatError:
        return None


def _spell(value: object, sample: object, most: int) -> Iterator[str]:
    """Yield JSON texts of ``value``: as it is, and, where it may be one, as a number with up to ``most`` more zeros."""
    if not isinstance(value, str):
        yield format_json(value)
        return
    # What is a text in our eyes may be a number in the table's, and the other way round: look for both.
    yield json.dumps(value, ensure_ascii=False)
    if value in {"true", "false"}:
        yield value
    if not _NUMBER.fullmatch(value.strip()):
        if isinstance(value, Number):
            yield str(value)
        return
    number = f"{Decimal(value.strip()):f}"
    if len(number) > _DIGITS:
        yield number
        return
    whole, _, fraction = number.partition(".")
    fraction = fraction.rstrip("0")
    scales = [len(number.partition(".")[2]), len(fraction)]
    if isinstance(sample, Number):
        scales.insert(0, len(sample.partition(".")[2]))
    for scale in (*scales, *range(len(fraction), len(fraction) + most)):
        if scale >= len(fraction):
            yield _without_minus_zero(f"{whole}.{fraction:0<{scale}}".rstrip("."))


def _without_minus_zero(number: str) -> str:
    return number if number.strip("-0.") else number.removeprefix("-")


def _guess(connection: Connection, value: object, sample: object) -> Iterator[str]:
    """Yield JSON texts of what ``value`` is in the type that ``sample`` seems to have."""
    if not isinstance(value, str):
        return
    if isinstance(sample, bool):
        yield from _cast(connection, "to_jsonb({}::{}) #>> '{{}}'", "bool", value, format_json(sample), quoted=False)
    elif isinstance(sample, str):
        for type_name, form in _TYPES.items():
            yield from _cast(connection, form, type_name, value, sample, quoted=True)
        yield json.dumps(value.rstrip(" ").ljust(len(sample)), ensure_ascii=False)


def _cast(connection: Connection, form: str, type_name: str, value: str, sample: str, *, quoted: bool) -> Sequence[str]:
    """Return what PostgreSQL makes of ``value`` in a type, if ``sample`` may be of it."""
    printed = [form.format(f"%({name})s::text", type_name) for name in ("value", "sample")]
    query = sql.SQL("SELECT {}, {} = %(sample)s").format(*map(sql.SQL, printed))  # pyright: ignore[reportArgumentType]
    try:
        row = connection.execute(query, {"value": value, "sample": sample}).fetchone()
    except psycopg.DataError:
        return []
    if row is None or not row[1]:
        return []
    return [json.dumps(row[0], ensure_ascii=False) if quoted else str(row[0])]
