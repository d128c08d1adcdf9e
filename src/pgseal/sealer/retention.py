"""RETENTION records: written into the vault's own trail, and sealed, be it by the sealer that is at work."""

import time
from collections.abc import Sequence
from contextlib import closing

from pgseal.core.canonical import encode_canonical
from pgseal.core.checkpoint import open_checkpoint
from pgseal.core.retention import MAX_DATA_BYTES, RETENTION, Retention
from pgseal.errors import ConflictError, StorageError, UnavailableError
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import DirectoryStore
from pgseal.sealer.explained import read_retentions
from pgseal.sealer.seal import Sealer
from pgseal.settings import VAULT_TRAIL, Settings
from pgseal.vault.store import VaultStore

_WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.1


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


def read_sealed(settings: Settings, vault: VaultStore) -> list[Retention]:
    """Return what the sealed RETENTION records say, checked against the ledger."""
    return read_retentions(vault, LedgerReader(DirectoryStore(settings.ledger)), read_sealed_size(settings))


def ensure_sealed(settings: Settings, vault: VaultStore, retentions: Sequence[Retention]) -> None:
    """Write ``retentions`` into the vault's trail and have them sealed, those that are not.

    Raises ``UnavailableError`` if the sealer that is at work does not seal them within a minute.
    """
    sealed = read_sealed(settings, vault)
    wanting = [one for one in retentions if one not in sealed]  # a former run may have come as far as this
    for one in wanting:
        if len(encode_canonical(one.to_json())) > MAX_DATA_BYTES // 2:  # jsonb's own text has spaces
            raise StorageError(f"{one.relation}: its records lie in too many places of the ledger for one record")
    record_ids = [vault.record_act(RETENTION, one.to_json(), one.relation) for one in wanting]
    if record_ids:
        seal_all(settings)
    until = time.monotonic() + _WAIT_SECONDS
    while not all(_is_sealed(settings, vault, record_id) for record_id in record_ids):
        if time.monotonic() > until:
            raise UnavailableError(
                f"a RETENTION record was not sealed within {_WAIT_SECONDS:.0f} s, though another sealer is at work; "
                "nothing was dropped, run pgseal retain again"
            )
        time.sleep(_POLL_SECONDS)
    sealed = read_sealed(settings, vault)
    for one in wanting:
        if one not in sealed:
            raise StorageError(
                f"the RETENTION record of {one.relation} was not sealed as it was written; pgseal verify"
            )


def _is_sealed(settings: Settings, vault: VaultStore, record_id: int) -> bool:
    leaf_index = vault.find_leaf(VAULT_TRAIL, record_id)
    return leaf_index is not None and leaf_index < read_sealed_size(settings)
