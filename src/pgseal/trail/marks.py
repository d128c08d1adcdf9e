"""Who touched capture and left it as it was: the catalog's marks (sql/0005_marks.sql) held against those kept.

A trigger that was disabled and enabled again, a function that was replaced and put back, a partition that was detached
for a while: nothing is left to see but the transaction that each row of the catalog names as its writer. What happened
in between, nobody knows; tracking the table again records its rows as they are now.

A ``pg_upgrade`` writes the whole catalog anew and moves every mark.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pgseal.postgres import Connection
from pgseal.postgres.expected import Difference

Marks = Mapping[str, Any]

PUT_BACK = "was changed or disabled since it was made, and put back"
REWRITTEN = "has a column that was altered, and all rows written anew: how is not recorded"


class Moved(NamedTuple):
    """A mark of a table that moved: of which trigger (or none), what it says."""

    trigger: str
    fault: str


def compare_marks(kept: Marks, now: Marks, oid: int, *, is_altered: bool) -> Iterator[Moved]:
    """Yield what moved of table ``oid`` itself; ``partitioned`` looks at its partitions. Pure.

    Of an altered table it is known already that its rows may have been rewritten.
    """
    if kept["function"] != now["function"]:
        yield Moved("", "has a capture function that was replaced or altered since it was made, and put back")
    for subject, mark in kept["triggers"].items():
        place, trigger = subject.split(" ", 1)
        if place == str(oid) and now["triggers"].get(subject, mark) != mark:
            yield Moved(trigger, PUT_BACK)
    if not is_altered and is_rewritten(kept, now, str(oid)):
        yield Moved("", REWRITTEN)


def is_rewritten(kept: Marks, now: Marks, place: str) -> bool:
    """Return whether DDL may have changed the rows of ``place``: they are in another file, and a column was altered."""
    file = now["files"].get(place)
    if file is None or kept["files"].get(place, file) == file:
        return False
    columns = {name: mark for name, mark in now["columns"].items() if name.startswith(f"{place} ")}
    return any(kept["columns"].get(name) != mark for name, mark in columns.items())


@dataclass(frozen=True, slots=True)
class TouchedObject:
    """Something of schema audit itself that was changed and put back, or what was made besides."""

    subject: str
    fault: str


def read_touched_objects(connection: Connection, *, besides: Sequence[Difference] = ()) -> list[TouchedObject]:
    """Return which shared functions, or the trail itself, were touched since they were installed or mended.

    ``besides`` are differences that are known already, and say more.
    """
    row = connection.execute("SELECT m.marks, audit.schema_marks() FROM audit.made m").fetchone()
    if row is None:
        return [TouchedObject("table audit.made", "has lost what was kept there")]
    kept, now = row
    return [
        TouchedObject(subject, "was changed since it was made")
        for subject, mark in sorted(kept.items())
        if now.get(subject, mark) != mark and subject not in {one.subject for one in besides}
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
