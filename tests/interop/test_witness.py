"""A witness that nobody here wrote cosigns our log, and a log that nobody here wrote is cosigned by ours."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.interop.conftest import HERE, Run, environment
from tests.unit.ledger.stores import ORIGIN, SIGNER, MemoryStore, make_leaves, make_note, seal
from tests.witnesses import running_witnesses

from pgseal.core.checkpoint import open_checkpoint
from pgseal.core.cosignature import take_cosignature
from pgseal.core.keys import VerifierKey, format_verifier_key, parse_verifier_key
from pgseal.core.merkle import EMPTY_ROOT, prove_consistency
from pgseal.core.note import add_signatures
from pgseal.core.witness import AddCheckpoint, format_request
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.witness_client import Response, WitnessClient
from pgseal.ledger.writer import LedgerWriter


@pytest.fixture
def other_witness(other_python: Run, tmp_path: Path) -> Iterator[tuple[str, VerifierKey]]:
    """Address and key of `aics-witness serve`, which knows our log."""
    config = tmp_path / "witness.json"
    words = ("-m", "aics_witness")
    where = ("--name", "witness.example/other", "--listen", "127.0.0.1:0")
    vkey = other_python(*words, "init", "--config", config, *where)
    other_python(
        *words, "add-log", "--config", config, "--origin", ORIGIN, "--vkey", format_verifier_key(SIGNER.verifier)
    )
    log = tmp_path / "log"
    with log.open("wb") as output, subprocess.Popen(
        [sys.executable, *words, "serve", "--config", config], env=environment(), stdout=output, stderr=output
    ) as process:  # fmt: skip
        try:
            yield find_address(process, log), parse_verifier_key(vkey.strip())
        finally:
            process.kill()


def find_address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where it says that it listens."""
    end = time.monotonic() + 60
    while (found := re.search(r"listening on (http://127\.0\.0\.1:\d+)", log.read_text())) is None:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)
    return found[1]


def test_their_witness_cosigns_our_log_as_it_grows_and_nothing_else(other_witness: tuple[str, VerifierKey]):
    url, key = other_witness
    with closing(WitnessClient(url, 30)) as client:
        check_witness(client, key)


def check_witness(client: WitnessClient, key: VerifierKey) -> None:
    store = MemoryStore()
    writer = LedgerWriter.open(store, 0, EMPTY_ROOT)
    held = 0
    for size in (1, 256, 257, 700, 700):
        note = seal(writer, make_leaves(writer.size, size))
        response = ask(client, store, held, note, size)
        assert response.status == 200, response.body
        cosignature = take_cosignature(note, response.body, key)
        opened = open_checkpoint(add_signatures(note, [cosignature.line]), [SIGNER.verifier, key], origin=ORIGIN)
        assert [signature.key for signature in opened.signatures] == [SIGNER.verifier, key]
        held = size
    seal(writer, make_leaves(700, 701))
    stale = ask(client, store, 257, note, 700)
    assert (stale.status, stale.body) == (409, b"700\n")
    assert ask(client, store, 700, make_note(701, bytes(32)), 701).status == 422
    forged = make_note(701, writer.root()).replace(b"\n701\n", b"\n702\n")
    assert client.add_checkpoint(format_request(AddCheckpoint(700, (), forged))).status == 403


def ask(client: WitnessClient, store: MemoryStore, old_size: int, note: bytes, size: int) -> Response:
    proof = prove_consistency(old_size, size, LedgerReader(store).hashes(size)) if 0 < old_size < size else []
    return client.add_checkpoint(format_request(AddCheckpoint(old_size, tuple(proof), note)))


def test_our_witness_cosigns_their_log(other_python: Run, tmp_path: Path):
    log = parse_verifier_key(other_python(HERE / "other_log.py", "vkey").strip())
    with running_witnesses(tmp_path, ["paris"]) as [witness]:
        witness.add_log(log.name, log)
        cosigned = other_python(HERE / "other_log.py", "submit", witness.url, witness.vkey).encode()
        opened = open_checkpoint(cosigned, [log, parse_verifier_key(witness.vkey)], origin=log.name)
        assert opened.checkpoint.size == 700
        assert {signature.key.name for signature in opened.signatures} == {log.name, "witness.example/paris"}
        with closing(WitnessClient(witness.url, 30)) as client:
            held = client.read_checkpoint(log.name)
        assert held is not None
        assert open_checkpoint(held, [log]).checkpoint == opened.checkpoint
