"""The fifty lines of docs/reference/verify-by-hand.md, on packs that are right and on packs that are not."""

import json
import subprocess

import pytest
from tests.docs.markdown import ROOT, blocks
from tests.docs.node import find_node
from tests.packs import KEY, SIGNER, Log, at, dump, morning

from pgseal.core.keys import SignerKey

PROGRAM = next(blocks(ROOT / "docs" / "reference" / "verify-by-hand.md", "js")).text
WITHHELD = {"withheld": True}


@pytest.fixture
def by_hand(tmp_path):
    (tmp_path / "check.mjs").write_text(PROGRAM, encoding="utf-8")

    def run(members, *question, key=KEY):
        for name, content in members.items():
            (tmp_path / name).write_bytes(content)
        done = subprocess.run(
            [find_node(), tmp_path / "check.mjs", tmp_path, str(key), *question],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.stderr == ""
        assert done.returncode == int(done.stdout.startswith("NOT OK"))
        return done.stdout

    return run


def test_it_has_fifty_lines():
    assert len([line for line in PROGRAM.splitlines() if line]) <= 50


def test_it_says_of_right_packs_what_we_say(by_hand):
    log = morning()
    hour = (at(10), at(50))

    assert by_hand(log.pack()) == "ok: leaves 0 to 9 of 10, 10 match\ncomplete\n"
    assert by_hand(log.pack(3, 6)) == "ok: leaves 3 to 5 of 10, 3 match\ncomplete for these leaves only\n"
    assert by_hand(log.pack(2, 9), *hour) == "ok: leaves 2 to 8 of 10, 4 match\ncomplete\n"
    assert "these leaves only" in by_hand(log.pack(3, 9), *hour)
    assert "these leaves only" in by_hand(log.pack(2, 8), *hour)
    assert by_hand(log.pack(2, 9), *hour, "public.visits") == "ok: leaves 2 to 8 of 10, 2 match\ncomplete\n"
    assert by_hand(log.pack(2, 9, data={4: WITHHELD}), *hour, "public.visits").endswith("\ncomplete\n")
    assert by_hand(log.pack(2, 9, data={5: WITHHELD}), *hour, "public.visits").endswith(
        "incomplete: data withheld of leaf 5\n"
    )


def test_it_refuses_forged_packs(by_hand):
    log = morning()
    members = log.pack(2, 9)
    lines = members["records.jsonl"].splitlines(keepends=True)

    def forged(*lines, **others):
        return by_hand({**members, "records.jsonl": b"".join(lines), **others}).strip()

    assert forged(*lines).startswith("ok")
    assert forged(lines[0], lines[1].replace(b"app", b"dba"), *lines[2:]) == "NOT OK: altered_record: actor of leaf 3"
    assert forged(lines[0], lines[1].replace(b"UPDATE", b"DELETE"), *lines[2:]) == "NOT OK: proof: not the signed root"
    assert forged(*lines[1:]) == "NOT OK: missing_record: leaf 2"
    assert forged(*lines[:3], *lines[4:]) == "NOT OK: missing_record: leaf 5"
    assert forged(lines[1], lines[0], *lines[2:]) == "NOT OK: missing_record: leaf 2"
    assert forged(*lines, lines[-1]).startswith("NOT OK: proof")
    assert forged(*lines, **{"range-proof": log.pack(2, 8)["range-proof"]}).startswith("NOT OK: proof")
    assert forged(*lines, checkpoint=log.note(size=9)).startswith("NOT OK: proof")
    mallory = SignerKey(SIGNER.name, bytes(32))
    assert forged(*lines, checkpoint=log.note(mallory)).startswith("NOT OK: signature")
    assert by_hand(members, key=mallory.verifier).startswith("NOT OK: signature")


def test_it_asks_why_something_is_erased(by_hand):
    log = Log()
    log.add(at(1))
    log.add(at(2))
    log.act(at(3), "ERASE", {"leaves": [[0, 1]], "parts": ["data"], "reason": "asked for"})

    assert by_hand(log.pack(data={0: {"erased": 2}})).startswith("ok")
    beside = log.pack(0, 2, data={0: {"erased": 2}}, outside=[2])
    assert by_hand(beside).startswith("ok")
    line = json.loads(beside["proofs.jsonl"])
    line["proof"].append(line["proof"][0])
    assert by_hand({**beside, "proofs.jsonl": dump(line) + b"\n"}).startswith("NOT OK: proof: leaf 2")
    for pack in (
        log.pack(data={1: {"erased": 2}}),
        log.pack(actor={0: {"erased": 2}}),
        log.pack(0, 2, data={0: {"erased": 2}}),
        log.pack(data={0: {"erased": 2}, 2: WITHHELD}),
    ):
        assert by_hand(pack).startswith("NOT OK: unauthorized_erasure")
