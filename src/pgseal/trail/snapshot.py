"""The statements that record the rows of a table as they stand, as SNAPSHOT records. Pure.

A row with a value that may be too large for JSON, or for the policy, goes the way of altered tables' rows
(``audit.format_insert``), as it does in capture; all others go the quick way.
"""

import json
from collections.abc import Sequence

from psycopg import sql

from pgseal.trail.capture import (
    RECORD_COLUMNS,
    TableRule,
    captured_columns,
    find_limit,
    format_values,
    hidden_numbers,
)
from pgseal.trail.catalog import Table, TablePart
from pgseal.trail.conditions import format_condition
from pgseal.trail.filter import parse_filter
from pgseal.trail.images import Images

_ROW = "new"
_NAME = sql.Identifier(_ROW)


class Snapshot:
    """The statements for one table under one rule; in a part of it, rows are meant by pages [first, end)."""

    def __init__(self, table: Table, rule: TableRule) -> None:
        """Take the table as it is, and a rule that it can follow."""
        self._table, self._rule = table, rule
        self._images = Images(table, captured_columns(table, rule), rule.mask)
        self._long, limit = find_limit(table, rule)
        self._is_large = Images(table, self._long, {}).is_large(_ROW, limit)

    def format_insert(self, part: TablePart, first_id: int, pages: tuple[int, int]) -> sql.Composed:
        """Write the INSERT of the rows without large values."""
        large = [] if self._is_large is None else [sql.SQL("({}) IS NOT TRUE").format(self._is_large)]
        return sql.SQL(
            "INSERT INTO audit.record ({columns}) SELECT {first_id} + row_number() OVER () - 1, {values} "
            "FROM ONLY {table} AS {row} WHERE {condition}",
        ).format(
            columns=RECORD_COLUMNS,
            first_id=sql.Literal(first_id),
            values=format_values(
                self._table.relation,
                "SNAPSHOT",
                self._images.key(_ROW),
                sql.SQL("NULL"),
                self._images.image(_ROW),
                "NULL",
                self._data(part),
            ),
            table=part.identifier,
            row=_NAME,
            condition=self._condition([_within(part, pages), *large]),
        )

    def format_large_query(self, part: TablePart, pages: tuple[int, int]) -> sql.Composed | None:
        """Write the query that gives the INSERT of the rows with large values; None if none can be large.

        $1 of that INSERT is NULL, $2 the first id, $3 the data of its records.
        """
        if self._is_large is None:
            return None
        place = sql.SQL("(SELECT {row}.* FROM ONLY {table} AS {row} WHERE {condition})").format(
            table=part.identifier,
            row=_NAME,
            condition=self._condition([_within(part, pages), self._is_large]),
        )
        exclude, mask = hidden_numbers(self._table, self._rule)
        return sql.SQL(
            "SELECT audit.format_insert({oid}::regclass, 'SNAPSHOT', false, {exclude}::smallint[], {mask}, {oversize}, "
            "{place})"
        ).format(
            oid=sql.Literal(str(self._table.oid)),
            exclude=sql.Literal(exclude),
            mask=sql.Literal(json.dumps(mask)),
            oversize=sql.Literal(self._rule.oversize),
            place=sql.Literal(place.as_string()),
        )

    def format_oversized_query(self, part: TablePart) -> sql.Composed | None:
        """Write the query for one value over the policy's limit: its row's key or place, and its column."""
        if self._is_large is None:
            return None
        key = self._images.key(_ROW) if self._table.key else sql.SQL("to_jsonb({}.ctid::text)").format(_NAME)
        fits = sql.SQL(", ").join(
            sql.SQL("({name}, audit.fit({value}, 'digest', {name}, 1))").format(
                name=sql.Literal(column.name), value=sql.Identifier(_ROW, column.name)
            )
            for column in self._long
        )
        return sql.SQL(
            "SELECT ({key})::text, tried.name FROM ONLY {table} AS {row} CROSS JOIN LATERAL (VALUES {fits}) "
            "AS tried(name, instead) WHERE {condition} AND tried.instead IS NOT NULL LIMIT 1"
        ).format(key=key, table=part.identifier, row=_NAME, fits=fits, condition=self._condition([self._is_large]))

    def _data(self, part: TablePart) -> sql.Composable:
        return sql.SQL("NULL") if part.data is None else sql.SQL("{}::jsonb").format(sql.Literal(part.data))

    def _condition(self, conditions: Sequence[sql.Composable]) -> sql.Composed:
        covers = (
            []
            if self._rule.where is None
            else [format_condition(parse_filter(self._rule.where), self._table.columns, _ROW)]
        )
        return sql.SQL(" AND ").join([*conditions, *covers])


def _within(part: TablePart, pages: tuple[int, int]) -> sql.Composable:
    if part.is_foreign:
        return sql.SQL("true")
    return sql.SQL('"new".ctid >= {}::tid AND "new".ctid < {}::tid').format(
        *(sql.Literal(f"({page},0)") for page in pages)
    )
