"""What sealed RETENTION records say was dropped from trails, as the vault has them and the ledger confirms."""

from pgseal.copytext import unescape
from pgseal.core.leaf import LeafBuilder
from pgseal.core.retention import LeafRanges, Retention, parse_retention
from pgseal.errors import AlteredRecordError, FormatError
from pgseal.ledger.reader import LedgerReader
from pgseal.vault.rows import parse_row
from pgseal.vault.store import VaultStore


def read_retentions(vault: VaultStore, ledger: LedgerReader, tree_size: int) -> list[Retention]:
    """Return what the RETENTION records among the first ``tree_size`` leaves say, oldest first.

    Raises ``AlteredRecordError`` where the vault's row does not give the ledger's entry.
    """
    leaves = LeafBuilder()
    found: list[Retention] = []
    for line in vault.read_retentions(tree_size):
        index = int(line.partition(b"\t")[0])
        try:
            row = parse_row(line, leaves)
            retention = parse_retention(unescape(row.content[-1]))
        except FormatError as error:
            raise _altered(index, str(error)) from error
        if row.leaf_data != ledger.leaf(index, tree_size):
            raise _altered(index, "it does not give the ledger's entry")
        if retention.leaves[-1][1] <= index:
            found.append(retention)
    return found


def read_retained(vault: VaultStore, ledger: LedgerReader, tree_size: int, trail: str, incarnation: int) -> LeafRanges:
    """Return the leaves of one trail that may be gone from it; raises as ``read_retentions``."""
    return LeafRanges(
        pair
        for retention in read_retentions(vault, ledger, tree_size)
        if (retention.trail, retention.incarnation) == (trail, incarnation)
        for pair in retention.leaves
    )


def _altered(leaf_index: int, problem: str) -> AlteredRecordError:
    return AlteredRecordError(
        f"the vault's RETENTION record of leaf {leaf_index}: {problem}", where="vault", leaf_index=leaf_index
    )
