r"""Cosignatures: what a witness says about a checkpoint, and how many of them are asked for (C2SP tlog-cosignature).

A witness signs ``cosignature/v1\ntime <decimal>\n ‖ checkpoint``: "at this time, this checkpoint was consistent with
every one I signed before". ``note`` makes and verifies such lines, and ``keys`` has the type of their keys; here is
what a log and a verifier do with them:

- ``take_cosignature`` takes one witness's line from its answer, and nothing else that the answer may hold;
- ``WitnessPolicy`` says which witnesses count and how many are needed. Each key counts once;
- a time tells when the witness looked, by its own clock. It is believed within ``MAX_CLOCK_SECONDS``: a cosignature
  from further in the future counts for nothing.

A policy is written ``any 2``, or ``any 2 of paris, oslo, lima`` where not all that are configured count.

Specs: https://c2sp.org/tlog-cosignature, FORMATS.md section 2.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pgseal.core.encoding import shorten
from pgseal.core.keys import KeyType, VerifierKey
from pgseal.core.note import Signature, open_note, parse_note, select_signatures
from pgseal.errors import FormatError, SignatureError

#: How far a witness's clock and ours may differ.
MAX_CLOCK_SECONDS = 300
#: Bytes of the longest answer to add-checkpoint that is read: a few lines.
MAX_ANSWER_BYTES = 16 * 1024
#: Names of witnesses in a policy have no commas; a policy has at most so many witnesses.
MAX_WITNESSES = 32

_POLICY = re.compile(r"any ([1-9][0-9]?)(?: of (.+))?")


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A verified cosignature: the line as it stands in notes, newline included, and its time (Unix epoch, seconds)."""

    line: str
    timestamp: int


@dataclass(frozen=True, slots=True)
class WitnessPolicy:
    """At least ``needed`` of the witnesses with these ``keys`` (by name) have cosigned."""

    needed: int
    keys: Mapping[str, VerifierKey]

    def __str__(self) -> str:
        """Return the policy as it is written in full."""
        return f"any {self.needed} of {', '.join(self.keys)}"

    def find_cosigners(self, signatures: Iterable[Signature], now: float) -> dict[str, int]:
        """Return the witnesses whose verified signatures count, with their times; ``now`` is the reader's clock."""
        times = {signature.key: signature.timestamp for signature in signatures}
        found: dict[str, int] = {}
        for name, key in self.keys.items():
            time = times.get(key)
            if time is not None and time <= now + MAX_CLOCK_SECONDS:
                found[name] = time
        return found

    def is_met(self, cosigners: Iterable[str]) -> bool:
        """Return whether the witnesses named are enough."""
        return len(self.keys.keys() & set(cosigners)) >= self.needed


def parse_policy(text: str, keys: Mapping[str, VerifierKey], *, source: str = "witness policy") -> WitnessPolicy:
    """Return the policy that ``text`` writes, over the witnesses whose ``keys`` are known by name.

    Raises ``FormatError`` for a witness that is unknown or named twice, and for a number that cannot be met.
    """
    match = _POLICY.fullmatch(text)
    if match is None:
        raise FormatError(
            f"expected a policy such as 'any 2' or 'any 2 of paris, oslo, lima', got {shorten(text)}", source=source
        )
    names = list(keys) if match[2] is None else [name.strip() for name in match[2].split(",")]
    for name in names:
        if name not in keys:
            raise FormatError(f"there is no witness {shorten(name)}; known are {', '.join(keys)}", source=source)
        if names.count(name) > 1:
            raise FormatError(f"witness {shorten(name)} stands here twice", source=source)
    needed = int(match[1])
    if needed > len(names):
        raise FormatError(f"expected at most the {len(names)} witnesses there are, got {needed}", source=source)
    return WitnessPolicy(needed, {name: keys[name] for name in names})


def check_witness_key(key: VerifierKey, *, source: str = "verifier key") -> None:
    """Raise ``FormatError`` unless ``key`` is a witness's (type 0x04)."""
    if key.type is not KeyType.COSIGNATURE:
        raise FormatError(f"{key.name!r} is a key that signs logs (type 0x01), not a witness's (0x04)", source=source)


def take_cosignature(
    note: bytes, answer: bytes, key: VerifierKey, *, source: str = "answer of the witness"
) -> Cosignature:
    """Return the cosignature of ``key`` over the text of ``note`` that a witness's ``answer`` holds.

    Lines of other keys are ignored. Raises ``FormatError`` if the answer is no signature lines, ``SignatureError`` if
    the key's is missing or wrong.
    """
    if len(answer) > MAX_ANSWER_BYTES:
        raise FormatError(f"expected at most {MAX_ANSWER_BYTES} bytes, got {len(answer)}", source=source)
    text, _ = parse_note(note)
    cosigned = text.encode("utf-8") + b"\n" + answer
    if parse_note(cosigned, source=source)[0] != text:  # an empty line in the answer would move the split
        raise FormatError("expected signature lines and nothing else", source=source)
    opened = open_note(cosigned, [key], source=source)
    (line,) = select_signatures(cosigned, [key])
    timestamp = opened.signatures[0].timestamp
    if timestamp is None:
        raise SignatureError(f"{key.name!r} has no key for cosignatures", where=source)
    return Cosignature(line, timestamp)


def check_time(timestamp: int, earliest: float, latest: float, *, where: str = "") -> None:
    """Raise ``SignatureError`` unless a cosignature that was just made says so, within ``MAX_CLOCK_SECONDS``.

    It was made between ``earliest`` and ``latest`` by our clock.
    """
    if not earliest - MAX_CLOCK_SECONDS <= timestamp <= latest + MAX_CLOCK_SECONDS:
        ahead = timestamp - latest
        what = f"{abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} our clock"
        raise SignatureError(
            f"its cosignature says time {timestamp}, {what}; expected at most {MAX_CLOCK_SECONDS} s: "
            "set up time synchronisation on both sides",
            where=where,
        )
