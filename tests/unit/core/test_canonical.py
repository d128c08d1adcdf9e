"""Canonical JSON against RFC 8785's own tables and another implementation; the strict parser against nonsense."""

import json
import struct
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import json_values

from pgseal.core.canonical import encode_canonical, format_number, parse_json
from pgseal.errors import FormatError

# RFC 8785 appendix B: IEEE 754 bits in hex, and what ECMAScript prints.
NUMBERS = [
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]


@pytest.mark.parametrize(("bits", "text"), NUMBERS)
def test_numbers_print_as_in_rfc_8785_appendix_b(bits: str, text: str):
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert format_number(value) == text


@pytest.mark.parametrize("bits", ["7fffffffffffffff", "7ff0000000000000", "fff0000000000000"])
def test_nan_and_infinities_are_refused(bits: str):
    with pytest.raises(FormatError, match="finite"):
        encode_canonical(struct.unpack(">d", bytes.fromhex(bits))[0])


def test_members_sort_by_utf16_code_units_as_in_rfc_8785_section_3_2_3():
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\x80", "\u00f6"]
    encoded = encode_canonical(dict.fromkeys(names, 0))
    assert list(json.loads(encoded)) == ["\r", "1", "\x80", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def test_example_of_rfc_8785_section_3_2_2():
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": '\u20ac$\u000f\nA\'B"\\\\"/',
        "literals": [None, True, False],
    }
    assert (
        encode_canonical(value)
        == (
            '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
            '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
        ).encode()
    )


def test_control_characters_have_the_shortest_escape_and_del_has_none():
    assert encode_canonical("\b\t\n\f\r\x00\x1f\x7f\u2028") == b'"\\b\\t\\n\\f\\r\\u0000\\u001f\x7f\xe2\x80\xa8"'


@given(json_values)
def test_agrees_with_an_independent_implementation(value: Any):
    assert encode_canonical(value) == rfc8785.dumps(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_reads_back_as_itself(value: float):
    assert float(format_number(value)) == value


@pytest.mark.parametrize(
    "value",
    [
        2**53,
        -(2**53),
        10**400,
        "\ud800",
        "a\udfff",
        {"\ud83d": 1},
        {1: "number"},
        {None: 1},
        {"a": {b"b": 1}},
        b"bytes",
        {1, 2},
        [object()],
    ],
)
def test_what_has_no_canonical_form_is_refused(value: Any):
    with pytest.raises(FormatError):
        encode_canonical(value)


def test_largest_safe_integers_are_accepted():
    assert encode_canonical([2**53 - 1, -(2**53) + 1]) == b"[9007199254740991,-9007199254740991]"


def test_a_list_that_holds_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(FormatError, match="deeper"):
        encode_canonical(value)


def _parse(data: bytes, max_bytes: int = 10_000, max_depth: int = 10):
    return parse_json(data, source="test", max_bytes=max_bytes, max_depth=max_depth)


def _as_doubles(value: Any):
    # A large double without a fraction is written as an integer, and only as a double is that the same number.
    if isinstance(value, list):
        return [_as_doubles(item) for item in value]
    if isinstance(value, dict):
        return {name: _as_doubles(item) for name, item in value.items()}
    return float(value) if isinstance(value, int) else value


@given(json_values)
def test_parse_reads_what_encode_wrote(value: Any):
    encoded = encode_canonical(value)
    assert _as_doubles(parse_json(encoded, source="test", max_bytes=len(encoded), max_depth=50)) == value


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (b"", 0),
        (b"\xef\xbb\xbf{}", 0),
        (b'{"a":1} x', 8),
        ('{"é":1}}'.encode(), 8),
        (b"{'a':1}", 1),
        (b"[1,]", None),
        (b"[01]", None),
        (b"[1.]", None),
        (b"[+1]", 1),
        (b"[.5]", 1),
        (b'["\n"]', 2),
        (b'["\\x"]', 2),
        (b'["\xff"]', 2),
        (b'["\xed\xa0\x80"]', 2),
        (b"[NaN]", None),
        (b"[Infinity]", None),
        (b"[-Infinity]", None),
        (b"[1e400]", None),
        (b"[" + b"9" * 5000 + b"]", None),
        (b'{"a":1,"a":2}', None),
        (b'{"a":1,"\\u0061":2}', None),
        (b'["\\ud800"]', None),
        (b'[{"\\uDFFF":0}]', None),
        ("[\N{ARABIC-INDIC DIGIT ONE}]".encode(), 1),
        (b"\x00", 0),
        ("[1]".encode("utf-16"), None),
    ],
)
def test_doubtful_json_is_refused_with_its_place(data: bytes, offset: int | None):
    with pytest.raises(FormatError) as caught:
        _parse(data)
    assert caught.value.source == "test"
    if offset is not None:
        assert caught.value.offset == offset


def test_surrogate_pairs_are_one_character():
    assert _parse(b'["\\ud83d\\ude00"]') == ["😀"]


def test_size_is_bounded():
    assert _parse(b"[1]", max_bytes=3) == [1]
    with pytest.raises(FormatError, match="at most 2 bytes"):
        _parse(b"[1]", max_bytes=2)


def test_depth_is_bounded_and_brackets_in_strings_do_not_count():
    assert _parse(b'[["[[[[{{{{\\"[[["]]', max_depth=2) == [['[[[[{{{{"[[[']]
    assert _parse(b"[[],[],[],{}]", max_depth=2) == [[], [], [], {}]
    with pytest.raises(FormatError, match="deeper") as caught:
        _parse(b'["[",[[]]]', max_depth=2)
    assert caught.value.offset == 6


def test_a_hundred_thousand_brackets_are_refused_whatever_depth_is_allowed():
    for max_depth in (5, 10**9):
        with pytest.raises(FormatError):
            _parse(b"[" * 100_000, max_bytes=10**6, max_depth=max_depth)


@given(st.binary(max_size=60) | st.text('{}[]":,\\ud8e019.-aNn ', max_size=30).map(str.encode))
def test_arbitrary_bytes_raise_nothing_but_format_error(data: bytes):
    try:
        value = _parse(data, max_depth=3)
    except FormatError:
        return
    assert json.loads(data) == value
