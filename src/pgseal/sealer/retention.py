"""RETENTION records: written into the vault's own trail, and sealed."""

from collections.abc import Sequence

from pgseal.core.canonical import encode_canonical
from pgseal.core.retention import MAX_DATA_BYTES, RETENTION, Retention
from pgseal.errors import StorageError
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import DirectoryStore
from pgseal.sealer import acts
from pgseal.sealer.explained import read_retentions
from pgseal.settings import Settings
from pgseal.vault.store import VaultStore


def read_sealed(settings: Settings, vault: VaultStore) -> list[Retention]:
    """Return what the sealed RETENTION records say, checked against the ledger."""
    return read_retentions(vault, LedgerReader(DirectoryStore(settings.ledger)), acts.read_sealed_size(settings))


def ensure_sealed(settings: Settings, vault: VaultStore, retentions: Sequence[Retention]) -> None:
    """Write ``retentions`` into the vault's trail and have them sealed, those that are not.

    Raises ``UnavailableError`` if the sealer that is at work does not seal them within a minute.
    """
    sealed = read_sealed(settings, vault)
    wanting = [one for one in retentions if one not in sealed]  # a former run may have come as far as this
    for one in wanting:
        if len(encode_canonical(one.to_json())) > MAX_DATA_BYTES // 2:  # jsonb's own text has spaces
            raise StorageError(f"{one.relation}: its records lie in too many places of the ledger for one record")
    acts.write_and_seal(settings, vault, [acts.Act(RETENTION, one.to_json(), one.relation) for one in wanting])
    sealed = read_sealed(settings, vault)
    for one in wanting:
        if one not in sealed:
            raise StorageError(
                f"the RETENTION record of {one.relation} was not sealed as it was written; pgseal verify"
            )
