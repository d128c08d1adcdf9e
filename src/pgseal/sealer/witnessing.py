"""How far a log is witnessed, as its ledger shows it: for ``pgseal status``. Asks nobody, changes nothing."""

import time
from typing import Any

from pgseal.core.checkpoint import open_checkpoint
from pgseal.core.cosignature import WitnessPolicy
from pgseal.errors import FormatError, SignatureError
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import DirectoryStore, MissingObjectError
from pgseal.sealer.state import read_witnesses
from pgseal.settings import Settings

_NONE = "no witness is configured: whoever holds key, ledger and vault could rewrite history unseen"


def read_witnessing(settings: Settings, warnings: list[str]) -> dict[str, Any] | None:
    """Return the member ``witnesses`` of ``pgseal status --json``; None without any. Adds what to mend to ``warnings``.

    Raises ``StorageError`` if the ledger cannot be read.
    """
    policy = settings.find_witness_policy()
    if policy is None:
        warnings.append(_NONE)
        return None
    reader = LedgerReader(DirectoryStore(settings.ledger))
    try:
        newest, cosigners = _open(settings, policy, reader.checkpoint_note())
        witnessed, times = _open(settings, policy, reader.witnessed_note())
    except MissingObjectError:
        newest, cosigners, witnessed, times = None, {}, None, {}
    # All that are configured, also those that the policy does not count.
    problems = read_witnesses(settings.state)
    for witness in settings.witnesses:
        problem = problems.get(witness.name)
        if problem:
            warnings.append(f"witness {witness.name}: {problem}")
    is_met = policy.is_met(times)
    age = round(max(0.0, time.time() - max(times.values())), 3) if is_met else None
    if not is_met:
        warnings.append(f"no checkpoint is witnessed as the policy wants it ({policy})")
    elif newest != witnessed:
        warnings.append(
            f"the newest checkpoint that meets the witness policy ({policy}) has size {witnessed}, of {newest}, and is "
            f"{age:.0f} s old"
        )
    return {
        "policy": str(policy),
        "configured": len(settings.witnesses),
        "cosigned": len(cosigners),
        "names": sorted(cosigners),
        "witnessed_size": witnessed if is_met else None,
        "witnessed_age_s": age,
    }


def _open(settings: Settings, policy: WitnessPolicy, note: bytes) -> tuple[int | None, dict[str, int]]:
    """Return the size that a note of the ledger states, and which of the witnesses have cosigned it when."""
    key = settings.read_verifier()
    everyone = WitnessPolicy(policy.needed, {one.name: one.key for one in settings.witnesses})
    try:
        opened = open_checkpoint(note, [key, *everyone.keys.values()], origin=settings.origin)
    except (FormatError, SignatureError):
        return None, {}  # pgseal verify makes a finding of it
    return opened.checkpoint.size, everyone.find_cosigners(opened.signatures, time.time())
