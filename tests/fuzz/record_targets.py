"""JSON, envelopes, record lines, the data of pgseal's own records, proof files, packs (FORMATS.md sections 1, 4, 5)."""

import io

from tests.fuzz.target import Target, from_database, from_text
from tests.packs import KEY, NAMES, SIGNER, archive, at, check, dump, morning

from pgseal.core.canonical import encode_canonical, parse_canonical_string, parse_json
from pgseal.core.envelope import parse_envelope
from pgseal.core.erasure import parse_erase
from pgseal.core.heartbeat import parse_heartbeat
from pgseal.core.hold import parse_hold, parse_release
from pgseal.core.keys import SignerKey
from pgseal.core.pack import iter_lines, parse_info, parse_proof_line, parse_range_proof
from pgseal.core.proof import InclusionProof, check_proof_file, format_proof_file, parse_proof_file
from pgseal.core.record import parse_leaf_line, parse_record_line
from pgseal.core.recovery import Recovery, Server, parse_recovery
from pgseal.core.retention import Retention, parse_retention
from pgseal.core.rotation import Rotation, endorse_rotation, parse_rotation, read_rotation
from pgseal.errors import FormatError, TamperError
from pgseal.sealer.explained import _parse_recorded
from pgseal.vault.values import format_json, parse_part
from pgseal.verifier.leaves import parse_malformed
from pgseal.verifier.pack_file import PackFile

LOG = morning()
MEMBERS = LOG.pack(actor={3: {"withheld": True}}, data={4: {"erased": 9}}, outside=[2])
LINES = MEMBERS["records.jsonl"].splitlines()
PROOF_LINE = MEMBERS["proofs.jsonl"].splitlines()[0]
PROOF_FILE = format_proof_file(InclusionProof(LINES[2], 2, parse_proof_line(PROOF_LINE).hashes, LOG.note()))

HEARTBEAT = dump({"trails": {"clinic": {"future": [3], "high": at(5), "low": at(6)}}})
ERASE = dump({"leaves": [[0, 2], [4, 5]], "parts": ["actor", "data"], "reason": "asked for"})
HOLD = b'{"hold":"case-1","keys":{"salt":"%s","sha256":["%s"]},"reason":"x","relation":"a.b"}' % (
    b"00" * 32,
    b"ab" * 32,
)
RETENTION = encode_canonical(Retention("clinic", 1, 3, ((0, 2), (5, 9)), "audit.record_2024q1").to_json())
RECOVER = encode_canonical(
    Recovery(
        "clinic", 2, "restored", Server("73", 1), Server("73", 2), 9077, 9000, 0, 3, ((0, 2), (5, 9)), ("a sign",)
    ).to_json()
)
_NEXT = SignerKey(SIGNER.name, b"n" * 32)
_ROTATION = Rotation(3, _NEXT.verifier, SIGNER.verifier)
KEY_ROTATE = encode_canonical(_ROTATION.to_json())
ENDORSED = encode_canonical({"claimed": {"endorsement": endorse_rotation(_ROTATION, SIGNER, _NEXT)}})
_ACTS = (("HEARTBEAT", HEARTBEAT), ("ERASE", ERASE), ("RETENTION", RETENTION), ("RECOVER", RECOVER))


def _parse_json(data: bytes) -> None:
    value = parse_json(data, source="x", max_bytes=1 << 20, max_depth=20)
    try:
        written = encode_canonical(value)
    except FormatError:  # an integer that a double cannot hold
        return
    assert encode_canonical(parse_json(written, source="x", max_bytes=1 << 24, max_depth=20)) == written


def _parse_part(text: str) -> None:
    value = parse_part(text, source="x")
    assert parse_part(format_json(value), source="x") == value


def _read_archive(data: bytes) -> None:
    pack = PackFile(io.BytesIO(data))
    for name in NAMES:
        pack.read(name)


def _check_member(data: bytes) -> None:
    """The first byte chooses a member, whose content the rest is."""
    check(archive(MEMBERS | {NAMES[data[0] % len(NAMES)]: data[1:]} if data else {}, method=0))


def _check_act(data: bytes) -> None:
    """The first byte chooses what kind of record of pgseal's own the rest is the data of, rightly sealed."""
    log = morning()
    action = _ACTS[data[0] % len(_ACTS)][0] if data else "ERASE"
    index = log.act(at(58), action, data[1:].decode("utf-8", "replace").replace("\0", " ") or "{}")
    check(archive(log.pack(data={0: {"erased": index}}), method=0), since=at(10), until=at(50))


TARGETS = [
    Target("json", _parse_json, [dump({"a": [1, 2.5, None, True, '\u00e9\\"']}), b"-0", b'"\\ud83d\\ude00"', b"1e400"]),
    Target(
        "json_string", from_text(lambda text: parse_canonical_string(text, source="x")), [b'"a\\n\\u001f\xc3\xa9"', b""]
    ),
    Target("part", from_text(_parse_part), [b'{"key": {"id": 1.50}, "new": null, "old": [1e99, "x"]}', b'{"a":' * 300]),
    Target("envelope", parse_envelope, [LOG.entries[index].leaf for index in (0, 2)]),
    Target("record_line", parse_record_line, LINES[:6]),
    Target("leaf_line", parse_leaf_line, LINES[:6]),
    Target("proof_line", parse_proof_line, [PROOF_LINE]),
    Target("proof_file", parse_proof_file, [PROOF_FILE]),
    Target("checked_proof", lambda data: check_proof_file(data, [KEY]), [PROOF_FILE], (FormatError, TamperError)),
    Target("heartbeat", parse_heartbeat, [HEARTBEAT]),
    Target("erase", parse_erase, [ERASE]),
    Target("retention", parse_retention, [RETENTION]),
    Target("hold", parse_hold, [HOLD]),
    Target("release", parse_release, [b'{"hold":"case-1","reason":"over"}']),
    Target("recovery", parse_recovery, [RECOVER, RECOVER.replace(b"9077", b"9" * 5000)]),
    Target("rotation", parse_rotation, [KEY_ROTATE]),
    Target("endorsement", lambda actor: read_rotation(KEY_ROTATE, actor), [ENDORSED], (FormatError, TamperError)),
    Target("recorded", from_database(_parse_recorded), [RECOVER], ()),
    Target("malformed", parse_malformed, [b'{"trail":"clinic","id":"-7"}', b'{"trail":"clinic","id":"--7"}'], ()),
    Target("pack_info", parse_info, [MEMBERS["pack.json"]]),
    Target("range_proof", parse_range_proof, [LOG.pack(2, 5)["range-proof"]]),
    Target("lines", lambda data: list(iter_lines([data[:7], data[7:]], source="x", max_bytes=1000)), [b"a\nbc\n\n"]),
    Target("archive", _read_archive, [archive(MEMBERS), archive(MEMBERS, method=0)]),
    Target("pack", check, [archive(MEMBERS)], ()),
    Target("pack_member", _check_member, [bytes([n]) + MEMBERS[name] for n, name in enumerate(NAMES)], ()),
    Target("pack_act", _check_act, [bytes([number]) + data for number, (_, data) in enumerate(_ACTS)], ()),
]
