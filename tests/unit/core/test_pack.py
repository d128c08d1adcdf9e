import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import hashes, record_lines

from pgseal.core.erasure import parse_erase
from pgseal.core.heartbeat import parse_heartbeat
from pgseal.core.pack import (
    PackInfo,
    ProofLine,
    format_info,
    format_proof_line,
    format_range_proof,
    iter_lines,
    parse_info,
    parse_proof_line,
    parse_range_proof,
)
from pgseal.core.pack_bounds import Heartbeat
from pgseal.core.pack_filter import Filter
from pgseal.core.record import format_envelope
from pgseal.errors import FormatError

INFO = PackInfo("example.org/x", "KEY", 3, 7, {"table": 'public."Odd"'}, "2026-11-23T09:00:00.000000Z", "tests")


def test_pack_json_is_read_as_it_was_written():
    assert parse_info(format_info(INFO)) == INFO


@given(st.lists(hashes, max_size=126))
def test_range_proofs_are_read_as_they_were_written(proof):
    assert parse_range_proof(format_range_proof(proof)) == proof


@given(record_lines, st.lists(hashes, max_size=63))
def test_proof_lines_are_read_as_they_were_written(record, proof):
    line = ProofLine(record, format_envelope(record.envelope), tuple(proof))
    assert parse_proof_line(format_proof_line(line)) == line


@given(record_lines, st.data())
def test_a_changed_proof_line_is_another_one_or_none(record, data):
    proved = ProofLine(record, format_envelope(record.envelope), (bytes(32),))
    line = bytearray(format_proof_line(proved))
    line[data.draw(st.integers(0, len(line) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        parsed = parse_proof_line(bytes(line))
    except FormatError:
        return
    assert parsed != proved
    assert format_proof_line(parsed) == bytes(line)


@pytest.mark.parametrize(
    "end", [b"", b',"proof":[]', b',"proof":["x"]}', b',"proof":[null]}', b',"proof":[],"more":1}', b', "proof":[]}']
)
def test_proof_lines_without_a_proof_are_refused(end):
    with pytest.raises(FormatError):
        parse_proof_line(b'{"actor":{"withheld":true},"data":{"withheld":true},"envelope":{},"index":0' + end)


@given(st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), max_size=20), st.integers(1, 50))
def test_lines_come_whole_however_they_arrive(lines, width):
    content = b"".join(line + b"\n" for line in lines)
    pieces = [content[start : start + width] for start in range(0, len(content), width)]
    assert list(iter_lines(pieces, source="x", max_bytes=20)) == lines
    if any(lines):
        with pytest.raises(FormatError):
            list(iter_lines(map(bytes, zip(content)), source="x", max_bytes=max(map(len, lines)) - 1))


def test_a_last_line_without_newline_is_refused():
    with pytest.raises(FormatError, match="line 2 does not end in a newline"):
        list(iter_lines([b"a\nb"], source="x"))


@pytest.mark.parametrize(
    ("wanted", "source"),
    [
        ({"since": "yesterday"}, "since"),
        ({"until": "2026-11-23T09:00:00Z"}, "until"),
        ({"since": "2026-11-23T09:00:00.000000Z", "until": "2026-11-23T09:00:00.000000Z"}, "until"),
        ({"table": "patients"}, "table"),
        ({"table": 'public."patients"'}, "table"),
        ({"category": "everything"}, "category"),
        ({"outcome": "good"}, "outcome"),
    ],
)
def test_a_filter_that_no_record_could_match_is_refused(wanted, source):
    with pytest.raises(FormatError) as caught:
        Filter(**wanted)
    assert caught.value.source == source


@given(st.binary(max_size=200))
def test_data_of_an_erasure_is_read_or_refused(data):
    with pytest.raises(FormatError):
        parse_erase(data)


def test_a_heartbeat_speaks_of_the_trails_it_names():
    bound = b'{"future": [3], "high": "2026-11-23T09:00:00.000000Z", "low": "2026-11-23T09:01:00.000000Z"}'
    heartbeat = Heartbeat(7, parse_heartbeat(b'{"trails": {"a": ' + bound + b"}}"))
    assert heartbeat.future == {3}
    assert heartbeat.is_after("2026-11-23T09:00:00.000001Z", ["a"])
    assert not heartbeat.is_after("2026-11-23T09:00:00.000000Z", ["a"])
    assert not heartbeat.is_after("2026-11-23T09:30:00.000000Z", ["a", "b"])
    assert heartbeat.is_beyond("2026-11-23T09:01:00.000000Z", ["a"])
    assert not heartbeat.is_beyond("2026-11-23T09:01:00.000001Z", ["a"])
    assert not Heartbeat(7, {}).is_beyond("2026-11-23T09:01:00.000000Z", [])
