"""Times and relation names have one spelling each."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import identifiers, moments

from pgseal.core.record import format_relation, format_time, parse_relation, parse_time
from pgseal.errors import FormatError


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (1_795_425_242_118_000, "2026-11-23T09:14:02.118000Z"),
        (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
        (-62_135_596_800_000_000, "0001-01-01T00:00:00.000000Z"),
        (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_times_of_known_moments(microseconds: int, text: str):
    assert format_time(microseconds) == text
    assert parse_time(text) == microseconds


@given(moments)
def test_times_read_back_and_name_the_moment(microseconds: int):
    text = format_time(microseconds)
    assert parse_time(text) == microseconds
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z") - epoch == timedelta(microseconds=microseconds)


@pytest.mark.parametrize("microseconds", [-62_135_596_800_000_001, 253_402_300_800_000_000, 2**63, -(2**63)])
def test_times_outside_four_digit_years_are_refused(microseconds: int):
    with pytest.raises(FormatError, match="0001 to 9999"):
        format_time(microseconds)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23T09:14:02Z",
        "2026-11-23T09:14:02.118Z",
        "2026-11-23T09:14:02.1180000Z",
        "2026-11-23 09:14:02.118000Z",
        "2026-11-23T09:14:02.118000+00:00",
        "2026-11-23T09:14:02.118000z",
        "2026-11-23T24:00:00.000000Z",
        "2026-11-23T23:59:60.000000Z",
        "2026-02-29T00:00:00.000000Z",
        "2026-13-01T00:00:00.000000Z",
        "0000-01-01T00:00:00.000000Z",
        "2026-11-23T09:14:02.118000Z\n",
        "٢٠٢٦-11-23T09:14:02.118000Z",
        "infinity",
        "",
    ],
)
def test_other_spellings_of_times_are_refused(text: str):
    with pytest.raises(FormatError):
        parse_time(text)


@pytest.mark.parametrize(
    ("schema", "name", "text"),
    [
        ("public", "patients", "public.patients"),
        ("public", "user", "public.user"),
        ("_x", "t1", "_x.t1"),
        ("public", 'Odd "Name"', 'public."Odd ""Name"""'),
        ("Public", "t", '"Public".t'),
        ("public", "1t", 'public."1t"'),
        ("public", "a$b", 'public."a$b"'),
        ("a.b", "c.d", '"a.b"."c.d"'),
        ("public", "é", 'public."é"'),
        ("public", "a\n", 'public."a\n"'),
        ('"', '"."', '"""".""".""' + '"'),
    ],
)
def test_relations_quote_what_is_not_bare(schema: str, name: str, text: str):
    assert format_relation(schema, name) == text
    assert parse_relation(text) == (schema, name)


@given(identifiers, identifiers)
def test_relations_read_back(schema: str, name: str):
    assert parse_relation(format_relation(schema, name)) == (schema, name)


@pytest.mark.parametrize(
    "text",
    [
        "patients",
        "a.b.c",
        "public.",
        ".t",
        'public."t"',
        '"public".t',
        "Public.t",
        "public.1t",
        'public.""',
        '"".t',
        'public."a"b"',
        'public."a',
        "public.a b",
        'public."a\x00"',
        "public.t\n",
        " public.t",
        "",
    ],
)
def test_other_spellings_of_relations_are_refused(text: str):
    with pytest.raises(FormatError):
        parse_relation(text)


@pytest.mark.parametrize(("schema", "name"), [("", "t"), ("s", ""), ("s", "a\0b"), ("s", "\ud800")])
def test_names_postgresql_cannot_hold_are_refused(schema: str, name: str):
    with pytest.raises(FormatError):
        format_relation(schema, name)


@given(st.text(max_size=30))
def test_arbitrary_text_raises_nothing_but_format_error(text: str):
    for parse in (parse_time, parse_relation):
        with pytest.raises(FormatError):
            parse("?" + text)
