"""JSON of record parts, read whatever an application has put there."""

import json

import pytest

from pgseal.errors import FormatError
from pgseal.vault.values import MAX_DEPTH, format_json, parse_part


def nest(depth: int, inner: str = "1") -> str:
    return '{"a":' * depth + inner + "}" * depth


def test_numbers_stay_what_they_were():
    text = '{"n":1.50,"e":1E+400,"big":12345678901234567890}'
    assert format_json(parse_part(text, source="x")) == text


@pytest.mark.parametrize("depth", [1, MAX_DEPTH - 1])
def test_what_is_not_too_deep_is_read_as_it_is(depth: int):
    assert format_json(parse_part(nest(depth), source="x")) == nest(depth)


def test_what_is_too_deep_is_given_as_text():
    texts = [nest(100_000), nest(100_000, '[{"b":"}]\\\\"}]')]
    value = parse_part(f'{{"new":{texts[0]},"x":[1],"old":{texts[1]},"y":"[{{"}}', source="x")
    assert value["x"] == ["1"]
    assert value["y"] == "[{"
    for name, text in zip(("new", "old"), texts, strict=True):
        inner = value[name]
        for _ in range(MAX_DEPTH - 2):
            inner = inner["a"]
        assert inner["pgseal"] == "deep"
        cut = len('{"a":') * (MAX_DEPTH - 2)
        assert inner["text"] == text[cut : len(text) - MAX_DEPTH + 2]
        assert json.loads(format_json(value))


@pytest.mark.parametrize("text", ["[1]", "{", '{"a":NaN}', "[" * 1000, "]" * 1000, '{"a":"' + "[" * 1000])
def test_what_is_not_a_part_is_refused(text: str):
    with pytest.raises(FormatError, match="x: "):
        parse_part(text, source="x")
