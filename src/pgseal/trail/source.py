"""A trail as the verifier reads it: every row there is now, and whether it must have been sealed."""

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import sql

from pgseal.core.fields import parse_relation
from pgseal.errors import TamperError
from pgseal.postgres import OWNER, SEALER, Connection, copy_lines, read_identity, translated_errors
from pgseal.trail.feed import FeedState, check_restart
from pgseal.trail.floors import check_floors
from pgseal.trail.rows import RECORD_COLUMNS, HeadCache
from pgseal.trail.shape import check_trail_shape


@dataclass(frozen=True, slots=True)
class TrailRows:
    """A ``TrailSource``: a trail, seen with the state its feed had when this was made.

    ``damage`` says why that state, as the vault has it, could be read in part only. With ``partition``, the name of one
    or of what was one, only its rows are given; then ``connection`` is the owner's.
    """

    connection: Connection
    state: FeedState
    side: str
    damage: TamperError | None = None
    partition: str | None = None

    @property
    def name(self) -> str:
        """The trail's name in envelopes."""
        return self.state.trail

    @property
    def incarnation(self) -> int:
        """The incarnation that new rows belong to."""
        return self.state.incarnation

    @property
    def base_id(self) -> int:
        """The last id whose row may have another server's xid, as the vault notes it; 0 if none has."""
        return self.state.base_id

    def check_feed(self) -> None:
        """Check that nothing hides rows, that this is the server, and what the vault notes of how far they were read.

        Raises ``AlteredRecordError``, ``RollbackError``.
        """
        with translated_errors(self.side, role=SEALER):
            check_trail_shape(self.connection, side=self.side, trail=self.name)
            check_restart(self.connection, self.state, side=self.side)
        if self.damage is not None:
            raise self.damage
        check_floors(self.connection, self.state, side=self.side)

    def copy_rows(self) -> Iterator[bytes]:
        """Yield COPY lines by id: sealed (t, f, u: unknown), id, time to relation, actor, data, as the sealer writes.

        A row is to be found in the vault if the sealed snapshot sees its transaction. One of a transaction that has
        not begun yet was not written by capture: it counts as sealed too, so that it is missed in the vault. Another
        server than the one that was sealed from has other transactions, and a new incarnation comes by all rows once
        more: nothing of the kind is known then.
        """
        self.connection.execute("SET row_security = off")
        state = self.state
        with translated_errors(self.side, role=SEALER):
            is_known = state.identity in {None, read_identity(self.connection)}
        query = sql.SQL(
            "SELECT CASE WHEN NOT {is_known} THEN 'u' WHEN CASE WHEN r.id <= {base} THEN true ELSE "
            "pg_visible_in_snapshot(r.xid, {snapshot}::pg_snapshot) "
            "OR (pg_visible_in_snapshot(r.xid, {pending}::pg_snapshot) AND r.id <= {position}) "
            "OR r.xid >= pg_snapshot_xmax(pg_current_snapshot()) END THEN 't' ELSE 'f' END, "
            "{columns} FROM {rows} AS r ORDER BY r.id",
        ).format(
            base=sql.Literal(state.base_id),
            is_known=sql.Literal(is_known and not state.begins_incarnation),
            rows=self._format_rows(),
            snapshot=sql.Literal(state.snapshot),
            pending=sql.Literal(state.pending or state.snapshot),
            position=sql.Literal(state.position),
            columns=sql.SQL(RECORD_COLUMNS),
        )
        heads = HeadCache(state.trail, state.incarnation)
        role = SEALER if self.partition is None else OWNER
        for line in copy_lines(self.connection, query, side=self.side, role=role):
            sealed, _, row = line.partition(b"\t")
            record_id, content = heads.parse_content(row)
            yield b"\t".join((sealed, b"%d" % record_id, *content))

    def _format_rows(self) -> sql.Composable:
        if self.partition is None:
            return sql.SQL("audit.record")
        return sql.SQL("ONLY {}").format(sql.Identifier(*parse_relation(self.partition)))
