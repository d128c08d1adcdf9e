"""A sealed record as the vault has it, and as people and programs read it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

from psycopg import sql

from pgseal.core.ranges import LeafRanges
from pgseal.errors import FormatError
from pgseal.postgres import Connection
from pgseal.vault.lost import read_lost
from pgseal.vault.values import format_key, parse_part

_SHOWN = 8

# Under the session's pinned TimeZone, UTC. An impossible time gives NULL, and verify says what it was.
COLUMNS = sql.SQL(
    "r.leaf_index, r.trail, r.incarnation, r.id, "
    "to_char(r.time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), r.xid::text, "
    "r.source, r.category, r.action, r.outcome, r.relation, r.actor, r.actor_salt, r.data, r.data_salt"
)


@dataclass(frozen=True)
class Record:
    """One row of ``vault.record``; ``actor`` and ``data`` are the exact texts that were sealed, None once erased."""

    leaf_index: int
    trail: str
    incarnation: int
    id: int
    time: str
    xid: str
    source: str
    category: str
    action: str
    outcome: str
    relation: str | None
    actor: str | None
    actor_salt: bytes | None
    data: str | None
    data_salt: bytes | None
    #: The trail lost it when its server was restored to an earlier state.
    lost: bool = False

    @cached_property
    def who(self) -> Mapping[str, Any]:
        """The actor part, parsed; empty once erased. Raises ``FormatError``."""
        return {} if self.actor is None else parse_part(self.actor, source=f"{self._name}, actor")

    @cached_property
    def what(self) -> Mapping[str, Any]:
        """The data part, parsed; empty once erased. Raises ``FormatError``."""
        return {} if self.data is None else parse_part(self.data, source=f"{self._name}, data")

    @property
    def key(self) -> Mapping[str, Any] | None:
        """A row record's key before the change. Raises ``FormatError``, as the next three do."""
        return self._member("key")

    @property
    def new(self) -> Mapping[str, Any] | None:
        """The whole row after the change."""
        return self._member("new")

    @property
    def old(self) -> Mapping[str, Any] | None:
        """The whole row before the change: an UPDATE keeps only the former values of what changed."""
        old = self._member("old")
        if self.action == "UPDATE" and old is not None and self.new is not None:
            return {**self.new, **old}
        return old

    @property
    def part(self) -> str | None:
        """The oid of the partition that a row record is about; None if it names none. Raises ``FormatError``."""
        part = self.what.get("part") if self.source == "row" else None
        return None if part is None else str(part)

    @property
    def moved(self) -> Mapping[str, Any] | None:
        """What a DELETE or an INSERT says of a move to another partition. Raises ``FormatError``."""
        return self._member("moved")

    @property
    def changed(self) -> list[str]:
        """Names of the columns that an UPDATE changed."""
        return list(self._member("old") or ()) if self.action == "UPDATE" else []

    @cached_property
    def key_before(self) -> str | None:
        """The key, as ``format_key`` writes it, of the row that a record starts from; None if it names none."""
        if self.action not in {"UPDATE", "DELETE", "SNAPSHOT"} or self.key is None:
            return None
        return format_key(self.key)

    @cached_property
    def key_after(self) -> str | None:
        """The key of the row that a record leaves; None if it leaves none, or names none."""
        key, new = self.key, self.new
        if key is None or self.action not in {"INSERT", "SNAPSHOT", "UPDATE"}:
            return None
        if self.action == "UPDATE" and new is not None and not set(key).isdisjoint(self.changed):
            key = {column: new.get(column) for column in key}
        return format_key(key)

    @property
    def changes_key(self) -> bool:
        """Whether this is an UPDATE that gave the row another key."""
        return self.action == "UPDATE" and self.key_before != self.key_after

    def _member(self, name: str) -> Mapping[str, Any] | None:
        value = self.what.get(name) if self.source == "row" else None
        if value is not None and not isinstance(value, Mapping):
            raise FormatError(
                f"expected {name} to be an object or null; pgseal verify says what was changed",
                source=f"{self._name}, data",
            )
        return cast("Mapping[str, Any] | None", value)

    def to_json(self) -> dict[str, Any]:
        """Return the record as ``history --json`` and ``search --json`` print it (DESIGN.md, "Command line")."""
        return {
            "trail": self.trail,
            "incarnation": self.incarnation,
            "id": self.id,
            "index": self.leaf_index,
            "time": self.time,
            "source": self.source,
            "category": self.category,
            "action": self.action,
            "outcome": self.outcome,
            "relation": self.relation,
            "key": self.key,
            "old": self.old,
            "new": self.new,
            "changed": self.changed,
            "actor": None if self.actor is None else self.who,
            "data": None if self.data is None or self.new is not None or self.old is not None else self.what,
            "erased": [name for name, text in (("actor", self.actor), ("data", self.data)) if text is None],
            "lost": self.lost,
        }

    @property
    def _name(self) -> str:
        return f"vault record {self.trail}/{self.id} (leaf {self.leaf_index})"


def fetch_records(connection: Connection, query: sql.Composed, values: Mapping[str, object]) -> list[Record]:
    """Run a query that selects ``COLUMNS``."""
    records = [Record(*row) for row in connection.execute(query, values)]
    if not records:
        return records
    lost = read_lost(connection)
    nothing = LeafRanges()
    return [replace(one, lost=True) if one.leaf_index in lost.get(one.trail, nothing) else one for one in records]


def list_names(names: Sequence[str]) -> str:
    """Return some names for a message, and how many there are in all."""
    more = f", … ({len(names):,} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
