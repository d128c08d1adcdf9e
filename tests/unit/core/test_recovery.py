"""RECOVER records: their form."""

import json

import pytest

from pgseal.core.canonical import encode_canonical
from pgseal.core.recovery import Recovery, Server, parse_recovery
from pgseal.errors import FormatError

SERVER = {"system_identifier": "7300000000000000001", "timeline": 1}
GOOD = {
    "trail": "clinic",
    "incarnation": 2,
    "kind": "restored",
    "signs": ["its transaction counter is behind what was sealed"],
    "reason": None,
    "old": SERVER,
    "new": SERVER | {"timeline": 2},
    "last_id": "9077",
    "matching": 9000,
    "base_id": "0",
    "lost": {"count": 3, "leaves": [[0, 2], [5, 9]]},
    "unconfirmed": [],
}


def test_what_is_written_is_read():
    old, new = Server(SERVER["system_identifier"], 1), Server(SERVER["system_identifier"], 2)
    signs = tuple(GOOD["signs"])
    recovery = Recovery("clinic", 2, "restored", old, new, 9077, 9000, 0, 3, ((0, 2), (5, 9)), signs)
    assert recovery.to_json() == GOOD
    assert parse_recovery(encode_canonical(recovery.to_json())) == recovery


@pytest.mark.parametrize(
    "change",
    [
        {"incarnation": 1},
        {"incarnation": True},
        {"kind": "magic"},
        {"trail": None},
        {"signs": "none"},
        {"reason": 7},
        {"old": None},
        {"new": {"system_identifier": 7, "timeline": 1}},
        {"new": SERVER | {"timeline": 0}},
        {"new": SERVER | {"more": 0}},
        {"last_id": 9077},
        {"last_id": "-1"},
        {"base_id": "007"},
        {"base_id": "\u0663"},
        {"matching": -1},
        {"lost": {"count": 0, "leaves": [[0, 2]]}},
        {"lost": {"count": 1, "leaves": []}},
        {"lost": {"count": 7, "leaves": [[0, 2], [5, 9]]}},
        {"lost": {"count": 3, "leaves": [[5, 9], [0, 2]]}},
        {"lost": {"count": 3, "leaves": [[0, 5], [5, 9]]}},
        {"lost": {"count": 3, "leaves": {}}},
        {"lost": []},
        {"unconfirmed": None},
        {"unconfirmed": [[2, 1]]},
        {"more": 1},
    ],
    ids=json.dumps,
)
def test_anything_else_is_refused(change):
    with pytest.raises(FormatError):
        parse_recovery(json.dumps(GOOD | change).encode())


def test_a_missing_member_is_refused():
    for name in GOOD:
        with pytest.raises(FormatError):
            parse_recovery(json.dumps({key: value for key, value in GOOD.items() if key != name}).encode())
