"""RETENTION records: their form."""

import json

import pytest

from pgseal.core.canonical import encode_canonical
from pgseal.core.retention import Retention, parse_retention
from pgseal.errors import FormatError

GOOD = {"trail": "clinic", "incarnation": 1, "count": 3, "leaves": [[0, 2], [5, 9]], "relation": "audit.record_2024q1"}


def test_what_is_written_is_read():
    retention = Retention("clinic", 1, 3, ((0, 2), (5, 9)), "audit.record_2024q1")
    assert retention.to_json() == GOOD
    assert parse_retention(encode_canonical(retention.to_json())) == retention


@pytest.mark.parametrize(
    "change",
    [
        {"leaves": []},
        {"leaves": {}},
        {"leaves": None},
        {"leaves": [[0, 2], [1, 9]]},
        {"leaves": [[0, 2], [2, 9]]},
        {"leaves": [[5, 9], [0, 2]]},
        {"leaves": [[2, 2]]},
        {"leaves": [[-1, 2]]},
        {"leaves": [[0, 2, 4]]},
        {"leaves": [[0.0, 2]]},
        {"leaves": [[False, True]]},
        {"leaves": [7]},
        {"count": 0},
        {"count": 7},
        {"count": True},
        {"count": "3"},
        {"incarnation": 0},
        {"trail": None},
        {"relation": None},
        {"more": 1},
    ],
    ids=json.dumps,
)
def test_anything_else_is_refused(change):
    with pytest.raises(FormatError):
        parse_retention(json.dumps(GOOD | change).encode())


def test_a_missing_member_is_refused():
    for name in GOOD:
        with pytest.raises(FormatError):
            parse_retention(json.dumps({key: value for key, value in GOOD.items() if key != name}).encode())
