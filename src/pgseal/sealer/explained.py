"""What sealed records say about absence, as the vault has them and the ledger confirms: RETENTION, ERASE, RECOVER."""

from collections.abc import Callable
from typing import TypeVar

from pgseal.copytext import unescape
from pgseal.core.erasure import ERASE, Erased, parse_erase
from pgseal.core.leaf import LeafBuilder
from pgseal.core.ranges import LeafRanges
from pgseal.core.recovery import RECOVER, Recovery, parse_recovery
from pgseal.core.retention import RETENTION, Retention, parse_retention
from pgseal.errors import AlteredRecordError, FormatError
from pgseal.ledger.reader import LedgerReader
from pgseal.vault.rows import VaultRow, parse_row
from pgseal.vault.store import VaultStore

_Said = TypeVar("_Said")


def read_retentions(vault: VaultStore, ledger: LedgerReader, tree_size: int) -> list[Retention]:
    """Return what the RETENTION records among the first ``tree_size`` leaves say, oldest first.

    Raises ``AlteredRecordError`` where the vault's row does not give the ledger's entry.
    """
    found = read_acts(vault, ledger, tree_size, RETENTION, parse_retention)
    return [retention for index, retention in found if retention.leaves[-1][1] <= index]


def read_retained(vault: VaultStore, ledger: LedgerReader, tree_size: int, trail: str) -> LeafRanges:
    """Return the leaves of one trail that may be gone from it; raises as ``read_retentions``."""
    return LeafRanges(
        pair
        for retention in read_retentions(vault, ledger, tree_size)
        if retention.trail == trail
        for pair in retention.leaves
    )


def read_erased(vault: VaultStore, ledger: LedgerReader, tree_size: int) -> Erased:
    """Return which parts may be gone; raises as ``read_retentions``."""
    return Erased(read_acts(vault, ledger, tree_size, ERASE, parse_erase))


def read_recoveries(vault: VaultStore, ledger: LedgerReader, tree_size: int, trail: str) -> dict[int, Recovery]:
    """Return the RECOVER records of one trail by the incarnation they raised it to; raises as ``read_retentions``.

    Also one that is not sealed yet: it was written in the transaction that raised the incarnation.
    """
    found: dict[int, Recovery] = {}
    for index, recovery in read_acts(vault, ledger, tree_size, RECOVER, parse_recovery):
        if recovery.trail == trail and LeafRanges(recovery.lost).end <= index:
            found.setdefault(recovery.incarnation, recovery)  # the first counts; verify names others
    for recovery in map(_parse_recorded, vault.read_recorded_acts(RECOVER)):
        if recovery is not None and recovery.trail == trail:
            found.setdefault(recovery.incarnation, recovery)
    return found


def read_newest_act(
    vault: VaultStore, ledger: LedgerReader, tree_size: int, action: str, parse: Callable[[bytes], _Said]
) -> tuple[int, _Said] | None:
    """Return leaf index and meaning of the newest sealed record of ``action``; raises as ``read_retentions``."""
    line = vault.read_newest_act(action, tree_size)
    if line is None:
        return None
    row, said = _check_act(line, LeafBuilder(), ledger, tree_size, action, parse)
    return row.leaf_index, said


def _parse_recorded(data: str) -> Recovery | None:
    try:
        return parse_recovery(data.encode())
    except FormatError:
        return None


def read_acts(
    vault: VaultStore, ledger: LedgerReader, tree_size: int, action: str, parse: Callable[[bytes], _Said]
) -> list[tuple[int, _Said]]:
    """Return leaf index and meaning of sealed records of ``action``, oldest first; raises as ``read_retentions``."""
    return [(row.leaf_index, said) for row, said in read_act_rows(vault, ledger, tree_size, action, parse)]


def read_act_rows(
    vault: VaultStore, ledger: LedgerReader, tree_size: int, action: str, parse: Callable[[bytes], _Said]
) -> list[tuple[VaultRow, _Said]]:
    """Return the vault's rows and the meaning of the sealed records of ``action``, likewise."""
    leaves = LeafBuilder()
    return [_check_act(line, leaves, ledger, tree_size, action, parse) for line in vault.read_acts(action, tree_size)]


def _check_act(
    line: bytes,
    leaves: LeafBuilder,
    ledger: LedgerReader,
    tree_size: int,
    action: str,
    parse: Callable[[bytes], _Said],
) -> tuple[VaultRow, _Said]:
    index = int(line.partition(b"\t")[0])
    try:
        row = parse_row(line, leaves)
        said = parse(unescape(row.content[-1]))
    except FormatError as error:
        raise _altered(action, index, str(error)) from error
    if row.leaf_data != ledger.leaf(index, tree_size):
        raise _altered(action, index, "it does not give the ledger's entry")
    return row, said


def _altered(action: str, leaf_index: int, problem: str) -> AlteredRecordError:
    return AlteredRecordError(
        f"the vault's {action} record of leaf {leaf_index}: {problem}", where="vault", leaf_index=leaf_index
    )
