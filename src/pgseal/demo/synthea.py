"""Synthea's CSV files as tables: https://github.com/synthetichealth/synthea/wiki/CSV-File-Data-Dictionary."""

import csv
from pathlib import Path

from pgseal.demo.tables import Skip, Table
from pgseal.errors import ConfigError

TABLES = (
    "organizations",
    "providers",
    "payers",
    "patients",
    "encounters",
    "conditions",
    "allergies",
    "medications",
    "procedures",
    "immunizations",
    "observations",
)
#: Without these there is no story.
_NEEDED = frozenset({"id", "first", "last", "address", "city", "zip", "birthdate", "healthcare_expenses"})
_MAX_FIELD_BYTES = 1 << 20
_NO_ROW: list[str] = []


def read_tables(directory: Path, skip: Skip) -> dict[str, Table]:
    """Return the tables that ``directory`` has files of; what is missing is told to ``skip``.

    Raises ``ConfigError`` naming file and line.
    """
    if not directory.is_dir():
        raise ConfigError(f"--data: {str(directory)!r} is not a directory; expected one with Synthea's CSV files")
    tables: dict[str, Table] = {}
    for name in TABLES:
        path = directory / f"{name}.csv"
        if path.exists():
            tables[name] = read_table(path)
        elif name != "patients":
            skip(f"{path.name} is not there: skipped")
    if "patients" not in tables:
        raise ConfigError(f"--data: there is no patients.csv in {str(directory)!r}, which the demo is about")
    if missing := sorted(_NEEDED - set(tables["patients"].columns)):
        raise ConfigError(f"{directory / 'patients.csv'}: expected columns {', '.join(missing)}, which are not there")
    return tables


def read_table(path: Path) -> Table:
    """Return one file as a table; raises ``ConfigError``."""
    csv.field_size_limit(_MAX_FIELD_BYTES)
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = [column.strip().lower() for column in next(reader, _NO_ROW)]
            if not all(columns) or len(set(columns)) != len(columns):
                raise ConfigError(f"{path}: expected a first line with the names of columns, each once")
            rows: list[list[str | None]] = []
            for row in reader:
                line = reader.line_num
                if len(row) != len(columns):
                    raise ConfigError(f"{path}, line {line}: expected {len(columns)} fields, got {len(row)}")
                rows.append([value or None for value in row])
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({(error.strerror or 'failed').lower()})") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}, after line {line}: not a CSV file in UTF-8: {error}") from error
    if not columns:
        raise ConfigError(f"{path} is empty: expected a first line with the names of columns")
    return Table(path.stem, columns, rows)
