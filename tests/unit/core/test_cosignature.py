"""Cosignatures taken from answers, their times, and witness policies."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgseal.core.cosignature import (
    MAX_ANSWER_BYTES,
    MAX_CLOCK_SECONDS,
    WitnessPolicy,
    check_time,
    check_witness_key,
    parse_policy,
    take_cosignature,
)
from pgseal.core.keys import KeyType, SignerKey
from pgseal.core.note import Signature, cosign_note, parse_note, select_signatures, sign_note
from pgseal.errors import FormatError, SignatureError

TEXT = "example.org/clinic\n5\nYXgDtUyiIx/sS3Man3J4aXAUC6fXVVCjGSP4r4VCsMk=\n"
LOG = SignerKey("example.org/clinic", bytes(32))
PARIS, OSLO, LIMA = (
    SignerKey(f"witness.example/{name}", bytes([number]) * 32, KeyType.COSIGNATURE)
    for number, name in enumerate(("paris", "oslo", "lima"), 1)
)
NOTE = sign_note(TEXT, LOG)
KEYS = {"paris": PARIS.verifier, "oslo": OSLO.verifier, "lima": LIMA.verifier}

# The example of c2sp.org/tlog-cosignature, which publishes no keys for it.
PUBLISHED = """\
example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa \
Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 \
jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""


def test_the_published_example_has_the_form_of_a_cosigned_checkpoint():
    _, (_, cosignature) = parse_note(PUBLISHED.encode())
    assert cosignature.name == "witness.example.com/w1"
    assert int.from_bytes(cosignature.payload[:8], "big") == 1679315147
    assert len(cosignature.payload) == 8 + 64


def test_one_line_of_the_witness_is_taken_and_nothing_else():
    mine = cosign_note(TEXT, PARIS, 7)
    answer = cosign_note(TEXT, OSLO, 8) + mine + cosign_note(TEXT, PARIS, 9)
    found = take_cosignature(NOTE, answer.encode(), PARIS.verifier)
    assert (found.line, found.timestamp) == (mine, 7)
    assert select_signatures(NOTE + mine.encode(), [PARIS.verifier]) == [mine]


@pytest.mark.parametrize(
    "answer",
    [
        cosign_note(TEXT.replace("5", "6", 1), PARIS, 7).encode(),
        cosign_note(TEXT, OSLO, 7).encode(),
        cosign_note(TEXT, SignerKey(PARIS.name, b"x" * 32, KeyType.COSIGNATURE), 7).encode(),
        cosign_note(TEXT, PARIS, 7).encode() + cosign_note("other\n", PARIS, 8).encode(),
    ],
    ids=["another text", "another witness", "another key of that name", "one of two is wrong"],
)
def test_wrong_cosignatures_are_refused(answer: bytes):
    with pytest.raises(SignatureError):
        take_cosignature(NOTE, answer, PARIS.verifier)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\n",
        b"ok\n",
        b"\xff\n",
        cosign_note(TEXT, PARIS, 7).encode()[:-1],
        b"\n" + cosign_note(TEXT, PARIS, 7).encode(),
        TEXT.encode() + b"\n" + cosign_note(TEXT, PARIS, 7).encode(),
        cosign_note(TEXT, PARIS, 7).encode() * (MAX_ANSWER_BYTES // 100),
    ],
)
def test_answers_without_the_right_form_are_refused(answer: bytes):
    with pytest.raises(FormatError):
        take_cosignature(NOTE, answer, PARIS.verifier)


@given(st.binary(max_size=300))
@example("— x y\n".encode())
def test_any_other_answer_raises_an_error_of_ours(answer: bytes):
    with pytest.raises((FormatError, SignatureError)):
        take_cosignature(NOTE, answer, PARIS.verifier)


@pytest.mark.parametrize(("timestamp", "good"), [(1000, True), (700, True), (1310, True), (699, False), (1311, False)])
def test_a_new_cosignature_must_say_now(timestamp: int, good: bool):
    if good:
        check_time(timestamp, 1000, 1010)
    else:
        with pytest.raises(SignatureError, match=str(timestamp)):
            check_time(timestamp, 1000, 1010)


def test_a_logs_key_is_no_witness():
    check_witness_key(PARIS.verifier)
    with pytest.raises(FormatError, match="0x04"):
        check_witness_key(LOG.verifier)


# -- policies


@pytest.mark.parametrize(
    ("text", "needed", "names"),
    [
        ("any 1", 1, ["paris", "oslo", "lima"]),
        ("any 3", 3, ["paris", "oslo", "lima"]),
        ("any 2 of lima, paris", 2, ["lima", "paris"]),
        ("any 1 of oslo", 1, ["oslo"]),
    ],
)
def test_policies_are_read(text: str, needed: int, names: list[str]):
    policy = parse_policy(text, KEYS)
    assert (policy.needed, list(policy.keys)) == (needed, names)
    assert parse_policy(str(policy), KEYS) == policy


@pytest.mark.parametrize(
    "text",
    [
        *("", "all", "2", "any 0", "any 02", "any -1", "any 4", "any 2 of oslo", "any 1 of rome"),
        *("any 1 of oslo, oslo", "any 1 of", "any 1 of ,", "any 1\n", "any １"),
    ],
)
def test_policies_that_cannot_be_met_are_refused(text: str):
    with pytest.raises(FormatError):
        parse_policy(text, KEYS)


@given(st.text(max_size=30))
def test_any_other_policy_raises_an_error_of_ours(text: str):
    with pytest.raises(FormatError):
        parse_policy(text, KEYS)


def test_each_witness_counts_once_and_not_from_the_future():
    policy = parse_policy("any 2 of paris, oslo", KEYS)
    now = 1000
    signatures = [
        Signature(LOG.verifier),
        Signature(LIMA.verifier, now),
        Signature(PARIS.verifier, now - 10**6),
        Signature(OSLO.verifier, now + MAX_CLOCK_SECONDS + 1),
    ]
    assert policy.find_cosigners(signatures, now) == {"paris": now - 10**6}
    assert policy.find_cosigners(signatures, now + 1).keys() == {"paris", "oslo"}
    assert policy.is_met(["paris", "oslo"])
    assert not policy.is_met(["paris", "paris", "lima"])
    assert not WitnessPolicy(1, {}).is_met(["paris"])
