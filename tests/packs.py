"""Evidence packs of logs that are made up: right ones, and forged ones.

Written from FORMATS.md with the standard library's zipfile, json and hashlib as far as that goes, so that a mistake of
the code under test does not hide here.
"""

import io
import json
import zipfile
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from pgseal.core.checkpoint import Checkpoint, format_checkpoint
from pgseal.core.keys import SignerKey, VerifierKey
from pgseal.core.merkle import leaf_hashes, prove_inclusion, prove_range, tree_root
from pgseal.core.note import sign_note
from pgseal.core.pack_filter import Filter
from pgseal.verifier.pack import PackReport, check_pack

ORIGIN = "example.org/made-up"
SIGNER = SignerKey(ORIGIN, bytes(range(32)))
KEY = SIGNER.verifier
NAMES = ("pack.json", "checkpoint", "range-proof", "records.jsonl", "proofs.jsonl", "README.txt")
EARLY = "1970-01-01T00:00:00.000000Z"

Json = dict[str, Any]
Members = dict[str, bytes]


def at(minute: int, second: int = 0) -> str:
    """A time of the made-up morning."""
    return f"2026-11-23T{9 + minute // 60:02d}:{minute % 60:02d}:{second:02d}.000000Z"


def dump(value: Any) -> bytes:
    """JSON as RFC 8785 writes it, for values without numbers but integers and names in ASCII."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def commit(letter: bytes, salt: bytes, text: str) -> str:
    return sha256(b"\x02" + letter + salt + text.encode()).hexdigest()


@dataclass
class Entry:
    """One record: its envelope, and the salt and text of both parts."""

    envelope: Json
    actor: tuple[bytes, str]
    data: tuple[bytes, str]

    @property
    def leaf(self) -> bytes:
        return dump(self.envelope)


@dataclass
class Log:
    """A log that grows record by record."""

    entries: list[Entry] = field(default_factory=list[Entry])

    def add(
        self,
        time: str,
        *,
        trail: str = "clinic",
        action: str = "UPDATE",
        relation: str | None = "public.patients",
        source: str = "row",
        category: str = "data_modification",
        actor: Any = None,
        data: Any = None,
        outcome: str = "success",
        incarnation: int = 1,
    ) -> int:
        """Add a record; its leaf index."""
        index = len(self.entries)
        actor_text = json.dumps({"role": "app"} if actor is None else actor)
        data_text = data if isinstance(data, str) else json.dumps({"key": {"id": index}} if data is None else data)
        actor_salt, data_salt = (sha256(b"%b %d" % (name, index)).digest() for name in (b"actor", b"data"))
        envelope = {
            "v": 1, "trail": trail, "incarnation": incarnation, "id": str(index + 1), "time": time,
            "xid": str(700 + index), "source": source, "category": category, "action": action,
            "outcome": outcome, "relation": relation,
            "commitments": {
                "actor": commit(b"A", actor_salt, actor_text), "data": commit(b"D", data_salt, data_text),
            },
        }  # fmt: skip
        self.entries.append(Entry(envelope, (actor_salt, actor_text), (data_salt, data_text)))
        return index

    def act(self, time: str, action: str, data: Any, *, trail: str = "vault", source: str = "system") -> int:
        """Add a record of pgseal's own."""
        return self.add(
            time,
            trail=trail,
            action=action,
            relation=None,
            source=source,
            category="administration",
            actor={},
            data=data,
        )

    def beat(self, time: str, high: Mapping[str, str] | str, low: Mapping[str, str] | str, **future: list[int]) -> int:
        """Add a HEARTBEAT; one time stands for both trails."""
        highs = {"clinic": high, "vault": high} if isinstance(high, str) else high
        lows = {"clinic": low, "vault": low} if isinstance(low, str) else low
        trails = {trail: {"future": future.get(trail, []), "high": highs[trail], "low": lows[trail]} for trail in highs}
        return self.act(time, "HEARTBEAT", {"trails": trails})

    # -- packs

    @property
    def hashes(self) -> list[bytes]:
        return leaf_hashes([entry.leaf for entry in self.entries])

    @property
    def root(self) -> bytes:
        return tree_root(self.hashes)

    def note(self, signer: SignerKey = SIGNER, size: int | None = None) -> bytes:
        hashes = self.hashes[:size]
        return sign_note(format_checkpoint(Checkpoint(signer.name, len(hashes), tree_root(hashes))), signer)

    def reader(self, size: int | None = None) -> Callable[[Sequence[tuple[int, int]]], list[bytes]]:
        hashes = self.hashes[:size]
        return lambda coordinates: [
            tree_root(hashes[index << level : (index + 1) << level]) for level, index in coordinates
        ]

    def line(self, index: int, **parts: Json) -> Json:
        """The record line of a leaf; ``actor`` and ``data`` replace what is disclosed otherwise."""
        entry = self.entries[index]
        disclosed = {
            name: {"salt": b64encode(salt).decode(), "text": text}
            for name, (salt, text) in (("actor", entry.actor), ("data", entry.data))
        }
        return {**disclosed, **parts, "envelope": entry.envelope, "index": index}

    def proof_line(self, index: int, **parts: Json) -> Json:
        proof = prove_inclusion(index, len(self.entries), self.reader())
        return {**self.line(index, **parts), "proof": [b64encode(hash_).decode() for hash_ in proof]}

    def pack(
        self,
        begin: int = 0,
        end: int | None = None,
        *,
        lines: Sequence[Json] | None = None,
        outside: Sequence[int | Json] = (),
        signer: SignerKey = SIGNER,
        **parts: Mapping[int, Json],
    ) -> Members:
        """The members of a pack; ``actor`` and ``data`` give, by leaf index, what stands for a part."""
        size = len(self.entries)
        end = size if end is None else end
        proof = prove_range(begin, end, size, self.reader())
        if lines is None:
            lines = [
                self.line(index, **{name: by_index[index] for name, by_index in parts.items() if index in by_index})
                for index in range(begin, end)
            ]
        proved = [self.proof_line(one) if isinstance(one, int) else one for one in outside]
        info = {
            "v": 1, "origin": signer.name, "vkey": str(signer.verifier), "begin": begin, "end": end, "filter": {},
            "created": at(0), "tool": "tests",
        }  # fmt: skip
        return {
            "pack.json": dump(info),
            "checkpoint": self.note(signer),
            "range-proof": b"".join(b64encode(hash_) + b"\n" for hash_ in proof),
            "records.jsonl": b"".join(dump(line) + b"\n" for line in lines),
            "proofs.jsonl": b"".join(dump(line) + b"\n" for line in proved),
            "README.txt": b"made up\n",
        }


def archive(members: Mapping[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A ZIP archive as the standard library makes it."""
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return output.getvalue()


def check(pack: Mapping[str, bytes] | bytes, key: VerifierKey = KEY, **wanted: str) -> PackReport:
    """What the verifier says of a pack, given as its members or as the whole file."""
    data = pack if isinstance(pack, bytes) else archive(pack)
    return check_pack(io.BytesIO(data), key, Filter(**wanted))


def kinds(report: PackReport) -> list[str]:
    assert not report.ok
    assert report.verdict == "not ok"
    assert not report.is_complete
    return [finding.kind for finding in report.findings]


def morning() -> Log:
    """A log with a complete hour in it, from leaf 2 to leaf 8: [09:10, 09:50)."""
    log = Log()
    log.add(at(0), action="INSERT")  # 0
    log.add(at(5))  # 1
    log.beat(at(6), at(5), at(6))  # 2
    log.add(at(12), relation="public.visits")  # 3
    log.add(at(20), actor={"role": "app", "claimed": {"actor": "dr.okafor"}})  # 4
    log.act(at(25), "LOGIN", {}, source="app")  # 5
    log.add(at(40), action="DELETE", actor={"role": "admin"})  # 6
    log.add(at(55))  # 7
    log.beat(at(56), at(55), at(56))  # 8
    log.add(at(57))  # 9
    return log
