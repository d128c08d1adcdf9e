"""Packs as an auditor meets them: the published example, right ones of made-up logs, and forged ones."""

import io
import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.packs import EARLY, KEY, NAMES, SIGNER, Json, Log, Members, archive, at, check, dump, kinds, morning

from pgseal.core.keys import KeyType, SignerKey, parse_verifier_key
from pgseal.core.merkle import prove_range
from pgseal.core.note import cosign_note
from pgseal.core.pack_filter import Filter
from pgseal.errors import ConfigError
from pgseal.verifier.pack import check_pack

WITHHELD: Json = {"withheld": True}
THESE_LEAVES = "complete for these leaves only"
HOUR = {"since": at(10), "until": at(50)}


def edit(members: Members, name: str, content: bytes) -> Members:
    return {**members, name: content}


def lines_of(members: Members) -> list[bytes]:
    return members["records.jsonl"].splitlines(keepends=True)


def with_lines(members: Members, lines: list[bytes]) -> Members:
    return edit(members, "records.jsonl", b"".join(lines))


# -- right ones


def test_the_published_example_is_accepted(shared):
    worked = json.loads((shared / "vectors" / "record-v1.json").read_bytes())
    key = parse_verifier_key(worked["vkey"])
    pack = (shared / "vectors" / "pack-v1.zip").read_bytes()
    hour = {"since": "2026-11-23T09:00:00.000000Z", "until": "2026-11-23T09:59:00.000000Z"}

    whole = check(pack, key)
    assert whole.ok
    assert whole.checked == 5
    # The login is about no relation and withheld: it may be about patients.
    patients = check(pack, key, **hour, table="public.patients")
    assert (patients.ok, patients.verdict) == (True, "incomplete")
    assert patients.answer is not None
    assert (patients.answer.matching, patients.answer.withheld) == (3, 1)
    assert check(pack, key, **hour, table="public.patients", action="INSERT").is_complete
    assert check(pack, key, **hour, action="INSERT").is_complete
    assert check(pack, key, **hour, actor="app_rw").verdict == "incomplete"
    assert check(pack, key, since=hour["since"], until="2026-11-23T09:59:59.000001Z", action="INSERT").verdict == (
        THESE_LEAVES
    )
    assert kinds(check(pack, KEY)) == ["signature"]


@pytest.mark.parametrize("method", [0, 8], ids=["stored", "deflated"])
def test_every_range_of_a_log_is_proved(method):
    log = morning()
    for begin in range(10):
        for end in range(begin + 1, 11):
            report = check(archive(log.pack(begin, end), method=method))
            assert report.ok, (begin, end, report.findings)
            assert report.checked == end - begin
            assert report.is_complete == (begin == 0 and end == 10)


def test_a_time_is_answered_in_full_between_heartbeats_and_nowhere_else():
    log = morning()

    assert check(log.pack(2, 9), **HOUR).is_complete
    assert check(log.pack(0, 9), **HOUR).is_complete
    assert check(log.pack(2, 10), **HOUR).is_complete
    for begin, end in ((3, 9), (2, 8), (1, 9), (8, 9)):
        report = check(log.pack(begin, end), **HOUR)
        assert (report.ok, report.verdict) == (True, THESE_LEAVES), (begin, end)
    assert check(log.pack(2, 9), since=at(5, 1), until=at(56)).is_complete
    assert check(log.pack(2, 9), since=at(5), until=at(56)).verdict == THESE_LEAVES
    assert check(log.pack(2, 9), since=at(6), until=at(56, 1)).verdict == THESE_LEAVES
    assert check(log.pack(0, 9), until=at(50)).is_complete
    assert check(log.pack(2, 9), until=at(50)).verdict == THESE_LEAVES
    assert check(log.pack(0, 10), since=at(10)).verdict == THESE_LEAVES


def test_only_a_heartbeat_of_the_vaults_own_trail_that_is_disclosed_and_names_every_trail_bounds_an_answer():
    def pack_with(**beat: Any) -> tuple[Log, Members]:
        log = Log()
        log.add(at(0))
        trails = {name: {"future": [], "high": at(0), "low": at(1)} for name in beat.pop("trails", ("clinic", "vault"))}
        log.act(at(1), "HEARTBEAT", beat.pop("data", {"trails": trails}), **beat)
        log.add(at(20))
        log.beat(at(56), at(20), at(56))
        return log, log.pack(1, 4)

    assert check(pack_with()[1], **HOUR).is_complete
    for beat in (
        {"trail": "clinic"},
        {"source": "app"},
        {"trails": ("vault",)},
        {"trails": ()},
        {"data": {"trails": {"clinic": {"high": at(0), "low": at(1)}}}},
        {"data": "no JSON"},
    ):
        report = check(pack_with(**beat)[1], **HOUR)
        assert (report.ok, report.verdict) == (True, THESE_LEAVES), beat
    log, _ = pack_with()
    assert check(log.pack(1, 4, data={1: WITHHELD}), **HOUR, action="UPDATE").verdict == THESE_LEAVES
    assert check(log.pack(1, 4, data={3: WITHHELD}), **HOUR, action="UPDATE").verdict == THESE_LEAVES
    assert check(log.pack(1, 4, actor={1: WITHHELD, 3: WITHHELD}), **HOUR).is_complete


def test_the_heartbeat_that_ends_an_answer_names_every_trail_too():
    log = Log()
    log.beat(at(6), EARLY, at(6))
    log.add(at(20))
    log.beat(at(56), {"vault": at(6)}, {"vault": at(56)})

    report = check(log.pack(), **HOUR)
    assert (report.ok, report.verdict) == (True, THESE_LEAVES)
    log.beat(at(57), at(56), at(57))
    assert check(log.pack(), **HOUR).is_complete


def test_leaves_stamped_ahead_of_the_clock_have_to_be_in_the_pack():
    log = Log()
    log.add(at(30))  # 0, while it is 09:06
    log.beat(at(6), EARLY, at(6), clinic=[0])  # 1
    log.add(at(20))
    log.beat(at(56), at(30), at(56))

    report = check(log.pack(1, 4), **HOUR)
    assert (report.ok, report.verdict) == (True, THESE_LEAVES)
    assert report.answer is not None
    assert "leaf 0" in report.answer.reasons[0]
    assert check(log.pack(0, 4), **HOUR).is_complete
    assert check(log.pack(1, 4, outside=[0]), **HOUR).is_complete
    assert kinds(check(log.pack(2, 4, outside=[0]), **HOUR)) == ["format"]


def test_what_is_withheld_makes_an_answer_incomplete_if_it_may_match():
    log = morning()

    def verdict(leaf: int, part: str = "data", **wanted: str) -> str:
        report = check(log.pack(2, 9, **{part: {leaf: WITHHELD}}), **HOUR, **wanted)
        assert report.ok
        return report.verdict

    assert verdict(3) == "incomplete"
    assert verdict(3, table="public.visits") == "incomplete"
    assert verdict(3, table="public.patients") == "complete"
    assert verdict(5, table="public.patients") == "incomplete"  # about no relation
    assert verdict(5, table="public.patients", action="UPDATE") == "complete"
    assert verdict(7) == "complete"  # outside the time
    assert verdict(4, actor="dr.okafor") == "incomplete"
    assert verdict(6, actor="dr.okafor") == "complete"
    assert verdict(6, "actor", actor="dr.okafor") == "incomplete"
    assert verdict(7, "actor", actor="dr.okafor") == "incomplete"  # every actor part of the range
    assert verdict(4, "actor") == "complete"
    assert verdict(4, category="data_modification") == "incomplete"
    assert verdict(4, category="authentication") == "complete"
    assert verdict(4, outcome="failure") == "complete"


@pytest.mark.parametrize(
    ("actor", "matches"),
    [
        ({"role": "dr.okafor"}, True),
        ({"authenticated": "dr.okafor"}, True),
        ({"set_role": "dr.okafor"}, True),
        ({"role": "app", "claimed": {"actor": {"id": "dr.okafor", "type": "user"}}}, True),
        ({"role": "app", "claimed": {"actor": "dr"}}, False),
        ({}, False),
        ([], True),  # nothing readable: it cannot be told
    ],
)
def test_an_actor_is_found_under_each_of_its_names(actor, matches):
    log = Log()
    log.add(at(1), actor=actor)
    report = check(log.pack(), actor="dr.okafor")
    assert report.answer is not None
    assert report.is_complete
    assert report.answer.matching == matches


# -- what is erased


def erased(index: int) -> Json:
    return {"erased": index}


def erasing(leaves: list[list[int]], parts: list[str], **act: Any) -> Log:
    log = Log()
    log.add(at(1))
    log.add(at(2))
    log.act(at(3), "ERASE", {"leaves": leaves, "parts": parts, "reason": "asked for"}, **act)
    log.add(at(4))
    return log


def test_an_erased_part_is_explained_by_an_erase_record_in_the_pack_or_beside_it():
    log = erasing([[0, 1]], ["actor", "data"])

    for pack in (
        log.pack(data={0: erased(2)}, actor={0: erased(2)}),
        log.pack(0, 2, data={0: erased(2)}, outside=[2]),
        log.pack(0, 2, data={0: erased(2)}, outside=[log.proof_line(2, actor=WITHHELD)]),
    ):
        report = check(pack)
        assert report.ok, report.findings
        assert report.answer is not None
        assert (report.answer.erased, report.answer.withheld) == (1, 0)


def test_a_retention_record_explains_the_records_of_its_trail_only():
    log = Log()
    log.add(at(1))
    log.add(at(2), incarnation=2)
    log.act(
        at(3), "RETENTION", {"trail": "clinic", "incarnation": 1, "count": 1, "leaves": [[0, 2]], "relation": "a.b"}
    )

    assert check(log.pack(data={0: erased(2)})).ok
    assert kinds(check(log.pack(data={1: erased(2)}))) == ["unauthorized_erasure"]


@pytest.mark.parametrize(
    ("log", "part", "leaf", "allowed_by"),
    [
        (erasing([[0, 1]], ["actor"]), "data", 0, 2),
        (erasing([[0, 1]], ["data"]), "data", 1, 2),
        (erasing([[0, 4]], ["data"]), "data", 3, 2),  # leaves after its own
        (erasing([[0, 1]], ["data"]), "data", 0, 1),
        (erasing([[0, 1]], ["data"]), "data", 0, 9),
        (erasing([[0, 1]], ["data"], trail="clinic"), "data", 0, 2),
        (erasing([[0, 1]], ["data"], source="app"), "data", 0, 2),
        (erasing([[1, 0]], ["data"]), "data", 0, 2),
        (erasing([[0, 1]], ["everything"]), "data", 0, 2),
    ],
    ids=["part", "leaf", "later", "no erase", "no leaf", "trail", "source", "ranges", "form"],
)
def test_what_no_record_allows_is_an_unauthorized_erasure(log, part, leaf, allowed_by):
    report = check(log.pack(**{part: {leaf: erased(allowed_by)}}))
    assert kinds(report) == ["unauthorized_erasure"]
    assert report.findings[0].index == leaf


def test_an_erase_record_that_is_withheld_or_missing_allows_nothing():
    log = erasing([[0, 1]], ["data"])
    assert kinds(check(log.pack(data={0: erased(2), 2: WITHHELD}))) == ["unauthorized_erasure"]
    assert kinds(check(log.pack(0, 2, data={0: erased(2)}))) == ["unauthorized_erasure"]
    withheld = log.proof_line(2, data=WITHHELD)
    assert kinds(check(log.pack(0, 2, data={0: erased(2)}, outside=[withheld]))) == ["unauthorized_erasure"]


# -- forged ones


def test_each_kind_of_change_to_a_line_is_found_and_named():
    members = morning().pack()
    lines = lines_of(members)

    def changed(old: bytes, new: bytes) -> list[str]:
        assert old in lines[4]
        return kinds(check(with_lines(members, [*lines[:4], lines[4].replace(old, new, 1), *lines[5:]])))

    assert changed(b"dr.okafor", b"dr.mallory") == ["altered_record"]
    assert changed(b'{\\"id\\": 4}', b'{\\"id\\": 5}') == ["altered_record"]
    assert changed(b'"UPDATE"', b'"DELETE"') == ["proof"]
    assert changed(b'"outcome":"success"', b'"outcome":"denied"') == ["proof"]
    assert changed(b'"index":4', b'"index":40') == ["forged_record"]
    assert changed(b'"index":4', b'"index":3') == ["forged_record"]
    assert changed(b'"index":4', b'"index":5') == ["missing_record"]
    assert changed(b'"v":1', b'"v":1 ') == ["format"]
    assert changed(b'"v":1', b'"v":2') == ["format"]
    report = check(with_lines(members, [*lines[:4], lines[4].replace(b"okafor", b"okafoR"), *lines[5:]]))
    finding = report.findings[0]
    assert (finding.where, finding.trail, finding.id, finding.index) == ("pack", "clinic", 5, 4)


def test_lines_dropped_added_or_reordered_are_found():
    members = morning().pack()
    lines = lines_of(members)

    assert kinds(check(with_lines(members, lines[1:]))) == ["missing_record"]
    assert kinds(check(with_lines(members, lines[:-1]))) == ["missing_record"]
    assert kinds(check(with_lines(members, lines[:5] + lines[6:]))) == ["missing_record"]
    assert kinds(check(with_lines(members, []))) == ["missing_record"]
    assert kinds(check(with_lines(members, [*lines, lines[-1]]))) == ["forged_record"]
    assert kinds(check(with_lines(members, [lines[0], *lines]))) == ["forged_record"]
    assert kinds(check(with_lines(members, [lines[0], lines[2], lines[1], *lines[3:]]))) == ["missing_record"]
    assert kinds(check(with_lines(members, [*lines[:-1], lines[-1][:-1]]))) == ["format"]
    assert kinds(check(with_lines(members, [*lines, b"\n"]))) == ["format"]
    # Swapped, with indexes to match.
    swapped = [lines[2].replace(b'"index":2', b'"index":1'), lines[1].replace(b'"index":1', b'"index":2')]
    assert kinds(check(with_lines(members, [lines[0], *swapped, *lines[3:]]))) == ["proof"]


def test_a_range_that_is_cut_is_another_pack_and_says_so():
    """Whoever cuts a pack at its end can prove what is left; the answer is no longer complete."""
    log = morning()
    cut = log.pack(2, 8)

    assert check(cut, **HOUR).verdict == THESE_LEAVES
    info = log.pack(2, 9)["pack.json"]
    assert kinds(check(edit(cut, "pack.json", info), **HOUR)) == ["missing_record"]


def test_a_range_proof_of_another_range_or_size_fails():
    log = morning()
    members = log.pack(3, 6)
    for proof in (
        prove_range(3, 7, 10, log.reader()),
        prove_range(3, 6, 9, log.reader(9)),
        prove_range(3, 6, 10, log.reader())[1:],
        [*prove_range(3, 6, 10, log.reader()), bytes(32)],
        list(reversed(prove_range(3, 6, 10, log.reader()))),
    ):
        text = b"".join(b64encode(hash_) + b"\n" for hash_ in proof)
        assert kinds(check(edit(members, "range-proof", text))) == ["proof"]
    for text in (b"\n", b"?\n", b"AAAA\n", "é\n".encode(), b"A" * 43 + b"=\n" * 200):
        assert kinds(check(edit(members, "range-proof", text))) == ["format"]


def test_a_checkpoint_of_another_tree_size_or_key_fails():
    log, other = morning(), morning()
    other.add(at(58))
    members = log.pack()

    assert kinds(check(edit(members, "checkpoint", other.note()))) == ["proof"]
    assert kinds(check(edit(members, "checkpoint", log.note(size=9)))) == ["proof"]
    mallory = SignerKey(SIGNER.name, bytes(32))
    assert kinds(check(log.pack(signer=mallory))) == ["signature"]
    assert kinds(check(log.pack(signer=SignerKey("example.org/other", bytes(range(32)))))) == ["signature"]
    assert kinds(check(edit(members, "checkpoint", log.note().replace(b"\n10\n", b"\n11\n")))) == ["signature"]
    assert kinds(check(edit(members, "checkpoint", b"nothing"))) == ["format"]


def test_cosignatures_stand_under_a_checkpoint_and_do_not_replace_the_logs_signature():
    log = morning()
    members = log.pack()
    witness = SignerKey("witness.example/w1", bytes(32), KeyType.COSIGNATURE)
    text = members["checkpoint"].decode().partition("\n\n")[0] + "\n"
    line = cosign_note(text, witness, 1795600800).encode()

    assert check(edit(members, "checkpoint", members["checkpoint"] + line)).is_complete
    assert kinds(check(edit(members, "checkpoint", text.encode() + b"\n" + line))) == ["signature"]
    with pytest.raises(ConfigError):
        check(members, witness.verifier)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": True},
        {"begin": -1},
        {"begin": 10},
        {"end": 0},
        {"end": 2**53},
        {"begin": 0.5},
        {"begin": "0"},
        {"filter": []},
        {"origin": 1},
        {"origin": "example.org/other"},
        {"more": 1},
    ],
    ids=repr,
)
def test_pack_json_that_is_none_is_refused(change):
    members = morning().pack()
    info = {**json.loads(members["pack.json"]), **change}
    assert kinds(check(edit(members, "pack.json", dump(info)))) == ["format"]


def test_pack_json_is_never_trusted():
    log = morning()
    members = log.pack(3, 6)
    info = json.loads(members["pack.json"])

    assert kinds(check(edit(members, "pack.json", dump({**info, "end": 11})))) == ["proof"]
    assert kinds(check(edit(members, "pack.json", dump({**info, "end": 7})))) == ["missing_record"]
    assert kinds(check(edit(members, "pack.json", dump({**info, "begin": 2})))) == ["proof"]
    claimed = {**info, "filter": {"since": at(10), "until": at(50)}, "vkey": "whatever"}
    assert check(edit(members, "pack.json", dump(claimed))).verdict == THESE_LEAVES


def test_records_beside_the_range_need_their_proof_and_a_reason():
    log = erasing([[0, 1]], ["data"])
    members = log.pack(0, 2, data={0: erased(2)}, outside=[2])
    line = json.loads(members["proofs.jsonl"])

    def with_proofs(*lines: Json) -> list[str]:
        return kinds(check(edit(members, "proofs.jsonl", b"".join(dump(one) + b"\n" for one in lines))))

    assert with_proofs({**line, "proof": line["proof"][:-1]}) == ["proof"]
    assert with_proofs({**line, "proof": [*line["proof"], line["proof"][0]]}) == ["proof"]
    assert with_proofs({**line, "index": 3}) == ["proof"]
    assert with_proofs({**line, "index": 1}) == ["format"]  # stands in the range
    assert with_proofs(line, line) == ["format"]
    assert with_proofs(line, log.proof_line(3)) == ["format"]  # nothing refers to it
    assert with_proofs({name: value for name, value in line.items() if name != "proof"}) == ["format"]
    text = line["data"]["text"].replace("asked for", "mistake")
    assert "altered_record" in with_proofs({**line, "data": {**line["data"], "text": text}})


@pytest.mark.parametrize("source", ["records.jsonl", "proofs.jsonl"])
def test_lines_without_end_are_refused_before_they_fill_memory(source):
    members = edit(morning().pack(), source, b" " * (65 << 20))
    report = check(members)
    assert kinds(report) == ["format"]
    assert "67108864 bytes in line 1" in report.findings[0].detail


def test_a_leaf_that_contradicts_a_heartbeat_is_found():
    late, early = Log(), Log()
    late.beat(at(6), EARLY, at(6))
    late.add(at(20))
    late.add(at(5, 59))
    early.add(at(20))
    early.beat(at(30), at(19), at(30))

    assert kinds(check(late.pack())) == ["time_bound"]
    assert check(late.pack()).findings[0].index == 2
    assert check(late.pack(1, 3)).ok  # nothing in there says otherwise
    assert kinds(check(early.pack())) == ["time_bound"]
    assert check(early.pack(1, 2)).ok


def test_a_record_beside_the_range_can_contradict_a_heartbeat_too():
    log = erasing([[0, 1]], ["data"])
    log.entries.insert(1, log.entries.pop())  # any order will do
    beat = Log()
    beat.add(at(1))
    beat.beat(at(6), at(1), at(6))
    beat.act(at(3), "ERASE", {"leaves": [[0, 1]], "parts": ["data"], "reason": None})

    assert kinds(check(beat.pack(0, 2, data={0: erased(2)}, outside=[2]))) == ["time_bound"]


# -- any change at all

SMALL = Log()
SMALL.add(at(1), data={"key": 1})
SMALL.act(at(2), "ERASE", {"leaves": [[0, 1]], "parts": ["data"], "reason": "x"})
SMALL.add(at(3), actor={})
SMALL_PACK = SMALL.pack(0, 1, data={0: erased(1)}, outside=[1])
ARCHIVE = archive(SMALL_PACK, method=0)
DIRECTORY = ARCHIVE.index(b"PK\x01\x02")


def harmless_bytes() -> set[int]:
    """What may differ without meaning anything: who made the archive, and attributes of its members."""
    harmless: set[int] = set()
    begin = DIRECTORY
    for name in NAMES:
        harmless |= {begin + 4, begin + 5, *range(begin + 36, begin + 42)}
        begin += 46 + len(name)
    return harmless


HARMLESS = harmless_bytes()


def test_the_pack_that_is_changed_below_is_right():
    assert check(ARCHIVE).ok


@given(st.integers(0, len(ARCHIVE) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(position, change):
    changed = bytearray(ARCHIVE)
    changed[position] ^= change
    report = check(bytes(changed))
    assert not report.ok or position in HARMLESS


@given(st.integers(0, len(ARCHIVE)), st.binary(max_size=40), st.integers(0, 40))
def test_no_bytes_can_be_put_in_or_left_out(position, added, removed):
    changed = ARCHIVE[:position] + added + ARCHIVE[position + removed :]
    if changed != ARCHIVE and len(changed) != len(ARCHIVE):
        assert not check(changed).ok


@given(st.data())
def test_no_changed_byte_of_a_member_goes_unnoticed_either(data):
    name = data.draw(st.sampled_from(["checkpoint", "range-proof", "records.jsonl", "proofs.jsonl"]))
    content = bytearray(SMALL_PACK[name])
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    assert not check(edit(SMALL_PACK, name, bytes(content))).ok


@given(st.binary(max_size=400))
def test_anything_at_all_can_be_given(data):
    report = check_pack(io.BytesIO(data), KEY, Filter())
    assert kinds(report) == ["format"]


@given(st.sampled_from(NAMES[:5]), st.binary(max_size=300))
@settings(max_examples=100)
def test_anything_at_all_can_stand_in_a_member(name, content):
    if content != SMALL_PACK[name] and content != SMALL_PACK[name].rstrip(b"\n"):
        assert not check(edit(SMALL_PACK, name, content)).ok


def test_the_file_is_named_where_it_gets_shorter():
    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(size)[:-1]

    report = check_pack(Shrinking(ARCHIVE), KEY, Filter())
    assert "shorter while it was read" in report.findings[0].detail
