"""Writes the SQL that turns a row into its image, its key and what an UPDATE changed. Pure.

What may stand in these expressions, and why:

- Only values of the built-in types of FORMATS.md §1 meet ``to_jsonb``; all others are printed by their output function.
  Columns are listed by name: ``to_jsonb(NEW)`` would run a cast to json that came with a column added later.
- An image is ``to_jsonb(ROW(…)::audit.image_…)``: a composite type of built-in types, owned by pgseal_owner, gives the
  names. Its attributes stand in jsonb's own order of keys, so that nothing has to be sorted for each row.
- JSON null in a jsonb column is not SQL NULL: ``audit.mark_json`` gives it another form.
- A value goes through ``audit.exactly``, so that an expression is not even prepared for a column that has another type
  by now: it would look for a cast, which may be somebody's code.
- No subqueries: PL/pgSQL keeps an expression without one ready for the whole transaction, and sets up a statement anew
  for each row. What is evaluated for every row has few functions in it, because each is looked up in every transaction.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence

from psycopg import sql

from pgseal.trail.catalog import Column, Encoding, Table

REDACTED = "[redacted]"
_ARGUMENTS_LIMIT = 90  # a function takes at most 100 arguments

_OUTPUT = frozenset({Encoding.OUTPUT, Encoding.OUTPUT_ROW})


def object_name(prefix: str, relation: str) -> str:
    """Name what belongs to one relation in schema audit: readable, unique, at most 63 bytes."""
    digest = hashlib.sha256(relation.encode()).hexdigest()[:10]
    return f"{prefix}_{re.sub('[^a-z0-9_]', '_', relation.lower())[:40]}_{digest}"


def image_type(table: Table) -> sql.Identifier:
    """Name the composite type of a table's images."""
    return sql.Identifier("audit", object_name("image", table.relation))


class Images:
    """The expressions of one table under one rule."""

    def __init__(
        self, table: Table, columns: Sequence[Column], mask: Mapping[str, str], *, old: str = "old", new: str = "new"
    ) -> None:
        """Take the captured ``columns`` of ``table``, masked as ``mask`` says, and what the two rows are called."""
        self._old, self._new = old, new
        self._type = image_type(table)
        self._mask = mask
        self._columns = sorted(columns, key=lambda column: (len(column.name.encode()), column.name.encode()))
        self._key = [column for column in table.columns if column.name in table.key]

    def format_type(self) -> sql.Composed:
        """Write the CREATE TYPE statement of the images."""
        attributes = sql.SQL(", ").join(
            sql.SQL("{} {}").format(
                sql.Identifier(column.name),
                sql.Identifier("pg_catalog", "text" if self._is_text(column) else column.type_name),
            )
            for column in self._columns
        )
        return sql.SQL("CREATE TYPE {} AS ({})").format(self._type, attributes)

    def image(self, row: str) -> sql.Composed:
        """Write the whole row as jsonb."""
        return self._to_jsonb([_value(column, row, self._mask) for column in self._columns])

    def key(self, row: str) -> sql.Composable:
        """Write the primary key as jsonb; NULL where there is none."""
        if not self._key:
            return sql.SQL("NULL")
        pairs = (
            sql.SQL("{}, {}").format(sql.Literal(column.name), _value(column, row, {})) for column in self._key
        )  # fmt: skip
        return sql.SQL("jsonb_build_object({})").format(sql.SQL(", ").join(pairs))

    def changes(self) -> sql.Composed:
        """Write the former values of the columns that an UPDATE changed, but for those that were NULL, as jsonb."""
        flat = [column for column in self._columns if not self._is_json(column)]
        values = [self._former(column) if column in flat else sql.SQL("NULL") for column in self._columns]
        # Stripping goes into nested objects, too: a jsonb value must not be in there.
        pieces = [sql.SQL("jsonb_strip_nulls({})").format(self._to_jsonb(values))]
        pieces += [
            sql.SQL("CASE WHEN {} AND {} THEN jsonb_build_object({}, {}) ELSE '{{}}' END").format(
                _is_present(column, self._old),
                self._differs(column),
                sql.Literal(column.name),
                _value(column, self._old, self._mask),
            )
            for column in self._columns
            if column not in flat
        ]
        return sql.SQL(" || ").join(pieces)

    def has_change_from_null(self) -> sql.Composable:
        """Write the test whether some column was NULL and is not any more."""
        tests = [
            sql.SQL("({} AND {})").format(_is_absent(column, self._old), _is_present(column, self._new))
            for column in self._columns
        ]
        return sql.SQL(" OR ").join(tests) if tests else sql.SQL("false")

    def all_changes(self) -> sql.Composed:
        """Write the former values of the columns that an UPDATE changed, NULL ones too, as jsonb; costs more."""
        pieces = [
            sql.SQL("CASE WHEN {differs} THEN {name} || coalesce(to_json({value})::text, 'null') END").format(
                differs=self._differs(column),
                name=sql.Literal(json.dumps(column.name, ensure_ascii=False) + ": "),
                value=_value(column, self._old, self._mask),
            )
            for column in self._columns
        ]
        return sql.SQL("('{{' || {} || '}}')::jsonb").format(_concatenated(pieces))

    def is_large(self, row: str, limit: int) -> sql.Composed | None:
        """Write the test whether a value takes more than ``limit`` bytes where it is stored; None if none can."""
        sizes = [
            sql.SQL("pg_column_size({})").format(sql.Identifier(row, column.name))
            for column in self._columns
            if column.is_long
        ]
        return sql.SQL("GREATEST({}) > {}").format(sql.SQL(", ").join(sizes), sql.Literal(limit)) if sizes else None

    def complete_changes(self) -> sql.Composed:
        """Write the former values of the columns that an UPDATE changed as one expression."""
        return sql.SQL("CASE WHEN {} THEN {} ELSE {} END").format(
            self.has_change_from_null(), self.all_changes(), self.changes()
        )

    def _to_jsonb(self, values: Sequence[sql.Composable]) -> sql.Composed:
        return sql.SQL("to_jsonb(ROW({})::{})").format(sql.SQL(", ").join(values), self._type)

    def _former(self, column: Column) -> sql.Composable:
        """Write a column's former value if it changed, else NULL."""
        if column.name not in self._mask:
            old, new = (_reference(column, row) for row in (self._old, self._new))
            if column.encoding is Encoding.IMAGE:
                return sql.SQL("NULLIF({}, {})").format(old, new)
            if column.encoding is Encoding.CHARACTER:
                return sql.SQL('NULLIF({} COLLATE "C", {} COLLATE "C")').format(old, new)
        return sql.SQL("CASE WHEN {} THEN {} END").format(self._differs(column), _value(column, self._old, self._mask))

    def _differs(self, column: Column) -> sql.Composable:
        rows = (self._old, self._new)
        if column.encoding is Encoding.IMAGE:
            return _distinct(*(_reference(column, row) for row in rows))
        if column.encoding in {Encoding.TEXT, Encoding.CHARACTER, Encoding.JSON}:
            return _distinct(*(sql.SQL('{}::text COLLATE "C"').format(_reference(column, row)) for row in rows))
        return _distinct(
            *(
                sql.SQL('CASE WHEN {} THEN {} COLLATE "C" END').format(
                    _is_present(column, row),
                    _output(sql.Identifier(row, column.name)),
                )
                for row in rows
            )
        )

    def _is_text(self, column: Column) -> bool:
        return column.encoding in _OUTPUT or column.name in self._mask

    def _is_json(self, column: Column) -> bool:
        return column.encoding is Encoding.JSON and column.name not in self._mask


def format_value(column: Column, row: str, *, as_text: bool) -> sql.Composable:
    """Write a column's own value, NULL where it is NULL; with ``as_text`` the text that it is printed as."""
    reference = _reference(column, row)
    if not as_text:
        return reference
    return sql.SQL("CASE WHEN {} THEN {} END").format(_is_present(column, row), _output(reference))


def _value(column: Column, row: str, mask: Mapping[str, str]) -> sql.Composable:
    """A column's value as a built-in type; NULL stays NULL."""
    reference = _reference(column, row)
    rule = mask.get(column.name)
    if rule == "redact":
        return sql.SQL("CASE WHEN {} THEN {}::text END").format(_is_present(column, row), sql.Literal(REDACTED))
    if rule == "last4":
        return sql.SQL("CASE WHEN {} THEN audit.mask_last4({}) END").format(
            _is_present(column, row), _output(reference)
        )
    if rule == "hash":
        return sql.SQL("CASE WHEN {} THEN audit.mask_hash({}) END").format(_is_present(column, row), _output(reference))
    if column.encoding in _OUTPUT:
        return sql.SQL("CASE WHEN {} THEN {} END").format(_is_present(column, row), _output(reference))
    if column.encoding is Encoding.JSON:
        return sql.SQL("audit.mark_json({})").format(reference)
    return reference


def _reference(column: Column, row: str) -> sql.Composable:
    """A column's value; an expression with it is not prepared if the column has not the type that it had."""
    value = sql.Identifier(row, column.name)
    if column.encoding in _OUTPUT:
        return value
    return sql.SQL("audit.exactly({}, NULL::{})").format(value, sql.Identifier("pg_catalog", column.type_name))


def _output(reference: sql.Composable) -> sql.Composable:
    return sql.SQL("format('%s', {})").format(reference)


def _is_present(column: Column, row: str) -> sql.Composable:
    # A composite IS NULL when all its fields are; num_nulls looks at the value itself.
    form = "num_nulls({}) = 0" if column.encoding is Encoding.OUTPUT_ROW else "{} IS NOT NULL"
    return sql.SQL(form).format(sql.Identifier(row, column.name))


def _is_absent(column: Column, row: str) -> sql.Composable:
    form = "num_nulls({}) = 1" if column.encoding is Encoding.OUTPUT_ROW else "{} IS NULL"
    return sql.SQL(form).format(sql.Identifier(row, column.name))


def _distinct(left: sql.Composable, right: sql.Composable) -> sql.Composable:
    return sql.SQL("{} IS DISTINCT FROM {}").format(left, right)


def _concatenated(pieces: Sequence[sql.Composable]) -> sql.Composable:
    while len(pieces) > _ARGUMENTS_LIMIT:
        # concat_ws skips NULLs but not empty strings, so an empty group must become NULL.
        pieces = [
            sql.SQL("nullif({}, '')").format(_concatenated(pieces[start : start + _ARGUMENTS_LIMIT]))
            for start in range(0, len(pieces), _ARGUMENTS_LIMIT)
        ]
    if not pieces:
        return sql.Literal("")
    return sql.SQL("concat_ws(', ', {})").format(sql.SQL(", ").join(pieces))
