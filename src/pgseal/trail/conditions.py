"""Filters held against a table, and written as conditions of SQL. Pure.

What keeps a filter from being bent (docs/adr/0016-row-filters.md):

- Columns of boolean, number, character, uuid, date and timestamp types are compared by their own operators, all others
  (enums, domains, floats, …) by the text they are printed as. Characters are compared by their bytes.
- Constants are checked and normalised here: no ``now``, no ``1/2/2026``, no timestamp that needs a session's time zone.
- Operators, types and the collation are pg_catalog's by name.
- A label of an enum that was renamed since is not there to be compared with: then every row is covered.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID

from psycopg import sql

from pgseal.core.encoding import shorten
from pgseal.errors import ConfigError
from pgseal.trail.catalog import Column, Encoding
from pgseal.trail.filter import (
    Constant,
    Filter,
    Group,
    Not,
    format_constant,
    format_filter,
    iter_comparisons,
    list_columns,
    show,
)
from pgseal.trail.images import format_value


def check_filter(found: Filter, relation: str, columns: Sequence[Column], hidden: Sequence[str]) -> None:
    """Refuse a filter that the table cannot be tested with.

    ``hidden`` are the columns that are left out or masked: whoever reads the records could not tell what the filter
    said of them.

    Raises ``ConfigError``.
    """
    by_name = {column.name: column for column in columns}
    for test in iter_comparisons(found):
        column = by_name.get(test.column)
        if column is None:
            names = ", ".join(sorted(by_name))
            raise ConfigError(f"{relation} has no column {test.column!r}, which its 'where' tests; it has: {names}")
        if test.column in hidden:
            raise ConfigError(
                f"{relation}: 'where' tests {test.column!r}, which is left out or masked: nobody could tell from the "
                "records which rows they are to cover"
            )
        if test.operator in {"<", "<=", ">", ">="} and _kind_of(column) is _OTHER:
            raise ConfigError(
                f"{relation}: 'where' can compare {test.column!r} by =, <>, in and is null only: of its type nothing "
                "is known but how it is printed"
            )
        for constant in test.constants:
            _check_constant(relation, column, constant)


def _check_constant(relation: str, column: Column, constant: Constant) -> None:
    kind = _kind_of(column)
    if column.labels and constant not in dict(column.labels):
        raise ConfigError(
            f"{relation}: 'where' compares {column.name!r} with {show(format_constant(constant))}, which is none of "
            f"its type's labels: {shorten([label for label, _ in column.labels])}"
        )
    try:
        kind.normalise(constant)
    except (ValueError, TypeError, OverflowError) as error:
        raise ConfigError(
            f"{relation}: 'where' compares {column.name!r} with {show(format_constant(constant))}: "
            f"expected {kind.expected}"
        ) from error


@dataclass(frozen=True, slots=True)
class _Kind:
    """How values of some types are compared: as ``type_name``, with constants that ``normalise`` makes its text of."""

    type_name: LiteralString
    expected: str
    normalise: Callable[[Any], str]
    is_character: bool = False


def _text(constant: Constant) -> str:
    if not isinstance(constant, str):
        raise TypeError
    return constant


def _boolean(constant: Constant) -> str:
    if not isinstance(constant, bool):
        raise TypeError
    return str(constant).lower()


def _integer(constant: Constant) -> str:
    if isinstance(constant, bool) or not isinstance(constant, int) or not -(1 << 63) <= constant < 1 << 63:
        raise ValueError
    return str(constant)


def _number(constant: Constant) -> str:
    if isinstance(constant, bool | str):
        raise TypeError
    return format(constant, "f") if isinstance(constant, Decimal) else str(constant)


def _uuid(constant: Constant) -> str:
    return str(UUID(_text(constant)))


def _date(constant: Constant) -> str:
    return date.fromisoformat(_text(constant)).isoformat()


def _timestamp(constant: Constant) -> str:
    moment = datetime.fromisoformat(_text(constant))
    if moment.tzinfo is not None:
        raise ValueError
    return moment.isoformat(" ")


def _timestamptz(constant: Constant) -> str:
    moment = datetime.fromisoformat(_text(constant))
    if moment.tzinfo is None:
        raise ValueError
    return moment.astimezone(UTC).isoformat(" ")


_OTHER = _Kind("text", "a 'text': what the value is printed as", _text, is_character=True)
_KINDS: Mapping[str, _Kind] = {
    "bool": _Kind("bool", "true or false", _boolean),
    **dict.fromkeys(("int2", "int4", "int8"), _Kind("int8", "a whole number", _integer)),
    "numeric": _Kind("numeric", "a number", _number),
    **dict.fromkeys(("text", "varchar"), _Kind("text", "a 'text'", _text, is_character=True)),
    "bpchar": _Kind("bpchar", "a 'text'", _text, is_character=True),
    "uuid": _Kind("uuid", "a uuid in quotes", _uuid),
    "date": _Kind("date", "a date such as '2026-11-23'", _date),
    "timestamp": _Kind("timestamp", "a time without zone such as '2026-11-23 09:14:00'", _timestamp),
    "timestamptz": _Kind("timestamptz", "a time with its zone such as '2026-11-23 09:14:00Z'", _timestamptz),
}


def _kind_of(column: Column) -> _Kind:
    if column.encoding in {Encoding.OUTPUT, Encoding.OUTPUT_ROW}:
        return _OTHER
    return _KINDS.get(column.type_name, _OTHER)


def format_condition(found: Filter, columns: Sequence[Column], row: str) -> sql.Composed:
    """Write a filter that ``check_filter`` accepted as a condition on ``row``, for columns of the types they have now.

    An expression without subqueries: it stays prepared, and is not even prepared for a column of another type.
    """
    test = _write(found, columns, lambda column, is_typed: format_value(column, row, as_text=not is_typed))
    return _or_lost(test, found, columns)


def format_stored(found: Filter, columns: Sequence[Column]) -> dict[str, Any]:
    """Return a filter as the registry keeps it, for tables that are altered (``audit.format_filter``).

    ``test`` is a condition on a row ``tested``, whose columns are called by number; it reads their printed values,
    because a cast would be looked for even where the type is another by now. ``columns`` are these with their types,
    and the labels of enums that they are compared with.
    """
    tested = [column for column in columns if column.name in list_columns(found)]
    test = _or_lost(_write(found, columns, _reference_by_number), found, columns)
    return {
        "where": format_filter(found),
        "columns": [
            {"number": column.number, "name": column.name, "type": column.type_oid}
            | ({"labels": labels} if (labels := _find_labels(found, [column])) else {})
            for column in tested
        ],
        "test": test.as_string(),
    }


def _find_labels(found: Filter, columns: Sequence[Column]) -> dict[str, int]:
    """Return the labels of enums that columns are compared with, and their oids."""
    by_name = {column.name: dict(column.labels) for column in columns}
    return {
        str(constant): by_name[test.column][str(constant)]
        for test in iter_comparisons(found)
        for constant in test.constants
        if str(constant) in by_name.get(test.column, {})
    }


def _or_lost(test: sql.Composed, found: Filter, columns: Sequence[Column]) -> sql.Composed:
    labels: dict[int, str] = {}
    for column in columns:
        labels |= {oid: label for label, oid in _find_labels(found, [column]).items()}
    if not labels:
        return test
    return sql.SQL("({} OR audit.lost_labels({}::oid[], {}::text[]))").format(
        test, sql.Literal(list(labels)), sql.Literal(list(labels.values()))
    )


def _reference_by_number(column: Column, is_typed: bool) -> sql.Composable:  # noqa: FBT001  as the other one is called
    form = "CASE WHEN num_nulls({0}) = 0 THEN format('%s', {0}) END"
    text = sql.SQL(form).format(sql.Identifier("tested", str(column.number)))
    return sql.SQL("({})::{}").format(text, sql.Identifier("pg_catalog", column.type_name)) if is_typed else text


def _write(
    found: Filter, columns: Sequence[Column], reference: Callable[[Column, bool], sql.Composable]
) -> sql.Composed:
    """Write a condition; ``reference`` writes a column's value, as what it is or as the text that it is printed as."""
    if isinstance(found, Not):
        return sql.SQL("(NOT {})").format(_write(found.part, columns, reference))
    if isinstance(found, Group):
        parts = [_write(part, columns, reference) for part in found.parts]
        return sql.SQL("({})").format(sql.SQL(f" {found.word.upper()} ").join(parts))
    column = next(column for column in columns if column.name == found.column)
    kind = _kind_of(column)
    value = reference(column, kind is not _OTHER)
    if found.operator == "null":
        return sql.SQL("(({}) IS NULL)").format(value)
    form = '(({value}) COLLATE pg_catalog."C" ' if kind.is_character else "(({value}) "
    form += "OPERATOR(pg_catalog.{operator}) {constants})"
    type_name = sql.Identifier("pg_catalog", kind.type_name)
    constants = [sql.Literal(kind.normalise(constant)) for constant in found.constants]
    if found.operator == "in":
        array = sql.SQL("ANY (ARRAY[{}]::{}[])").format(sql.SQL(", ").join(constants), type_name)
        return sql.SQL(form).format(value=value, operator=sql.SQL("="), constants=array)
    constant = sql.SQL("{}::{}").format(constants[0], type_name)
    return sql.SQL(form).format(value=value, operator=sql.SQL(found.operator), constants=constant)
