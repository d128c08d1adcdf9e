"""What became of a trail whose server was restored, failed over, upgraded or re-created, for ``pgseal recover``.

The trail's rows are compared with every record of it that was sealed. What has gone is stated in a RECOVER record,
which raises the trail's incarnation; what the vault has of it stays. Both are written in one transaction of the vault:

    before it   nothing has happened
    after it    the sealer goes on by itself: it seals the record, then the trail's rows that were never sealed

A restore cannot explain everything. A transaction is restored as a whole or not at all, so where some rows of one are
left and others are gone, somebody removed them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from pgseal.core.canonical import encode_canonical
from pgseal.core.ranges import LeafRanges, join_ranges
from pgseal.core.recovery import MAX_DATA_BYTES, RECOVER, Recovery, Server
from pgseal.errors import ConfigError, MissingRecordError, SealError, UnavailableError
from pgseal.ledger.reader import LedgerReader
from pgseal.postgres import SEALER, Connection, ServerIdentity, read_identity, translated_errors
from pgseal.sealer.explained import read_recoveries, read_retained
from pgseal.sealer.incarnation import check_incarnation
from pgseal.sealer.state import read_finding
from pgseal.sealer.trails import TrailAddress, read_state, to_row, trail_addresses
from pgseal.settings import Settings
from pgseal.trail.feed import EMPTY_SNAPSHOT, FeedState, PollFeed
from pgseal.trail.source import TrailRows
from pgseal.vault.source import VaultRows
from pgseal.vault.store import VaultStore

_PROGRESS_ROWS = 10_000
_NO_ID = 1 << 63


@dataclass(frozen=True, slots=True)
class Examined:
    """A trail that was compared with what was sealed of it: what is to be recorded, and how to go on.

    ``unsealed`` counts rows that equal no record. ``state`` is how far the new incarnation is read: not at all.
    """

    recovery: Recovery
    unsealed: int
    state: FeedState


def find_signs(settings: Settings, vault: VaultStore) -> dict[str, list[str]]:
    """Return, by trail in sealing order, what says that its server is another one or shows an earlier state.

    Also what the sealer noted when it stopped: a server that was restored and works on shows no sign of it before long.
    Trails without signs are left out; one of which the sealer missed records is there, with none. Changes nothing.

    Raises ``UnavailableError`` and ``ConfigError`` where a source cannot be reached.
    """
    noted = read_finding(settings.state) or {}
    found: dict[str, list[str]] = {}
    for address in trail_addresses(settings):
        with closing(address.connect()) as connection:
            signs = PollFeed(connection, side=address.side).find_signs(read_state(vault, address.name))
        is_noted = noted.get("kind") == "rollback" and noted.get("trail") == address.name
        if is_noted and isinstance(noted.get("sign"), str) and not signs:
            signs = [f"{noted['sign']} (at {noted['time']})"]
        if signs or is_noted:
            found[address.name] = signs
    return found


@dataclass(frozen=True, slots=True)
class SealedSide:
    """What was sealed: a ledger of ``tree_size`` leaves, and the vault compared with it (twice: to read much)."""

    vault: VaultStore
    rows: VaultRows
    ledger: LedgerReader
    tree_size: int


@dataclass(frozen=True, slots=True)
class Said:
    """What somebody says happened: one of ``core.recovery.KINDS`` (None: as it looks), and why."""

    kind: str | None = None
    reason: str | None = None


def examine(
    address: TrailAddress,
    sealed: SealedSide,
    signs: Sequence[str],
    said: Said,
    progress: Callable[[int], None] = lambda _: None,
) -> Examined:
    """Compare a trail with what was sealed of it; changes nothing.

    ``signs`` are its own of ``find_signs``; without any, ``said`` must have a kind. ``progress`` is told how many rows
    were compared.

    Raises:
        ConfigError: nothing says that the server is another one or an earlier state.
        MissingRecordError: records are gone that no restore takes away.
        RollbackError: vault.feed was altered.
        SealError: too much for one record.
        UnavailableError: a side cannot be reached, or an open transaction is in the way.
    """
    if not signs and said.kind is None:
        raise ConfigError(
            f"nothing but missing records says that {address.side} was restored, and somebody may have removed them: "
            f"pgseal verify names them. If you know that it was restored: pgseal recover {address.name} --kind restored"
        )
    vault = sealed.vault
    state = read_state(vault, address.name)
    recoveries = read_recoveries(vault, sealed.ledger, sealed.tree_size, address.name)
    check_incarnation(vault, state, recoveries)
    retained = read_retained(vault, sealed.ledger, sealed.tree_size, address.name)
    with closing(address.connect()) as connection:
        feed = PollFeed(connection, side=address.side)
        base_id = _read_base_id(connection, feed, address)
        found = _compare(TrailRows(connection, state, address.side), sealed.rows, state, retained, progress)
        with translated_errors(address.side, role=SEALER):
            # Whatever was found there is durable from here on.
            flush_lsn = feed.make_durable()
            identity = read_identity(connection)
    lost = _join(found.lost, sealed.rows, state)
    old = state.identity or identity
    recovery = Recovery(
        trail=state.trail,
        incarnation=state.incarnation + 1,
        kind=said.kind or _find_kind(old, identity, found, base_id),
        old=_to_server(old),
        new=_to_server(identity),
        last_id=found.last_id,
        matching=found.matching,
        base_id=base_id,
        lost_count=len(found.lost),
        lost=lost,
        signs=tuple(signs),
        reason=said.reason,
    )
    if len(encode_canonical(recovery.to_json())) > MAX_DATA_BYTES // 2:  # jsonb's own text has spaces
        raise SealError(f"trail {state.trail!r}: what is lost lies in too many places of the ledger for one record")
    begun = FeedState(
        state.trail, recovery.incarnation, EMPTY_SNAPSHOT, identity=identity, flush_lsn=flush_lsn, base_id=base_id
    )
    return Examined(recovery, found.unsealed, begun)


def record(vault: VaultStore, examined: Examined) -> None:
    """Record what happened and raise the incarnation, both or neither; durable when it returns."""
    with vault.transaction():
        vault.record_act(RECOVER, examined.recovery.to_json())
        vault.write_feed(to_row(examined.state))


def _to_server(identity: ServerIdentity) -> Server:
    return Server(str(identity.system_identifier), identity.timeline)


@dataclass(frozen=True, slots=True)
class _Found:
    matching: int
    last_id: int
    unsealed: int
    lost: LeafRanges


def _find_kind(old: ServerIdentity, new: ServerIdentity, found: _Found, base_id: int) -> str:
    if old.system_identifier != new.system_identifier:
        return "recreated" if base_id or not found.matching else "upgraded"
    return "failed_over" if old.timeline != new.timeline and not len(found.lost) else "restored"


def _read_base_id(connection: Connection, feed: PollFeed, address: TrailAddress) -> int:
    """Return the last id whose row may have another server's xid; 0 if xids go on where they were.

    Raises ``UnavailableError`` while a transaction is open that may have drawn such an id and not committed.
    """
    with translated_errors(address.side, role=SEALER):
        row = connection.execute(
            "SELECT EXISTS (SELECT FROM audit.record WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()))"
        ).fetchone()
        if row != (True,):
            return 0
        last_id = feed.read_last_id()
        running = feed.read_running()
    if running:
        raise UnavailableError(
            f"{address.side}: its transaction ids began anew, and transaction {min(running)} is open: whether it wrote "
            "to the trail cannot be known yet. End it (pg_stat_activity, pg_prepared_xacts) and try again"
        )
    return last_id


def _compare(
    trail: TrailRows, vault: VaultRows, state: FeedState, retained: LeafRanges, progress: Callable[[int], None]
) -> _Found:
    matching = last_id = unsealed = 0
    lost: list[tuple[int, int]] = []
    rows, records = _by_id(trail.copy_rows()), _by_id(vault.copy_trail(state.trail, state.incarnation))
    row, sealed = next(rows), next(records)
    while row.lines or sealed.lines:
        bodies: set[bytes] = set()
        if row.id <= sealed.id:
            bodies = {body for _, body in row.lines}
        if sealed.id <= row.id:
            for leaf, body in sealed.lines:
                if body in bodies:
                    bodies.remove(body)
                    matching, last_id = matching + 1, sealed.id
                elif int(leaf) not in retained:
                    _add(lost, int(leaf))
        unsealed += len(bodies)
        passed = min(row.id, sealed.id)
        row = next(rows) if row.id == passed else row
        sealed = next(records) if sealed.id == passed else sealed
        if not (matching + unsealed) % _PROGRESS_ROWS:
            progress(matching + unsealed)
    found = _Found(matching, last_id, unsealed, LeafRanges(lost))
    _check_whole_transactions(vault, state, found.lost, retained)
    return found


@dataclass(frozen=True, slots=True)
class _Group:
    """The lines of one id, each split at its first column; none at the end, beyond every id."""

    id: int
    lines: list[tuple[bytes, bytes]]


def _by_id(lines: Iterator[bytes]) -> Iterator[_Group]:
    group: _Group | None = None
    for line in lines:
        mark, _, body = line.partition(b"\t")
        id_ = int(body.partition(b"\t")[0])
        if group is not None and group.id == id_:
            group.lines.append((mark, body))
            continue
        if group is not None:
            yield group
        group = _Group(id_, [(mark, body)])
    if group is not None:
        yield group
    while True:
        yield _Group(_NO_ID, [])


def _add(ranges: list[tuple[int, int]], leaf: int) -> None:
    if ranges and ranges[-1][1] == leaf:
        ranges[-1] = (ranges[-1][0], leaf + 1)
    else:
        ranges.append((leaf, leaf + 1))


def _check_whole_transactions(vault: VaultRows, state: FeedState, lost: LeafRanges, retained: LeafRanges) -> None:
    left = vault.find_left_of_transactions(state.trail, lost.ranges, retained.ranges)
    if left is None:
        return
    gone_id, leaf_index, left_id = left
    raise MissingRecordError(
        f"record {state.trail}/{gone_id}, sealed at leaf {leaf_index}, is gone from the trail, and record {left_id} of "
        "the same transaction is there: no restore does that, somebody removed it; nothing was recorded",
        where="trail",
        trail=state.trail,
        record_id=gone_id,
        leaf_index=leaf_index,
    )


def _join(lost: LeafRanges, vault: VaultRows, state: FeedState) -> tuple[tuple[int, int], ...]:
    if not lost.ranges:
        return ()
    leaves = vault.copy_leaf_indexes(state.trail, state.incarnation, lost.ranges[0][0], lost.end, or_earlier=True)
    return join_ranges(lost, leaves)
