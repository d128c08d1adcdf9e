"""Says what became of partitions of tracked tables as soon as the sealer is around to see it (trail/partitioned.py).

ATTACH and DETACH change which rows a table has, and no trigger fires. Where nobody looks at ``pgseal status``, the
sealer's own messages are read.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

from pgseal.errors import PgsealError
from pgseal.postgres import connect, translated_errors
from pgseal.sealer.trails import SEALER_ROLE
from pgseal.settings import Settings, Source
from pgseal.trail.partitioned import list_marked

_SECONDS = 10.0


class PartitionWatch:
    """Tells each change once, and again if it comes again."""

    def __init__(self, settings: Settings) -> None:
        """Watch the sources of ``settings``."""
        self._settings = settings
        self._told: dict[str, set[str]] = {}
        self._next = 0.0

    def tell(self, report: Callable[[str], object]) -> None:
        """Give ``report`` a line for each change that was not told yet; looks every ten seconds at the most.

        A source that cannot be reached is passed over.
        """
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _SECONDS
            for line in self._find_news():
                report(line)

    def _find_news(self) -> Iterator[str]:
        for source in self._settings.sources:
            with suppress(PgsealError):
                found = _find_changes(source)
                told = self._told.get(source.name, set())
                self._told[source.name] = set(found)
                yield from (f"{line}; pgseal apply" for line in found if line not in told)


def _find_changes(source: Source) -> list[str]:
    side = f"source {source.name!r}"
    with (
        closing(connect(source.dsn.reveal(), side=side, role=SEALER_ROLE)) as connection,
        translated_errors(side, role=SEALER_ROLE),
    ):
        return [
            f"{side}: {table.relation}: {partition.words}"
            for table in list_marked(connection)
            for partition in table.find_changes()
        ]
