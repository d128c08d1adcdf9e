"""A row that moved to another partition: two sealed records, read as one change. Pure.

PostgreSQL deletes the row in one partition and inserts it into another, and a record is captured of each. The INSERT's
names the DELETE's, in ``moved``: capture saw that one UPDATE did both (docs/adr/0015). Where one of the two is not
there, was erased or is not what the other says, each stands for itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pgseal.vault.records import Record
from pgseal.vault.values import format_key


@dataclass(frozen=True, kw_only=True)
class Move(Record):
    """Both records of a move. It stands where the INSERT stands, whose time, id and leaf it has."""

    departure: Record

    @property
    def key(self) -> Mapping[str, Any] | None:
        """The key before the move."""
        return self.departure.key

    @property
    def old(self) -> Mapping[str, Any] | None:
        """The whole row before the move."""
        return self.departure.old

    @property
    def changed(self) -> list[str]:
        """Names of the columns that changed with the move, as far as the recorded values show it."""
        old: Mapping[str, Any] = self.old or {}
        new: Mapping[str, Any] = self.new or {}
        return [name for name, value in new.items() if name not in old or old[name] != value]

    @property
    def key_before(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The key of the row before the move."""
        return None if self.key is None else format_key(self.key)

    @property
    def key_after(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The key of the row after it."""
        key = self._member("key")
        return None if key is None else format_key(key)

    @property
    def partitions(self) -> tuple[str, str]:
        """From which partition it moved, and to which."""
        return str((self.departure.moved or {}).get("from")), str((self.moved or {}).get("to"))

    def to_json(self) -> dict[str, Any]:
        """Return the move as ``history --json`` prints it; ``moved`` says where from and to, and names the DELETE."""
        from_partition, to_partition = self.partitions
        return super().to_json() | {
            "moved": {
                "from": from_partition,
                "to": to_partition,
                "delete": {"id": self.departure.id, "index": self.departure.leaf_index},
            }
        }


def read_departure(arrival: Record) -> int | None:
    """Return the id of the DELETE that an INSERT names; None if it is no half of a move."""
    number = (arrival.moved or {}).get("record") if arrival.action == "INSERT" else None
    return int(number) if isinstance(number, str) and number.isdecimal() else None


def is_departure(record: Record) -> bool:
    """Return whether an INSERT may name this record."""
    return record.action == "DELETE" and "from" in (record.moved or {})


def join_moves(records: Sequence[Record], others: Iterable[Record]) -> list[Record]:
    """Return ``records`` with every half of a move replaced by the move, once; ``others`` have the other halves."""
    halves = {(one.incarnation, one.id): one for one in (*records, *others)}
    moves: dict[int, Move] = {}
    for arrival in halves.values():
        departure = halves.get((arrival.incarnation, read_departure(arrival) or 0))
        if departure is not None and _belong_together(departure, arrival):
            values: dict[str, Any] = asdict(arrival) | {"action": "MOVE", "departure": departure}
            move = Move(**values)
            moves[arrival.leaf_index] = moves[departure.leaf_index] = move
    joined = {move.leaf_index: move for move in (moves.get(one.leaf_index, one) for one in records)}
    return list(joined.values())


def _belong_together(departure: Record, arrival: Record) -> bool:
    return (
        is_departure(departure)
        and (departure.trail, departure.xid, departure.relation) == (arrival.trail, arrival.xid, arrival.relation)
        and departure.id < arrival.id
    )
