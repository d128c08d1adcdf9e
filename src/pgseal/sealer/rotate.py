"""A rotation from outside the sealer: where it stands, and waiting until it is sealed, be it by a sealer at work."""

import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from pgseal.core.keys import VerifierKey
from pgseal.core.note import select_signatures
from pgseal.core.rotation import LogKeys, RecordedRotation
from pgseal.errors import FormatError, UnavailableError
from pgseal.ledger.witness_client import WitnessClient
from pgseal.postgres import connect
from pgseal.sealer.acts import read_sealed_size, seal_all
from pgseal.sealer.keys import read_rotations
from pgseal.sealer.trails import SEALER_ROLE
from pgseal.settings import Settings
from pgseal.vault.store import VaultStore

#: After so long, somebody has forgotten to end a rotation; a key that old may well have been copied.
OVERLAP_SECONDS, OLD_SECONDS = 30 * 86400.0, 2 * 366 * 86400.0

_WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.1
_SILENCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class KeyState:
    """The keys in the configuration: the newest, and while it is rotated the one before (None otherwise).

    ``rotation`` is the record that leads to the newest key, None without one; ``is_sealed`` says that it is under the
    ledger's checkpoint. ``age`` is how long the newest key has been the log's, in seconds, by the vault's clock, None
    before anything is sealed. ``history`` are all rotations of this log, the oldest first.
    """

    new: VerifierKey
    old: VerifierKey | None
    rotation: RecordedRotation | None
    is_sealed: bool
    age: float | None
    history: tuple[RecordedRotation, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the members that ``key show`` and ``status`` have in common."""
        rotation = self.rotation
        return {
            "vkey": str(self.new),
            "old_vkey": None if self.old is None else str(self.old),
            "from_size": None if rotation is None else rotation.rotation.from_size,
            "index": None if rotation is None else rotation.leaf_index,
            "age_s": None if self.age is None else round(self.age, 3),
        }


def read_key_state(settings: Settings, vault: VaultStore) -> KeyState:
    """Return where the key of a log stands; raises ``ConfigError``, ``StorageError`` and others as reading it does."""
    new, *others = settings.read_verifiers()
    keys = LogKeys(others[0] if others else new)
    keys.learn(read_rotations(vault.read_rotations()))
    rotation = next((link for link in keys.rotations if link.rotation.new == new), None)
    index = None if rotation is None else rotation.leaf_index
    is_sealed = index is not None and index < read_sealed_size(settings)
    age = vault.read_leaf_age(0 if index is None else index)
    return KeyState(new, others[0] if others else None, rotation, is_sealed, age, keys.rotations)


def describe_overlap(state: KeyState) -> str:
    """Say that a rotation takes long."""
    return (
        f"two keys have signed for {(state.age or 0.0) / 86400:.0f} days: once everyone has the new one, "
        "pgseal key rotate --finish"
    )


def ensure_sealed(settings: Settings) -> KeyState:
    """Have the rotation that stands in the configuration recorded and sealed; safe to repeat.

    Raises ``UnavailableError`` if the sealer that is at work does not do it within a minute, and as ``Sealer.open``.
    """
    seal_all(settings)
    until = time.monotonic() + _WAIT_SECONDS
    with closing(connect(settings.vault.dsn.reveal(), side="vault", role=SEALER_ROLE)) as connection:
        vault = VaultStore(connection)
        while not (found := read_key_state(settings, vault)).is_sealed:
            if time.monotonic() > until:
                raise UnavailableError(
                    f"the new key stands in {settings.key.path}, and the sealer that is at work has not taken it up "
                    f"within {_WAIT_SECONDS:.0f} s: restart it, then run pgseal key rotate again"
                )
            time.sleep(_POLL_SECONDS)
    return found


def find_unaware_witnesses(settings: Settings, key: VerifierKey) -> list[str]:
    """Return the witnesses of which nothing shows that they know ``key``, each with the reason."""
    found: list[str] = []
    for witness in settings.witnesses:
        try:
            with closing(WitnessClient(witness.url, _SILENCE_SECONDS)) as client:
                note = client.read_checkpoint(settings.origin)
            # It keeps the signatures of the keys that it knows, and no others.
            if note is None or not select_signatures(note, [key]):
                found.append(f"{witness.name} does not know the new key yet")
        except (UnavailableError, FormatError) as error:
            found.append(f"{witness.name} cannot be asked ({error})")
    return found
