"""Legal holds: which there are, as sealed records say.

A hold counts from the moment its record is written; it ends when a RELEASE record of its name is sealed. Nothing else
is asked, so whoever deletes a row of it does not end it: `pgseal verify`, without which nothing is erased or dropped,
misses the row.
"""

import json
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import cast

from pgseal.copytext import format_time, unescape
from pgseal.core.hold import HOLD, RELEASE, Hold, Release, parse_hold, parse_release
from pgseal.errors import ConflictError, FormatError
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import DirectoryStore
from pgseal.sealer.acts import read_sealed_size
from pgseal.sealer.explained import read_act_rows
from pgseal.settings import Settings
from pgseal.vault.rows import VaultRow
from pgseal.vault.store import HOLD_LOCK, VaultStore

_POLL_SECONDS = 0.1
_WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Noted:
    """A hold with the leaf and the time of its record (None: not sealed yet), who approved it, and its end."""

    hold: Hold
    leaf_index: int | None = None
    time: str | None = None
    approved_by: str | None = None
    released: Release | None = None
    released_at: str | None = None
    released_by: str | None = None


def read_holds(settings: Settings, vault: VaultStore) -> list[Noted]:
    """Return every hold there ever was, oldest first; raises as ``explained.read_retentions``."""
    ledger, size = LedgerReader(DirectoryStore(settings.ledger)), read_sealed_size(settings)
    found: dict[str, Noted] = {}
    for row, hold in read_act_rows(vault, ledger, size, HOLD, parse_hold):
        found.setdefault(hold.name, Noted(hold, row.leaf_index, _time(row), _approved_by(row)))
    for row, release in read_act_rows(vault, ledger, size, RELEASE, parse_release):
        noted = found.get(release.name)
        if noted is None or noted.released is not None or row.leaf_index < (noted.leaf_index or 0):
            continue
        found[release.name] = Noted(
            noted.hold, noted.leaf_index, noted.time, noted.approved_by, release, _time(row), _approved_by(row)
        )
    for data in vault.read_recorded_acts(HOLD):
        with suppress(FormatError):
            hold = parse_hold(data.encode())
            found.setdefault(hold.name, Noted(hold))
    return list(found.values())


def read_active(settings: Settings, vault: VaultStore) -> list[Hold]:
    """Return the holds that were not released; raises as ``read_holds``."""
    return [noted.hold for noted in read_holds(settings, vault) if noted.released is None]


@contextmanager
def alone_with_holds(vault: VaultStore, seconds: float = _WAIT_SECONDS) -> Generator[None]:
    """Let nobody add or release a hold, erase or drop anything meanwhile; raises ``ConflictError``."""
    until = time.monotonic() + seconds
    while not vault.try_lock(HOLD_LOCK):
        if time.monotonic() > until:
            raise ConflictError("another pgseal erase, retain or hold is at work on this vault; run it again later")
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        vault.unlock(HOLD_LOCK)


def _time(row: VaultRow) -> str:
    return format_time(row.content[0]).decode()


def _approved_by(row: VaultRow) -> str | None:
    who = cast("dict[str, dict[str, str]]", json.loads(unescape(row.content[-2])))
    return who.get("claimed", {}).get("approved_by")
