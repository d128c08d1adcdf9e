"""What the sealer writes to the vault and reads back from it.

The vault's transaction is the first durable step of sealing: records with their leaf indexes and salts, and how far
the feed has come, are kept together or not at all.
"""

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import LiteralString, NamedTuple

from psycopg import Copy, sql

from pgseal.copybinary import HEADER, TRAILER
from pgseal.errors import ConfigError, ConflictError
from pgseal.postgres import SEALER, Connection, copy_lines, translated_errors
from pgseal.settings import VAULT_TRAIL

#: Columns of vault.record in table order; every COPY line of the vault has them.
COLUMNS: LiteralString = (
    "leaf_index, trail, incarnation, id, time, xid, source, category, action, outcome, relation, "
    "actor, actor_salt, data, data_salt"
)
#: Columns as they are written: those of fixed width first, then those that repeat from row to row, data last.
WRITTEN_COLUMNS: LiteralString = (
    "leaf_index, id, time, xid, actor_salt, data_salt, trail, incarnation, source, category, action, outcome, "
    "relation, actor, data"
)
_LOCK = "pgseal sealer"
#: Held, shared, while a verification reads; alone, while rows of a trail are dropped that it might miss.
READING_LOCK = "pgseal verify"
#: Held by whoever destroys content or drops rows, and by whoever adds or releases a legal hold.
HOLD_LOCK = "pgseal hold"
# How far back it is looked for changes without an actor; about a tenth of a second's work.
_NEWEST_RECORDS = 100_000


@dataclass(frozen=True, slots=True)
class FeedRow:
    """One row of vault.feed, in PostgreSQL's own text forms; the sealer knows what it means."""

    trail: str
    incarnation: int
    snapshot: str
    pending: str | None
    position: int
    floors: Sequence[int]
    pending_last_id: int
    pending_time: int
    system_identifier: int | None
    timeline: int | None
    flush_lsn: str
    base_id: int


class TrailTimes(NamedTuple):
    """Times of a trail's leaves at some moment, in microseconds since the Unix epoch.

    ``newest`` is the newest that is not ahead of the moment (0 if all are); ``future`` are the leaves that are ahead.
    """

    trail: str
    newest: int
    newest_of_all: int
    future: list[int]


_FEED_COLUMNS: LiteralString = (
    'trail, incarnation, snapshot, pending, "position", floors, pending_last_id, pending_time, '
    "system_identifier, timeline, flush_lsn, base_id"
)


class VaultStore:
    """The vault over one connection (autocommit, role pgseal_sealer). Not safe for concurrent use."""

    def __init__(self, connection: Connection, *, side: str = "vault") -> None:
        """Use ``connection``; a commit is durable when it returns, whatever the server's default."""
        self._connection = connection
        self._side = side
        self._errors = partial(translated_errors, side, role=SEALER)
        with self._errors():
            connection.execute("SET synchronous_commit = on")
            connection.execute("SET row_security = off")

    def check_installed(self) -> None:
        """Raise ``ConfigError`` if this database has never been a vault, or its whole schema is gone."""
        with self._errors():
            row = self._connection.execute("SELECT to_regnamespace('vault') IS NULL, current_database()").fetchone()
        if row and row[0]:
            raise ConfigError(
                f"vault: nothing is installed there, in database {row[1]!r}: is its dsn right? Restore a vault that is "
                "lost from a backup; for a new one run pgseal init"
            )

    @property
    def connection(self) -> Connection:
        """The connection, for what else belongs into the same transaction."""
        return self._connection

    def lock(self) -> None:
        """Be the only sealer of this vault as long as the connection lasts; raises ``ConflictError``."""
        with self._errors():
            row = self._connection.execute(
                "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))",
                [_LOCK],
            ).fetchone()
        if row != (True,):
            raise ConflictError("another sealer works on this vault; there can be one at a time, stop it first")

    def count(self) -> int:
        """Return the number of leaves the vault holds: its greatest leaf index plus one."""
        with self._errors():
            row = self._connection.execute("SELECT coalesce(max(leaf_index) + 1, 0) FROM vault.record").fetchone()
        return int(row[0]) if row else 0

    def count_unattributed(self, seconds: int, unasked: Sequence[str] = ()) -> int:
        """Return how many row changes of the last ``seconds`` name no actor, among the newest records only.

        ``unasked`` names tables, each as trail/relation, of which nobody wants to know.
        """
        query = """
            SELECT count(*) FROM (
                SELECT time, source, action, actor, trail, relation FROM vault.record ORDER BY leaf_index DESC LIMIT %s
            ) AS r
            WHERE r.time > now() - make_interval(secs => %s) AND r.source = 'row'
                AND r.action NOT IN ('SNAPSHOT', 'ATTACH', 'DETACH')
                AND r.trail || '/' || r.relation <> ALL (%s)
                AND CASE WHEN r.actor LIKE '%%"claimed": {%%' THEN coalesce(
                    r.actor::jsonb #>> '{claimed,actor,id}', r.actor::jsonb #>> '{claimed,actor}', '') = ''
                    ELSE r.actor IS NOT NULL END
        """
        with self._errors():
            row = self._connection.execute(query, [_NEWEST_RECORDS, seconds, list(unasked)]).fetchone()
        return int(row[0]) if row else 0

    def read_feed(self, trail: str) -> FeedRow | None:
        """Return how far a trail has been sealed; None for one that never was."""
        query = sql.SQL("SELECT {} FROM vault.feed WHERE trail = %s").format(
            sql.SQL(
                _FEED_COLUMNS.replace("snapshot, pending", "snapshot::text, pending::text").replace(
                    "flush_lsn", "flush_lsn::text"
                )
            ),
        )
        with self._errors():
            row = self._connection.execute(query, [trail]).fetchone()
        return FeedRow(*row) if row else None

    def write_feed(self, row: FeedRow) -> None:
        """Keep how far a trail has been sealed."""
        names = [name.strip().strip('"') for name in _FEED_COLUMNS.split(",")]
        updates = sql.SQL(", ").join(
            sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in names if name != "trail"
        )
        query = sql.SQL("INSERT INTO vault.feed ({}) VALUES ({}) ON CONFLICT (trail) DO UPDATE SET {}").format(
            sql.SQL(_FEED_COLUMNS),
            sql.SQL(", ").join([sql.Placeholder()] * len(names)),
            updates,
        )
        values = [getattr(row, name) for name in names]
        values[names.index("floors")] = list(row.floors)
        with self._errors():
            self._connection.execute(query, values)

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """Everything within is kept together, durably, or not at all."""
        with self._errors(), self._connection.transaction():
            yield

    @contextmanager
    def copy_in(self) -> Generator[Copy, None, None]:
        """Take rows of ``WRITTEN_COLUMNS`` in binary COPY; inside ``transaction``."""
        query = sql.SQL("COPY vault.record ({}) FROM STDIN (FORMAT binary)").format(sql.SQL(WRITTEN_COLUMNS))
        with self._connection.cursor() as cursor, cursor.copy(query) as copy:
            copy.write(HEADER)
            yield copy
            copy.write(TRAILER)

    def find_known_ids(self, trail: str, incarnation: int, ids: Sequence[int], *, earlier: bool = False) -> set[int]:
        """Return those of ``ids`` that the vault has already; ``earlier``: under an incarnation before this one."""
        with self._errors():
            rows = self._connection.execute(
                "SELECT id FROM vault.record WHERE trail = %s AND incarnation = ANY(%s) AND id = ANY(%s)",
                [trail, list(range(1, incarnation)) if earlier else [incarnation], list(ids)],
            ).fetchall()
        return {row[0] for row in rows}

    def find_malformed_ids(self, trail: str, incarnation: int, ids: Sequence[int]) -> set[int]:
        """Return those of ``ids`` that the vault's own trail states as ``MALFORMED``."""
        if not ids:
            return set()
        with self._errors():
            rows = self._connection.execute(
                "SELECT data->>'id' FROM audit.record WHERE source = 'system' AND action = 'MALFORMED' "
                "AND data->>'trail' = %s AND data->>'incarnation' = %s AND data->>'id' = ANY(%s)",
                [trail, str(incarnation), [str(record_id) for record_id in ids]],
            ).fetchall()
        return {int(row[0]) for row in rows}

    def read_lines(self, begin: int, end: int) -> Generator[bytes, None, None]:
        """Yield the COPY lines (no newline) of leaves [begin, end), in leaf order."""
        return copy_lines(
            self._connection,
            sql.SQL(
                "SELECT {} FROM vault.record WHERE leaf_index >= {} AND leaf_index < {} ORDER BY leaf_index"
            ).format(
                sql.SQL(COLUMNS),
                sql.Literal(begin),
                sql.Literal(end),
            ),
            side=self._side,
            role=SEALER,
        )

    def read_acts(self, action: str, below: int) -> list[bytes]:
        """Return the COPY lines of the vault's own records of ``action`` whose leaf index is less than ``below``."""
        query = sql.SQL(
            "SELECT {} FROM vault.record WHERE source = 'system' AND action = {} AND trail = {} "
            "AND leaf_index < {} ORDER BY leaf_index"
        ).format(sql.SQL(COLUMNS), sql.Literal(action), sql.Literal(VAULT_TRAIL), sql.Literal(below))
        return list(copy_lines(self._connection, query, side=self._side, role=SEALER))

    def read_newest_act(self, action: str, below: int) -> bytes | None:
        """Return the COPY line of the vault's own newest record of ``action`` with a leaf index below ``below``."""
        query = sql.SQL(
            "SELECT {} FROM vault.record WHERE trail = {} AND source = 'system' AND action = {} AND leaf_index < {} "
            "AND action IN ('RETENTION', 'RECOVER', 'HEARTBEAT', 'CLOCK') ORDER BY leaf_index DESC LIMIT 1"
        ).format(sql.SQL(COLUMNS), sql.Literal(VAULT_TRAIL), sql.Literal(action), sql.Literal(below))
        return next(iter(copy_lines(self._connection, query, side=self._side, role=SEALER)), None)

    def read_times(self, after: int, leaves: Sequence[int], moment: datetime) -> list[TrailTimes]:
        """Return, by trail, the times of the leaves after ``after`` and of ``leaves``, seen at ``moment``."""
        query = """
            SELECT trail, coalesce(max(micros) FILTER (WHERE time <= %(moment)s), 0), max(micros),
                coalesce(array_agg(leaf_index ORDER BY leaf_index) FILTER (WHERE time > %(moment)s), '{}')
            FROM (
                SELECT trail, leaf_index, time, (extract(epoch FROM time) * 1000000)::bigint AS micros FROM vault.record
                WHERE (leaf_index > %(after)s OR leaf_index = ANY(%(leaves)s)) AND isfinite(time)
            ) AS t GROUP BY trail
        """
        with self._errors():
            rows = self._connection.execute(
                query, {"moment": moment, "after": after, "leaves": list(leaves)}
            ).fetchall()
        return [TrailTimes(*row) for row in rows]

    def read_silence(self) -> float | None:
        """Return how many seconds ago the newest heartbeat was, by the vault's clock; None if there never was one."""
        with self._errors():
            row = self._connection.execute(
                "SELECT extract(epoch FROM clock_timestamp() - time)::float8 FROM vault.record WHERE source = 'system' "
                "AND action = 'HEARTBEAT' AND trail = %s ORDER BY leaf_index DESC LIMIT 1",
                [VAULT_TRAIL],
            ).fetchone()
        return None if row is None else float(row[0])

    def record_heartbeat(self, trails: Mapping[str, object], own_trail: str) -> None:
        """Record a HEARTBEAT in the vault's trail, which is called ``own_trail``; durable when it returns."""
        with self._errors():
            self._connection.execute("SELECT audit.record_heartbeat(%s::jsonb, %s)", [json.dumps(trails), own_trail])

    def read_recorded_acts(self, action: str) -> list[str]:
        """Return the data of acts as they stand in the vault's trail, sealed or not, oldest first."""
        with self._errors():
            rows = self._connection.execute(
                "SELECT data::text FROM audit.record WHERE source = 'system' AND action = %s ORDER BY id", [action]
            ).fetchall()
        return [row[0] for row in rows]

    def read_rotations(self, *, recorded: bool = False) -> list[tuple[int | None, bytes, bytes]]:
        """Return leaf index, data and actor of all KEY_ROTATE records, the oldest first.

        ``recorded``: also as they stand in the vault's trail, sealed or not, without an index. Reads that trail.
        """
        with self._errors():
            sealed = self._connection.execute(
                "SELECT leaf_index, data, actor FROM vault.record WHERE source = 'system' AND action = 'KEY_ROTATE' "
                "AND trail = %s AND data IS NOT NULL AND actor IS NOT NULL ORDER BY leaf_index",
                [VAULT_TRAIL],
            ).fetchall()
            unsealed = self._connection.execute(
                "SELECT data::text, jsonb_build_object('claimed', claimed)::text FROM audit.record "
                "WHERE %s AND source = 'system' AND action = 'KEY_ROTATE' AND data IS NOT NULL ORDER BY id",
                [recorded],
            ).fetchall()
        rows = [*sealed, *((None, *row) for row in unsealed)]
        return [(index, data.encode(), actor.encode()) for index, data, actor in rows]

    def read_leaf_age(self, leaf_index: int) -> float | None:
        """Return how many seconds ago the record of a leaf was made, by the vault's clock; None without it."""
        with self._errors():
            row = self._connection.execute(
                "SELECT extract(epoch FROM clock_timestamp() - time)::float8 FROM vault.record WHERE leaf_index = %s",
                [leaf_index],
            ).fetchone()
        return None if row is None else float(row[0])

    def find_leaf(self, trail: str, record_id: int) -> int | None:
        """Return the leaf index that the vault has for a record, of the newest incarnation; None if it has none."""
        with self._errors():
            row = self._connection.execute(
                "SELECT leaf_index FROM vault.record WHERE trail = %s AND id = %s ORDER BY incarnation DESC LIMIT 1",
                [trail, record_id],
            ).fetchone()
        return row[0] if row else None

    def record_act(
        self,
        action: str,
        data: Mapping[str, object],
        relation: str | None = None,
        claimed: Mapping[str, object] | None = None,
    ) -> int:
        """Record an act of pgseal's own in the vault's trail; durable when it returns the record's id.

        ``claimed`` is what whoever runs it says of who is acting.
        """
        values = [action, json.dumps(data), relation, None if claimed is None else json.dumps(claimed)]
        with self._errors():
            row = self._connection.execute(
                "SELECT audit.record_act(%s, %s::jsonb, 'administration', %s, %s::jsonb)", values
            ).fetchone()
        assert row is not None  # noqa: S101  a call gives a row
        return int(row[0])

    def try_lock(self, name: str, *, shared: bool = False) -> bool:
        """Take an advisory lock as long as the connection lasts, or say that somebody is in the way."""
        take = "pg_try_advisory_lock_shared" if shared else "pg_try_advisory_lock"
        query = sql.SQL("SELECT {}(hashtextextended({}, 0))").format(sql.SQL(take), sql.Literal(name))
        with self._errors():
            return self._connection.execute(query).fetchone() == (True,)

    def has_relation(self, trail: str, relation: str, leaves: Sequence[tuple[int, int]]) -> bool:
        """Return whether a trail has a record about ``relation`` within these ranges of leaves."""
        query = (
            "SELECT EXISTS (SELECT FROM unnest(%s::bigint[], %s::bigint[]) AS g(first, last) JOIN vault.record AS r "
            "ON r.leaf_index >= g.first AND r.leaf_index < g.last WHERE r.trail = %s AND r.relation = %s)"
        )
        values = [[begin for begin, _ in leaves], [end for _, end in leaves], trail, relation]
        with self._errors():
            return self._connection.execute(query, values).fetchone() == (True,)

    def unlock(self, name: str) -> None:
        """Let go of a lock that ``try_lock`` took."""
        with self._errors():
            self._connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [name])

    def read_newest_incarnation(self, trail: str) -> int | None:
        """Return the greatest incarnation of a trail's records; None without any."""
        with self._errors():
            row = self._connection.execute(
                "SELECT incarnation FROM vault.record WHERE trail = %s ORDER BY trail DESC, incarnation DESC LIMIT 1",
                [trail],
            ).fetchone()
        return row[0] if row else None

    def read_data(self, trail: str, record_id: int) -> str | None:
        """Return the data part of a trail's record, of the newest incarnation; None without it."""
        with self._errors():
            row = self._connection.execute(
                "SELECT data FROM vault.record WHERE trail = %s AND id = %s ORDER BY incarnation DESC LIMIT 1",
                [trail, record_id],
            ).fetchone()
        return row[0] if row else None

    def read_earlier_lines(self, trail: str, incarnation: int, ids: Sequence[int]) -> list[bytes]:
        """Return the COPY lines of records with these ids that were sealed before ``incarnation`` of a trail began."""
        query = sql.SQL(
            # Each incarnation named, so that the index finds every single row.
            "SELECT {} FROM vault.record WHERE trail = {} AND incarnation = ANY({}) AND id = ANY({})",
        ).format(sql.SQL(COLUMNS), sql.Literal(trail), sql.Literal(list(range(1, incarnation))), sql.Literal(list(ids)))
        return list(copy_lines(self._connection, query, side=self._side, role=SEALER))

    def read_last_lines(self, trail: str, incarnation: int, below: int, limit: int) -> list[bytes]:
        """Return the COPY lines of the last ``limit`` records of a trail whose leaf index is less than ``below``."""
        query = sql.SQL(
            "SELECT {} FROM vault.record WHERE trail = {} AND incarnation = {} AND leaf_index < {} "
            "ORDER BY id DESC LIMIT {}",
        ).format(
            sql.SQL(COLUMNS),
            sql.Literal(trail),
            sql.Literal(incarnation),
            sql.Literal(below),
            sql.Literal(limit),
        )
        return list(copy_lines(self._connection, query, side=self._side, role=SEALER))
