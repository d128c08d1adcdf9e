"""The source's registry of tracked tables, held against the sealed records of what was tracked. Reads only.

Whoever can write to ``audit.tracked`` could disable capture for a while and then keep the marks as they are now
(trail/marks.py). The digest of the marks that stood when capture was made is in the table's TRACK record.
"""

from pgseal.errors import FormatError
from pgseal.postgres import Connection
from pgseal.trail.marks import list_kept_marks
from pgseal.vault.store import VaultStore
from pgseal.vault.values import parse_part


def find_forged_marks(connection: Connection, vault: VaultStore, trail: str) -> list[str]:
    """Return what the registry of ``trail`` says that was not sealed so, in words.

    ``connection`` and the vault's act as pgseal_sealer.
    """
    faults: list[str] = []
    for kept in list_kept_marks(connection):
        sealed = vault.read_data(trail, kept.track_id)
        if sealed is None:
            row = connection.execute(
                "SELECT data::text FROM audit.record WHERE id = %s AND source = 'system'", [kept.track_id]
            ).fetchone()
            sealed = row[0] if row else None  # a moment ago: it waits to be sealed
        if sealed is None or _find_marks(sealed) != kept.digest:
            faults.append(
                f"{kept.relation}: what audit.tracked says of its capture is not what was sealed when it was made "
                f"(record {trail}/{kept.track_id}): somebody has edited it, and capture may have been off; "
                "pgseal untrack and pgseal track make it anew"
            )
    return faults


def _find_marks(sealed: str) -> object:
    """Return the digest of the marks in the data of a TRACK record, None without: the vault may have been edited."""
    try:
        return parse_part(sealed, source="TRACK record").get("marks")
    except FormatError:
        return None
