"""Row filters as text: what is parsed, the one form that they are written in, and where an error is."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgseal.errors import ConfigError
from pgseal.trail.catalog import make_column
from pgseal.trail.conditions import check_filter, format_condition, format_stored
from pgseal.trail.filter import (
    Comparison,
    Filter,
    Group,
    Not,
    format_filter,
    list_columns,
    parse_filter,
    rename_columns,
)

names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
constants = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.decimals(-(10**9), 10**9, places=3),
)
comparisons = st.one_of(
    st.builds(
        lambda name, sign, one: Comparison(name, sign, (one,)),
        names,
        st.sampled_from(["=", "<>", "<", ">="]),
        constants,
    ),
    st.builds(
        lambda name, many: Comparison(name, "in", tuple(many)), names, st.lists(constants, min_size=1, max_size=3)
    ),
    st.builds(lambda name: Comparison(name, "null"), names),
)
filters = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(
            lambda word, parts: Group(word, tuple(parts)),
            st.sampled_from(["and", "or"]),
            st.lists(inner, min_size=2, max_size=3),
        ),
    ),
    max_leaves=8,
)


@given(filters)
def test_what_is_written_is_parsed_again(found: Filter):
    text = format_filter(found)
    assert parse_filter(text) == found
    assert format_filter(parse_filter(text)) == text


@given(st.text(st.sampled_from("ab'\"()=<>!,.- 01iNotandrsul\n\0é")))
def test_what_cannot_be_parsed_is_an_error_with_its_place(text: str):
    try:
        assert parse_filter(format_filter(parse_filter(text)))
    except ConfigError as error:
        place = int(str(error).removeprefix("where, character ").split(":")[0])
        assert 1 <= place <= len(text) + 1


def test_precedence_names_and_spaces():
    found = parse_filter('A=1 or\tB <> \'x\'\'y\' and not "C ""d"""  in(-2.50,+3)\n and e is NOT null')
    assert found == Group(
        "or",
        (
            Comparison("a", "=", (1,)),
            Group(
                "and",
                (
                    Comparison("b", "<>", ("x'y",)),
                    Not(Comparison('C "d"', "in", (Decimal("-2.50"), 3))),
                    Not(Comparison("e", "null")),
                ),
            ),
        ),
    )
    assert format_filter(found) == 'a = 1 or (b <> \'x\'\'y\' and "C ""d""" not in (-2.50, 3) and e is not null)'
    assert list_columns(found) == ["a", "b", 'C "d"', "e"]
    assert list_columns(rename_columns(found, {"b": "z", "e": "y"})) == ["a", "z", 'C "d"', "y"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "where, character 1: expected a column, got the end"),
        ("a", "where, character 2: expected = <> != < <= > >=, in or is after 'a', got the end"),
        ("a = b", "where, character 5: expected a 'text', a number, true or false, got b"),
        ("1 < a", "where, character 1: expected a column, got 1"),
        ("a = 1 and", "where, character 10: expected a column, got the end"),
        ("(a = 1", "where, character 7: expected 'and', 'or' or ')', got the end"),
        ("a = 1) or b = 2", "where, character 6: expected 'and', 'or' or the end, got )"),
        ("a in ()", "where, character 7: expected a 'text', a number, true or false, got )"),
        ("a not = 1", "where, character 7: expected 'in', got ="),
        ("a is 5", "where, character 6: expected 'null' or 'not null', got 5"),
        ("a = 1e5", "where, character 5: '1' cannot stand here"),
        ("a = E'x'", "where, character 5: expected a 'text', a number, true or false, got E"),
        ("a = 'x\0y'", "where, character 5: an unclosed text cannot stand here"),
        ("a::text = 'x'", "where, character 2: ':' cannot stand here"),
        ("(" * 60 + "a = 1", "where, character 51: nested more than 50 deep"),
        ("not " * 60 + "a = 1", "where, character 201: nested more than 50 deep"),
        ("a = '" + "x" * 4000 + "'", "where: expected at most 4000 characters, got 4006"),
    ],
)
def test_errors_name_their_place(text: str, expected: str):
    with pytest.raises(ConfigError) as caught:
        parse_filter(text)
    assert str(caught.value) == expected


COLUMNS = tuple(
    make_column(number, name, oid, kind)
    for number, (name, oid, kind) in enumerate(
        [("id", 23, "b"), ("v", 25, "b"), ("at", 1184, "b"), ("mood", 99999, "e")], 1
    )
)


def test_what_postgresql_gets_names_everything_in_full():
    """Nothing in it is looked up by search path, and constants are in the form that no setting changes."""
    found = parse_filter("id in (1, 2) and at >= '2026-11-23T12:00+03:00' and not v < 'a''b\\' and mood = 'good'")
    check_filter(found, "public.t", COLUMNS, [])
    assert format_condition(found, COLUMNS, "new").as_string() == (
        '(((audit.exactly("new"."id", NULL::"pg_catalog"."int4")) OPERATOR(pg_catalog.=) '
        "ANY (ARRAY['1', '2']::\"pg_catalog\".\"int8\"[])) AND "
        '((audit.exactly("new"."at", NULL::"pg_catalog"."timestamptz")) OPERATOR(pg_catalog.>=) '
        '\'2026-11-23 09:00:00+00:00\'::"pg_catalog"."timestamptz") AND '
        '(NOT ((audit.exactly("new"."v", NULL::"pg_catalog"."text")) COLLATE pg_catalog."C" OPERATOR(pg_catalog.<) '
        " E'a''b\\\\'::\"pg_catalog\".\"text\")) AND "
        '((CASE WHEN "new"."mood" IS NOT NULL THEN format(\'%s\', "new"."mood") END) COLLATE pg_catalog."C" '
        'OPERATOR(pg_catalog.=) \'good\'::"pg_catalog"."text"))'
    )


def test_what_is_stored_knows_columns_by_number_and_type():
    stored = format_stored(parse_filter("mood = 'good' or id > 5"), COLUMNS)
    assert stored["where"] == "mood = 'good' or id > 5"
    assert stored["columns"] == [
        {"number": 1, "name": "id", "type": 23}, {"number": 4, "name": "mood", "type": 99999},
    ]  # fmt: skip
    assert '"tested"."4"' in stored["test"]
    assert "mood" not in stored["test"]
