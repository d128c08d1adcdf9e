"""One partition of a trail against the vault: may its rows go, and which leaves are they?

Every row must be a sealed record, byte for byte, below the signed size, where the vault's row has no finding. The other
way round nothing is asked: the trail has other partitions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pgseal.copytext import NULL
from pgseal.core.ranges import LeafRanges
from pgseal.errors import AlteredRecordError, ForgedRecordError
from pgseal.verifier.report import FindingLog
from pgseal.verifier.sources import TrailSource, VaultSource
from pgseal.verifier.trails import Side


@dataclass(frozen=True, slots=True)
class Match:
    """The leaves of a partition's rows, how many they are, how many rows wait to be sealed, and how many are wrong."""

    leaves: LeafRanges
    count: int
    waiting: int
    wrong: int = 0


def match_rows(
    partition: TrailSource,
    vault: VaultSource,
    tree_size: int,
    damaged_leaves: Mapping[int, bool],
    findings: FindingLog,
    ids: tuple[int, int] | None = None,
) -> Match:
    """Match the rows of ``partition`` with the vault's, adding to ``findings`` those that differ or were never sealed.

    Args:
        partition: its rows, by id.
        vault: its rows below ``tree_size`` were compared with the ledger, or will be.
        tree_size: the signed size.
        damaged_leaves: leaves whose row in the vault is not what was sealed.
        findings: what differs is added here.
        ids: the first and the last id of the partition, if known.

    Raises:
        StorageError: a side cannot answer.
    """
    rows = Side(partition.copy_rows(), f"trail {partition.name}")
    records = Side(vault.copy_trail(partition.name, partition.incarnation, ids), "vault")
    found: list[tuple[int, int]] = []
    count = waiting = 0
    previous: int | None = None
    before = findings.total
    while rows.line is not None:
        id_ = rows.id
        while records.line is not None and records.id < id_:
            records.next()
        mark, _, body = rows.line.partition(b"\t")
        # Several where a restore took away what had this id first.
        claims = [] if id_ == previous else [line for line in records.take(id_) if line.mark != NULL]
        claim = next((line for line in claims if line.body == body), claims[-1] if claims else None)
        index = -1 if claim is None else int(claim.mark)
        if claim is not None and claim.body == body and 0 <= index < tree_size and index not in damaged_leaves:
            count += 1
            if found and found[-1][1] == index:
                found[-1] = (found[-1][0], index + 1)
            else:
                found.append((index, index + 1))
        elif (mark != b"t" and claim is None) or index >= tree_size:
            waiting += 1
        else:
            findings.add(_describe(partition, id_, None if claim is None else index))
        previous = id_
        rows.next()
    return Match(LeafRanges(found), count, waiting, findings.total - before)


def _describe(partition: TrailSource, id_: int, leaf_index: int | None) -> AlteredRecordError | ForgedRecordError:
    name = f"record {partition.name}/{id_}"
    if leaf_index is None:
        return ForgedRecordError(
            f"{name}: never sealed as it stands in its partition", where="trail", trail=partition.name, record_id=id_
        )
    return AlteredRecordError(
        f"{name} (leaf {leaf_index}): differs in its partition from what was sealed",
        where="trail", trail=partition.name, record_id=id_, leaf_index=leaf_index,
    )  # fmt: skip
