"""Which sealed records a trail lost when its server was restored, as the vault's newest RECOVER records say."""

from collections.abc import Mapping
from contextlib import suppress

from pgseal.core.ranges import LeafRanges
from pgseal.core.recovery import Recovery, parse_recovery
from pgseal.errors import FormatError
from pgseal.postgres import Connection


def read_lost(connection: Connection) -> Mapping[str, LeafRanges]:
    """Return the leaves that are gone, by trail; what cannot be parsed says nothing (pgseal verify names it)."""
    newest: dict[str, Recovery] = {}
    rows = connection.execute(
        "SELECT data FROM vault.record WHERE source = 'system' AND action = 'RECOVER' AND trail = 'vault' "
        "AND data IS NOT NULL ORDER BY leaf_index"
    )
    for (data,) in rows:
        with suppress(FormatError):
            recovery = parse_recovery(data.encode())
            newest[recovery.trail] = recovery
    return {trail: LeafRanges(recovery.lost) for trail, recovery in newest.items() if recovery.lost}
