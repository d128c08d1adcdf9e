"""Who touched capture and left it as it was: the catalog's marks (sql/0005_marks.sql) held against those kept.

A trigger that was disabled and enabled again, a function that was replaced and put back, a partition that was detached
for a while: nothing is left to see but the transaction that each row of the catalog names as its writer. What happened
in between, nobody knows; tracking the table again records its rows as they are now.

A ``pg_upgrade`` writes the whole catalog anew and moves every mark.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pgseal.postgres import Connection

Marks = Mapping[str, Any]

CAME_LATER = "came later; the rows that it brought are not recorded"
_TOUCHED = "was changed or disabled since it was made, and put back"


class Moved(NamedTuple):
    """A mark that moved: of which relation (its oid, None for the table), of which trigger (or none), what it says."""

    place: str | None
    trigger: str
    fault: str


def compare_marks(kept: Marks, now: Marks, *, is_altered: bool) -> Iterator[Moved]:
    """Yield what moved; of an altered table it is known already that its rows may have been rewritten. Pure."""
    if kept["function"] != now["function"]:
        yield Moved(None, "", "has a capture function that was replaced or altered since it was made, and put back")
    for subject, mark in kept["triggers"].items():
        if now["triggers"].get(subject, mark) != mark:
            place, trigger = subject.split(" ", 1)
            yield Moved(place, trigger, _TOUCHED)
    yield from _compare_parts(kept, now)
    if not is_altered:
        yield from _compare_files(kept, now)


def _compare_parts(kept: Marks, now: Marks) -> Iterator[Moved]:
    for place in kept["parts"].keys() - now["parts"].keys():
        yield Moved(place, "", "was detached or dropped; that its rows went is not recorded")
    for place in now["parts"].keys() - kept["parts"].keys():
        yield Moved(place, "", CAME_LATER)


def _compare_files(kept: Marks, now: Marks) -> Iterator[Moved]:
    for place, file in now["files"].items():
        if kept["files"].get(place, file) == file:
            continue
        columns = {name: mark for name, mark in now["columns"].items() if name.startswith(f"{place} ")}
        if any(kept["columns"].get(name) != mark for name, mark in columns.items()):
            yield Moved(place, "", "has a column that was altered, and all rows written anew: how is not recorded")


@dataclass(frozen=True, slots=True)
class TouchedObject:
    """Something of schema audit itself that was changed and put back, or what was made besides."""

    subject: str
    fault: str


def read_touched_objects(connection: Connection) -> list[TouchedObject]:
    """Return which shared functions, or the trail itself, were touched since they were installed or mended."""
    row = connection.execute("SELECT m.marks, audit.schema_marks() FROM audit.made m").fetchone()
    if row is None:
        return [TouchedObject("table audit.made", "has lost what was kept there")]
    kept, now = row
    return [
        TouchedObject(subject, "was changed since it was made")
        for subject, mark in sorted(kept.items())
        if now.get(subject, mark) != mark
    ]


class KeptMarks(NamedTuple):
    """What the registry says of one table's marks, and of the record that has their digest."""

    relation: str
    track_id: int
    digest: str | None


def list_kept_marks(connection: Connection) -> list[KeptMarks]:
    """List the marks that the registry keeps; ``digest`` as ``audit.tracked`` would have it sealed."""
    rows = connection.execute(
        "SELECT relation, track_id, encode(sha256(convert_to(marks::text, 'UTF8')), 'hex') FROM audit.tracked "
        "WHERE track_id IS NOT NULL ORDER BY relation"
    ).fetchall()
    return [KeptMarks(*row) for row in rows]
