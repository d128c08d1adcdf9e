"""What became of a trail whose server was restored, failed over, upgraded or re-created, for ``pgseal recover``.

The trail's rows are compared with every record of it that was sealed. What has gone is stated in a RECOVER record,
which raises the trail's incarnation; what the vault has of it stays. Both are written in one transaction of the vault:

    before it   nothing has happened
    after it    the sealer goes on by itself: it seals the record, then the trail's rows that were never sealed

A restore cannot explain everything, and what it cannot is a finding:

- A transaction is restored as a whole or not at all: where some of its rows are left, the others were removed.
- What is lost was committed last: nothing is gone that was sealed in an earlier batch than something that is left.
- A row is as it was or gone: one with the id and the time of a sealed record, and other content, was changed.
- A transaction that was over when the trail was last read, and is older than some that are left, has no new rows.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from pgseal.copytext import NULL
from pgseal.core.canonical import encode_canonical
from pgseal.core.erasure import ERASED, PARTS
from pgseal.core.ranges import LeafRanges, join_ranges
from pgseal.core.recovery import MAX_DATA_BYTES, RECOVER, Recovery, Server
from pgseal.errors import (
    AlteredRecordError,
    ConfigError,
    ForgedRecordError,
    MissingRecordError,
    RollbackError,
    SealError,
    UnavailableError,
)
from pgseal.ledger.reader import LedgerReader
from pgseal.postgres import SEALER, Connection, ServerIdentity, read_identity, translated_errors
from pgseal.sealer.explained import read_recoveries, read_retained
from pgseal.sealer.incarnation import check_incarnation
from pgseal.sealer.state import read_feed_memory, read_finding
from pgseal.sealer.trails import TrailAddress, read_state, to_row, trail_addresses
from pgseal.settings import Settings
from pgseal.trail.feed import EMPTY_SNAPSHOT, FeedState, PollFeed, Snapshot
from pgseal.trail.source import TrailRows
from pgseal.vault.rows import is_same_content
from pgseal.vault.source import VaultRows
from pgseal.vault.store import FeedRow, VaultStore

_PROGRESS_ROWS = 10_000
_WAIT_SECONDS = 10.0
_POLL_SECONDS = 0.1
_NO_ID = 1 << 63


@dataclass(frozen=True, slots=True)
class Examined:
    """A trail that was compared with what was sealed of it: what is to be recorded, and how to go on.

    ``unsealed`` counts rows that equal no record. ``state`` is how far the new incarnation is read: not at all.
    """

    recovery: Recovery
    unsealed: int
    state: FeedState


def find_signs(settings: Settings, vault: VaultStore, chosen: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return, by trail in sealing order, what says that its server is another one or shows an earlier state.

    Also what the sealer noted when it stopped: a server that was restored and works on shows no sign of it before long.
    Trails without signs are left out; one of which the sealer missed records is there, with none. Changes nothing.

    Raises:
        RollbackError: vault.feed says another server than the sealer remembers: the signs would be made up.
        UnavailableError, ConfigError: a source cannot be reached; one that is not among ``chosen`` is left out then.
    """
    noted = read_finding(settings.state) or {}
    found: dict[str, list[str]] = {}
    for address in trail_addresses(settings):
        state = read_state(vault, address.name)
        _check_remembered(settings, state)
        try:
            with closing(address.connect()) as connection:
                signs = PollFeed(connection, side=address.side).find_signs(state)
        except UnavailableError:
            if not chosen or address.name in chosen:
                raise
            continue
        is_noted = noted.get("kind") == "rollback" and noted.get("trail") == address.name
        if is_noted and isinstance(noted.get("sign"), str) and not signs:
            signs = [f"{noted['sign']} (at {noted['time']})"]
        if signs or is_noted:
            found[address.name] = signs
    return found


def _check_remembered(settings: Settings, state: FeedState) -> None:
    remembered = read_feed_memory(settings.state, state.trail)
    if remembered is None or state.identity is None:
        return
    known = FeedRow(*remembered)
    said = (state.identity.system_identifier, state.identity.timeline)
    if known.incarnation == state.incarnation and (known.system_identifier, known.timeline) != said:
        raise RollbackError(
            f"vault.feed says that trail {state.trail!r} was sealed from server {said[0]}, timeline {said[1]}; "
            f"the sealer remembers {known.system_identifier}, {known.timeline}: vault.feed was altered; restore it, "
            "nothing was recorded",
            where="vault",
            trail=state.trail,
        )


@dataclass(frozen=True, slots=True)
class SealedSide:
    """What was sealed: a ledger of ``tree_size`` leaves, and the vault compared with it (twice: to read much).

    Leaves from ``compared_size`` on were not compared with the trail when they were signed.
    """

    vault: VaultStore
    rows: VaultRows
    ledger: LedgerReader
    tree_size: int
    compared_size: int


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
        MissingRecordError, AlteredRecordError, ForgedRecordError: what no restore explains.
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
        found = _Comparison(TrailRows(connection, state, address.side), sealed.rows, state, base_id, retained).run(
            progress
        )
        bases = {n: recoveries[n].base_id if n in recoveries else 0 for n in range(1, state.incarnation + 1)}
        _check_explained(sealed.rows, state, bases, found.lost, retained)
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
        unconfirmed=tuple((max(begin, sealed.compared_size), end) for begin, end in lost if end > sealed.compared_size),
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

    Raises ``UnavailableError`` while a transaction is open that may have drawn such an id and not committed;
    ``ConfigError`` if ids will be drawn that rows have already.
    """
    with translated_errors(address.side, role=SEALER):
        row = connection.execute(
            "SELECT coalesce(max(id), 0), "
            "coalesce(bool_or(xid >= pg_snapshot_xmax(pg_current_snapshot())), false) FROM audit.record"
        ).fetchone()
        last_id = feed.read_last_id()
        running = feed.read_running()
        greatest, has_foreign = row if row is not None else (0, False)
        if greatest > last_id:
            raise ConfigError(
                f"{address.side}: its sequence of ids stands at {last_id}, and there are rows up to id {greatest}: ids "
                f"would be drawn again; as pgseal_owner: SELECT setval('audit.record_id_seq', {greatest})"
            )
        if not has_foreign:
            return 0
        until = time.monotonic() + _WAIT_SECONDS
        while running and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
            running &= feed.read_running()
    if running:
        raise UnavailableError(
            f"{address.side}: its transaction ids began anew, and transaction {min(running)} is open: whether it wrote "
            "to the trail cannot be known yet. End it (pg_stat_activity, pg_prepared_xacts) and try again"
        )
    return last_id


class _Comparison:
    """A trail's rows against its records, both by id."""

    def __init__(
        self, trail: TrailRows, vault: VaultRows, state: FeedState, base_id: int, retained: LeafRanges
    ) -> None:
        self._trail, self._vault, self._state, self._retained = trail, vault, state, retained
        self._seen = Snapshot.parse(state.snapshot) if not base_id and not state.begins_incarnation else None
        self._matching = self._last_id = self._unsealed = self._newest_xid = 0
        self._oldest_new: tuple[int, int] | None = None  # xid and id
        self._lost: list[tuple[int, int]] = []

    def run(self, progress: Callable[[int], None]) -> _Found:
        """Compare everything; raises ``AlteredRecordError`` and ``ForgedRecordError``."""
        rows = _by_id(self._trail.copy_rows())
        records = _by_id(self._vault.copy_trail(self._state.trail, self._state.incarnation))
        row, sealed = next(rows), next(records)
        while row.lines or sealed.lines:
            passed = min(row.id, sealed.id)
            self._take(passed, row.lines if row.id == passed else [], sealed.lines if sealed.id == passed else [])
            row = next(rows) if row.id == passed else row
            sealed = next(records) if sealed.id == passed else sealed
            if not (self._matching + self._unsealed) % _PROGRESS_ROWS:
                progress(self._matching + self._unsealed)
        if self._oldest_new is not None and self._oldest_new[0] < self._newest_xid:
            raise ForgedRecordError(
                f"record {self._state.trail}/{self._oldest_new[1]} was never sealed, though its transaction was over "
                "when the trail was last read, and later ones are left: no restore does that, somebody added it; "
                "nothing was recorded",
                where="trail",
                trail=self._state.trail,
                record_id=self._oldest_new[1],
            )
        return _Found(self._matching, self._last_id, self._unsealed, LeafRanges(self._lost))

    def _take(self, id_: int, rows: list[tuple[bytes, bytes]], records: list[tuple[bytes, bytes]]) -> None:
        new = {body for _, body in rows}
        gone: list[tuple[int, bytes]] = []
        for leaf, body in records:
            if body in new:
                new.remove(body)
                self._matching, self._last_id = self._matching + 1, id_
                self._newest_xid = max(self._newest_xid, _xid(body))
            elif (back := _find_unerased(new, body)) is not None:
                # Erased since, and back with the backup.
                new.remove(back)
                self._matching, self._last_id = self._matching + 1, id_
                self._newest_xid = max(self._newest_xid, _xid(body))
            elif int(leaf) not in self._retained:
                gone.append((int(leaf), body))
                _add(self._lost, int(leaf))
        for body in new:
            self._unsealed += 1
            xid = _xid(body)
            if self._seen is not None and self._seen.shows(xid):
                self._oldest_new = min(self._oldest_new or (xid, id_), (xid, id_))
            for leaf, sealed in gone:
                if _time(sealed) == _time(body):
                    raise AlteredRecordError(
                        f"record {self._state.trail}/{id_}, sealed at leaf {leaf}, is in the trail with the same time "
                        "and other content: no restore does that, somebody changed it; nothing was recorded",
                        where="trail",
                        trail=self._state.trail,
                        record_id=id_,
                        leaf_index=leaf,
                    )


def _find_unerased(rows: Collection[bytes], sealed: bytes) -> bytes | None:
    """Return the row that is a sealed one, as it was before parts of it were erased; None if there is none."""
    parts = sealed.split(b"\t")
    if ERASED not in parts[-len(PARTS) :]:
        return None
    gone = {part for part, text in zip(PARTS, parts[-len(PARTS) :], strict=True) if text == ERASED}
    return next((row for row in rows if is_same_content(row.split(b"\t"), parts, gone.__contains__)), None)


def _time(body: bytes) -> bytes:
    return body.split(b"\t", 2)[1]


def _xid(body: bytes) -> int:
    field = body.split(b"\t", 3)[2]
    return int(field) if field.isdigit() else 0


@dataclass(frozen=True, slots=True)
class _Group:
    """The lines of one id, each split at its first column; none at the end, beyond every id."""

    id: int
    lines: list[tuple[bytes, bytes]]


def _by_id(lines: Iterator[bytes]) -> Iterator[_Group]:
    group: _Group | None = None
    for line in lines:
        mark, _, body = line.partition(b"\t")
        field = body.partition(b"\t")[0]
        id_ = int(field) if field != NULL else _NO_ID - 1  # it sorts last, and becomes MALFORMED
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


def _check_explained(
    vault: VaultRows, state: FeedState, bases: Mapping[int, int], lost: LeafRanges, retained: LeafRanges
) -> None:
    """Check that a restore can have taken what is lost; raises ``MissingRecordError``."""
    if not lost.ranges:
        return
    left = vault.find_left_of_transactions(state.trail, bases, lost.ranges, retained.ranges)
    if left is not None:
        gone_id, leaf_index, left_id = left
        raise _removed(state, gone_id, leaf_index, f"record {left_id} of the same transaction is there")
    found = _find_lost_before_left(vault, state, lost, retained)
    if found is not None:
        gone_id, leaf_index, later = found
        raise _removed(state, gone_id, leaf_index, f"leaf {later}, which was sealed in a later batch, is there")


def _removed(state: FeedState, record_id: int, leaf_index: int, why: str) -> MissingRecordError:
    return MissingRecordError(
        f"record {state.trail}/{record_id}, sealed at leaf {leaf_index}, is gone from the trail, and {why}: no restore "
        "does that, somebody removed it; nothing was recorded",
        where="trail",
        trail=state.trail,
        record_id=record_id,
        leaf_index=leaf_index,
    )


def _find_lost_before_left(
    vault: VaultRows, state: FeedState, lost: LeafRanges, retained: LeafRanges
) -> tuple[int, int, int] | None:
    """Find a lost leaf, as id and leaf index, and a leaf of the same incarnation that is left and of a later batch.

    Leaves of one batch of a trail are next to each other, in the order of id; where they are not, another one begins.
    """
    first_lost: dict[int, tuple[int, int]] = {}
    in_batch: list[tuple[int, int, int]] = []
    last_leaf = last_id = -1
    for leaf, incarnation, id_ in vault.copy_places(state.trail):
        if leaf != last_leaf + 1 or id_ <= last_id:
            for lost_incarnation, lost_leaf, lost_id in in_batch:
                first_lost.setdefault(lost_incarnation, (lost_id, lost_leaf))
            in_batch.clear()
        last_leaf, last_id = leaf, id_
        if leaf in lost:
            if incarnation not in first_lost:
                in_batch.append((incarnation, leaf, id_))
        elif incarnation in first_lost and leaf not in retained:
            return *first_lost[incarnation], leaf
    return None


def _join(lost: LeafRanges, vault: VaultRows, state: FeedState) -> tuple[tuple[int, int], ...]:
    if not lost.ranges:
        return ()
    leaves = vault.copy_leaf_indexes(state.trail, state.incarnation, lost.ranges[0][0], lost.end, or_earlier=True)
    return join_ranges(lost, leaves)
