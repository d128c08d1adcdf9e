"""Tables as text, from a file or made up, and how they become tables of a database.

Types are derived from what stands in the columns; columns with the names Synthea gives to references become foreign
keys where the other table is there.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgseal.errors import ConfigError
from pgseal.postgres import Connection

Skip = Callable[[str], None]

#: Column → the table whose ``id`` it names.
REFERENCES = {
    "patient": "patients",
    "encounter": "encounters",
    "organization": "organizations",
    "provider": "providers",
    "payer": "payers",
}
# Amounts of money, even where all of them happen to be whole.
_AMOUNT = re.compile(r"expenses|cost|coverage|amount|revenue")
# Digits that are names, not numbers.
_NAMES = frozenset({"code", "reasoncode", "reaction1", "reaction2", "zip", "phone", "ssn", "value"})
_TYPES = (
    ("uuid", re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")),
    ("date", re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")),
    ("timestamptz", re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z?")),
    ("int4", re.compile(r"-?(0|[1-9][0-9]{0,8})")),
    ("numeric", re.compile(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?")),
)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows as text, None for NULL; names in lower case."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | None]]

    def types(self) -> dict[str, str]:
        """Return the type of each column."""
        return {
            column: derive_type(column, (row[number] for row in self.rows))
            for number, column in enumerate(self.columns)
        }


def derive_type(column: str, values: Iterable[str | None]) -> str:
    """Return the name (of ``pg_type``) of the narrowest type that holds every value."""
    if column in _NAMES:
        return "text"
    candidates = list(_TYPES)
    is_empty = True
    for value in values:
        if value is None:
            continue
        is_empty = False
        candidates = [(name, pattern) for name, pattern in candidates if pattern.fullmatch(value)]
        if not candidates:
            break
    if is_empty or not candidates:
        return "text"
    name = candidates[0][0]
    return "numeric" if name == "int4" and _AMOUNT.search(column) else name


def load(connection: Connection, tables: Mapping[str, Table], skip: Skip) -> None:
    """Create and fill the tables in schema public; what cannot be a foreign key is told to ``skip``."""
    for table in tables.values():
        try:
            _load_table(connection, table)
        except psycopg.Error as error:
            raise ConfigError(f"cannot load {table.name}: {_first_line(error)}") from error
    for table in tables.values():
        for column in table.columns:
            other = REFERENCES.get(column, "")
            if other in tables and "id" in tables[other].columns:
                _add_reference(connection, table.name, column, other, skip)


def _load_table(connection: Connection, table: Table) -> None:
    name = sql.Identifier("public", table.name)
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(column), sql.Identifier(kind)) for column, kind in table.types().items()
    )
    key = sql.SQL(", PRIMARY KEY (id)") if "id" in table.columns else sql.SQL("")
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE TABLE {} ({}{})").format(name, columns, key))
        with cursor.copy(sql.SQL("COPY {} FROM STDIN").format(name)) as copy:
            for row in table.rows:
                copy.write_row(row)


def _add_reference(connection: Connection, table: str, column: str, other: str, skip: Skip) -> None:
    statement = sql.SQL("ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES {} (id)").format(
        sql.Identifier("public", table), sql.Identifier(column), sql.Identifier("public", other)
    )
    try:
        connection.execute(statement)
    except psycopg.Error as error:
        skip(f"{table}.{column} is no foreign key: {_first_line(error)}")


def _first_line(error: psycopg.Error) -> str:
    detail = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
    return f"{(str(error).strip().splitlines() or [type(error).__name__])[0]}{detail}"
