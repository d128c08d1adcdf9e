"""Whether the floors that are kept for a trail can be true: what the feed takes for granted, checked against its rows.

A floor says that whoever has an xid of at least ``xmax`` has only ids above ``last id`` (feed.py). The
feed reads nothing below. Whoever administers the vault can put a floor ahead, and so keep records from being sealed,
in silence. But a committed row at or below a floor contradicts it, for good: rows never change, so an honest floor
stays true. Looking for one reads the whole trail, which is too much for each poll: the sealer does it when it starts
with a state that it does not remember, and ``pgseal verify`` always.

Floors may be emptied at any time: then the next batch is looked for from the trail's beginning.
"""

from itertools import accumulate

from psycopg import sql

from pgseal.errors import AlteredRecordError
from pgseal.postgres import SEALER, Connection, translated_errors
from pgseal.trail.feed import FeedState


def check_floors(connection: Connection, state: FeedState, *, side: str) -> None:
    """Check the floors of ``state`` against the trail's sequence and against every committed row.

    Reads the whole trail, in a transaction of its own; ``connection`` may read all of it.

    Raises ``AlteredRecordError``, with the id of the first row that waits to be sealed, or else of the first row, that
    contradicts a floor; ``UnavailableError``, ``ConfigError`` as every query.
    """
    floors = [(floor.xmax, floor.last_id) for floor in state.floors]
    floors.append((_xmax(state.pending) if state.pending else 0, state.pending_last_id))
    limits = _limits([(xmax, last_id) for xmax, last_id in floors if last_id > 0])
    if not limits and not state.base_id:
        return
    with translated_errors(side, role=SEALER), connection.transaction():
        connection.execute("SET LOCAL row_security = off")
        connection.execute("SET LOCAL enable_seqscan = on")
        connection.execute("SET LOCAL max_parallel_workers_per_gather TO DEFAULT")
        count, first, waiting, first_waiting = _read(connection, _format_query(state, limits or [(0, 0)]))
        drawn, *_ = _read(
            connection, sql.SQL("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM audit.record_id_seq")
        )
    if count:
        raise _contradicted(
            state,
            f"{count:,} committed {'record lies' if count == 1 else 'records lie'} at or below them, the first "
            f"{state.trail}/{first_waiting or first}; {waiting:,} of these wait and would not be sealed",
            first_waiting or first,
        )
    highest = max([state.base_id, *(last_id for last_id, _ in limits)])
    if highest > (drawn or 0):
        raise _contradicted(
            state,
            f"they go up to id {highest}, and no id above {drawn} was drawn yet (if the server was restored: "
            "pgseal recover)",
            None,
        )


def _contradicted(state: FeedState, detail: str, record_id: int | None) -> AlteredRecordError:
    mend = f"UPDATE vault.feed SET floors = '{{}}', pending_last_id = 0 WHERE trail = '{state.trail}'"  # noqa: S608
    return AlteredRecordError(
        f"what the vault notes of how far trail {state.trail!r} was read cannot be true: vault.feed has floors, and "
        f"{detail}; find out who changed it, then: {mend}",
        where="vault",
        trail=state.trail,
        record_id=record_id,
    )


def _xmax(snapshot: str) -> int:
    return int(snapshot.split(":")[1])


def _limits(floors: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return pairs (last id, xmax), ids rising: a row up to that id, and above the one before, is of an older xid."""
    falling = sorted(((last_id, xmax) for xmax, last_id in floors), reverse=True)
    smallest = accumulate((xmax for _, xmax in falling), min)
    return [(last_id, xmax) for (last_id, _), xmax in zip(falling, smallest, strict=True)][::-1]


def _format_query(state: FeedState, limits: list[tuple[int, int]]) -> sql.Composed:
    # CASE stops at the first that holds: for nearly all rows of a long trail that is the first one of all.
    cases = sql.SQL(" ").join(
        sql.SQL("WHEN r.id <= {} THEN {}::xid8").format(sql.Literal(last_id), sql.Literal(str(xmax)))
        for last_id, xmax in limits
    )
    return sql.SQL(
        "SELECT count(*), min(r.id), count(*) FILTER (WHERE w.waits), min(r.id) FILTER (WHERE w.waits) "
        "FROM audit.record AS r CROSS JOIN LATERAL (SELECT NOT pg_visible_in_snapshot(r.xid, {snapshot}::pg_snapshot) "
        "AND NOT (r.id <= {position} AND pg_visible_in_snapshot(r.xid, {pending}::pg_snapshot)) AS waits) AS w "
        "WHERE r.id > {base} AND r.id <= {top} AND r.xid >= CASE {cases} END",
    ).format(
        base=sql.Literal(state.base_id),  # of these xids nothing is known
        snapshot=sql.Literal(state.snapshot),
        pending=sql.Literal(state.pending or state.snapshot),
        position=sql.Literal(state.position),
        top=sql.Literal(limits[-1][0]),
        cases=cases,
    )


def _read(connection: Connection, query: sql.SQL | sql.Composed) -> tuple[int | None, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None  # noqa: S101  the queries here always give a row
    return row
