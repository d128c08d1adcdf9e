"""Requests to a witness: their form, and how they are decided, in FORMATS.md's order."""

import base64
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.strategies import hashes

from pgseal.core.checkpoint import Checkpoint, format_checkpoint
from pgseal.core.keys import KeyType, SignerKey
from pgseal.core.merkle import EMPTY_ROOT, leaf_hash, prove_consistency, tree_root
from pgseal.core.note import add_signatures, cosign_note, sign_note
from pgseal.core.witness import (
    MAX_REQUEST_BYTES,
    Acceptance,
    AddCheckpoint,
    Refusal,
    decide,
    find_origin,
    format_request,
    parse_request,
)
from pgseal.errors import FormatError

LOG = SignerKey("example.org/clinic", bytes(32))
NEXT = SignerKey("example.org/clinic", bytes([1]) * 32)
STRANGER = SignerKey("example.org/clinic", bytes([2]) * 32)
WITNESS = SignerKey("witness.example/w", bytes([3]) * 32, KeyType.COSIGNATURE)
LEAVES = [leaf_hash(bytes([number])) for number in range(20)]
FORK = [leaf_hash(b"fork"), *LEAVES[1:]]


def tree(size: int, leaves: list[bytes] = LEAVES) -> Checkpoint:
    return Checkpoint(LOG.name, size, tree_root(leaves[:size]))


def note_of(checkpoint: Checkpoint, *signers: SignerKey) -> bytes:
    return sign_note(format_checkpoint(checkpoint), *(signers or (LOG,)))


def prove(old: int, new: int, leaves: list[bytes] = LEAVES) -> tuple[bytes, ...]:
    if not 0 < old < new:
        return ()
    # A range's hash, computed from the leaves.
    return tuple(prove_consistency(old, new, lambda ranges: [tree_root(leaves[a:b]) for a, b in _spans(ranges)]))


def _spans(ranges) -> list[tuple[int, int]]:
    return [(index << level, (index + 1) << level) for level, index in ranges]


def request(old: int, new: int, *signers: SignerKey, leaves: list[bytes] = LEAVES) -> bytes:
    return format_request(AddCheckpoint(old, prove(old, new, leaves), note_of(tree(new, leaves), *signers)))


def status(body: bytes, held: Checkpoint | None = None, keys=(LOG.verifier,)) -> int:
    decision = decide(body, keys, held)
    return decision.status if isinstance(decision, Refusal) else 200


# -- form


def test_a_request_has_the_lines_of_tlog_witness():
    note = note_of(tree(5))
    lines = [base64.b64encode(hash_).decode() for hash_ in prove(3, 5)]
    assert request(3, 5) == "\n".join(["old 3", *lines, "", ""]).encode() + note
    assert request(0, 5) == b"old 0\n\n" + note


@given(st.integers(0, 2**63 - 1), st.lists(hashes, max_size=63))
def test_requests_come_back_as_they_were(old: int, proof: list[bytes]):
    made = AddCheckpoint(old, tuple(proof), note_of(tree(5)))
    assert parse_request(format_request(made)) == made


@given(st.binary(max_size=400))
@example(b"")
@example(b"old 0\n\n")
@example(b"\n\n\n\n")
@example(b"old 0\n\n\xff\n")
def test_any_bytes_are_parsed_or_refused_with_an_error_of_ours(body: bytes):
    try:
        made = parse_request(body)
    except FormatError:
        assert status(body) in {400, 403}
    else:
        assert format_request(made) == body
    with suppress(FormatError):
        find_origin(body)


@given(st.data())
def test_a_request_with_one_byte_changed_is_refused(data: st.DataObject):
    body = bytearray(request(3, 8))
    position = data.draw(st.integers(0, len(body) - 1))
    body[position] ^= data.draw(st.integers(1, 255))
    assert status(bytes(body), tree(3)) != 200


@pytest.mark.parametrize(
    "head",
    [
        *("old", "old ", "old 03", "old +3", "old 3 ", "old -1", "OLD 3", "old 3\r", "old ٣", f"old {2**63}", " old 3"),
        *("old 3\nAAAA", "old 3\n" + "A" * 44, "old 3\n" + "\n".join(["A" * 43 + "="] * 64)),
    ],
)
def test_malformed_heads_are_400(head: str):
    body = head.encode() + b"\n\n" + note_of(tree(5))
    assert status(body, tree(3)) == 400
    with pytest.raises(FormatError):
        parse_request(body)


def test_an_oversize_request_is_400():
    body = b"old 0\n\n" + note_of(tree(5))
    assert status(body + bytes(MAX_REQUEST_BYTES - len(body) + 1)) == 400
    with pytest.raises(FormatError):
        find_origin(body + bytes(MAX_REQUEST_BYTES))


@pytest.mark.parametrize(
    "made",
    [
        AddCheckpoint(-1, (), b""),
        AddCheckpoint(2**63, (), b""),
        AddCheckpoint(0, (bytes(31),), b""),
        AddCheckpoint(0, (bytes(32),) * 64, b""),
        AddCheckpoint(0, (), b"no note"),
    ],
)
def test_what_is_no_request_is_not_formatted(made: AddCheckpoint):
    made = made if made.checkpoint else replace(made, checkpoint=note_of(tree(5)))
    with pytest.raises(FormatError):
        format_request(made)


# -- decisions


@pytest.mark.parametrize("old", range(6))
@pytest.mark.parametrize("new", [5, 8, 20])
def test_growth_is_accepted(old: int, new: int):
    decision = decide(request(old, new), [LOG.verifier], tree(old) if old else None)
    assert isinstance(decision, Acceptance)
    assert decision.checkpoint == tree(new)
    assert decision.note == note_of(tree(new))


def test_the_same_checkpoint_is_accepted_again():
    assert status(request(5, 5), tree(5)) == 200


def test_an_empty_log_is_accepted():
    assert status(request(0, 0)) == 200
    assert status(request(0, 0), tree(0)) == 200
    assert status(request(0, 4), tree(0)) == 200


def test_only_signatures_of_known_keys_are_kept():
    note = add_signatures(note_of(tree(5), STRANGER, LOG), [cosign_note(format_checkpoint(tree(5)), WITNESS, 1)])
    decision = decide(b"old 0\n\n" + note, [LOG.verifier, NEXT.verifier], None)
    assert isinstance(decision, Acceptance)
    assert decision.note == note_of(tree(5))


def test_either_key_signs_while_it_is_rotated():
    keys = (LOG.verifier, NEXT.verifier)
    assert status(request(0, 5, NEXT), None, keys) == 200
    assert status(request(0, 5, LOG, NEXT), None, keys) == 200


EXTENDED = replace(tree(5), extensions=("a line",))


def test_extension_lines_are_cosigned_as_they_are():
    decision = decide(b"old 0\n\n" + note_of(EXTENDED), [LOG.verifier], None)
    assert isinstance(decision, Acceptance)
    assert decision.text == format_checkpoint(EXTENDED)


def damage_signature(note: bytes) -> bytes:
    head, _, encoded = note.rstrip(b"\n").rpartition(b" ")
    raw = bytearray(base64.b64decode(encoded))
    raw[-1] ^= 1
    return head + b" " + base64.b64encode(raw) + b"\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # 403 before 400
        (b"nonsense\n\n" + note_of(tree(5), STRANGER), 403),
        (b"nonsense\n\n" + note_of(tree(5)), 400),
        (b"old 3\n\n" + damage_signature(note_of(tree(5))), 403),
        (b"old 3\n\n" + note_of(tree(5), LOG).replace(b"\n5\n", b"\n6\n"), 403),
        (b"old 3\n\n" + format_checkpoint(tree(5)).encode(), 403),
        (b"old 3\n\n" + note_of(tree(5))[:-1], 403),
        (b"old 0\n\n" + sign_note(f"{LOG.name}\n05\n{'A' * 43}=\n", LOG), 400),
        (b"old 0\n\n" + sign_note(f"{LOG.name}\n", LOG), 400),
        # 400 before 409
        (b"old 6\n\n" + note_of(tree(5)), 400),
        # 409 before 422
        (request(2, 5), 409),
        (request(0, 5), 409),
        (request(4, 5), 409),
        (request(2, 5, leaves=FORK), 409),
        # 422
        (request(3, 5, leaves=FORK), 422),
        (request(3, 3, leaves=FORK), 422),
        (b"old 3\n\n" + note_of(tree(5)), 422),
        (format_request(AddCheckpoint(3, prove(3, 5)[:-1], note_of(tree(5)))), 422),
        (format_request(AddCheckpoint(3, (*prove(3, 5), bytes(32)), note_of(tree(5)))), 422),
        (format_request(AddCheckpoint(3, (bytes(32),), note_of(tree(3)))), 422),
        (request(3, 5), 200),
    ],
)
def test_the_first_check_that_fails_is_the_answer(body: bytes, expected: int):
    assert status(body, tree(3)) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (format_request(AddCheckpoint(0, (bytes(32),), note_of(tree(5)))), 422),
        (b"old 0\n\n" + note_of(Checkpoint(LOG.name, 0, bytes(32))), 422),
        (b"old 0\n\n" + note_of(Checkpoint(LOG.name, 0, EMPTY_ROOT)), 200),
        (request(3, 5), 409),
    ],
)
def test_the_first_checkpoint_needs_no_proof_and_has_none(body: bytes, expected: int):
    assert status(body, None) == expected


def test_a_conflict_tells_the_size_that_is_held():
    for held, size in ((None, 0), (tree(3), 3)):
        decision = decide(request(2, 5), [LOG.verifier], held)
        assert isinstance(decision, Refusal)
        assert decision.held_size == size


def test_the_origin_is_the_first_line_of_the_checkpoint():
    assert find_origin(request(0, 5)) == LOG.name
    assert find_origin(b"old 0\n\nother\n") == "other"
    for body in (b"old 0\n\n\xff\n", b"old 0\nother\n", b"old 0\n\n", b"old 0\n" + note_of(tree(5))):
        with pytest.raises(FormatError):
            find_origin(body)
