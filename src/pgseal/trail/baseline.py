"""SNAPSHOT records of the rows that stood in a table before it was captured.

The rows are read in a snapshot that is exported while the installing lock is held, so writers wait for the DDL only,
however large the table; everything written after the lock is captured by the triggers.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from psycopg import RawCursor, sql
from psycopg.errors import ProgramLimitExceeded

from pgseal.errors import CaptureError
from pgseal.postgres import Connection
from pgseal.trail.capture import TableRule
from pgseal.trail.catalog import Table, TablePart, read_parts
from pgseal.trail.snapshot import Snapshot

Progress = Callable[[int, int], None]

_PAGES_AT_ONCE = 1024
# Upper bound of rows on a page of 32 KiB, the largest: each takes a line pointer and a header, 28 bytes.
_ROWS_ON_A_PAGE = 1170
# Ids that others could draw between the two halves of one expression: far more than anyone can.
_ID_MARGIN = 1 << 20


@dataclass(frozen=True, slots=True)
class Baseline:
    """Where the rows that stood before are, and the block of ids reserved for them."""

    parts: Sequence[TablePart]
    first_id: int


def check_sizes(reader: Connection, table: Table, rule: TableRule, only: Collection[int] | None = None) -> None:
    """Refuse a table that holds a value which the rule rejects; looks at all rows, and locks nobody out.

    ``only`` names the partitions that matter, if not all do.

    Raises ``CaptureError`` that names one.
    """
    if rule.oversize != "reject":
        return
    snapshot = Snapshot(table, rule)
    with reader.transaction():
        reader.execute("SET LOCAL row_security = off")
        for part in read_parts(reader, table, only):
            query = snapshot.format_oversized_query(part)
            row = None if query is None else reader.execute(query).fetchone()
            if row is not None:
                raise _oversized(table, f"the value of column {row[1]!r} in row {row[0]} is larger than 1000000 bytes")


def _oversized(table: Table, words: str) -> CaptureError:
    return CaptureError(
        f"{table.relation}: {words}, which its policy rejects; store less, have a digest recorded "
        "(oversize = 'digest'), or leave the rows that stand now out (pgseal track --baseline none)"
    )


def begin_reading(reader: Connection) -> None:
    """Begin the transaction that will read the rows; locks may be taken in it, nothing else."""
    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")


def take_snapshot(writer: Connection, reader: Connection) -> None:
    """Give ``reader`` the snapshot that ``writer`` has now, with the tables locked, and an xid.

    The feed relies on ids being younger than the xid of the transaction that writes them, and replay on a baseline
    standing before everything captured since the lock: so first the xid, then ids (``reserve``), while writers are out.
    """
    row = writer.execute("SELECT pg_export_snapshot()").fetchone()
    assert row is not None  # noqa: S101  it always gives a row
    reader.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(row[0])))
    reader.execute("SELECT pg_current_xact_id()")


def reserve(writer: Connection, parts: Sequence[TablePart], ahead: int = 0) -> Baseline:
    """Take ids out of the sequence for every row that can be there; the role has to be the schema's owner.

    ``ahead`` is for how many records more there are ids, before those of the rows.
    """
    count = sum(part.pages for part in parts) * _ROWS_ON_A_PAGE
    row = writer.execute(
        "SELECT setval('audit.record_id_seq', nextval('audit.record_id_seq') + %s)", [_ID_MARGIN + ahead + count]
    ).fetchone()
    assert row is not None  # noqa: S101  it always gives a row
    return Baseline(parts, int(row[0]) - count)


def record_rows(reader: Connection, table: Table, rule: TableRule, baseline: Baseline, progress: Progress) -> list[int]:
    """Write the SNAPSHOT records in the reader's transaction; returns how many of each part.

    Raises ``CaptureError`` for a value that the rule rejects, written since ``check_sizes``.
    """
    snapshot = Snapshot(table, rule)
    # A row security policy must be an error here, not a filter.
    reader.execute("SET LOCAL row_security = off")
    total = sum(part.pages for part in baseline.parts)
    rows = done = 0
    counts: list[int] = []
    for part in baseline.parts:
        before = rows
        pages_at_once = part.pages if part.is_foreign else _PAGES_AT_ONCE
        for begin in range(0, part.pages, pages_at_once):
            end = begin + pages_at_once
            rows += reader.execute(snapshot.format_insert(part, baseline.first_id + rows, (begin, end))).rowcount
            query = snapshot.format_large_query(part, (begin, end))
            if query is not None:
                rows += _record_large(reader, table, query, baseline.first_id + rows, part.data)
            progress(done + min(end, part.pages), total)
        done += part.pages
        counts.append(rows - before)
    return counts


def _record_large(reader: Connection, table: Table, query: sql.Composed, first_id: int, data: str | None) -> int:
    row = reader.execute(query).fetchone()
    assert row is not None  # noqa: S101  it always gives a row
    try:
        return RawCursor(reader).execute(row[0], [None, first_id] if data is None else [None, first_id, data]).rowcount
    except ProgramLimitExceeded as error:
        raise _oversized(table, str(error.diag.message_primary)) from error
