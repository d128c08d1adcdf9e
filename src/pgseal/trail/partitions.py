"""The trail's partitions by their bounds: what there is, and for how long there is room. Reads only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pgseal.postgres import Connection

_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition of the trail.

    ``relation`` is its name as it stands in records; ``bound`` PostgreSQL's own words for its bounds, which are
    ``begin`` and ``end`` in seconds since 1970 (infinite where it has none). ``is_detaching`` says that a DETACH was
    broken off: its rows are not to be seen in the trail.
    """

    relation: str
    bound: str
    begin: float
    end: float
    is_detaching: bool


def read_partitions(connection: Connection) -> list[Partition]:
    """Return the partitions, oldest first."""
    rows = connection.execute(
        "SELECT relation, bound, extract(epoch FROM lower_end)::float8, extract(epoch FROM upper_end)::float8, "
        "is_detaching FROM audit.partitions()"
    ).fetchall()
    return [Partition(*row) for row in rows]


def read_room(connection: Connection) -> float | None:
    """Return for how many more days every moment from now on has a partition; None if that has no end."""
    row = connection.execute("SELECT extract(epoch FROM now())::float8").fetchone()
    end = find_end(read_partitions(connection), row[0] if row else 0.0)
    return None if math.isinf(end) else (end - (row[0] if row else 0.0)) / _DAY


def find_end(partitions: Sequence[Partition], moment: float) -> float:
    """Return the first moment from ``moment`` on (seconds since 1970) that no partition has room for."""
    end = moment
    for partition in partitions:
        if partition.begin <= end < partition.end and not partition.is_detaching:
            end = partition.end
    return end
