"""The ledger's ``witnessed``: the newest checkpoint that as many witnesses have cosigned as the policy wants.

It is judged by the keys of log and witnesses alone. That the ledger's own checkpoint continues it is for ``verifier``
to check, as with everything else that is trusted. Cosignatures from the future (``core.cosignature``) do not count; how
old one may be depends on how far the log has come since: ``describe_lag``.
"""

from dataclasses import dataclass

from pgseal.core.checkpoint import Checkpoint
from pgseal.core.cosignature import WitnessPolicy
from pgseal.core.rotation import LogKeys
from pgseal.errors import FormatError, SignatureError
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import CHECKPOINT, WITNESSED, MissingObjectError

#: How old, by the witnesses' clocks, what they vouch for may be while the log has gone on, before the report says so.
_MAX_LAG_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A checkpoint that meets a policy: the note, the witnesses that count, and the newest of their times."""

    checkpoint: Checkpoint
    note: bytes
    cosigners: tuple[str, ...]
    time: int


def open_witnessed(reader: LedgerReader, origin: str, keys: LogKeys, policy: WitnessPolicy, now: float) -> Witnessed:
    """Return what the ledger shows as ``witnessed``, verified; ``now`` is in seconds since the Unix epoch.

    Raises ``SignatureError`` if there is none, or one that does not meet the policy, and ``UnavailableError``.
    """
    try:
        note = reader.witnessed_note()
        opened = keys.open(note, origin=origin, others=list(policy.keys.values()))
    except MissingObjectError:
        raise SignatureError(
            f"the ledger has no {WITNESSED!r}: either the witness policy ({policy}) was never met, or somebody removed "
            "it; pgseal status says what is wrong with the witnesses",
            where=CHECKPOINT,
        ) from None
    except (FormatError, SignatureError) as error:
        raise SignatureError(f"the ledger's {WITNESSED!r}: {error}", where=CHECKPOINT) from error
    cosigners = policy.find_cosigners(opened.signatures, now)
    if not policy.is_met(cosigners):
        raise SignatureError(
            f"the ledger's {WITNESSED!r}, of size {opened.checkpoint.size}, does not meet the witness policy "
            f"({policy}): cosigned by {', '.join(cosigners) or 'none of them'}",
            where=CHECKPOINT,
        )
    return Witnessed(opened.checkpoint, note, tuple(cosigners), max(cosigners.values()))


def describe_lag(
    reader: LedgerReader, witnessed: Witnessed, published: Checkpoint, policy: WitnessPolicy, now: float
) -> str | None:
    """Return what to say if the log has gone on without its witnesses, None if it has not."""
    size, lag = witnessed.checkpoint.size, now - witnessed.time
    if size >= published.size or lag <= _MAX_LAG_SECONDS:
        return None
    try:
        if reader.witnessed_note() != witnessed.note:
            return None  # a sealer at work has replaced it since
    except MissingObjectError:
        pass
    return (
        f"leaves {size} to {published.size - 1} are not witnessed: the last checkpoint that meets the policy "
        f"({policy}) was cosigned {lag:.0f} s ago; until then whoever holds key, ledger and vault can rewrite them; "
        "pgseal status says what is wrong with the witnesses"
    )
