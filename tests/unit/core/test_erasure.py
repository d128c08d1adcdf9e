"""ERASE, HOLD and RELEASE records: their form, and what they cover."""

import json

import pytest

from pgseal.core.canonical import encode_canonical
from pgseal.core.erasure import MAX_RANGES, Erased, Erasure, parse_erase, split_leaves
from pgseal.core.hold import Hold, Release, hash_key, parse_hold, parse_release
from pgseal.errors import FormatError

GOOD = {"leaves": [[0, 2], [5, 9]], "parts": ["actor", "data"], "reason": "request 1"}
SALT = bytes(range(32))
HOLD = {"hold": "case-1", "relation": "public.item", "keys": {"salt": SALT.hex(), "sha256": ["ab" * 32]}, "reason": "x"}


def test_what_is_written_is_read():
    erasure = Erasure(((0, 2), (5, 9)), ("actor", "data"), "request 1")
    assert erasure.to_json() == GOOD
    assert parse_erase(encode_canonical(erasure.to_json())) == erasure
    hold = Hold("case-1", "public.item", SALT, ("ab" * 32,), "x")
    assert hold.to_json() == HOLD
    assert parse_hold(encode_canonical(hold.to_json())) == hold
    whole = Hold("case-2", None, None, None, "x")
    assert parse_hold(encode_canonical(whole.to_json())) == whole
    release = Release("case-1", "over")
    assert parse_release(encode_canonical(release.to_json())) == release


@pytest.mark.parametrize(
    "change",
    [
        {"leaves": [[5, 9], [0, 2]]},
        {"leaves": [[0, 2], [2, 9]]},
        {"leaves": None},
        {"parts": []},
        {"parts": ["key"]},
        {"parts": "data"},
        {"approved_by": "j.doe"},
    ],
    ids=json.dumps,
)
def test_another_erase_is_refused(change):
    with pytest.raises(FormatError):
        parse_erase(json.dumps(GOOD | change).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"hold": 1},
        {"relation": None},
        {"relation": 7},
        {"keys": {"salt": SALT.hex()}},
        {"keys": {"salt": "00", "sha256": []}},
        {"keys": {"salt": SALT.hex(), "sha256": ["AB" * 32]}},
        {"keys": {"salt": SALT.hex(), "sha256": "ab" * 32}},
        {"reason": None},
        {"more": 1},
    ],
    ids=json.dumps,
)
def test_another_hold_is_refused(change):
    with pytest.raises(FormatError):
        parse_hold(json.dumps(HOLD | change).encode())


@pytest.mark.parametrize("data", [{"hold": "a"}, {"hold": 1, "reason": "x"}, {"hold": "a", "reason": "x", "by": "y"}])
def test_another_release_is_refused(data):
    with pytest.raises(FormatError):
        parse_release(json.dumps(data).encode())


def test_an_erasure_covers_its_parts_of_leaves_before_its_own():
    erased = Erased([(6, Erasure(((0, 2), (5, 9)), ("data",), "")), (20, Erasure(((6, 7),), ("actor",), ""))])
    assert [leaf for leaf in range(12) if erased.allows(leaf, "data")] == [0, 1, 5]
    assert [leaf for leaf in range(12) if erased.allows(leaf, "actor")] == [6]
    assert not Erased()


def test_many_leaves_make_several_records():
    leaves = range(0, 2 * MAX_RANGES + 2, 2)
    found = split_leaves(leaves, ["data"], "x")
    assert [len(one.leaves) for one in found] == [MAX_RANGES, 1]
    assert [begin for one in found for begin, _ in one.leaves] == list(leaves)
    assert split_leaves([3, 1, 2], ["data"], "x")[0].leaves == ((1, 4),)


def test_what_a_hold_covers():
    row = Hold("a", "public.item", SALT, (hash_key(SALT, "public.item", '{"id":7}'),), "x")
    assert row.covers("public.item", ['{"id":1}', '{"id":7}'])
    assert not row.covers("public.item", ['{"id":1}'])
    assert not row.covers("public.other", ['{"id":7}'])
    assert not row.covers(None, ['{"id":7}'])
    table = Hold("a", "public.item", None, None, "x")
    assert table.covers("public.item")
    assert not table.covers("public.other")
    assert Hold("a", None, None, None, "x").covers(None)
