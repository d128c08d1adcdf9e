"""Erasure, step by step.

Each step is durable by itself, and a run that is killed between two is made good by the next:

    ERASE record sealed     from here on the parts may be gone; pgseal verify says that they are still there
    trails blanked          one transaction for each trail
    vault blanked           text and salts, one transaction; last, because the records are found by what they say
    vacuum                  what the UPDATEs left in tables, indexes and statistics

What a backup brings back is erased again in the same way, without another record: the sealed ones say which parts.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pgseal.core.erasure import ERASE, PARTS, Erased, Erasure, parse_erase, split_leaves
from pgseal.errors import ConfigError
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import DirectoryStore
from pgseal.sealer.acts import Act, read_sealed_size, write_and_seal
from pgseal.sealer.explained import read_acts
from pgseal.sealer.holds import read_active
from pgseal.settings import VAULT_TRAIL, Settings
from pgseal.trail.erasure import Place, TrailEraser
from pgseal.vault.erasure import Meant, VaultEraser, iter_meant
from pgseal.vault.store import VaultStore

#: Copies of content that no erasure in trail and vault reaches.
UNREACHABLE = (
    "evidence packs and proofs that were handed out",
    "exports, printouts, search results on other machines",
    "backups, snapshots and archived WAL of source and vault, and servers restored from them",
    "WAL that was not recycled yet, and standbys until they have replayed it",
    "server logs of source and vault",
    "the audited tables themselves, and rows of other tables that refer to it",
    "what file systems and disks keep of files that were overwritten",
)
#: Until then it can be read by whoever reads the files of the database.
FREED = "freed space in the data files of trail and vault, until it is overwritten:  pgseal erase --again --rewrite"


@dataclass(frozen=True, slots=True)
class Destroyed:
    """How many rows lost content: of trails, by name, and of the vault. ``left_out`` are trails out of reach."""

    trails: Mapping[str, int]
    vault: int
    left_out: frozenset[str] = frozenset()


class Eraser:
    """One run, with its owner's connections. The caller holds the locks. Not safe for concurrent use."""

    def __init__(self, settings: Settings, vault: VaultStore) -> None:
        """Read through ``vault``; connect elsewhere when it is needed."""
        self._settings = settings
        self._vault = vault
        self._trails: dict[str, TrailEraser] = {}
        self._own: VaultEraser | None = None

    def close(self) -> None:
        """Close the connections that were made here."""
        for trail in self._trails.values():
            trail.close()
        if self._own is not None:
            self._own.close()

    def check_rights(self, trails: Iterable[str]) -> None:
        """Connect as the owner wherever content is to be destroyed, before anything is said; raises ``ConfigError``."""
        self._open_vault()
        for name in trails:
            self._open_trail(name)

    def read_records(self) -> list[tuple[int, Erasure]]:
        """Return the leaf index and meaning of every sealed ERASE record, checked against the ledger."""
        ledger = LedgerReader(DirectoryStore(self._settings.ledger))
        return read_acts(self._vault, ledger, read_sealed_size(self._settings), ERASE, parse_erase)

    def seal(self, groups: Mapping[tuple[str, ...], Collection[int]], reason: str, approved_by: str) -> list[int]:
        """Have sealed that these leaves lose these parts; returns the leaf indexes of the records.

        What earlier records say already is not said again: a run was broken off then.
        """
        erased = Erased(self.read_records())
        acts = [
            Act(ERASE, erasure.to_json(), claimed={"approved_by": approved_by})
            for parts, leaves in groups.items()
            for erasure in split_leaves(
                [leaf for leaf in leaves if not all(erased.allows(leaf, part) for part in parts)], parts, reason
            )
        ]
        return write_and_seal(self._settings, self._vault, acts)

    def destroy(self, records: Sequence[Meant], parts: Sequence[str]) -> Destroyed:
        """Destroy ``parts`` of records that sealed ERASE records speak of, in the trails and then in the vault."""
        trails, left_out = self._destroy_in_trails(records, parts)
        # Killed now, the same command finds the records once more, in the vault.
        count = self._open_vault().blank([record.leaf_index for record in records], parts)
        return Destroyed(trails, count, frozenset(left_out))

    def _destroy_in_trails(
        self, records: Iterable[Meant], parts: Sequence[str], only: Collection[str] | None = None
    ) -> tuple[dict[str, int], set[str]]:
        places: defaultdict[str, list[Place]] = defaultdict(list)
        for record in records:
            places[record.trail].append(Place(record.id, record.xid, record.time))
        counts: dict[str, int] = {}
        left_out: set[str] = set()
        for name, found in places.items():
            if only is not None and name not in only:
                continue
            if name not in self.known_trails:
                left_out.add(name)
                continue
            counts[name] = self._open_trail(name).blank(found, parts)
        return counts, left_out

    @property
    def known_trails(self) -> set[str]:
        """The trails of this configuration."""
        return {VAULT_TRAIL, *(source.name for source in self._settings.sources)}

    # -- once more

    def iter_covered(self) -> Iterator[tuple[tuple[str], list[Meant]]]:
        """Yield what sealed ERASE records speak of, a part and some records at a time."""
        erased = Erased(self.read_records())
        for part in PARTS:
            for records in iter_meant(self._vault.connection, erased.leaves[part], (part,)):
                yield (part,), records

    def count_returned(self) -> Destroyed:
        """Return where there is content that should be gone; changes nothing."""
        counts: defaultdict[str, int] = defaultdict(int)
        in_vault = 0
        for parts, records in self.iter_covered():
            in_vault += sum(record.has_content for record in records)
            for name in {record.trail for record in records} & self.known_trails:
                places = [Place(one.id, one.xid, one.time) for one in records if one.trail == name]
                counts[name] += self._open_trail(name).count_content(places, parts)
        return Destroyed({name: count for name, count in counts.items() if count}, in_vault)

    def destroy_again(self, trails: Collection[str] | None = None) -> Destroyed:
        """Destroy what sealed ERASE records speak of wherever it is; with ``trails`` in these only.

        In these, only what is gone from the vault: a record that was never carried out there is nobody's to carry out.
        """
        counts: defaultdict[str, int] = defaultdict(int)
        left_out: set[str] = set()
        in_vault = 0
        for parts, records in self.iter_covered():
            meant = records if trails is None else [one for one in records if not one.has_content]
            found, missing = self._destroy_in_trails(meant, parts, trails)
            left_out |= missing
            for name, count in found.items():
                counts[name] += count
            returned = [one.leaf_index for one in records if one.has_content]
            if trails is None and returned:
                in_vault += self._open_vault().blank(returned, parts)
        return Destroyed({name: count for name, count in counts.items() if count}, in_vault, frozenset(left_out))

    def vacuum(self, *, rewrite: bool) -> dict[str, int]:
        """Remove what is left behind; returns, by side, the old row versions that an open transaction still holds."""
        left = {f"trail {name}": trail.vacuum(rewrite=rewrite) for name, trail in self._trails.items()}
        if self._own is not None:
            left["vault"] = self._own.vacuum(rewrite=rewrite)
        return {side: count for side, count in left.items() if count}

    def _open_trail(self, name: str) -> TrailEraser:
        if name not in self._trails:
            if name == VAULT_TRAIL:
                dsn, side = self._settings.vault.admin_dsn.reveal(), "vault"
            else:
                dsn, side = self._settings.find_source(name).admin_dsn.reveal(), f"source {name!r}"
            self._trails[name] = TrailEraser(dsn, side=side)
        return self._trails[name]

    def _open_vault(self) -> VaultEraser:
        if self._own is None:
            self._own = VaultEraser(self._settings.vault.admin_dsn.reveal())
        return self._own


def erase_again_in(settings: Settings, vault: VaultStore, trails: Collection[str]) -> Destroyed | None:
    """Destroy again, in trails that were restored, what is gone from the vault; None where nobody may.

    A hold on everything keeps it, too. The caller holds the locks.
    """
    if any(hold.relation is None for hold in read_active(settings, vault)):
        return None
    eraser = Eraser(settings, vault)
    try:
        with suppress(ConfigError):
            found = eraser.destroy_again(trails)
            eraser.vacuum(rewrite=False)
            return found
    finally:
        eraser.close()
    return None
