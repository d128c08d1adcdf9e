"""What the sealer checks before it seals anything: that every side still stands where the last checkpoint left it.

- ledger: the right edge, recomputed from entries, leads to the signed root (``LedgerWriter.open``)
- vault: not shorter than the signed size; its last sealed rows give the ledger's entries
- trails: the same servers, not set back (``PollFeed.check_restart``); the last sealed rows still there, byte for byte,
  unless a sealed RETENTION record says that they were dropped
- how far each trail was read, unless the sealer remembers just that: not put ahead of rows that wait
- what the vault holds beyond the signed size (a crash came between): gapless, and equal to the trails' rows
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property, partial
from itertools import islice

from pgseal.core.encoding import shorten
from pgseal.core.erasure import Erased
from pgseal.core.leaf import LeafBuilder
from pgseal.core.ranges import LeafRanges
from pgseal.errors import (
    AlteredRecordError,
    FatalSealError,
    ForgedRecordError,
    FormatError,
    MissingRecordError,
    RollbackError,
    UnauthorizedErasureError,
)
from pgseal.ledger.reader import LedgerReader
from pgseal.sealer.explained import read_erased, read_recoveries, read_retained
from pgseal.sealer.incarnation import check_incarnation, find_lost
from pgseal.sealer.trails import LostTrail, OpenTrail
from pgseal.trail.feed import FeedState, PollFeed
from pgseal.trail.floors import check_floors
from pgseal.trail.rows import HeadCache
from pgseal.vault.rows import VaultRow, is_same_content, parse_row
from pgseal.vault.store import VaultStore

_LAST_ROWS = 32
_ROWS_AT_ONCE = 4096


def check_vault_size(vault: VaultStore, signed_size: int) -> int:
    """Return the number of leaves in the vault; raises ``RollbackError`` if some that were signed are gone."""
    count = vault.count()
    if count < signed_size:
        raise RollbackError(
            f"the vault holds {count} records, {signed_size} were sealed: it was restored to an earlier state, "
            "or lost its newest rows; restore a newer copy before sealing goes on",
            where="vault",
        )
    return count


def check_last_rows(vault: VaultStore, ledger: LedgerReader, trail: OpenTrail, signed_size: int) -> None:
    """Check the last sealed rows of a trail: vault against ledger, trail against vault.

    Raises:
        AlteredRecordError: the vault's row does not give the ledger's entry.
        UnauthorizedErasureError: a part is gone from it, and no sealed ERASE allows that.
        RollbackError: the trail no longer has the row, or has another; or the feed's state was set back.
    """
    recoveries = read_recoveries(vault, ledger, signed_size, trail.name)
    check_incarnation(vault, trail.state, recoveries)
    leaves = LeafBuilder()
    rows = [
        _parse(line, leaves, lambda index: ledger.leaf(index, signed_size))
        for line in _read_last_lines(vault, trail.state, signed_size, find_lost(recoveries))
    ]
    for row in rows:
        # The first batch of an incarnation comes by the rows of those before it once more.
        is_read_again = trail.state.begins_incarnation and row.incarnation < trail.state.incarnation
        if not is_read_again and not trail.state.has_handed_on(row.id, row.xid):
            raise RollbackError(
                f"the vault no longer knows that record {row.trail}/{row.id} was sealed, as leaf {row.leaf_index}: "
                "vault.feed was set back or emptied; restore it, nothing was sealed",
                where="vault", trail=row.trail, record_id=row.id, leaf_index=row.leaf_index,
            )  # fmt: skip
        if row.leaf_data != ledger.leaf(row.leaf_index, signed_size):
            raise AlteredRecordError(
                f"record {row.trail}/{row.id} in the vault does not give the ledger's entry {row.leaf_index}",
                where="vault", trail=row.trail, record_id=row.id, leaf_index=row.leaf_index,
            )  # fmt: skip
    explained = _Explained(vault, ledger, signed_size, trail.name)
    for row in rows:
        if not all(explained.may_be_gone(row, part) for part in row.gone):
            raise UnauthorizedErasureError(
                f"record {row.trail}/{row.id}: {' and '.join(row.gone)} gone from the vault, and no sealed ERASE "
                "allows it; pgseal verify, nothing was sealed",
                where="vault", trail=row.trail, record_id=row.id, leaf_index=row.leaf_index,
            )  # fmt: skip
    for row, content in _with_trail(trail.feed, rows):
        if content is None and row.leaf_index in explained.retained:
            continue  # nothing was written for longer than rows are kept
        if content is None or not is_same_content(content, row.content, partial(explained.may_be_gone, row)):
            what = "gone" if content is None else "changed"
            raise RollbackError(
                f"record {row.trail}/{row.id}, sealed as leaf {row.leaf_index}, is {what} in the trail: "
                "the source was restored to an earlier state or someone edited its trail; nothing was sealed",
                where="trail", trail=row.trail, record_id=row.id, leaf_index=row.leaf_index,
            )  # fmt: skip


class _Explained:
    """What sealed records say of a trail's absent rows and parts, read when it is asked for."""

    def __init__(self, vault: VaultStore, ledger: LedgerReader, tree_size: int, trail: str) -> None:
        self._vault, self._ledger, self._tree_size, self._trail = vault, ledger, tree_size, trail

    @cached_property
    def retained(self) -> LeafRanges:
        return read_retained(self._vault, self._ledger, self._tree_size, self._trail)

    @cached_property
    def _erased(self) -> Erased:
        return read_erased(self._vault, self._ledger, self._tree_size)

    def may_be_gone(self, row: VaultRow, part: str) -> bool:
        return self._erased.allows(row.leaf_index, part)


def _read_last_lines(vault: VaultStore, state: FeedState, signed_size: int, lost: LeafRanges) -> list[bytes]:
    """Return the last rows of a trail that it must have, of its newest incarnation first."""
    lines: list[bytes] = []
    below = signed_size
    for incarnation in range(state.incarnation, 0, -1):
        found = vault.read_last_lines(state.trail, incarnation, below, _LAST_ROWS)
        lines += [line for line in found if int(line.partition(b"\t")[0]) not in lost]
        if len(lines) >= _LAST_ROWS:
            break
        # Before what a restore took away, nothing is missing.
        below = min([below, *(begin for begin, _ in lost.ranges)])
    return lines


def check_feed(vault: VaultStore, trail: OpenTrail) -> None:
    """Check that how far a trail was read, as the vault has it, passes over no row. Reads the whole trail.

    Raises:
        AlteredRecordError: its floors are contradicted by a row.
        ForgedRecordError: a row of the batch under way counts as sealed and is not in the vault.
    """
    state = trail.state
    check_floors(trail.connection, state, side=trail.address.side)
    if state.pending is None:
        return
    with closing(trail.feed.read_handed_on(state)) as lines:
        while ids := [int(line) for line in islice(lines, _ROWS_AT_ONCE)]:
            missing = set(ids) - vault.find_known_ids(state.trail, state.incarnation, ids)
            if state.begins_incarnation:
                missing -= vault.find_known_ids(state.trail, state.incarnation, ids, earlier=True)
            missing -= vault.find_malformed_ids(state.trail, state.incarnation, sorted(missing))
            if missing:
                record_id = min(missing)
                raise ForgedRecordError(
                    f"record {state.trail}/{record_id} was never sealed, though vault.feed says that this batch was "
                    f"read up to id {state.position}: it was put ahead, or the row was added later; restore it, "
                    "nothing was sealed",
                    where="vault", trail=state.trail, record_id=record_id,
                )  # fmt: skip


def read_pending(
    vault: VaultStore,
    trails: Mapping[str, OpenTrail],
    lost: Mapping[str, LostTrail],
    signed_size: int,
    count: int,
    *,
    unchecked: Container[str] = (),
) -> Iterator[list[bytes]]:
    """Yield the leaves of vault rows beyond the signed size, each compared with its trail's row.

    Those of the trails ``unchecked`` are not compared: what is missing there a RECOVER record will say.

    Raises:
        UnavailableError: a trail that has such rows cannot be reached.
        AlteredRecordError, MissingRecordError: the vault's row is not the trail's; it is not sealed.
        FatalSealError: a gap, or a trail that is not configured.
    """
    leaves = LeafBuilder()
    lines = vault.read_lines(signed_size, count)
    expected = signed_size
    while batch := [_parse(line, leaves) for line in islice(lines, _ROWS_AT_ONCE)]:
        for row in batch:
            if row.leaf_index != expected:
                raise FatalSealError(f"the vault has no row for leaf {expected}, but one for leaf {row.leaf_index}")
            expected += 1
        _compare_pending([row for row in batch if row.trail not in unchecked], trails, lost)
        yield [row.leaf_data for row in batch]


def _compare_pending(batch: Sequence[VaultRow], trails: Mapping[str, OpenTrail], lost: Mapping[str, LostTrail]) -> None:
    for trail in {row.trail for row in batch}:
        if trail in lost:
            raise lost[trail].error
        if trail not in trails:
            raise FatalSealError(f"the vault holds unsealed records of trail {trail!r}, which is not configured")
        for row, content in _with_trail(trails[trail].feed, [row for row in batch if row.trail == trail]):
            if content is None:
                raise MissingRecordError(
                    f"record {trail}/{row.id} waits in the vault but is gone from the trail",
                    where="vault", trail=trail, record_id=row.id, leaf_index=row.leaf_index,
                )  # fmt: skip
            if content != row.content:
                raise AlteredRecordError(
                    f"record {trail}/{row.id} waits in the vault but differs from the trail's",
                    where="vault", trail=trail, record_id=row.id, leaf_index=row.leaf_index,
                )  # fmt: skip


def _with_trail(feed: PollFeed, rows: Iterable[VaultRow]) -> Iterator[tuple[VaultRow, tuple[bytes, ...] | None]]:
    rows = list(rows)
    if not rows:
        return
    heads = HeadCache(rows[0].trail, rows[0].incarnation)
    found: dict[int, list[tuple[bytes, ...]]] = {}
    for record_id, content in map(heads.parse_content, feed.read_rows([row.id for row in rows])):
        found.setdefault(record_id, []).append(content)
    for row in rows:
        contents = found.get(row.id, [])
        # A second row with the id of a sealed one becomes MALFORMED, and must not stop us here.
        yield row, row.content if row.content in contents else next(iter(contents), None)


def _parse(line: bytes, leaves: LeafBuilder, read_entry: Callable[[int], bytes] | None = None) -> VaultRow:
    try:
        return parse_row(line, leaves, read_entry)
    except FormatError as error:
        field = line.split(b"\t", 1)[0]
        index = field.decode() if field.isdigit() else shorten(field)
        raise AlteredRecordError(
            f"the vault's row of leaf {index} cannot be a record ({error})", where="vault"
        ) from error
