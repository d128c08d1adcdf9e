"""How far a log is witnessed: as its ledger shows it, for ``status``, and as the witnesses show it, for ``verify``."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

from pgseal.core.checkpoint import open_checkpoint, parse_checkpoint
from pgseal.core.cosignature import WitnessPolicy
from pgseal.core.note import parse_note
from pgseal.errors import FormatError, SignatureError, UnavailableError
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import DirectoryStore, MissingObjectError
from pgseal.ledger.witness_client import WitnessClient
from pgseal.sealer.state import read_witnesses
from pgseal.settings import Settings, WitnessAddress

_SILENCE_SECONDS = 5.0
_PUBLISHING_SECONDS = 5.0
_LOOK_SECONDS = 0.1
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


def ask_witnesses(settings: Settings) -> tuple[dict[str, bytes], list[str]]:
    """Return the checkpoint of this log that each witness shows, by name and not verified, and who cannot be asked.

    A witness sees a checkpoint before the ledger's readers do: for a moment this waits until the ledger shows one as
    large. What is still ahead then was never published, or it was set back.
    """
    held: dict[str, bytes] = {}
    silent: list[str] = []
    if not settings.witnesses:
        return held, silent
    with ThreadPoolExecutor(len(settings.witnesses)) as threads:
        asked = [threads.submit(_read_held, witness, settings.origin) for witness in settings.witnesses]
    for witness, question in zip(settings.witnesses, asked, strict=True):
        answer = question.result()
        if isinstance(answer, bytes):
            held[witness.name] = answer
        elif answer is not None:
            silent.append(f"witness {witness.name} was not compared with the ledger: {answer}")
    _wait_for_ledger(settings, max(map(_read_size, held.values()), default=0))
    return held, silent


def _read_held(witness: WitnessAddress, origin: str) -> bytes | str | None:
    """Return what a witness shows, None if that is nothing (C2SP does not demand it), or why it cannot be asked."""
    try:
        with closing(WitnessClient(witness.url, _SILENCE_SECONDS)) as client:
            return client.read_checkpoint(origin)
    except UnavailableError as error:
        return str(error)


def _wait_for_ledger(settings: Settings, size: int) -> None:
    until = time.monotonic() + settings.witness_deadline + _PUBLISHING_SECONDS
    reader = LedgerReader(DirectoryStore(settings.ledger))
    while time.monotonic() < until:
        try:
            if _read_size(reader.checkpoint_note()) >= size:
                return
        except MissingObjectError:
            return
        time.sleep(_LOOK_SECONDS)


def _read_size(note: bytes) -> int:
    try:
        return parse_checkpoint(parse_note(note)[0]).size
    except FormatError:
        return 0  # judged elsewhere
