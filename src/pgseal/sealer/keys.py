"""The keys that sign, and how the log passes from one to the next (FORMATS.md section 2, Rotation).

Nothing is kept beside the key itself: which keys there are (the setting ``key``: one, or two while it is rotated, the
new one first) and the KEY_ROTATE records of the vault's trail say together where a rotation stands.

    A   both keys stand in the setting                          `pgseal key rotate`; one rename
    B   KEY_ROTATE is recorded in the vault's trail              `record_rotation`, before anything more is signed
    C   every larger checkpoint is signed with both keys         `sign`; one of the first has the record
    D   only the new key stands in the setting                   `pgseal key rotate --finish`; one rename

    crash before A  nothing happened
    A–B             the next start records it
    B–C             the next start finds the record: its ``from_size`` is the size that was signed last, still
    C–D             the overlap; it lasts as long as somebody wants
    after D         the new key alone

A key that is neither the one that signed last nor follows it by a record does not sign: the sealer stops.
"""

from collections.abc import Iterable
from contextlib import suppress

from pgseal.core.checkpoint import Checkpoint
from pgseal.core.keys import Signer
from pgseal.core.note import sign_note
from pgseal.core.rotation import KEY_ROTATE, LogKeys, RecordedRotation, Rotation, endorse_rotation, read_rotation
from pgseal.errors import ConfigError, FormatError, SignatureError
from pgseal.settings import Settings
from pgseal.vault.store import VaultStore


def read_rotations(rows: Iterable[tuple[int | None, bytes, bytes]]) -> list[RecordedRotation]:
    """Return the rotations among KEY_ROTATE records that both their keys endorse; the others say nothing."""
    found: list[RecordedRotation] = []
    for index, data, actor in rows:
        with suppress(FormatError, SignatureError):
            found.append(read_rotation(data, actor, index))
    return found


class SigningKeys:
    """The keys of one log for the sealer, which holds the vault's lock."""

    def __init__(self, settings: Settings, vault: VaultStore) -> None:
        """Read the keys.

        Raises ``ConfigError`` if one cannot be used or the log has passed to a key that is not there, and
        ``UnavailableError`` if one is in a token that cannot be reached.
        """
        self._secret = settings.key
        self._text = settings.key.reveal()
        self._vault = vault
        self._signers = settings.read_signers()
        #: The keys of the log as its records have them.
        self.log = LogKeys(self._signers[-1].verifier)
        self.log.learn(read_rotations(vault.read_rotations(recorded=True)))
        newest = self.log.newest
        if newest not in {signer.verifier for signer in self._signers}:
            raise ConfigError(
                f"{settings.key.where}: a KEY_ROTATE record says that the log has passed to key {newest.key_id.hex()}, "
                "and that key is not there: put it back as the first line"
            )
        self._from_size = self._find_from_size()

    def close(self) -> None:
        """Let go of what the signers hold open."""
        for signer in self._signers:
            signer.close()

    def open_kept(self, note: bytes) -> Checkpoint:
        """Return the checkpoint that was signed last; raises ``SignatureError`` and ``FormatError``."""
        try:
            return self.log.open(note, origin=self._signers[0].verifier.name, source="kept checkpoint").checkpoint
        except SignatureError as error:
            raise SignatureError(
                f"{error.detail}; if the key was replaced by hand, put the old one back and run pgseal key rotate",
                where="kept checkpoint",
            ) from error

    def record_rotation(self, signed_size: int) -> None:
        """Record that the newest key follows the one before, above ``signed_size``; does nothing unless that is due.

        Raises ``ConfigError`` if the older key went before its time.
        """
        if len(self._signers) == 1:
            self._check_passed(signed_size)
        if len(self._signers) == 1 or self._from_size is not None:
            return
        new, old = self._signers
        rotation = Rotation(signed_size, new.verifier, old.verifier)
        endorsement = endorse_rotation(rotation, old, new)
        self._vault.record_act(KEY_ROTATE, rotation.to_json(), claimed={"endorsement": endorsement})
        # Window B–C.
        self.log.learn([RecordedRotation(rotation)])
        self._from_size = signed_size

    def sign(self, text: str, tree_size: int) -> bytes:
        """Return ``text``, a checkpoint of ``tree_size``, signed with every key that is due.

        Raises what ``Signer.sign`` raises.
        """
        return sign_note(text, *self._find_due(tree_size))

    def has_changed(self) -> bool:
        """Return whether the setting gives other keys than when it was read; a key that is out of sight has not."""
        try:
            return self._secret.reveal() != self._text
        except ConfigError:
            return False

    def _check_passed(self, signed_size: int) -> None:
        for link in self.log.rotations:
            if link.rotation.new == self.log.newest and (link.leaf_index is None or link.leaf_index >= signed_size):
                raise ConfigError(
                    f"{self._secret.where}: the log's old key {link.rotation.old.key_id.hex()} is gone before the "
                    "record of its successor is sealed: put it back, as the second line"
                )

    def _find_due(self, tree_size: int) -> tuple[Signer, ...]:
        if len(self._signers) == 1:
            return self._signers
        new, old = self._signers
        return (old, new) if self._from_size is not None and tree_size > self._from_size else (old,)

    def _find_from_size(self) -> int | None:
        """Return the size above which the newest key signs beside the older one; None if no record says so."""
        pair = [signer.verifier for signer in self._signers]
        for link in self.log.rotations:
            if [link.rotation.new, link.rotation.old] == pair:
                return link.rotation.from_size
        return None
