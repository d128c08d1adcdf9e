"""Incarnations of a trail: each but the first begins with a RECOVER record, and with rows that are sealed already."""

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import replace

from pgseal.core.leaf import LeafBuilder
from pgseal.core.ranges import LeafRanges
from pgseal.core.recovery import Recovery
from pgseal.errors import RollbackError
from pgseal.sealer.encode import CHUNK_BYTES, EncodedChunk
from pgseal.sealer.trails import OpenTrail, losing
from pgseal.trail.feed import FeedState
from pgseal.trail.rows import HeadCache, read_id
from pgseal.vault.rows import VaultRow, is_same_content, parse_row
from pgseal.vault.store import VaultStore

_ROWS_AT_ONCE = 2_048


def check_incarnation(vault: VaultStore, state: FeedState, recoveries: Mapping[int, Recovery]) -> None:
    """Check that RECOVER records say why a trail is at its incarnation, and up to where its xids are foreign.

    Raises ``RollbackError``: vault.feed was altered.
    """
    newest = recoveries.get(state.incarnation)
    problem = None
    sealed_as = vault.read_newest_incarnation(state.trail) or 1
    if sealed_as > state.incarnation:
        problem = f"its records are of incarnation {sealed_as}, but vault.feed says {state.incarnation}"
    elif not set(range(2, state.incarnation + 1)) <= recoveries.keys():
        problem = f"vault.feed says incarnation {state.incarnation}, and no record says why"
    elif any(incarnation > state.incarnation for incarnation in recoveries):
        problem = f"a RECOVER record speaks of incarnation {max(recoveries)}, but vault.feed says {state.incarnation}"
    elif state.base_id != (newest.base_id if newest else 0):
        problem = f"vault.feed says base_id {state.base_id}, and no record says so"
    if problem is not None:
        raise RollbackError(
            f"trail {state.trail!r}: {problem}: it was altered; restore it, nothing was sealed",
            where="vault",
            trail=state.trail,
        )


def find_lost(recoveries: Mapping[int, Recovery]) -> LeafRanges:
    """Return the leaves of a trail that its newest RECOVER record says are gone."""
    return LeafRanges(recoveries[max(recoveries)].lost) if recoveries else LeafRanges()


def encode_new(
    vault: VaultStore,
    trail: OpenTrail,
    begun: FeedState,
    leaf_index: int,
    known_ids: set[int] | None,
    read_entry: Callable[[int], bytes],
) -> Generator[tuple[EncodedChunk, FeedState], None, None]:
    """Read and encode the first batch of an incarnation, without the rows that an earlier one has sealed.

    With ``known_ids`` (``ChunkEncoder.encode``) only the first chunk of it. ``read_entry`` returns a leaf's entry.
    Yields each chunk with the state after it. Asks the vault in between: the consumer must not be writing to it then.
    """
    while begun.pending is not None:
        rows, is_last = _read_some(trail, begun)
        known = _find_sealed_before(vault, trail, [read_id(row) for row in rows], read_entry)
        chunk = trail.encoder.encode([row for row in rows if read_id(row) not in known], leaf_index, known_ids)
        position = chunk.last_id if chunk.is_full else read_id(rows[-1]) if rows else 0
        begun = replace(begun, position=max(begun.position, position))
        if is_last and not chunk.is_full:
            begun = trail.feed.finish(begun)
        leaf_index += len(chunk.leaves)
        yield chunk, begun
        if known_ids is not None:
            return


def _read_some(trail: OpenTrail, begun: FeedState) -> tuple[list[bytes], bool]:
    """Return the next rows, fewer if they are long, and whether they are the last."""
    rows: list[bytes] = []
    size = 0
    with losing(trail), closing(trail.feed.read_chunk(begun, _ROWS_AT_ONCE)) as found:
        for row in found:
            rows.append(row)
            size += len(row)
            if size >= CHUNK_BYTES:
                return rows, False
    return rows, len(rows) < _ROWS_AT_ONCE


def _find_sealed_before(
    vault: VaultStore, trail: OpenTrail, ids: list[int], read_entry: Callable[[int], bytes]
) -> set[int]:
    """Return the ids whose rows are, byte for byte, what an earlier incarnation sealed.

    What was erased since may be back with the backup: it is not sealed once more, and pgseal verify tells.
    """
    leaves = LeafBuilder()
    sealed: dict[int, list[VaultRow]] = {}
    for line in vault.read_earlier_lines(trail.name, trail.state.incarnation, ids):
        row = parse_row(line, leaves, read_entry)
        sealed.setdefault(row.id, []).append(row)
    if not sealed:
        return set()
    heads = HeadCache(trail.name, trail.state.incarnation)
    with losing(trail), closing(trail.feed.read_rows(sorted(sealed))) as lines:
        return {
            record_id
            for record_id, content in map(heads.parse_content, lines)
            if any(is_same_content(content, row.content, row.gone.__contains__) for row in sealed[record_id])
        }
