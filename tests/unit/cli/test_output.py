import json
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgseal.cli.options import parse_record_name, parse_when
from pgseal.cli.output import format_count, format_duration, format_moment, printable
from pgseal.errors import ConfigError
from pgseal.vault.values import format_json, parse_part


@given(st.text())
def test_nothing_printed_moves_the_cursor(text):
    shown = printable(text)

    assert not any(character < " " or "\x7f" <= character <= "\x9f" for character in shown)
    assert "\u202e" not in shown


def test_numbers_and_durations_are_for_people():
    assert format_count(18204, "record") == "18,204 records"
    assert format_count(1, "leaf", "leaves") == "1 leaf"
    assert [format_duration(seconds) for seconds in (0.041, 0.6, 42, 600, 7200, 300000)] == [
        "41 ms",
        "0.6 s",
        "42 s",
        "10 min",
        "2 h",
        "3 days",
    ]


def test_times_are_shown_to_the_millisecond():
    assert format_moment("2026-11-23T09:14:02.118999Z", utc=True) == "2026-11-23 09:14:02.118"


def test_when_is_a_time_or_how_long_ago():
    assert parse_when("2026-11-23 09:14", "--since", utc=True) == "2026-11-23T09:14:00+00:00"
    assert parse_when("2026-11-23T09:14+02:00", "--since", utc=True) == "2026-11-23T07:14:00+00:00"
    assert datetime.fromisoformat(parse_when("2h", "--since", utc=False)).tzinfo
    with pytest.raises(ConfigError, match="--until: expected a date"):
        parse_when("tomorrow", "--until", utc=True)


def test_record_names():
    assert parse_record_name("clinic/9077") == ("clinic", 9077, None)
    assert parse_record_name("#9077") == (None, 9077, None)
    assert parse_record_name("clinic/9077@2") == ("clinic", 9077, 2)
    for wrong in ("", "0", "-1", "clinic/", "a/b/1", "9223372036854775808", "9077@", "9077@0", "@2"):
        with pytest.raises(ConfigError):
            parse_record_name(wrong)


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_of_parts_survives(value):
    text = json.dumps({"key": value})

    assert json.loads(format_json(parse_part(text, source="test"))) == {"key": value}


def test_no_digit_of_a_number_is_lost():
    text = '{"n":12345678901234567890.123456789012345678900,"m":1e400}'

    assert format_json(parse_part(text, source="test")) == text
