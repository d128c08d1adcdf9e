"""Every parser takes whatever comes: it returns, or raises its own error, and nothing else."""

import ast
import sys
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

import pgseal
from pgseal.core.envelope import _parse_quoted_relation

SOURCE = Path(pgseal.__file__).parent

#: Pieces that parsers trip over: numbers too long, too deep, half characters, other digits, ends of everything.
TOKENS = (
    b"\0", b"\n", b"\n\n", b"\r\n", b"\t", b" ", b'"', b"'", b"\\", b"\\N", b"\\u0000", b"\\ud800", b"\xff", b"\xc3",
    b"\xe2\x80\x94 ", b"\xc2\xb2", b"\xd9\xa3", b"-", b"--", b"+", b"0", b"00", b"-0", b"1e999", b"9" * 20, b"9" * 5000,
    b"[" * 300, b'{"a":' * 300, b"]", b"}", b"null", b"true", b"[]", b"{}", b"=", b"A" * 70_000, b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff", b"\x80\0\0\0",
)  # fmt: skip

edits = st.tuples(st.integers(0, 2**16), st.integers(0, 40), st.sampled_from(TOKENS) | st.binary(max_size=8))


def edit(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for position, length, piece in changes:
        begin = position % (len(data) + 1)
        data = data[:begin] + piece + data[begin + length :]
    return data


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    mutated = st.builds(edit, st.sampled_from(target.seeds), st.lists(edits, min_size=1, max_size=4))
    return mutated | st.binary(max_size=200)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_parser_raises_nothing_but_its_own_error(target: Target):
    @given(inputs(target))
    def run(data: bytes) -> None:
        target.run(data)

    run()


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_what_mutation_begins_with_is_accepted(target: Target):
    accepted = [seed for seed in target.seeds if is_accepted(target, seed)]
    assert accepted


def is_accepted(target: Target, seed: bytes) -> bool:
    try:
        target.parse(seed)
    except target.errors:
        return False
    return True


def list_parsers() -> set[str]:
    """Every function of pgseal that is called parse or parse_something, as module:name."""
    found: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.lstrip("_").split("_")[0] == "parse":
                found.add(f"{path.relative_to(SOURCE)}:{node.name}")
    return found


#: Parsers without a target, and why.
ELSEWHERE = {
    "trail/feed.py:parse": "reads a pg_snapshot: PostgreSQL has parsed it before",
    "verifier/trails.py:_parse": "is parse_line for a line of a side",
}


def test_there_is_a_target_for_every_parser():
    called: set[str] = set()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(SOURCE)):
            called.add(f"{Path(frame.f_code.co_filename).relative_to(SOURCE)}:{frame.f_code.co_name}")

    _parse_quoted_relation.cache_clear()  # other tests had it called
    before = sys.getprofile()
    try:
        for target in TARGETS.values():
            for seed in target.seeds:
                sys.setprofile(note)  # each time: python takes it away where a recursion is too deep for it
                is_accepted(target, seed)
    finally:
        sys.setprofile(before)
    assert list_parsers() - called == set(ELSEWHERE)
