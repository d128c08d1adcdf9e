"""What became of a tracked table's partitions since capture was made or last renewed. Reads only.

ATTACH and DETACH change which rows a table has, and no trigger fires. So the partitions there are now are held against
those that the marks name (``marks``):

``created``   made as a partition: empty then, with its triggers on from the start; only TRUNCATE of it alone is missed
``attached``  it may have brought rows
``touched``   it was one before, but its rows may have changed meanwhile without a record
``detached``  its rows left; the table that it is now is not captured, unless it is tracked by itself
``dropped``   its rows left

That a partition was made as one is told by the catalog's rows about its columns: ATTACH writes those of all columns
anew, so one that still stands where CREATE TABLE wrote it, in the same command as those of the system columns, shows
that nothing was attached. Likewise a trigger that was never disabled stands where it was made. What cannot be shown
(the rows are in another file, a column was altered) counts as attached.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from psycopg import sql

from pgseal.postgres import Connection
from pgseal.trail.marks import PUT_BACK, REWRITTEN, Marks, is_rewritten
from pgseal.trail.triggers import ROW_TRIGGER, TRUNCATE_TRIGGER

State = Literal["created", "attached", "touched", "detached", "dropped"]


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition that holds rows, or did, and what is to be said of it.

    ``identifier`` is what it is called now; None if it is no more.
    """

    oid: int
    name: str
    state: State
    words: str
    identifier: sql.Identifier | None = None
    is_foreign: bool = False

    @property
    def is_there(self) -> bool:
        """Whether it is a partition of the table now."""
        return self.state in {"created", "attached", "touched"}


@dataclass(frozen=True, slots=True)
class MarkedTable:
    """A tracked table that is there: its marks as they were kept and as they are, and of a partitioned one its tree.

    ``name`` is what it is called now. ``nodes`` are the partitions at all depths by oid, ``left`` those former ones
    that are no partitions of it any more but still tables.
    """

    relation: str
    name: str
    oid: int
    kept: Marks
    now: Marks
    is_altered: bool
    nodes: Mapping[str, Mapping[str, Any]]
    left: Mapping[str, Mapping[str, Any]]

    def find_changes(self) -> list[Partition]:
        """Return the partitions of which there is something to say, by name."""
        return sorted((*self._find_present(), *self._find_gone()), key=lambda partition: partition.name)

    def _find_present(self) -> Iterator[Partition]:
        for place, name in self.now["parts"].items():
            node = self.nodes[place]
            if place not in self.kept["parts"]:
                is_created = all(map(self._is_made_here, self._find_path(place)))
                state: State = "created" if is_created else "attached"
                words = (
                    f"new partition {name}: TRUNCATE of it alone is not captured yet"
                    if is_created
                    else f"{name} was attached: the rows that it brought are not recorded"
                )
            elif (words := self._find_touch(place, name)) is not None:
                state = "touched"
            else:
                continue
            identifier = sql.Identifier(node["schema"], node["name"])
            yield Partition(int(place), name, state, words, identifier, node["kind"] == "f")

    def _find_gone(self) -> Iterator[Partition]:
        for place, former in self.kept["parts"].items():
            if place in self.now["parts"]:
                continue
            if (table := self.left.get(place)) is None:
                words = f"partition {former} was dropped: that its rows went is not recorded"
                yield Partition(int(place), former, "dropped", words)
                continue
            name = table["relation"]
            rest = "it is tracked by itself" if table["is_tracked"] else "its changes are not captured any more"
            words = f"{name} was detached: that its rows went is not recorded, and {rest}"
            yield Partition(
                int(place),
                name,
                "detached",
                words,
                sql.Identifier(table["schema"], table["name"]),
                table["kind"] == "f",
            )

    def _find_path(self, place: str) -> Iterator[str]:
        """Yield a partition and those above it, but for the table itself."""
        while place in self.nodes:
            yield place
            place = self.nodes[place]["parent"]

    def _is_made_here(self, place: str) -> bool:
        """Return whether a partition was one all the time: since it was made, or since the marks were kept."""
        mark = f"{place} {ROW_TRIGGER}"
        if mark in self.kept["triggers"]:
            return self.kept["triggers"][mark] == self.now["triggers"].get(mark)
        return bool(self.nodes[place]["is_born"])

    def _find_touch(self, place: str, name: str) -> str | None:
        """Return what may have happened to the rows of a partition that is and was one; None if nothing."""
        for node in self._find_path(place):
            moved = self._find_moved(node, ROW_TRIGGER)
            if moved == "another":
                return f"{name} was detached and attached again: what became of its rows is not recorded"
            if moved == "rewritten":
                return f"trigger {ROW_TRIGGER} of {self.now['parts'].get(node, name)} {PUT_BACK}"
        if self._find_moved(place, TRUNCATE_TRIGGER):
            return f"trigger {TRUNCATE_TRIGGER} of {name} {PUT_BACK}"
        if not self.is_altered and is_rewritten(self.kept, self.now, place):
            return f"{name} {REWRITTEN}"
        return None

    def _find_moved(self, place: str, trigger: str) -> Literal["another", "rewritten"] | None:
        kept, now = (marks["triggers"].get(f"{place} {trigger}") for marks in (self.kept, self.now))
        if kept is None or now is None or kept == now:
            return None
        return "rewritten" if kept.split(" ")[0] == now.split(" ")[0] else "another"


def list_marked(connection: Connection) -> list[MarkedTable]:
    """List the tracked tables that are there and of which marks are kept, by name."""
    return [MarkedTable(*row) for row in connection.execute(_MARKED).fetchall()]


# The tableoid column, number -6, is written by CREATE TABLE and by nothing else; what a trigger depends on, when it is
# made and not when it is disabled. An xmax that is set, though by whoever rolled back, means that cmin may be another
# command's.
_MARKED = """
SELECT t.relation, audit.format_relation(t.table_oid), t.table_oid::bigint, t.marks, audit.marks(t.table_oid),
    audit.layout(t.table_oid) IS DISTINCT FROM t.layout, coalesce(tree.nodes, '{}'), coalesce(former.tables, '{}')
FROM audit.tracked t
CROSS JOIN LATERAL (
    SELECT jsonb_object_agg(c.oid, jsonb_build_object(
        'parent', p.parentrelid::oid::text, 'kind', c.relkind, 'schema', n.nspname, 'name', c.relname, 'is_born',
        c.relkind <> 'f' AND (c.relkind = 'p' OR c.relfilenode = c.oid) AND EXISTS (
            SELECT FROM pg_attribute s JOIN pg_attribute a ON a.attrelid = s.attrelid AND a.attnum > 0
            JOIN pg_inherits i ON i.inhrelid = s.attrelid
            JOIN pg_trigger g ON g.tgrelid = s.attrelid AND g.tgname = 'pgseal_capture'
            WHERE s.attrelid = c.oid AND s.attnum = -6 AND s.xmax = 0 AND a.xmax = 0
                AND a.xmin = s.xmin AND a.cmin = s.cmin AND i.xmin = s.xmin AND g.xmin = s.xmin AND g.xmax = 0
                AND EXISTS (
                    SELECT FROM pg_depend d WHERE d.classid = 'pg_trigger'::regclass AND d.objid = g.oid
                        AND d.xmin = g.xmin AND d.cmin::text::bigint >= g.cmin::text::bigint))))
    FROM pg_partition_tree(t.table_oid) p JOIN pg_class c ON c.oid = p.relid
    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.relid <> t.table_oid
) AS tree(nodes)
CROSS JOIN LATERAL (
    SELECT jsonb_object_agg(c.oid, jsonb_build_object(
        'relation', audit.format_relation(c.oid), 'kind', c.relkind, 'schema', n.nspname, 'name', c.relname,
        'is_tracked', EXISTS (SELECT FROM audit.tracked o WHERE o.table_oid = c.oid)))
    FROM jsonb_object_keys(t.marks -> 'parts') AS k(place) JOIN pg_class c ON c.oid = k.place::oid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'f')
) AS former(tables)
WHERE t.marks IS NOT NULL AND audit.format_relation(t.table_oid) IS NOT NULL ORDER BY 1
"""


def find_unwatched(connection: Connection) -> dict[str, list[str]]:
    """Return the columns by which tracked tables are partitioned and whose changes their triggers do not notice.

    By relation; partitions that came later can be partitioned by others.
    """
    return dict(connection.execute(_UNWATCHED).fetchall())


_UNWATCHED = """
SELECT t.relation, array_agg(DISTINCT a.attname::text ORDER BY a.attname::text)
FROM audit.tracked t CROSS JOIN pg_partition_tree(t.table_oid) p
JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = p.relid AND d.refclassid = 'pg_class'::regclass
    AND d.refobjid = p.relid AND d.refobjsubid = 0 AND d.deptype = 'i' AND d.objsubid > 0
JOIN pg_attribute a ON a.attrelid = p.relid AND a.attnum = d.objsubid
JOIN pg_trigger g ON g.tgrelid = t.table_oid AND g.tgname = 'zz_pgseal_move'
WHERE NOT EXISTS (
    SELECT FROM pg_depend w JOIN pg_attribute r ON r.attrelid = w.refobjid AND r.attnum = w.refobjsubid
    WHERE w.classid = 'pg_trigger'::regclass AND w.objid = g.oid AND w.refclassid = 'pg_class'::regclass
        AND w.refobjid = t.table_oid AND r.attname = a.attname)
GROUP BY t.relation ORDER BY 1
"""
