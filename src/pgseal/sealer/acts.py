"""Acts of pgseal's own that must be sealed before they count.

They are written into the vault's trail and sealed, be it by the sealer that is at work.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from pgseal.core.checkpoint import open_checkpoint
from pgseal.errors import ConflictError, UnavailableError
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import DirectoryStore
from pgseal.sealer.seal import Sealer
from pgseal.settings import VAULT_TRAIL, Settings
from pgseal.vault.store import VaultStore

_WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Act:
    """A record to be written: its action and data, the relation it is about, and what is claimed of who is acting."""

    action: str
    data: Mapping[str, object]
    relation: str | None = None
    claimed: Mapping[str, object] | None = None


def seal_all(settings: Settings) -> None:
    """Seal what is committed now, unless another sealer is at work and does so; raises as ``Sealer.open``."""
    try:
        with closing(Sealer.open(settings)) as sealer:
            sealer.seal_once()
    except ConflictError:
        return


def read_sealed_size(settings: Settings) -> int:
    """Return the size of the ledger's checkpoint; raises ``SignatureError`` and others if it is none of the log's."""
    note = LedgerReader(DirectoryStore(settings.ledger)).checkpoint_note()
    return open_checkpoint(note, [settings.read_verifier()], origin=settings.origin).checkpoint.size


def write_and_seal(settings: Settings, vault: VaultStore, acts: Sequence[Act]) -> list[int]:
    """Write ``acts`` and have them sealed; returns their leaf indexes.

    Raises ``UnavailableError`` if the sealer that is at work does not seal them within a minute.
    """
    record_ids = [vault.record_act(act.action, act.data, act.relation, act.claimed) for act in acts]
    if record_ids:
        seal_all(settings)
    until = time.monotonic() + _WAIT_SECONDS
    found: list[int] = []
    for act, record_id in zip(acts, record_ids, strict=True):
        while (leaf_index := _find_sealed(settings, vault, record_id)) is None:
            if time.monotonic() > until:
                raise UnavailableError(
                    f"a record of {act.action} was not sealed within {_WAIT_SECONDS:.0f} s, though another sealer is "
                    "at work; nothing else was done, run it again"
                )
            time.sleep(_POLL_SECONDS)
        found.append(leaf_index)
    return found


def _find_sealed(settings: Settings, vault: VaultStore, record_id: int) -> int | None:
    leaf_index = vault.find_leaf(VAULT_TRAIL, record_id)
    return leaf_index if leaf_index is not None and leaf_index < read_sealed_size(settings) else None
