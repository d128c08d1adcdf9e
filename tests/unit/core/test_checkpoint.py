"""Checkpoints: their text, and who must have signed them."""

import base64
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import hashes, origins

from pgseal.core.checkpoint import (
    Checkpoint,
    check_origin,
    format_checkpoint,
    open_checkpoint,
    parse_checkpoint,
)
from pgseal.core.merkle import EMPTY_ROOT
from pgseal.core.note import KeyType, SignerKey, add_signatures, cosign_note, parse_verifier_key, sign_note
from pgseal.errors import FormatError, SignatureError

LOG = SignerKey("example.org/log", bytes(range(32)))
WITNESS = SignerKey("witness.example/w1", bytes(range(2, 34)), KeyType.COSIGNATURE)
ROOT = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
TEXT = f"example.org/log\n5\n{ROOT}\n"


def test_text_has_three_lines():
    checkpoint = Checkpoint("example.org/log", 5, EMPTY_ROOT)
    assert format_checkpoint(checkpoint) == TEXT
    assert parse_checkpoint(TEXT) == checkpoint


def test_example_of_tlog_checkpoint():
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    checkpoint = parse_checkpoint(text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20_852_163)
    assert checkpoint.root.hex().startswith("0ac5186a91863e8e")
    assert format_checkpoint(checkpoint) == text


extensions = st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20), max_size=3).map(
    tuple
)


@given(st.builds(Checkpoint, origin=origins, size=st.integers(0, 2**63 - 1), root=hashes, extensions=extensions))
def test_checkpoints_read_back(checkpoint: Checkpoint):
    assert parse_checkpoint(format_checkpoint(checkpoint)) == checkpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n\n",
        TEXT[:-1],
        TEXT + "\n",
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("5", "05"),
        TEXT.replace("5", "+5", 1),
        TEXT.replace("5", "-5", 1),
        TEXT.replace("5", "5_0", 1),
        TEXT.replace("5", "٥", 1),
        TEXT.replace("5", "", 1),
        TEXT.replace("5", " 5", 1),
        TEXT.replace("\n5\n", f"\n{2**63}\n"),
        TEXT.replace("\n5\n", "\n" + "9" * 5000 + "\n"),
        TEXT.replace("=", ""),
        TEXT.replace("=", "=="),
        TEXT.replace("FU=", "FV="),
        TEXT.replace("47DE", ""),
        TEXT.replace("example.org/log", ""),
        TEXT.replace("example.org/log", "example org"),
        TEXT.replace("example.org/log", "a+b"),
        TEXT + "extension\tline\n",
        TEXT + "a\n\nb\n",
        "example.org/log\n5\n",
    ],
)
def test_other_texts_are_refused(text: str):
    with pytest.raises(FormatError) as caught:
        parse_checkpoint(text, source="the text")
    assert caught.value.source == "the text"


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint("", 5, EMPTY_ROOT),
        Checkpoint("a b", 5, EMPTY_ROOT),
        Checkpoint("a", -1, EMPTY_ROOT),
        Checkpoint("a", 2**63, EMPTY_ROOT),
        Checkpoint("a", 5, EMPTY_ROOT[:31]),
        Checkpoint("a", 5, EMPTY_ROOT, ("",)),
        Checkpoint("a", 5, EMPTY_ROOT, ("b\nc",)),
        Checkpoint("a", 5, EMPTY_ROOT, ("\ud800",)),
    ],
)
def test_other_values_are_not_written(checkpoint: Checkpoint):
    with pytest.raises(FormatError):
        format_checkpoint(checkpoint)


@pytest.mark.parametrize("origin", ["a", "example.org/clinic", "é" * 127 + "a", "日本"])
def test_origins(origin: str):
    check_origin(origin)


@pytest.mark.parametrize(
    "origin", ["", "a b", "a+b", "a\tb", "a\x7fb", "a\x85b", "a\N{NO-BREAK SPACE}b", "é" * 128, "\ud800"]
)
def test_other_origins_are_refused(origin: str):
    with pytest.raises(FormatError):
        check_origin(origin)


def test_worked_example_opens_with_the_logs_key(vector: Callable[[str], bytes]):
    example = json.loads(vector("record-v1.json"))
    key = parse_verifier_key(example["vkey"])
    opened = open_checkpoint(example["checkpoint"].encode(), [key], origin=example["origin"])
    assert opened.checkpoint == Checkpoint(example["origin"], 5, base64.b64decode(example["root"]))
    assert [signature.key for signature in opened.signatures] == [key]


def test_a_witness_alone_does_not_speak_for_the_log():
    note = add_signatures(sign_note(TEXT, LOG), [cosign_note(TEXT, WITNESS, 7)])
    opened = open_checkpoint(note, [WITNESS.verifier, LOG.verifier])
    assert [signature.timestamp for signature in opened.signatures] == [None, 7]
    with pytest.raises(SignatureError, match=r"of the log 'example\.org/log' itself"):
        open_checkpoint(note, [WITNESS.verifier])


def test_a_key_of_another_name_does_not_speak_for_the_log():
    other = SignerKey("example.org/fork", bytes(range(32)))
    with pytest.raises(SignatureError, match="itself"):
        open_checkpoint(sign_note(TEXT, other), [other.verifier])


def test_a_cosigner_named_like_the_log_does_not_speak_for_it():
    namesake = SignerKey(LOG.name, bytes(range(32)), KeyType.COSIGNATURE)
    note = add_signatures(sign_note(TEXT, LOG), [cosign_note(TEXT, namesake, 7)])
    with pytest.raises(SignatureError, match="itself"):
        open_checkpoint(note, [namesake.verifier])


def test_a_checkpoint_of_another_log_is_refused():
    note = sign_note(TEXT, LOG)
    assert open_checkpoint(note, [LOG.verifier], origin="example.org/log").checkpoint.size == 5
    with pytest.raises(SignatureError, match="another log"):
        open_checkpoint(note, [LOG.verifier], origin="example.org/clinic")


def test_either_key_of_a_rotation_speaks_for_the_log():
    new = SignerKey(LOG.name, bytes(range(3, 35)))
    note = sign_note(TEXT, LOG, new)
    for keys in ([LOG.verifier], [new.verifier], [LOG.verifier, new.verifier]):
        assert len(open_checkpoint(note, keys).signatures) == len(keys)


def test_a_signed_text_that_is_no_checkpoint_is_a_format_error():
    with pytest.raises(FormatError, match="three lines"):
        open_checkpoint(sign_note("example.org/log\n", LOG), [LOG.verifier])


@given(st.text(max_size=60))
def test_arbitrary_text_is_refused(text: str):
    with pytest.raises(FormatError):
        parse_checkpoint(text)
