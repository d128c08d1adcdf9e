"""How records leave a trail: exactly once, whatever the order of commits.

The rule is the difference of two snapshots (DESIGN.md, "Feed and sealer"). Everything visible in snapshot A has been
handed on; a batch is every row visible in a later snapshot B and not in A:

    xid >= A.xmax and visible in B        began after A, or had not drawn its xid
    xid in A.xip  and visible in B        was running when A was taken, has committed since

Rows are immutable, so the same question put later gets the same answer: a batch is read in chunks, each in a
transaction of its own, and a batch broken off by a crash is read on from its last chunk. A transaction left open, in
any database, delays its own rows and nobody else's.

Before anything of B is handed on, the feed commits in the source itself, with WAL and synchronous_commit on. That
makes durable all that B shows, and keeps xids below B.xmax from being drawn again after a crash.

Ids bound the reading. A row's id is drawn, and its time read, after its transaction's xid (capture.py), so a
transaction whose xid was not assigned when the sequence was read has only ids above what it stood at, and times after
that moment. ``Floor``s say so: whoever has an xid of at least ``xmax`` has ids above ``last_id`` and times from
``time`` on. A snapshot's own xmax does not say that: it is one above the newest *completed* xid, and transactions above
it may be running and have drawn ids. So between reading sequence and clock and taking the snapshot the feed completes
an xid of its own.

A new incarnation (``pgseal recover``) begins with the empty snapshot: its first batch is every row there is, and the
sealer passes over those that are sealed already. Where the server's xids began anew, those of rows up to ``base_id``
are another server's and say nothing: these rows belong to the first batch, and to no later one.
"""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import LiteralString, NamedTuple

from psycopg import sql

from pgseal.copybinary import iter_rows
from pgseal.errors import RollbackError
from pgseal.postgres import (
    SEALER,
    Connection,
    ServerIdentity,
    copy_lines,
    copy_messages,
    read_identity,
    translated_errors,
)
from pgseal.trail.rows import RECORD_COLUMNS, SEALED_COLUMNS
from pgseal.trail.shape import check_trail_shape

#: Snapshot that shows nothing: no transaction has an xid below 3.
EMPTY_SNAPSHOT = "3:3:"
_MAX_FLOORS = 32
#: So many rows, the newest by id, ``count_unsealed`` looks at, whatever the floors say.
_DISTRUSTED_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A pg_snapshot: transactions below ``xmin`` are over, from ``xmax`` on not begun, ``running`` between them."""

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        """Read PostgreSQL's own form ``xmin:xmax:xip,xip``."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(xid) for xid in running.split(",") if xid))

    def shows(self, xid: int) -> bool:
        """Return whether transaction ``xid`` was over."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.running)


class Floor(NamedTuple):
    """Whoever has an xid of at least ``xmax`` has ids above ``last_id`` and times from ``time`` on.

    ``time`` is in microseconds since the Unix epoch, by the source's clock.
    """

    xmax: int
    last_id: int
    time: int


@dataclass(frozen=True, slots=True)
class FeedState:
    """How far a trail has been handed on; kept in the vault, in the transaction that keeps the records.

    ``snapshot`` is A. ``pending`` is B of a batch under way, of which ids up to ``position`` are kept. ``floors`` are
    of earlier snapshots, rising; ``pending_last_id`` and ``pending_time`` become the next one. ``identity`` and
    ``flush_lsn`` say what the server was and had made durable; None before the first batch. ``base_id`` is the last id
    whose row may have another server's xid; 0 if none has.
    """

    trail: str
    incarnation: int = 1
    snapshot: str = EMPTY_SNAPSHOT
    pending: str | None = None
    position: int = 0
    floors: Sequence[Floor] = ()
    pending_last_id: int = 0
    pending_time: int = 0
    identity: ServerIdentity | None = None
    flush_lsn: str = "0/0"
    base_id: int = 0

    @property
    def begins_incarnation(self) -> bool:
        """Whether what is read now may be sealed already, under an earlier incarnation."""
        return self.incarnation > 1 and self.snapshot == EMPTY_SNAPSHOT

    def has_handed_on(self, record_id: int, xid: int) -> bool:
        """Return whether a record is among those that were handed on."""
        if record_id <= self.base_id:
            return not self.begins_incarnation or record_id <= self.position
        if Snapshot.parse(self.snapshot).shows(xid):
            return True
        return self.pending is not None and record_id <= self.position and Snapshot.parse(self.pending).shows(xid)


def find_other_server(state: FeedState, identity: ServerIdentity) -> str | None:
    """Return in what a server differs from the one that ``state`` was kept of; None if it is the same."""
    if state.identity is None:
        return None
    if identity.system_identifier != state.identity.system_identifier:
        return f"expected system identifier {state.identity.system_identifier}, got {identity.system_identifier}"
    if identity.timeline != state.identity.timeline:
        return f"expected timeline {state.identity.timeline}, got {identity.timeline}"
    return None


def find_signs(connection: Connection, state: FeedState) -> list[str]:
    """Return what says that a server is not the one that ``state`` was kept of, or an earlier state of it."""
    if state.identity is None:
        return []
    if (other := find_other_server(state, read_identity(connection))) is not None:
        return [other]  # and so the rest cannot be compared
    row = connection.execute(
        "SELECT pg_current_wal_flush_lsn() < %s::pg_lsn, pg_snapshot_xmax(pg_current_snapshot())::text::bigint < %s",
        [state.flush_lsn, Snapshot.parse(state.pending or state.snapshot).xmax],
    ).fetchone()
    assert row is not None  # noqa: S101  a SELECT without WHERE gives a row
    is_behind, is_younger = row
    signs: list[str] = []
    if is_behind:
        signs.append(f"its write-ahead log ends before {state.flush_lsn}, which was durable")
    if is_younger:
        signs.append("its transaction counter is behind what was sealed")
    return signs


def check_restart(connection: Connection, state: FeedState, *, side: str) -> None:
    """Check that a server is the one that ``state`` was kept of, and not an earlier state; raises ``RollbackError``."""
    for sign in find_signs(connection, state):
        raise _make_rollback(state, sign, side=side)


def _make_rollback(state: FeedState, detail: str, *, side: str) -> RollbackError:
    error = RollbackError(
        f"{side} is not the server that was sealed from, or was restored to an earlier state: {detail}; nothing was "
        f"sealed; is it the right server? If it was restored, upgraded or failed over: pgseal recover {state.trail}",
        where="trail",
        trail=state.trail,
    )
    error.sign = detail
    return error


class PollFeed:
    """Reads one trail over one connection, by polling. Primary only: a standby's snapshots lack running xids."""

    def __init__(self, connection: Connection, *, side: str) -> None:
        """Use ``connection`` (autocommit, role pgseal_sealer), and nothing else may."""
        self._connection = connection
        self._side = side
        self._errors = partial(translated_errors, side, role=SEALER)
        with self._errors():
            # A row security policy on the trail must be an error, not a filter; and an index scan in id order is
            # right whatever the statistics of a table that only grows.
            connection.execute("SET row_security = off")
            connection.execute("SET enable_seqscan = off")
            connection.execute("SET enable_bitmapscan = off")
            connection.execute("SET max_parallel_workers_per_gather = 0")

    def check_restart(self, state: FeedState) -> None:
        """Check that the source is the server that ``state`` was kept of, and not an earlier state of it.

        Raises ``RollbackError``; ``AlteredRecordError`` if something hides rows of the trail. (That the last sealed
        rows are still there, byte for byte, the sealer checks.)
        """
        for sign in self.find_signs(state):
            raise _make_rollback(state, sign, side=self._side)

    def find_signs(self, state: FeedState) -> list[str]:
        """Return what ``find_signs`` does; raises ``AlteredRecordError`` if something hides rows of the trail."""
        with self._errors():
            check_trail_shape(self._connection, side=self._side, trail=state.trail)
            signs = find_signs(self._connection, state)
            last_id, drawn = max((state.pending_last_id, *(one.last_id for one in state.floors))), self.read_last_id()
            if last_id > drawn and not signs:
                signs.append(f"its sequence of ids stands at {drawn}, vault.feed knows of id {last_id}")
            return signs

    def read_last_id(self) -> int:
        """Return the last id that was drawn; 0 if none was."""
        return int(str(self._scalar("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM audit.record_id_seq")))

    def read_clock(self) -> float:
        """Return the source's clock, in seconds since the Unix epoch."""
        with self._errors():
            return float(str(self._scalar("SELECT extract(epoch FROM clock_timestamp())")))

    def maintain(self) -> None:
        """Make the trail's partitions well ahead of time."""
        with self._errors():
            self._connection.execute("SELECT audit.ensure_partitions()")

    def begin(self, state: FeedState, *, empty: bool = False) -> FeedState | None:
        """Take up the batch under way or begin a new one; None if there is nothing to hand on, unless ``empty``.

        The state returned has ``pending`` set and everything it shows is durable in the source. Raises
        ``AlteredRecordError`` if something hides rows of the trail.
        """
        with self._errors():
            check_trail_shape(self._connection, side=self._side, trail=state.trail)
            if state.pending is not None:
                return state
            condition = self._condition(replace(state, pending=self._read_snapshot()))
            is_there = sql.SQL("SELECT EXISTS (SELECT FROM audit.record AS r WHERE {})").format(condition)
            if not empty and not self._scalar(is_there):
                return None
            # In this order, in statements (and so transactions) of their own: see the module's word on ``floors``.
            last_id = self.read_last_id()
            clock = int(str(self._scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")))
            self._scalar("SELECT pg_current_xact_id()")
            snapshot = self._read_snapshot()
            begun = replace(state, pending=snapshot, position=0, pending_last_id=last_id, pending_time=clock)
            return replace(begun, flush_lsn=self.make_durable(), identity=read_identity(self._connection))

    def _read_snapshot(self) -> str:
        return str(self._scalar("SELECT pg_current_snapshot()"))

    def make_durable(self) -> str:
        """Make durable in the source all that this connection has seen; return up to where its WAL is."""
        # An own commit with WAL: whatever was seen was written before it, so it is durable once this returns.
        self._connection.execute("SET synchronous_commit = on")
        self._connection.execute("SELECT pg_logical_emit_message(true, 'pgseal', 'durable')")
        return str(self._scalar("SELECT pg_current_wal_flush_lsn()"))

    def read_running(self) -> frozenset[int]:
        """Return the transactions that are open and had an xid before this was called."""
        self._scalar("SELECT pg_current_xact_id()")  # so that the snapshot's xmax is above theirs
        return Snapshot.parse(self._read_snapshot()).running

    def read_chunk(self, state: FeedState, limit: int) -> Generator[bytes, None, None]:
        """Yield up to ``limit`` rows (``SEALED_COLUMNS``, binary COPY) of the batch after ``position``, by id."""
        query = sql.SQL(
            "SELECT {columns} FROM audit.record AS r WHERE {condition} ORDER BY r.id LIMIT {limit}",
        ).format(columns=sql.SQL(SEALED_COLUMNS), condition=self._condition(state), limit=sql.Literal(limit))
        with closing(copy_messages(self._connection, query, side=self._side, role=SEALER, binary=True)) as messages:
            yield from iter_rows(messages)

    def read_rows(self, ids: Sequence[int]) -> Generator[bytes, None, None]:
        """Yield the COPY lines of the rows with these ids, in id order."""
        query = sql.SQL(
            "SELECT {columns} FROM audit.record AS r WHERE r.id = ANY({ids}) ORDER BY r.id",
        ).format(columns=sql.SQL(RECORD_COLUMNS), ids=sql.Literal(list(ids)))
        return copy_lines(self._connection, query, side=self._side, role=SEALER)

    def read_handed_on(self, state: FeedState) -> Generator[bytes, None, None]:
        """Yield the ids, in decimal and rising, that ``position`` says were handed on of the batch under way."""
        query = sql.SQL("SELECT r.id FROM audit.record AS r WHERE {} AND r.id <= {} ORDER BY r.id").format(
            self._condition(replace(state, position=0)), sql.Literal(state.position)
        )
        return copy_lines(self._connection, query, side=self._side, role=SEALER)

    def count_unsealed(self, state: FeedState) -> int:
        """Return how many committed rows are not handed on yet.

        The floors may be false (floors.py): they are relied on only for what is older than the newest million rows.
        """
        with self._errors():
            floor, _ = self._find_floor(replace(state, pending=self._read_snapshot()))
            query = sql.SQL(
                "SELECT count(*) FROM audit.record AS r WHERE r.id > least({floor}, (SELECT min(n.id) - 1 FROM ("
                "SELECT id FROM audit.record ORDER BY id DESC LIMIT {limit}) AS n)) AND r.id > {base} "
                "AND NOT pg_visible_in_snapshot(r.xid, {snapshot}::pg_snapshot) "
                "AND NOT (r.id <= {position} AND pg_visible_in_snapshot(r.xid, {batch}::pg_snapshot))"
            ).format(
                floor=sql.Literal(floor),
                limit=sql.Literal(_DISTRUSTED_ROWS),
                base=sql.Literal(0 if state.begins_incarnation else state.base_id),
                snapshot=sql.Literal(state.snapshot),
                position=sql.Literal(state.position),
                batch=sql.Literal(state.pending or state.snapshot),
            )
            return int(str(self._scalar(query)))

    def finish(self, state: FeedState) -> FeedState:
        """Return the state after the last chunk of a batch: B becomes A."""
        if state.pending is None:
            raise ValueError("no batch is under way")
        after = Snapshot.parse(state.pending)
        floors = [*state.floors, Floor(after.xmax, state.pending_last_id, state.pending_time)]
        # Only the newest at or below xmin can still be asked for, and those after it.
        first = max((i for i, floor in enumerate(floors) if floor.xmax <= after.xmin), default=0)
        floors = floors[first:]
        if len(floors) > _MAX_FLOORS:
            floors = [floors[0], *floors[2:-1:2], floors[-1]]
        return replace(
            state,
            snapshot=state.pending,
            pending=None,
            position=0,
            floors=tuple(floors),
            pending_last_id=0,
            pending_time=0,
        )

    def _condition(self, state: FeedState) -> sql.Composed:
        floor, finished = self._find_floor(state)
        condition = sql.SQL(
            "((r.xid >= {xmax}::xid8 AND pg_visible_in_snapshot(r.xid, {after}::pg_snapshot)) "
            "OR r.xid = ANY({finished}::text[]::xid8[]))",
        ).format(
            xmax=sql.Literal(str(Snapshot.parse(state.snapshot).xmax)),
            after=sql.Literal(state.pending),
            finished=sql.Literal([str(xid) for xid in finished]),
        )
        if state.base_id and state.begins_incarnation:
            condition = sql.SQL("(r.id <= {} OR {})").format(sql.Literal(state.base_id), condition)
        elif state.base_id:
            floor = max(floor, state.base_id)
        return sql.SQL("r.id > {} AND {}").format(sql.Literal(max(floor, state.position)), condition)

    def _find_floor(self, state: FeedState) -> tuple[int, list[int]]:
        """Return an id below every id of the batch, and the transactions that ended between its snapshots."""
        before, after = Snapshot.parse(state.snapshot), Snapshot.parse(state.pending or state.snapshot)
        finished = self._committed(sorted(before.running - after.running))
        return min(_find_floor(state.floors, xid).last_id for xid in [before.xmax, *finished]), finished

    def _committed(self, xids: Sequence[int]) -> list[int]:
        """Leave out those that are known to have been rolled back; their rows nobody ever sees."""
        if not xids:
            return []
        with self._errors():
            rows = self._connection.execute(
                "SELECT x::text::bigint FROM unnest(%s::text[]::xid8[]) AS x "
                "WHERE pg_xact_status(x) IS DISTINCT FROM 'aborted'",
                [[str(xid) for xid in xids]],
            ).fetchall()
        return [int(row[0]) for row in rows]

    def _scalar(self, query: sql.Composed | LiteralString) -> object:
        row = self._connection.execute(query).fetchone()
        assert row is not None  # noqa: S101  the queries here always give a row
        return row[0]


def find_earliest_time(state: FeedState) -> int:
    """Return a time such that no row that is not handed on yet is earlier, unless the source's clock goes back.

    In microseconds since the Unix epoch; 0 if nothing is known.
    """
    seen = Snapshot.parse(state.snapshot)
    return min(_find_floor(state.floors, xid).time for xid in [seen.xmax, *seen.running])


def _find_floor(floors: Sequence[Floor], xid: int) -> Floor:
    """Return the floor of a transaction with this xid."""
    return max(
        (floor for floor in floors if floor.xmax <= xid), default=Floor(0, 0, 0), key=lambda floor: floor.last_id
    )
