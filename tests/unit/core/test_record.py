"""Envelopes, commitments and record lines: the worked example byte for byte, and strictness."""

import base64
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import envelopes, record_lines

from pgseal.core.merkle import leaf_hash
from pgseal.core.record import (
    CATEGORIES,
    MAX_LEAF_BYTES,
    OUTCOMES,
    SOURCES,
    DisclosedPart,
    Envelope,
    ErasedPart,
    Part,
    RecordLine,
    WithheldPart,
    check_record_line,
    commit_part,
    format_envelope,
    format_record_line,
    parse_envelope,
    parse_record_line,
)
from pgseal.errors import AlteredRecordError, FormatError

ENVELOPE = Envelope(
    trail="clinic",
    incarnation=1,
    id=42,
    time="2026-11-23T09:14:02.118000Z",
    xid=7431,
    source="row",
    category="data_modification",
    action="INSERT",
    outcome="success",
    relation="public.patients",
    actor_commitment=commit_part(Part.ACTOR, bytes(32), b'{"role":"app"}'),
    data_commitment=commit_part(Part.DATA, bytes(range(32)), b"{}"),
)
LINE = RecordLine(
    actor=DisclosedPart(bytes(32), b'{"role":"app"}'),
    data=DisclosedPart(bytes(range(32)), b"{}"),
    envelope=ENVELOPE,
    index=7,
)
LEAF = format_envelope(ENVELOPE)


def _members():
    return json.loads(LEAF)


def _dump(value: Any):
    # Canonical for what these tests change, also where RFC 8785 itself refuses.
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@pytest.fixture(scope="module")
def example(vector: Callable[[str], bytes]):
    return json.loads(vector("record-v1.json"))


@pytest.fixture(scope="module")
def pack_lines(vector: Callable[[str], bytes]):
    with zipfile.ZipFile(io.BytesIO(vector("pack-v1.zip"))) as pack:
        return pack.read("records.jsonl").splitlines()


def test_worked_example_is_reproduced_byte_for_byte(example: dict[str, Any]):
    assert len(example["records"]) == 5
    for record in example["records"]:
        members = record["envelope"]
        envelope = Envelope(
            trail=members["trail"],
            incarnation=members["incarnation"],
            id=int(members["id"]),
            time=members["time"],
            xid=int(members["xid"]),
            source=members["source"],
            category=members["category"],
            action=members["action"],
            outcome=members["outcome"],
            relation=members["relation"],
            actor_commitment=_commit(Part.ACTOR, record["actor"]),
            data_commitment=_commit(Part.DATA, record["data"]),
        )
        assert format_envelope(envelope) == record["leaf_data"].encode()
        assert parse_envelope(record["leaf_data"].encode()) == envelope
        assert leaf_hash(format_envelope(envelope)) == base64.b64decode(record["leaf_hash"])


def _commit(part: Part, disclosed: dict[str, str]):
    return commit_part(part, base64.b64decode(disclosed["salt"]), disclosed["text"].encode())


def test_lines_of_the_example_pack_parse_check_and_format_back(pack_lines: list[bytes], example: dict[str, Any]):
    assert len(pack_lines) == 5
    for index, data in enumerate(pack_lines):
        line = parse_record_line(data)
        check_record_line(line)
        assert line.index == index
        assert format_record_line(line) == data
        assert format_envelope(line.envelope) == example["records"][index]["leaf_data"].encode()
    assert parse_record_line(pack_lines[3]).actor == WithheldPart()


def test_words_are_those_of_the_specification():
    assert SOURCES == ("row", "ddl", "statement", "session", "app", "catalog", "system")
    assert set(CATEGORIES) == {
        "authentication",
        "authorization",
        "data_access",
        "data_modification",
        "configuration",
        "administration",
    }
    assert OUTCOMES == ("success", "failure", "denied", "unknown")


def test_commitment_is_the_hash_of_domain_part_salt_and_text():
    salt = bytes(range(32))
    assert commit_part(Part.ACTOR, salt, b"{}") == sha256(b"\x02A" + salt + b"{}").digest()
    assert commit_part(Part.DATA, salt, b"{}") == sha256(b"\x02D" + salt + b"{}").digest()


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_commitment_refuses_salts_of_other_lengths(length: int):
    with pytest.raises(FormatError, match="salt of 32 bytes"):
        commit_part(Part.DATA, bytes(length), b"{}")


@given(envelopes)
def test_envelope_reads_back_and_is_canonical(envelope: Envelope):
    leaf_data = format_envelope(envelope)
    assert parse_envelope(leaf_data) == envelope
    assert rfc8785.dumps(json.loads(leaf_data)) == leaf_data


@pytest.mark.parametrize(
    "change",
    [
        {"trail": ""},
        {"trail": "Clinic"},
        {"trail": "a" * 64},
        {"trail": "a\n"},
        {"incarnation": 0},
        {"incarnation": 2**53},
        {"id": 0},
        {"id": -1},
        {"id": 2**63},
        {"time": "2026-11-23T09:14:02Z"},
        {"time": "2026-02-30T00:00:00.000000Z"},
        {"xid": -1},
        {"xid": 2**64},
        {"source": "rows"},
        {"category": "data"},
        {"action": "insert"},
        {"action": "A" * 64},
        {"action": ""},
        {"outcome": "ok"},
        {"relation": "patients"},
        {"relation": 'public."patients"'},
        {"relation": 'public."' + "a" * MAX_LEAF_BYTES + '"'},
        {"actor_commitment": bytes(31)},
        {"data_commitment": bytes(33)},
    ],
)
def test_envelopes_that_break_a_rule_are_refused(change: dict[str, Any]):
    with pytest.raises(FormatError):
        format_envelope(replace(ENVELOPE, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": True},
        {"v": "1"},
        {"incarnation": 0},
        {"incarnation": True},
        {"incarnation": "1"},
        {"incarnation": 2**53},
        {"id": 42},
        {"id": "042"},
        {"id": "0"},
        {"id": "+42"},
        {"id": str(2**63)},
        {"xid": "07431"},
        {"xid": str(2**64)},
        {"xid": 7431},
        {"time": "2026-02-30T00:00:00.000000Z"},
        {"time": None},
        {"trail": "CLINIC"},
        {"relation": "patients"},
        {"relation": 'public."patients"'},
        {"relation": 5},
        {"relation": False},
        {"source": "Row"},
        {"outcome": None},
        {"commitments": {"actor": "00" * 32}},
        {"commitments": {"actor": "00" * 32, "data": "00" * 31}},
        {"commitments": {"actor": "00" * 32, "data": "AA" * 32}},
        {"commitments": {"actor": "00" * 32, "data": " " + "0" * 63}},
        {"commitments": {"actor": "00" * 32, "data": "00" * 32, "more": "00" * 32}},
        {"commitments": []},
        {"extra": 1},
    ],
)
def test_leaves_that_break_a_rule_are_refused_though_canonical(change: dict[str, Any]):
    with pytest.raises(FormatError):
        parse_envelope(_dump(_members() | change))


@pytest.mark.parametrize("name", list(_members()))
def test_leaves_without_a_member_are_refused(name: str):
    members = _members()
    del members[name]
    with pytest.raises(FormatError, match=name):
        parse_envelope(rfc8785.dumps(members))


@pytest.mark.parametrize(
    "leaf_data",
    [
        LEAF + b"\n",
        b" " + LEAF,
        json.dumps(_members()).encode(),
        LEAF.replace(b'"v":1', b'"v":1.0'),
        LEAF.replace(b"public.patients", b"public.p\\u0061tients"),
        LEAF.replace(b'"public.patients"', b'"public.\\"a\\u000a\\""'),
        LEAF.replace(b'"public.patients"', b'"public.\\"\\ud800\\""'),
        LEAF.replace(b'"public.patients"', b'"public.\xff"'),
        LEAF.replace(b'"action":"INSERT",', b'"action":"INSERT","action":"INSERT",'),
        json.dumps(dict(reversed(_members().items())), separators=(",", ":")).encode(),
        b"null",
        b"[]",
        b"",
    ],
)
def test_other_bytes_of_the_same_envelope_are_refused(leaf_data: bytes):
    assert leaf_data != LEAF
    with pytest.raises(FormatError) as caught:
        parse_envelope(leaf_data, source="entry 7")
    assert caught.value.source == "entry 7"


def test_refusals_say_what_is_wrong():
    with pytest.raises(FormatError, match="newer pgseal"):
        parse_envelope(rfc8785.dumps(_members() | {"v": 2}))
    with pytest.raises(FormatError, match="unknown \\['extra'\\]"):
        parse_envelope(rfc8785.dumps(_members() | {"extra": 2}))
    with pytest.raises(FormatError, match="canonical"):
        parse_envelope(json.dumps(_members()).encode())


@given(st.integers(0, len(LEAF) - 1), st.integers(1, 255))
def test_a_leaf_with_one_byte_changed_is_refused_or_another_record(position: int, flip: int):
    changed = LEAF[:position] + bytes([LEAF[position] ^ flip]) + LEAF[position + 1 :]
    try:
        envelope = parse_envelope(changed)
    except FormatError:
        return
    assert envelope != ENVELOPE
    assert format_envelope(envelope) == changed


@given(record_lines)
def test_record_line_reads_back_and_is_canonical(line: RecordLine):
    data = format_record_line(line)
    assert parse_record_line(data) == line
    assert rfc8785.dumps(json.loads(data)) == data


def test_disclosed_parts_that_match_are_accepted():
    check_record_line(LINE)
    check_record_line(replace(LINE, actor=WithheldPart(), data=ErasedPart(9)))


@pytest.mark.parametrize(
    "change",
    [
        {"actor": DisclosedPart(bytes(32), b'{"role":"root"}')},
        {"actor": DisclosedPart(bytes(31) + b"\1", b'{"role":"app"}')},
        {"data": DisclosedPart(bytes(range(32)), b"{} ")},
        {"data": DisclosedPart(bytes(32), b'{"role":"app"}')},
        {"actor": LINE.data, "data": LINE.actor},
    ],
)
def test_disclosed_parts_that_were_changed_name_the_record(change: dict[str, Any]):
    with pytest.raises(AlteredRecordError) as caught:
        check_record_line(replace(LINE, **change))
    assert (caught.value.trail, caught.value.record_id, caught.value.leaf_index) == ("clinic", 42, 7)


@pytest.mark.parametrize(
    "change",
    [
        {"index": -1},
        {"index": True},
        {"index": 1.5},
        {"index": "7"},
        {"index": 2**53},
        {"actor": {"withheld": False}},
        {"actor": {"withheld": 1}},
        {"actor": {"withheld": True, "erased": 1}},
        {"actor": {"erased": -1}},
        {"actor": {"erased": True}},
        {"actor": {"erased": "1"}},
        {"actor": {"salt": base64.b64encode(bytes(31)).decode(), "text": "{}"}},
        {"actor": {"salt": base64.b64encode(bytes(32)).decode().rstrip("="), "text": "{}"}},
        {"actor": {"salt": "A" * 42 + "B=", "text": "{}"}},
        {"actor": {"salt": base64.b64encode(bytes(32)).decode(), "text": {}}},
        {"actor": {"salt": base64.b64encode(bytes(32)).decode()}},
        {"actor": {}},
        {"actor": None},
        {"actor": "withheld"},
        {"envelope": None},
        {"more": 1},
    ],
)
def test_record_lines_that_break_a_rule_are_refused_though_canonical(change: dict[str, Any]):
    line = json.loads(format_record_line(LINE)) | change
    with pytest.raises(FormatError):
        parse_record_line(_dump(line))


def test_record_lines_in_other_bytes_are_refused():
    data = format_record_line(LINE)
    for other in (data + b"\n", json.dumps(json.loads(data)).encode(), data.replace(b'"{}"', b'"\\u007b}"')):
        assert json.loads(other) == json.loads(data)
        with pytest.raises(FormatError):
            parse_record_line(other)


def test_refused_record_lines_say_what_is_wrong():
    line = json.loads(format_record_line(LINE))
    for change, words in (
        ({"more": 1}, "unknown \\['more'\\]"),
        ({"actor": {"withheld": False}}, "withheld to be true"),
        ({"data": {"salt": "AAAA", "text": "{}"}}, "base64 of 32 bytes"),
        ({"index": -1}, "leaf index"),
        ({"envelope": line["envelope"] | {"v": 2}}, "newer pgseal"),
    ):
        with pytest.raises(FormatError, match=words):
            parse_record_line(_dump(line | change))
    with pytest.raises(FormatError, match="canonical"):
        parse_record_line(json.dumps(line).encode())


@given(st.integers(0, len(format_record_line(LINE)) - 1), st.integers(1, 255))
def test_a_record_line_with_one_byte_changed_is_refused_or_another_line(position: int, flip: int):
    data = format_record_line(LINE)
    changed = data[:position] + bytes([data[position] ^ flip]) + data[position + 1 :]
    try:
        line = parse_record_line(changed)
    except FormatError:
        return
    assert line != LINE
    assert format_record_line(line) == changed


def test_record_lines_are_bounded():
    data = format_record_line(LINE)
    assert parse_record_line(data, max_bytes=len(data)) == LINE
    with pytest.raises(FormatError, match="at most"):
        parse_record_line(data, max_bytes=len(data) - 1)


def test_parts_that_are_not_utf8_cannot_be_written():
    with pytest.raises(FormatError, match="UTF-8"):
        format_record_line(replace(LINE, data=DisclosedPart(bytes(32), b"\xff")))


@given(st.binary(max_size=100))
def test_arbitrary_bytes_raise_format_error(data: bytes):
    for parse in (parse_envelope, parse_record_line):
        with pytest.raises(FormatError):
            parse(data)
