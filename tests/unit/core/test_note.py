"""Signed notes and their keys: public examples, the worked example's bytes, and forged, damaged and strange notes."""

import base64
import json
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import note_texts, origins, seeds

from pgseal.core.note import (
    MAX_NOTE_BYTES,
    KeyType,
    SignerKey,
    VerifierKey,
    add_signatures,
    cosign_note,
    format_signer_key,
    format_verifier_key,
    generate_signer,
    open_note,
    parse_note,
    parse_signer_key,
    parse_verifier_key,
    sign_note,
)
from pgseal.errors import ConfigError, FormatError, SignatureError, TamperError

# The example in the documentation of golang.org/x/mod/sumdb/note.
NEUMANN_SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
NEUMANN_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NEUMANN_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
NEUMANN_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH_LINE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)

LOG = SignerKey("example.org/log", bytes(range(32)))
OTHER = SignerKey("example.org/other", bytes(range(1, 33)))
WITNESS = SignerKey("witness.example/w1", bytes(range(2, 34)), KeyType.COSIGNATURE)
TEXT = "example.org/log\n5\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
NOTE = sign_note(TEXT, LOG)
LINE = NOTE.decode().removeprefix(TEXT + "\n")


@pytest.fixture(scope="module")
def example(vector: Callable[[str], bytes]):
    return json.loads(vector("record-v1.json"))


def test_public_example_is_signed_and_opened():
    signer, key = parse_signer_key(NEUMANN_SKEY), parse_verifier_key(NEUMANN_VKEY)
    assert signer.verifier == key
    note = (NEUMANN_TEXT + "\n" + NEUMANN_LINE).encode()
    assert sign_note(NEUMANN_TEXT, signer) == note
    opened = open_note(note, [key])
    assert opened.text == NEUMANN_TEXT
    assert [signature.key for signature in opened.signatures] == [key]


def test_public_example_with_an_unknown_second_signature_is_opened():
    key = parse_verifier_key(NEUMANN_VKEY)
    note = (NEUMANN_TEXT + "\n" + NEUMANN_LINE + ENOCH_LINE).encode()
    assert [signature.key.name for signature in open_note(note, [key]).signatures] == ["PeterNeumann"]


def test_keys_read_back_as_they_were_written():
    for skey, vkey in ((NEUMANN_SKEY, NEUMANN_VKEY),):
        assert format_signer_key(parse_signer_key(skey)) == skey
        assert format_verifier_key(parse_verifier_key(vkey)) == vkey
        assert str(parse_verifier_key(vkey)) == vkey


def test_worked_example_is_signed_and_cosigned(example: dict[str, Any]):
    signer = parse_signer_key(example["skey"])
    assert format_signer_key(signer) == example["skey"]
    assert format_verifier_key(signer.verifier) == example["vkey"]
    assert signer.name == example["origin"]
    note = example["checkpoint"].encode()
    text, _ = parse_note(note)
    assert sign_note(text, signer) == note
    witness = parse_verifier_key(example["witness"]["vkey"])
    assert format_verifier_key(witness) == example["witness"]["vkey"]
    opened = open_note(add_signatures(note, [example["witness"]["cosignature"]]), [signer.verifier, witness])
    assert [(signature.key, signature.timestamp) for signature in opened.signatures] == [
        (signer.verifier, None),
        (witness, example["witness"]["time"]),
    ]


@given(note_texts, st.lists(st.tuples(origins, seeds), min_size=1, max_size=4))
def test_notes_open_with_what_signed_them(text: str, secrets: list[tuple[str, bytes]]):
    signers = [generate_signer(name, seed) for name, seed in secrets]
    opened = open_note(sign_note(text, *signers), [signer.verifier for signer in signers])
    assert opened.text == text
    assert [signature.key for signature in opened.signatures] == list(dict.fromkeys(s.verifier for s in signers))


@given(origins, seeds, st.sampled_from(KeyType))
def test_keys_read_back(name: str, seed: bytes, key_type: KeyType):
    signer = generate_signer(name, seed, key_type)
    assert parse_verifier_key(format_verifier_key(signer.verifier)) == signer.verifier
    again = parse_signer_key(format_signer_key(signer))
    assert (again.verifier, format_signer_key(again)) == (signer.verifier, format_signer_key(signer))


@given(st.integers(0, len(NOTE) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(position: int, flip: int):
    changed = NOTE[:position] + bytes([NOTE[position] ^ flip]) + NOTE[position + 1 :]
    with pytest.raises((FormatError, SignatureError)):
        open_note(changed, [LOG.verifier])


def test_text_with_empty_lines_is_split_at_the_last_one():
    text = "a\n\n— not a signature\n\nb\n"
    assert open_note(sign_note(text, LOG), [LOG.verifier]).text == text
    assert open_note(sign_note("\n", LOG), [LOG.verifier]).text == "\n"


def test_a_known_key_whose_signature_fails_rejects_the_note_though_another_is_right():
    forged = sign_note(TEXT, LOG, OTHER).replace(b"\n5\n", b"\n6\n")
    right = sign_note(TEXT.replace("\n5\n", "\n6\n"), LOG)
    mixed = add_signatures(right, [forged.decode().splitlines(keepends=True)[-1]])
    assert open_note(mixed, [LOG.verifier]).text.split("\n")[1] == "6"
    with pytest.raises(SignatureError, match=r"wrong signature of example\.org/other"):
        open_note(mixed, [LOG.verifier, OTHER.verifier])


def test_a_note_of_unknown_keys_only_is_refused_in_other_words():
    with pytest.raises(SignatureError, match="no signature of a known key"):
        open_note(NOTE, [OTHER.verifier])
    with pytest.raises(SignatureError, match="no signature of a known key"):
        open_note(NOTE, [])


def test_name_and_id_must_both_match():
    same_name = SignerKey(LOG.name, bytes(32)).verifier
    with pytest.raises(SignatureError, match="no signature of a known key"):
        open_note(NOTE, [same_name])


def test_an_unknown_key_of_another_type_is_ignored():
    junk = f"— example.org/log {base64.b64encode(b'abcd' + b'x').decode()}\n"
    assert open_note(add_signatures(NOTE, [junk]), [LOG.verifier]).text == TEXT


def test_repeated_signatures_count_once_and_are_all_verified():
    doubled = NOTE + LINE.encode()
    assert len(open_note(doubled, [LOG.verifier]).signatures) == 1
    wrong = base64.b64encode(LOG.verifier.key_id + bytes(64)).decode()
    with pytest.raises(SignatureError, match="wrong signature"):
        open_note(NOTE + f"— {LOG.name} {wrong}\n".encode(), [LOG.verifier])


def test_the_same_key_given_twice_is_one_key():
    assert len(open_note(NOTE, [LOG.verifier, LOG.verifier]).signatures) == 1


def test_two_keys_of_one_name_and_id_are_refused():
    clash = VerifierKey(LOG.name, bytes(32))
    object.__setattr__(clash, "key_id", LOG.verifier.key_id)
    with pytest.raises(ConfigError, match="two different keys"):
        open_note(NOTE, [LOG.verifier, clash])


@pytest.mark.parametrize("length", [0, 63, 65, 72])
def test_signatures_of_other_lengths_are_wrong(length: int):
    line = f"— {LOG.name} {base64.b64encode(LOG.verifier.key_id + bytes(length)).decode()}\n"
    with pytest.raises((SignatureError, FormatError)):
        open_note(f"{TEXT}\n{line}".encode(), [LOG.verifier])


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\n",
        b"\n\n",
        TEXT.encode(),
        TEXT.encode() + b"\n",
        NOTE[:-1],
        NOTE + b"\n",
        NOTE + b"more\n",
        NOTE.replace(b"\n\n", b"\n"),
        NOTE.replace(b"\n", b"\r\n"),
        NOTE.replace(b"5", b"5\t"),
        NOTE.replace(b"5", b"5\x00"),
        NOTE.replace(b"5", b"\xff"),
        NOTE.replace("— ".encode(), b"- "),
        NOTE.replace("— ".encode(), "—".encode()),
        NOTE.replace("— ".encode(), "—  ".encode()),
        NOTE.replace("— example.org/log ".encode(), "— example.org/log".encode()),
        NOTE.replace("— example.org/log".encode(), "— exa+mple".encode()),
        NOTE.replace("— example.org/log".encode(), "— a\N{NO-BREAK SPACE}b".encode()),
        NOTE[:-2] + b"\n",
        NOTE[:-1] + b" \n",
        NOTE[:-1] + b"=\n",
        f"{TEXT}\n— a AAAAAA==\n".encode(),
        f"{TEXT}\n— a AAAAAAB=\n".encode(),
        f"{TEXT}\n— a \n".encode(),
        (TEXT + "\n" + LINE * 101).encode(),
        b"a" * MAX_NOTE_BYTES + NOTE,
    ],
)
def test_what_is_not_a_note_is_a_format_error(note: bytes):
    with pytest.raises(FormatError) as caught:
        open_note(note, [LOG.verifier], source="the checkpoint")
    assert caught.value.source == "the checkpoint"


def test_a_hundred_signatures_are_read():
    lines = [f"— witness{number} {base64.b64encode(bytes(68)).decode()}\n" for number in range(99)]
    assert open_note(add_signatures(NOTE, lines), [LOG.verifier]).text == TEXT
    with pytest.raises(FormatError, match="100 signatures"):
        add_signatures(NOTE, [*lines, f"— one-more {base64.b64encode(bytes(68)).decode()}\n"])


def test_added_signatures_are_not_repeated():
    assert add_signatures(NOTE, [LINE]) == NOTE
    more = cosign_note(TEXT, WITNESS, 7)
    assert add_signatures(NOTE, [more, more]) == NOTE + more.encode()
    with pytest.raises(FormatError):
        add_signatures(NOTE, ["not a signature\n"])
    with pytest.raises(FormatError):
        add_signatures(NOTE, ["\n" + LINE.replace("log", "fork")])


@pytest.mark.parametrize("text", ["", "no newline", "tab\t\n", "nul\x00\n", "cr\r\n", "\ud800\n"])
def test_texts_that_cannot_be_a_notes_are_not_signed(text: str):
    with pytest.raises(FormatError):
        sign_note(text, LOG)
    with pytest.raises(FormatError):
        cosign_note(text, WITNESS, 1)


def test_notes_beyond_the_limit_are_not_signed():
    with pytest.raises(FormatError, match="at most"):
        sign_note("a" * MAX_NOTE_BYTES + "\n", LOG)


def test_keys_sign_only_what_they_are_for():
    with pytest.raises(ConfigError, match="cosignatures only"):
        sign_note(TEXT, WITNESS)
    with pytest.raises(ConfigError, match="not a witness key"):
        cosign_note(TEXT, LOG, 1)
    with pytest.raises(ConfigError, match="at least one signer"):
        sign_note(TEXT)


@pytest.mark.parametrize("timestamp", [0, 1_795_600_800, 2**63 - 1])
def test_cosignatures_carry_their_time(timestamp: int):
    note = add_signatures(NOTE, [cosign_note(TEXT, WITNESS, timestamp)])
    opened = open_note(note, [WITNESS.verifier])
    assert [signature.timestamp for signature in opened.signatures] == [timestamp]


@pytest.mark.parametrize("timestamp", [-1, 2**63])
def test_cosignatures_of_impossible_times_are_not_made(timestamp: int):
    with pytest.raises(FormatError, match="time"):
        cosign_note(TEXT, WITNESS, timestamp)


def test_cosignatures_with_another_time_body_or_of_the_far_future_are_wrong():
    payload = base64.b64decode(cosign_note(TEXT, WITNESS, 7).split(" ")[2])
    later = payload[:4] + (8).to_bytes(8, "big") + payload[12:]
    message = b"cosignature/v1\ntime %d\n" % 2**63 + TEXT.encode()
    future = payload[:4] + (2**63).to_bytes(8, "big") + WITNESS.sign(message)
    plain = payload[:4] + WITNESS.sign(TEXT.encode())
    for forged in (later, future, plain, payload[:-1], payload[:8]):
        line = f"— {WITNESS.name} {base64.b64encode(forged).decode()}\n"
        with pytest.raises(SignatureError, match="wrong signature"):
            open_note(NOTE + line.encode(), [LOG.verifier, WITNESS.verifier])
    other_text = sign_note(TEXT.replace("5", "6", 1), LOG) + cosign_note(TEXT, WITNESS, 7).encode()
    with pytest.raises(SignatureError, match="wrong signature"):
        open_note(other_text, [LOG.verifier, WITNESS.verifier])


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "PeterNeumann",
        "PeterNeumann+c74f20a3",
        "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNewman+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10T",
        "PeterNeumann+c74f20a3+AhpC2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW\n",
        "PeterNeumann+c74f20a3+ARpc",
        NEUMANN_VKEY + "=",
        "x" * 2000 + NEUMANN_VKEY,
    ],
)
def test_damaged_verifier_keys_are_refused(vkey: str):
    with pytest.raises(FormatError):
        parse_verifier_key(vkey)


@pytest.mark.parametrize(
    "skey",
    [
        NEUMANN_SKEY.replace("c74f20a3", "c74f20a4"),
        NEUMANN_SKEY.replace("PeterNeumann", "Peter Neumann"),
        NEUMANN_SKEY[:-1],
        NEUMANN_SKEY + "\n",
        NEUMANN_SKEY.replace("+AYEK", "+AoEK"),
        NEUMANN_SKEY.replace("c74f20a3+", ""),
        NEUMANN_SKEY.removeprefix("PRIVATE+KEY+"),
        " " + NEUMANN_SKEY,
    ],
)
def test_damaged_signer_keys_are_refused_without_showing_the_secret(skey: str):
    with pytest.raises(FormatError) as caught:
        parse_signer_key(skey)
    report = "".join(traceback.format_exception(caught.value, chain=True))
    assert "FALVFGyNhPJ" not in report
    assert caught.value.__context__ is None


def test_a_signer_key_given_for_a_verifier_key_is_not_shown():
    for text in (NEUMANN_SKEY, " " + NEUMANN_SKEY):
        with pytest.raises(FormatError, match="secret") as caught:
            parse_verifier_key(text)
        assert "FALVFGyNhPJ" not in str(caught.value)


def test_a_signer_key_does_not_show_its_seed():
    signer = parse_signer_key(NEUMANN_SKEY)
    seed = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
    for shown in (repr(signer), str(signer), f"{signer}", repr([signer])):
        assert "PeterNeumann" in shown
        assert base64.b64encode(seed).decode()[4:20] not in shown
        assert seed.hex() not in shown
        assert repr(seed) not in shown
        assert "FALVFGyNhPJ" not in shown
    with pytest.raises(TypeError):
        pickle.dumps(signer)


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_seeds_of_other_lengths_are_refused(seed: bytes):
    with pytest.raises(FormatError, match="32 bytes"):
        generate_signer("name", seed)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\N{EM SPACE}b", "\ud800", "a\x00"])
def test_names_that_cannot_name_a_key_are_refused(name: str):
    with pytest.raises(FormatError):
        generate_signer(name, bytes(32))


@given(st.binary(max_size=200) | st.text("—  ab+\n=AB0/", max_size=60).map(str.encode))
def test_arbitrary_bytes_are_refused(data: bytes):
    with pytest.raises((FormatError, TamperError)):
        open_note(data, [LOG.verifier])


@given(st.text(max_size=60))
def test_arbitrary_keys_are_refused(text: str):
    for parse in (parse_verifier_key, parse_signer_key):
        with pytest.raises(FormatError):
            parse(text)
