"""Packs of a log whose key was changed: which keys they can be checked with, and what a forger gets by it."""

import json
from typing import Any

import pytest
from tests.packs import KEY, ORIGIN, SIGNER, Log, at, check, kinds

from pgseal.core.checkpoint import Checkpoint, format_checkpoint
from pgseal.core.keys import SignerKey
from pgseal.core.note import sign_note
from pgseal.core.rotation import Rotation, endorse_rotation

NEW = SignerKey(ORIGIN, b"n" * 32)
MALLORY = SignerKey(ORIGIN, b"m" * 32)


def endorsed(rotation: Rotation, old: SignerKey, new: SignerKey) -> dict[str, Any]:
    return {"claimed": {"endorsement": endorse_rotation(rotation, old, new)}}


def rotated(actor: dict[str, Any] | None = None, *, trail: str = "vault", source: str = "system") -> Log:
    """Three leaves, the record of a rotation at leaf 3, one more."""
    log = Log()
    for minute in range(3):
        log.add(at(minute))
    rotation = Rotation(3, NEW.verifier, KEY)
    log.add(
        at(3),
        trail=trail,
        action="KEY_ROTATE",
        relation=None,
        source=source,
        category="administration",
        actor=endorsed(rotation, SIGNER, NEW) if actor is None else actor,
        data=json.dumps(rotation.to_json()),
    )
    log.add(at(4))
    return log


def signed(log: Log, begin: int, end: int, *signers: SignerKey, outside: tuple[int, ...] = (3,), **parts: Any) -> Any:
    members = log.pack(begin, end, outside=[index for index in outside if not begin <= index < end], **parts)
    text = format_checkpoint(Checkpoint(ORIGIN, len(log.entries), log.root))
    return {**members, "checkpoint": sign_note(text, *signers)}


@pytest.mark.parametrize(("begin", "end"), [(0, 2), (0, 5), (3, 4), (4, 5)])
def test_the_old_key_leads_to_the_new_one_by_the_record_within_or_beside_the_range(begin: int, end: int):
    log = rotated()
    for signers in ((NEW,), (SIGNER, NEW)):
        pack = signed(log, begin, end, *signers)
        for key in (KEY, NEW.verifier):
            report = check(pack, key)
            assert report.ok, report.findings
            assert report.checked == end - begin


def test_without_the_record_there_is_no_way_to_the_new_key():
    log = rotated()
    assert kinds(check(signed(log, 0, 2, NEW, outside=()))) == ["signature"]
    assert check(signed(log, 0, 2, NEW, outside=()), NEW.verifier).ok
    for part in ("actor", "data"):
        assert kinds(check(signed(log, 0, 5, NEW, **{part: {3: {"withheld": True}}}))) == ["signature"]
    # And never from the new one to what only the old one signed, nor to anybody else's.
    assert kinds(check(signed(log, 0, 5, SIGNER), NEW.verifier)) == ["signature"]
    assert kinds(check(signed(log, 0, 5, MALLORY))) == ["signature"]


def test_what_only_the_old_key_signed_after_its_time_is_refused():
    log = rotated()
    assert kinds(check(signed(log, 0, 5, SIGNER))) == ["signature"]
    assert kinds(check(signed(log, 0, 2, SIGNER))) == ["signature"]
    # A pack that does not show the record cannot tell; what came before is the old key's.
    assert check(signed(log, 0, 2, SIGNER, outside=())).ok
    log.entries = log.entries[:3]
    assert check(signed(log, 0, 3, SIGNER, outside=())).ok


@pytest.mark.parametrize(
    "log",
    [
        rotated({}),
        rotated({"claimed": {"endorsement": sign_note("pgseal key rotation v1\n{}\n", NEW).decode()}}),
        rotated({"claimed": {"endorsement": "x"}}),
        rotated(trail="clinic"),
        rotated(source="app"),
    ],
)
def test_a_record_that_anybody_can_write_leads_nowhere(log: Log):
    assert kinds(check(signed(log, 0, 5, NEW))) == ["signature"]
    assert kinds(check(signed(log, 0, 2, NEW))) == ["signature"]
    assert check(signed(log, 0, 5, SIGNER)).ok  # nor does it put an end to the old key


def test_a_record_that_is_not_in_the_log_leads_nowhere():
    log = rotated()
    forged = rotated()
    line = forged.proof_line(3)
    forged.add(at(5))
    other = Log([*log.entries[:3], *log.entries[4:]])
    members = other.pack(0, 2, outside=[{**line, "index": 3}])
    text = format_checkpoint(Checkpoint(ORIGIN, len(other.entries), other.root))
    assert kinds(check({**members, "checkpoint": sign_note(text, NEW)})) == ["proof"]
