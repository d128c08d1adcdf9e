"""Which leaves an evidence pack has to have so that its answer is complete, and no more than it takes."""

from pgseal.core.pack_bounds import Heartbeat
from pgseal.core.pack_filter import Filter
from pgseal.errors import ConfigError
from pgseal.vault.pack_rows import PackRows


def choose_range(
    rows: PackRows, wanted: Filter, tree_size: int, *, begin: int | None = None, end: int | None = None
) -> tuple[int, int]:
    """Return the leaves [begin, end) for a question, those given as they are.

    A question about a time begins at the newest HEARTBEAT that is late enough and ends after the oldest one that is
    early enough (FORMATS.md section 4), else where the log begins and ends. Without any HEARTBEAT it takes what the
    vault knows of that time. Raises ``ConfigError`` for a range that the log does not have.
    """
    if tree_size == 0:
        raise ConfigError("nothing is sealed yet: pgseal seal --once")
    chosen = _choose(rows, wanted, tree_size) if wanted.is_by_time else (0, tree_size)
    first = chosen[0] if begin is None else begin
    last = chosen[1] if end is None else end
    if not 0 <= first < last <= tree_size:
        raise ConfigError(f"there are no leaves from {first} to before {last}: the log has {tree_size:,}")
    return first, last


def _choose(rows: PackRows, wanted: Filter, tree_size: int) -> tuple[int, int]:
    begin, end = _find_begin(rows, wanted.since, tree_size), _find_end(rows, wanted.until, tree_size)
    if begin is None and end is None:
        # No HEARTBEAT either side bounds it, so nothing can be complete: what is known of that time has to do.
        times = rows.find_times(wanted.since, wanted.until, tree_size)
        return (0 if wanted.since is None or times is None else times[0]), tree_size if times is None else times[1]
    begin = begin or 0
    return begin, end if end is not None and end > begin else tree_size


def _find_begin(rows: PackRows, since: str | None, tree_size: int) -> int | None:
    if since is None:
        return None
    found: int | None = None
    # One that was written after that time can still have nothing but earlier leaves before it.
    for heartbeat in rows.iter_heartbeats(tree_size, since=since):
        if not _can_begin(heartbeat, since):
            break
        found = heartbeat.index
    if found is not None:
        return found
    earlier = (one.index for one in rows.iter_heartbeats(tree_size, before=since) if _can_begin(one, since))
    return next(earlier, None)


def _can_begin(heartbeat: Heartbeat, since: str) -> bool:
    # Leaves that were stamped ahead of the clock stand before it: begin at one that is before them, too.
    return heartbeat.is_after(since, ()) and not heartbeat.future


def _find_end(rows: PackRows, until: str | None, tree_size: int) -> int | None:
    if until is None:
        return None
    for heartbeat in rows.iter_heartbeats(tree_size, since=until):
        if heartbeat.is_beyond(until, ()):
            return heartbeat.index + 1
    return None
