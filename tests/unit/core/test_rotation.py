"""KEY_ROTATE records, what endorses them, and which key has to have signed which checkpoint."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgseal.core.checkpoint import Checkpoint, format_checkpoint
from pgseal.core.keys import KeyType, SignerKey
from pgseal.core.note import add_signatures, sign_note
from pgseal.core.rotation import (
    LogKeys,
    RecordedRotation,
    Rotation,
    endorse_rotation,
    parse_rotation,
    read_rotation,
)
from pgseal.errors import FormatError, SignatureError

ORIGIN = "example.org/clinic"
FIRST, SECOND, THIRD, MALLORY = (SignerKey(ORIGIN, bytes([number]) * 32) for number in range(4))
TO_SECOND = RecordedRotation(Rotation(10, SECOND.verifier, FIRST.verifier), 12)
TO_THIRD = RecordedRotation(Rotation(20, THIRD.verifier, SECOND.verifier), 20)


def data_of(rotation: Rotation) -> bytes:
    return json.dumps(rotation.to_json()).encode()


def actor_of(endorsement: object) -> bytes:
    return json.dumps({"role": "pgseal_sealer", "claimed": {"endorsement": endorsement}}).encode()


def note_of(size: int, *signers: SignerKey) -> bytes:
    return sign_note(format_checkpoint(Checkpoint(ORIGIN, size, bytes(32))), *signers)


def chain(trusted: SignerKey, *rotations: RecordedRotation) -> LogKeys:
    keys = LogKeys(trusted.verifier)
    assert keys.learn(rotations) == []
    return keys


def test_what_both_keys_endorse_can_be_read_back():
    rotation = TO_SECOND.rotation
    endorsement = endorse_rotation(rotation, FIRST, SECOND)
    assert endorsement.startswith('pgseal key rotation v1\n{"from_size":10,"new":"example.org/clinic+')
    assert parse_rotation(data_of(rotation)) == rotation
    assert read_rotation(data_of(rotation), actor_of(endorsement), 12) == TO_SECOND
    assert read_rotation(data_of(rotation), actor_of(endorsement)) == RecordedRotation(rotation)


def test_a_record_that_one_of_its_keys_does_not_endorse_says_nothing():
    rotation = TO_SECOND.rotation
    text = endorse_rotation(rotation, FIRST, SECOND).partition("\n\n")[0] + "\n"
    other = Rotation(11, SECOND.verifier, FIRST.verifier)
    new_alone = sign_note(text, SECOND)
    stolen = note_of(5, FIRST).decode().split("\n")[-2] + "\n"
    for endorsement in (
        sign_note(text, FIRST).decode(),
        new_alone.decode(),
        sign_note(text, SECOND, MALLORY).decode(),
        add_signatures(new_alone, [stolen]).decode(),
        endorse_rotation(other, FIRST, SECOND),  # of another record
        sign_note("pgseal key rotation v2\n{}\n", FIRST, SECOND).decode(),
        note_of(10, FIRST, SECOND).decode(),  # a checkpoint that both signed
        "",
        "\ud800",
        None,
        7,
    ):
        with pytest.raises((SignatureError, FormatError)):
            read_rotation(data_of(rotation), actor_of(endorsement), 12)
    for actor in (b"{}", b"[]", b'{"claimed": 7}', b'{"claimed": {"endorsement": ["x"]}}'):
        with pytest.raises(SignatureError):
            read_rotation(data_of(rotation), actor, 12)


@pytest.mark.parametrize(
    "changed",
    [
        {"from_size": -1},
        {"from_size": "10"},
        {"from_size": 10.5},
        {"from_size": True},
        {"new": None},
        {"new": str(FIRST.verifier)},  # from a key to itself
        {"new": str(SignerKey("other.example", bytes(32)).verifier)},
        {"new": str(SignerKey(ORIGIN, bytes(32), KeyType.COSIGNATURE).verifier)},
        {"new": "PRIVATE+KEY+x"},
        {"more": 1},
    ],
)
def test_data_of_any_other_form_is_refused(changed: dict[str, object]):
    with pytest.raises(FormatError):
        parse_rotation(json.dumps({**TO_SECOND.rotation.to_json(), **changed}).encode())


def test_a_rotation_says_nothing_of_leaves_after_its_own():
    rotation = TO_SECOND.rotation
    with pytest.raises(FormatError, match="beyond its own leaf"):
        read_rotation(data_of(rotation), actor_of(endorse_rotation(rotation, FIRST, SECOND)), 9)


def test_only_its_own_keys_endorse_a_rotation():
    with pytest.raises(FormatError):
        endorse_rotation(TO_SECOND.rotation, SECOND, FIRST)
    with pytest.raises(FormatError):
        endorse_rotation(TO_SECOND.rotation, FIRST, MALLORY)


@pytest.mark.parametrize("trusted", [FIRST, SECOND, THIRD])
@pytest.mark.parametrize(
    ("size", "good", "bad"),
    [
        (10, [(FIRST,)], [(SECOND,), (THIRD,)]),
        (11, [(FIRST, SECOND)], [(FIRST,), (SECOND,)]),
        (12, [(FIRST, SECOND)], [(FIRST,), (SECOND,)]),
        (13, [(FIRST, SECOND), (SECOND,)], [(FIRST,), (THIRD,)]),
        (20, [(SECOND,)], [(FIRST,), (THIRD,)]),
        (21, [(SECOND, THIRD), (THIRD,)], [(SECOND,), (FIRST,), (FIRST, SECOND), (MALLORY,)]),
    ],
)
def test_each_size_has_the_keys_that_have_to_have_signed_it(trusted: SignerKey, size: int, good: list, bad: list):
    keys = chain(trusted, TO_THIRD, TO_SECOND)  # whichever is trusted, and in whatever order they come
    assert keys.keys == (FIRST.verifier, SECOND.verifier, THIRD.verifier)
    for signers in good:
        assert keys.open(note_of(size, *signers), origin=ORIGIN).checkpoint.size == size
    for signers in bad:
        with pytest.raises(SignatureError):
            keys.open(note_of(size, *signers), origin=ORIGIN)


def test_until_its_record_is_sealed_a_rotation_takes_both_keys():
    keys = chain(FIRST, RecordedRotation(TO_SECOND.rotation))
    for signers in ((FIRST,), (SECOND,)):
        with pytest.raises(SignatureError):
            keys.open(note_of(1000, *signers))
    keys.open(note_of(1000, FIRST, SECOND))
    assert keys.learn([TO_SECOND]) == []  # sealed
    assert keys.rotations == (TO_SECOND,)
    keys.open(note_of(1000, SECOND))


def test_a_key_that_was_replaced_has_no_second_successor():
    other = RecordedRotation(Rotation(11, MALLORY.verifier, FIRST.verifier), 30)
    unsealed = RecordedRotation(Rotation(9, MALLORY.verifier, FIRST.verifier))
    keys = LogKeys(FIRST.verifier)
    assert keys.learn([unsealed, other, TO_SECOND]) == [other, unsealed]
    assert keys.newest == SECOND.verifier
    # Nor does the log go back to a key, or to an earlier size.
    back = RecordedRotation(Rotation(30, FIRST.verifier, SECOND.verifier), 31)
    early = RecordedRotation(Rotation(10, THIRD.verifier, SECOND.verifier), 31)
    foreign = RecordedRotation(Rotation(30, THIRD.verifier, MALLORY.verifier), 31)
    assert keys.learn([back, early, foreign]) == [back, early, foreign]
    with pytest.raises(SignatureError):
        keys.open(note_of(40, FIRST))


def test_without_a_rotation_it_is_one_key():
    keys = LogKeys(FIRST.verifier)
    assert keys.open(note_of(7, FIRST, MALLORY)).checkpoint.size == 7
    for note in (note_of(7, MALLORY), note_of(7, SECOND)):
        with pytest.raises(SignatureError):
            keys.open(note)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from([str(FIRST.verifier), str(SECOND.verifier)]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["from_size", "new", "old", "claimed", "endorsement"]) | st.text(), inner)
    ),
    max_leaves=8,
)


@given(st.one_of(st.binary(), JSON.map(lambda value: json.dumps(value).encode())), JSON)
def test_nothing_but_its_own_errors_come_of_any_record(data: bytes, actor: object):
    for one in (data, data_of(TO_SECOND.rotation)):
        for other in (json.dumps(actor).encode(), data, actor_of(actor)):
            with pytest.raises((FormatError, SignatureError)):
                read_rotation(one, other, 12)
