"""What a table looks like, as far as capturing it needs to know. Reads the catalog, changes nothing."""

import json
import shlex
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal

import psycopg
from psycopg import sql

from pgseal.core.record import format_relation
from pgseal.errors import CaptureError, ConfigError
from pgseal.postgres import Connection

# FORMATS.md §1: only these built-in types meet to_jsonb; oids are fixed in PostgreSQL's pg_type.dat.
_BY_IMAGE = {
    16: "bool", 20: "int8", 21: "int2", 23: "int4",
    2950: "uuid", 1082: "date", 1083: "time", 1266: "timetz", 1114: "timestamp", 1184: "timestamptz",
}  # fmt: skip
_BY_TEXT = {1700: "numeric", 1186: "interval", 18: "char", 19: "name"}
_CHARACTER = {25: "text", 1043: "varchar"}
_BLANK_PADDED = {1042: "bpchar"}
_JSON = {3802: "jsonb"}
_BUILT_IN = {**_BY_IMAGE, **_BY_TEXT, **_CHARACTER, **_BLANK_PADDED, **_JSON}


class Encoding(Enum):
    """How a column's values are captured, and how a change is told from no change."""

    IMAGE = "image"  # to_jsonb; equal by the type's own operator means equal text
    TEXT = "text"  # to_jsonb; equal values may differ in text (1.0 and 1.00), so texts are compared
    CHARACTER = "character"  # to_jsonb; compared byte by byte, whatever the collation says
    BLANK_PADDED = "blank padded"  # to_jsonb; its cast to text would drop trailing blanks
    JSON = "json"  # to_jsonb, and may hold nulls of its own; texts are compared
    OUTPUT = "output"  # everything else: the type's output text
    OUTPUT_ROW = "output row"  # the same for composites, whose IS NULL looks inside


@dataclass(frozen=True, slots=True)
class Column:
    """One live column of a table; ``type_name`` is the built-in type that its values have in an image.

    ``number`` is its attnum, which stays the same when it is renamed. ``is_long`` says that values can be of any size.
    ``type_oid`` is the type that it was declared with, ``labels`` what an enum has, each with its oid in pg_enum.
    """

    name: str
    encoding: Encoding
    type_name: str = "text"
    number: int = 0
    is_long: bool = False
    type_oid: int = 0
    labels: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be captured.

    ``relation`` is the name in FORMATS.md's form, ``key`` the primary key's columns in key order (empty
    without one). ``mode`` says what captures it: triggers for each statement, or only triggers for each row. ``kind``
    is pg_class.relkind, ``leaves`` are the partitions that hold rows and can have a TRUNCATE trigger, ``moving`` the
    columns on which it depends in which partition a row is.
    """

    oid: int
    schema: str
    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    mode: Literal["row", "statement"] = "row"
    kind: str = "r"
    leaves: tuple[sql.Identifier, ...] = ()
    has_truncate_trigger: bool = True
    owner: str = ""
    moving: tuple[str, ...] = ()

    @property
    def relation(self) -> str:
        """The name as it stands in records."""
        return format_relation(self.schema, self.name)

    @property
    def identifier(self) -> sql.Identifier:
        """The name as it stands in SQL."""
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True, slots=True)
class TablePart:
    """One relation that holds rows of a table: itself, or a leaf partition, then with its oid.

    ``pages`` is its size now; of a foreign table, which has none, that of a table with as many rows at the most.
    """

    identifier: sql.Identifier
    pages: int
    is_foreign: bool = False
    partition: int | None = None

    @property
    def data(self) -> str | None:
        """What records about its rows say besides, as JSON text."""
        return None if self.partition is None else json.dumps({"part": self.partition})


def make_column(number: int, name: str, type_oid: int, type_kind: str, *, is_long: bool = False) -> Column:
    """Decide how a column is captured; ``type_kind`` is pg_type.typtype of the base type."""
    type_name = _BUILT_IN.get(type_oid, "text")
    for encoding, types in (
        (Encoding.IMAGE, _BY_IMAGE),
        (Encoding.TEXT, _BY_TEXT),
        (Encoding.CHARACTER, _CHARACTER),
        (Encoding.BLANK_PADDED, _BLANK_PADDED),
        (Encoding.JSON, _JSON),
    ):
        if type_oid in types:
            return Column(name, encoding, type_name, number, is_long, type_oid)
    encoding = Encoding.OUTPUT_ROW if type_kind == "c" else Encoding.OUTPUT
    return Column(name, encoding, "text", number, is_long, type_oid)


def resolve_relations(connection: Connection, text: str) -> list[tuple[str, str]]:
    """Turn what a person wrote into (schema, name) pairs of existing relations.

    ``patients`` is looked up in the login's own search path, ``public.patients`` and ``"Odd"."Name"`` as
    written, ``public.*`` gives every ordinary or partitioned table of the schema (partitions are captured
    through their parent).

    Raises:
        ConfigError: nothing of that name, or a pattern that matches nothing.
    """
    if text.endswith(".*"):
        return _expand_schema(connection, text)
    try:
        row = connection.execute("SELECT parse_ident(%s)", [text]).fetchone()
    except psycopg.DataError:
        row = None
    if row is None or len(row[0]) not in {1, 2}:
        raise ConfigError(
            f"{text!r} is not a table name; write schema.table, in double quotes where case or spaces matter"
        )
    parts: list[str] = row[0]
    if len(parts) == 1:
        found = connection.execute(_IN_SEARCH_PATH, [parts[0]]).fetchone()
    else:
        found = connection.execute(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = %s AND c.relname = %s",
            parts,
        ).fetchone()
    if found is None:
        advice = _find_in_other_case(connection, parts) or "check name and schema"
        raise ConfigError(f"table {text} does not exist in database {connection.info.dbname!r}; {advice}")
    return [(found[0], found[1])]


# The session's own search_path is pinned, so an unqualified name is looked up where its login would find it.
_IN_SEARCH_PATH = """
SELECT n.nspname, c.relname
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = %s AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'audit')
  AND n.nspname !~ '^pg_(toast|temp)' AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
ORDER BY (n.nspname = session_user) DESC, (n.nspname = 'public') DESC, n.nspname
LIMIT 1
"""


def _find_in_other_case(connection: Connection, parts: list[str]) -> str | None:
    """Say how a name has to be written that was found with other capitals only."""
    row = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE lower(c.relname) = lower(%s) AND (%s::text IS NULL OR lower(n.nspname) = lower(%s)) "
        "AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY 1, 2 LIMIT 1",
        [parts[-1], *[parts[0] if len(parts) > 1 else None] * 2],
    ).fetchone()
    return None if row is None else f"names with capitals stand in double quotes: {shlex.quote(format_relation(*row))}"


def _expand_schema(connection: Connection, pattern: str) -> list[tuple[str, str]]:
    schema = pattern.removesuffix(".*").strip('"')
    rows = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' "
        "AND NOT EXISTS (SELECT FROM pg_depend d "
        "WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') "
        "ORDER BY c.relname",
        [schema],
    ).fetchall()
    if not rows:
        raise ConfigError(f"{pattern} matches no table in database {connection.info.dbname!r}")
    return [(row[0], row[1]) for row in rows]


_REFUSED_KINDS = {
    "v": "is a view; track the tables under it",
    "m": "is a materialized view; track the tables under it",
    "S": "is a sequence, not a table",
    "i": "is an index, not a table",
    "c": "is a composite type, not a table",
    "t": "is a TOAST table",
}


def read_table(connection: Connection, schema: str, name: str) -> Table:
    """Read one table's columns and key.

    Raises:
        ConfigError: no such relation.
        CaptureError: it is not a table that can be captured.
    """
    row: tuple[Any, ...] | None = connection.execute(
        "SELECT c.oid, c.relkind, c.relpersistence, c.relispartition, pg_get_userbyid(c.relowner) FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
        [schema, name],
    ).fetchone()
    relation = format_relation(schema, name)
    if row is None:
        raise ConfigError(f"table {relation} does not exist in database {connection.info.dbname!r}")
    oid, kind, persistence, is_partition, owner = row
    if kind in _REFUSED_KINDS:
        raise CaptureError(f"{relation} {_REFUSED_KINDS[kind]}")
    if persistence == "t":
        raise CaptureError(f"{relation} is a temporary table: nobody else sees it and it ends with its session")
    if is_partition:
        raise CaptureError(f"{relation} is a partition; track its partitioned table")
    if schema in {"audit", "vault", "pg_catalog", "information_schema"}:
        raise CaptureError(f"{relation} belongs to pgseal or PostgreSQL and cannot be tracked")
    _check_truncate(connection, oid, relation)
    return Table(
        oid,
        schema,
        name,
        _read_columns(connection, oid),
        _read_key(connection, oid),
        _read_mode(connection, oid),
        kind,
        _read_leaves(connection, oid) if kind == "p" else (),
        kind != "f" or connection.info.server_version >= _FOREIGN_TRUNCATE_TRIGGERS,
        owner,
        _read_moving(connection, oid) if kind == "p" else (),
    )


_FOREIGN_TRUNCATE_TRIGGERS = 160000


def _check_truncate(connection: Connection, oid: int, relation: str) -> None:
    """Refuse foreign tables that could be truncated unnoticed: before 16 they can have no TRUNCATE trigger."""
    if connection.info.server_version >= _FOREIGN_TRUNCATE_TRIGGERS:
        return
    row = connection.execute(
        """
        SELECT c.oid::regclass::text FROM pg_foreign_table f JOIN pg_class c ON c.oid = f.ftrelid
        JOIN pg_foreign_server s ON s.oid = f.ftserver JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw
        WHERE f.ftrelid IN (SELECT %(oid)s UNION SELECT p.relid FROM pg_partition_tree(%(oid)s::oid) p)
            AND w.fdwname = 'postgres_fdw' AND 'truncatable=false' <> ALL (coalesce(f.ftoptions, s.srvoptions, '{}'))
            AND 'truncatable=false' <> ALL (coalesce(s.srvoptions, '{}'))
        """,
        {"oid": oid},
    ).fetchone()
    if row is not None:
        raise CaptureError(
            f"{relation}: PostgreSQL {connection.info.server_version // 10000} has no TRUNCATE triggers for foreign "
            f"tables such as {row[0]}; forbid TRUNCATE: ALTER FOREIGN TABLE {row[0]} OPTIONS (ADD truncatable 'false')"
        )


def _read_leaves(connection: Connection, oid: int) -> tuple[sql.Identifier, ...]:
    kinds = ["r", "f"] if connection.info.server_version >= _FOREIGN_TRUNCATE_TRIGGERS else ["r"]
    rows = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_partition_tree(%s::oid) p JOIN pg_class c ON c.oid = p.relid "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = ANY (%s) ORDER BY c.oid",
        [oid, kinds],
    ).fetchall()
    return tuple(sql.Identifier(*row) for row in rows)


def _read_moving(connection: Connection, oid: int) -> tuple[str, ...]:
    # A column of a partition key, or of an expression in one, depends on its table: it cannot be dropped alone.
    rows = connection.execute(
        "SELECT DISTINCT a.attname FROM pg_partition_tree(%s::oid) p JOIN pg_depend d ON d.objid = p.relid "
        "JOIN pg_attribute a ON a.attrelid = p.relid AND a.attnum = d.objsubid "
        "WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.relid "
        "AND d.refobjsubid = 0 AND d.deptype = 'i' AND a.attnum > 0 ORDER BY 1",
        [oid],
    ).fetchall()
    return tuple(row[0] for row in rows)


def _read_columns(connection: Connection, oid: int) -> tuple[Column, ...]:
    # A domain is not a built-in type (its output is its base type's); a domain over a composite acts like one. Virtual
    # generated columns (PostgreSQL 18) are stored nowhere: no trigger has a value of theirs.
    rows = connection.execute(
        """
        WITH RECURSIVE live AS (
            SELECT a.attnum, a.attname, t.oid AS type_oid, t.typtype, t.typbasetype,
                a.attlen = -1 AND a.atttypid <> 'numeric'::regtype
                AND NOT (a.atttypid IN ('varchar'::regtype, 'bpchar'::regtype)
                         AND a.atttypmod BETWEEN 0 AND 1000) AS is_long
            FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
            WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v'
        ), base AS (
            SELECT attnum, type_oid, typtype, typbasetype FROM live
            UNION ALL
            SELECT b.attnum, t.oid, t.typtype, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.typbasetype
            WHERE b.typtype = 'd'
        )
        SELECT l.attnum, l.attname, l.type_oid::bigint, b.typtype, l.is_long,
               ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = b.type_oid ORDER BY e.enumsortorder),
               ARRAY(SELECT e.oid::bigint FROM pg_enum e WHERE e.enumtypid = b.type_oid ORDER BY e.enumsortorder)
        FROM live l JOIN base b ON b.attnum = l.attnum AND b.typtype <> 'd' ORDER BY l.attnum
        """,
        [oid],
    ).fetchall()
    return tuple(
        replace(make_column(*row, is_long=is_long), labels=tuple(zip(labels, numbers, strict=True)))
        for *row, is_long, labels, numbers in rows
    )


def _read_mode(connection: Connection, oid: int) -> Literal["row", "statement"]:
    """Decide what captures a table: statement triggers, unless they would miss something or come late.

    Statement triggers do not fire for rows that are reached through a parent, and do not see a child's columns. They
    fire after all AFTER ROW triggers; if one of those changes the same table, records would stand in another order
    than the changes.
    """
    row = connection.execute(
        """
        SELECT c.relkind = 'r' AND NOT EXISTS (SELECT FROM pg_inherits i WHERE c.oid IN (i.inhrelid, i.inhparent))
            AND NOT EXISTS (
                SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
                AND t.tgtype & 1 = 1 AND t.tgtype & 2 = 0 AND t.tgname !~ '^pgseal_')
        FROM pg_class c WHERE c.oid = %s
        """,
        [oid],
    ).fetchone()
    return "statement" if row and row[0] else "row"


def _read_key(connection: Connection, oid: int) -> tuple[str, ...]:
    rows = connection.execute(
        "SELECT a.attname FROM pg_index i CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k(attnum, position) "
        "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum "
        "WHERE i.indrelid = %s AND i.indisprimary ORDER BY k.position",
        [oid],
    ).fetchall()
    return tuple(row[0] for row in rows)


def read_parts(connection: Connection, table: Table, only: Collection[int] | None = None) -> list[TablePart]:
    """Read which relations hold the rows of ``table``: itself, or its leaf partitions, of which ``only`` names some."""
    rows = connection.execute(
        """
        SELECT n.nspname, c.relname, c.relkind = 'f',
            pg_relation_size(c.oid) / current_setting('block_size')::bigint + 1,
            CASE WHEN c.oid <> %(oid)s THEN c.oid::bigint END
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid IN (SELECT %(oid)s UNION SELECT p.relid FROM pg_partition_tree(%(oid)s::oid) p)
            AND c.relkind IN ('r', 'f') AND (%(only)s::oid[] IS NULL OR c.oid = ANY (%(only)s::oid[]))
        ORDER BY c.oid
        """,
        {"oid": table.oid, "only": None if only is None else list(only)},
    ).fetchall()
    parts: list[TablePart] = []
    for schema, name, is_foreign, pages, partition in rows:
        identifier = sql.Identifier(schema, name)
        count = _count_rows(connection, identifier) + 1 if is_foreign else int(pages)
        parts.append(TablePart(identifier, count, is_foreign, partition))
    return parts


def _count_rows(connection: Connection, table: sql.Identifier) -> int:
    row = connection.execute(sql.SQL("SELECT count(*) FROM ONLY {}").format(table)).fetchone()
    return int(row[0]) if row else 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A table that could be captured, as far as a pattern needs to know.

    ``former`` are the columns that its capture hides or tests, as they were called when it was made.
    """

    relation: str
    columns: frozenset[str]
    former: frozenset[str] = frozenset()


def list_candidates(connection: Connection) -> list[Candidate]:
    """List the tables that a pattern can mean: not the system's, pgseal's, an extension's, temporary, or partitions."""
    rows = connection.execute(
        """
        SELECT n.nspname, c.relname,
            ARRAY(SELECT a.attname::text FROM pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
            ARRAY(SELECT unnest(t.exclude) UNION ALL SELECT jsonb_object_keys(t.mask)
                  UNION ALL SELECT f.name FROM jsonb_to_recordset(t.row_filter -> 'columns') f(name text))
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN audit.tracked t ON t.table_oid = c.oid
        WHERE c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition AND c.relpersistence <> 't'
            AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'audit', 'vault') AND n.nspname !~ '^pg_toast'
            AND NOT EXISTS (SELECT FROM pg_depend d
                            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
        ORDER BY 1, 2
        """
    ).fetchall()
    return [
        Candidate(format_relation(schema, name), frozenset(columns), frozenset(former))
        for schema, name, columns, former in rows
    ]
