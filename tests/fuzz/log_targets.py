"""Notes, keys, checkpoints, cosignatures, tiles, proofs, requests to a witness (FORMATS.md section 2)."""

from tests.fuzz.target import Target, from_text

from pgseal.cli.verify_pack import _parse_key
from pgseal.core.checkpoint import Checkpoint, format_checkpoint, open_checkpoint, parse_checkpoint
from pgseal.core.cosignature import parse_policy, take_cosignature
from pgseal.core.encoding import parse_base64, parse_decimal
from pgseal.core.fields import parse_relation, parse_time
from pgseal.core.keys import (
    KeyType,
    SignerKey,
    format_signer_key,
    format_verifier_key,
    parse_signer_key,
    parse_verifier_key,
)
from pgseal.core.merkle import EMPTY_ROOT, leaf_hash, prove_consistency, tree_root
from pgseal.core.note import add_signatures, cosign_note, open_note, parse_note, select_signatures, sign_note
from pgseal.core.tiles import format_entries, parse_entries, parse_entries_path, parse_tile, parse_tile_path
from pgseal.core.witness import AddCheckpoint, decide, find_origin, format_request, parse_request
from pgseal.errors import ConfigError, FormatError, SignatureError
from pgseal.ledger.writer import _parse_checkpoint

SIGNER = SignerKey("example.org/log", bytes(range(32)))
WITNESS = SignerKey("witness.example/w1", bytes(range(1, 33)), KeyType.COSIGNATURE)
KEYS = [SIGNER.verifier, WITNESS.verifier]
LEAVES = [leaf_hash(b"%d" % number) for number in range(5)]


def _checkpoint(size: int, *extensions: str) -> Checkpoint:
    return Checkpoint(SIGNER.name, size, tree_root(LEAVES[:size]) if size else EMPTY_ROOT, extensions)


def _text(size: int, *extensions: str) -> str:
    return format_checkpoint(_checkpoint(size, *extensions))


TEXTS = [_text(0), _text(5), _text(5, "an extension")]
NOTES = [sign_note(text, SIGNER) for text in TEXTS]
COSIGNED = add_signatures(NOTES[1], [cosign_note(TEXTS[1], WITNESS, 1_800_000_000)])
ANSWER = cosign_note(TEXTS[1], WITNESS, 1_800_000_000).encode()
VKEYS = [format_verifier_key(key).encode() for key in KEYS]


def _subtree(level: int, index: int) -> bytes:
    return tree_root(LEAVES[index << level : (index + 1) << level])


def _request(old_size: int) -> bytes:
    proof = prove_consistency(old_size, 5, lambda places: [_subtree(*place) for place in places]) if old_size else []
    return format_request(AddCheckpoint(old_size, tuple(proof), NOTES[1]))


REQUESTS = [_request(0), _request(3), format_request(AddCheckpoint(0, (), NOTES[0]))]


def _decide(data: bytes) -> None:
    for held in (None, _checkpoint(3), _checkpoint(5)):
        decide(data, [SIGNER.verifier], held)


TARGETS = [
    Target("base64", from_text(lambda text: parse_base64(text, source="x")), [b"AAEC", b"AA=="]),
    Target("decimal", from_text(lambda text: parse_decimal(text, source="x")), [b"0", b"9223372036854775807"]),
    Target("note", lambda data: (parse_note(data), select_signatures(data, KEYS)), [*NOTES, COSIGNED]),
    Target("open_note", lambda data: open_note(data, KEYS), [*NOTES, COSIGNED], (FormatError, SignatureError)),
    Target("checkpoint", from_text(parse_checkpoint), [text.encode() for text in TEXTS]),
    Target(
        "open_checkpoint",
        lambda data: open_checkpoint(data, KEYS, origin=SIGNER.name),
        [*NOTES, COSIGNED],
        (FormatError, SignatureError),
    ),
    Target(
        "cosignature",
        lambda data: take_cosignature(NOTES[1], data, WITNESS.verifier),
        [ANSWER],
        (FormatError, SignatureError),
    ),
    Target(
        "witness_policy",
        from_text(lambda text: parse_policy(text, dict.fromkeys(("paris", "oslo", "lima"), WITNESS.verifier))),
        [b"any 2", b"any 2 of paris, oslo, lima"],
    ),
    Target("ledger_checkpoint", lambda data: _parse_checkpoint(data, "x"), NOTES),
    Target("verifier_key", from_text(parse_verifier_key), VKEYS),
    Target("vkey_option", from_text(_parse_key), VKEYS, (ConfigError,)),
    Target("signer_key", from_text(parse_signer_key), [format_signer_key(key).encode() for key in (SIGNER, WITNESS)]),
    Target("tile", lambda data: parse_tile(data, source="tile"), [b"".join(LEAVES), bytes(8192)]),
    Target("tile_path", from_text(parse_tile_path), [b"tile/0/x001/x234/067", b"tile/63/000.p/255"]),
    Target("entries_path", from_text(parse_entries_path), [b"tile/entries/273.p/112", b"tile/entries/x001/000"]),
    Target("entries", lambda data: parse_entries(data, 3, source="bundle"), [format_entries([b"a", b"", b"x" * 300])]),
    Target("witness_request", lambda data: (parse_request(data), find_origin(data)), REQUESTS),
    Target("witness_decision", _decide, REQUESTS, ()),
    Target("time", from_text(parse_time), [b"2026-11-23T09:14:02.118000Z"]),
    Target("relation", from_text(parse_relation), [b"public.patients", b'"A ""b"".c"."\xc3\xa9"']),
]
