"""``audit.tracked``: which tables are captured, how, and what was known of them when capture was made."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from psycopg import sql

from pgseal.postgres import Connection
from pgseal.trail.capture import TableRule, capture_name, hidden_numbers, stored_filter
from pgseal.trail.catalog import Table
from pgseal.trail.filter import format_filter, parse_filter, rename_columns

#: The columns of a ``TableRule``, in its order.
_RULE = sql.SQL("exclude, mask, truncate, oversize, require_actor, row_filter ->> 'where'")


@dataclass(frozen=True, slots=True)
class TrackedTable:
    """One tracked table as the registry has it; ``rows`` is the number of SNAPSHOT records just made."""

    relation: str
    rule: TableRule
    baseline: str
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Registered:
    """What the registry says of a table that is there; ``rule`` names columns as they are called now."""

    oid: int
    relation: str
    mode: Literal["row", "statement"]
    baseline: str
    rule: TableRule
    is_altered: bool


def list_tracked(connection: Connection) -> list[TrackedTable]:
    """List the registry, by name."""
    rows = connection.execute(
        sql.SQL("SELECT relation, baseline, {} FROM audit.tracked ORDER BY relation").format(_RULE)
    ).fetchall()
    return [TrackedTable(relation, TableRule(*rule), baseline) for relation, baseline, *rule in rows]


@dataclass(frozen=True, slots=True)
class Made:
    """What the registry says of capture as it was made, when columns were called what ``rule`` calls them."""

    relation: str
    oid: int
    mode: Literal["row", "statement"]
    layout: str
    rule: TableRule


def list_made(connection: Connection) -> list[Made]:
    """List what the registry says was made, by name."""
    rows = connection.execute(
        sql.SQL("SELECT relation, table_oid::bigint, mode, layout, {} FROM audit.tracked ORDER BY relation").format(
            _RULE
        )
    ).fetchall()
    return [Made(relation, oid, mode, layout, TableRule(*rule)) for relation, oid, mode, layout, *rule in rows]


def find_registered(connection: Connection, table: Table) -> Registered | None:
    """Return the entry of a table, by its oid or else its name."""
    # A hidden column is known by its number, so it is found under its new name, too; a table made anew has other ones.
    row = connection.execute(
        """
        SELECT t.table_oid::bigint, t.relation, t.mode, t.baseline,
            CASE WHEN t.table_oid <> %(oid)s THEN t.exclude ELSE ARRAY(
                SELECT c.name FROM audit.live_columns(%(oid)s) c WHERE c.number = ANY (t.exclude_numbers)) END,
            CASE WHEN t.table_oid <> %(oid)s THEN t.mask ELSE coalesce((
                SELECT jsonb_object_agg(c.name, t.mask_numbers -> c.number::text) FROM audit.live_columns(%(oid)s) c
                WHERE t.mask_numbers ? c.number::text), '{}') END,
            t.truncate, t.oversize, t.require_actor, t.row_filter ->> 'where',
            (SELECT jsonb_object_agg(f.name, c.name)
             FROM jsonb_to_recordset(t.row_filter -> 'columns') f(number smallint, name text)
             JOIN audit.live_columns(t.table_oid) c ON c.number = f.number),
            audit.layout(t.table_oid) IS DISTINCT FROM t.layout
        FROM audit.tracked t WHERE t.table_oid = %(oid)s OR t.relation = %(relation)s
        ORDER BY t.table_oid = %(oid)s DESC LIMIT 1
        """,
        {"oid": table.oid, "relation": table.relation},
    ).fetchone()
    if row is None:
        return None
    oid, relation, mode, baseline, *rule, names, is_altered = row
    found = TableRule(*rule)
    if found.where and names:
        found = replace(found, where=format_filter(rename_columns(parse_filter(found.where), names)))
    return Registered(oid, relation, mode, baseline, found, is_altered)


def format_entry(table: Table, rule: TableRule, layout: str, *, baseline: str) -> Iterator[sql.Composed]:
    """Write the statements that enter a table, in place of what stood there under its name or its oid."""
    yield sql.SQL("DELETE FROM audit.tracked WHERE relation = {} OR table_oid = {}").format(
        sql.Literal(table.relation), sql.Literal(table.oid)
    )
    exclude, mask = hidden_numbers(table, rule)
    row_filter = stored_filter(table, rule)
    values: dict[str, object] = {
        "relation": table.relation,
        "table_oid": table.oid,
        "capture": capture_name(table.relation),
        "mode": table.mode,
        "layout": layout,
        "exclude": list(rule.exclude),
        "mask": json.dumps(dict(rule.mask)),
        "exclude_numbers": exclude,
        "mask_numbers": json.dumps(mask),
        "row_filter": json.dumps(row_filter) if row_filter else None,
        "truncate": rule.truncate,
        "oversize": rule.oversize,
        "require_actor": rule.require_actor,
        "baseline": baseline,
    }
    yield sql.SQL("INSERT INTO audit.tracked ({}) VALUES ({})").format(
        sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(map(sql.Literal, values.values()))
    )


def format_marks(table: Table, data: Mapping[str, object]) -> Iterator[sql.Composed]:
    """Write the statements that keep the marks of what was just made, and record TRACK with their digest."""
    yield sql.SQL("UPDATE audit.tracked SET marks = audit.marks(table_oid) WHERE relation = {}").format(
        sql.Literal(table.relation)
    )
    yield format_digest("TRACK", table, data)


def format_digest(action: str, table: Table, data: Mapping[str, object]) -> sql.Composed:
    """Write the statement that records an act with the digest of the kept marks, and what partitions there are."""
    parts = sql.SQL("'parts', marks -> 'parts', " if table.kind == "p" else "")
    return sql.SQL(
        "UPDATE audit.tracked SET track_id = audit.record_act({}, {}::jsonb || jsonb_build_object("
        "{}'marks', encode(sha256(convert_to(marks::text, 'UTF8')), 'hex')), relation => relation) WHERE relation = {}"
    ).format(
        sql.Literal(action),
        sql.Literal(json.dumps(data, ensure_ascii=False)),
        parts,
        sql.Literal(table.relation),
    )


def format_act(action: str, relation: str | None, data: Mapping[str, object]) -> sql.Composed:
    """Write the statement that records an act of pgseal's own."""
    return sql.SQL("SELECT audit.record_act({}, {}::jsonb, relation => {})").format(
        sql.Literal(action), sql.Literal(json.dumps(data, ensure_ascii=False)), sql.Literal(relation)
    )
