"""The witness's memory: atomic, durable, never back; under threads, processes, full disks and crashes."""

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.core.test_witness import FORK, LEAVES, LOG, NEXT, STRANGER, note_of, request, tree

from pgseal.core.checkpoint import open_checkpoint
from pgseal.core.keys import KeyType, SignerKey
from pgseal.core.note import open_note
from pgseal.errors import ConfigError, FormatError, PgsealError, StorageError
from pgseal.ledger import files
from pgseal.ledger.witness import Witness, WitnessStore, name_log

SIGNER = SignerKey("witness.example/w", bytes([9]) * 32, KeyType.COSIGNATURE)
NOW = 1_800_000_000
LOG_ID = name_log(LOG.name)


@pytest.fixture
def store(tmp_path: Path) -> WitnessStore:
    store = WitnessStore(tmp_path)
    store.add_key(LOG.name, LOG.verifier)
    return store


@pytest.fixture
def witness(store: WitnessStore) -> Witness:
    return Witness(store, SIGNER, lambda: NOW + 0.9)


def held_size(store: WitnessStore) -> int:
    log = store.find_log(LOG_ID)
    assert log is not None
    held = log.read_checkpoint()
    return held.size if held else 0


def test_a_checkpoint_is_cosigned_kept_and_shown(witness: Witness, store: WitnessStore):
    answer = witness.add_checkpoint(request(0, 5))
    assert (answer.status, answer.media_type) == (200, "text/plain; charset=utf-8")
    opened = open_note(note_of(tree(5)) + answer.body, [SIGNER.verifier])
    assert [signature.timestamp for signature in opened.signatures] == [NOW]
    assert witness.read_checkpoint(LOG_ID) == note_of(tree(5)) + answer.body
    # Another process on the same directory knows it.
    again = Witness(WitnessStore(store.directory), SIGNER, lambda: NOW)
    assert again.add_checkpoint(request(0, 5)).status == 409
    assert again.add_checkpoint(request(5, 8)).status == 200
    assert held_size(store) == 8


@pytest.mark.parametrize(
    ("body", "status", "answer"),
    [
        (b"", 400, None),
        (b"old 0\n" + note_of(tree(5)), 400, None),
        (request(0, 5).replace(b"example.org/clinic", b"example.org/other"), 404, None),
        (b"nonsense\n\nother\n", 404, None),
        (request(0, 5, STRANGER), 403, None),
        (b"old 7\n\n" + note_of(tree(5)), 400, None),
        (request(0, 5), 409, b"3\n"),
        (request(3, 5, leaves=FORK), 422, None),
    ],
)
def test_what_is_refused_changes_nothing(witness: Witness, store: WitnessStore, body, status, answer):
    assert witness.add_checkpoint(request(0, 3)).status == 200
    before = witness.read_checkpoint(LOG_ID)
    found = witness.add_checkpoint(body)
    assert found.status == status
    assert found.body == answer if answer else found.body.endswith(b"\n")
    assert found.media_type == ("text/x.tlog.size" if status == 409 else "text/plain; charset=utf-8")
    assert witness.read_checkpoint(LOG_ID) == before
    assert sorted(path.suffix for path in store.directory.iterdir()) == [".json", ".lock"]


def test_nothing_is_shown_of_what_is_not_held(witness: Witness):
    for log_id in (LOG_ID, "0" * 64, "", "..", "../" * 10 + "etc/passwd", LOG_ID.upper()):
        assert witness.read_checkpoint(log_id) is None


def test_logs_are_added_once_with_one_key_or_more(store: WitnessStore, witness: Witness):
    assert not store.add_key(LOG.name, LOG.verifier)
    assert witness.add_checkpoint(request(0, 3)).status == 200
    assert witness.add_checkpoint(request(3, 5, NEXT)).status == 403
    assert store.add_key(LOG.name, NEXT.verifier)
    assert witness.add_checkpoint(request(3, 5, NEXT)).status == 200, "a new key must not make it forget"
    assert [(log.origin, len(log.keys)) for log in store.list_logs()] == [(LOG.name, 2)]
    with pytest.raises(ConfigError, match="0x04"):
        store.add_key(LOG.name, SIGNER.verifier)
    with pytest.raises(FormatError):
        store.add_key("no origin", LOG.verifier)


def test_only_a_witness_key_cosigns(store: WitnessStore):
    with pytest.raises(ConfigError, match="0x04"):
        Witness(store, LOG, lambda: NOW)


def test_a_directory_that_is_gone_is_not_an_empty_one(tmp_path: Path):
    with pytest.raises(ConfigError):
        WitnessStore(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b'"v": 1', b'"v": 2'),
        lambda data: data.replace(LOG.name.encode(), b"example.org/other", 1),
        lambda data: data.replace(b'"checkpoint"', b'"other"'),
        lambda data: json.dumps(json.loads(data) | {"checkpoint": "junk"}).encode(),
        lambda data: json.dumps(json.loads(data) | {"keys": ["junk"]}).encode(),
        lambda _: b"[]",
    ],
)
def test_a_damaged_memory_cosigns_nothing(store: WitnessStore, witness: Witness, damage: Callable[[bytes], bytes]):
    assert witness.add_checkpoint(request(0, 3)).status == 200
    path = store.directory / f"{LOG_ID}.json"
    path.write_bytes(damaged := damage(path.read_bytes()))
    for act in (
        lambda: witness.add_checkpoint(request(3, 5)),
        store.list_logs,
        lambda: witness.read_checkpoint(LOG_ID),
    ):
        with pytest.raises(StorageError, match="damaged"):
            act()
    assert path.read_bytes() == damaged


# -- crashes


class KilledError(BaseException):
    """The process is gone: nothing catches this."""


def break_at(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException, *, after: bool) -> list[str]:
    """Break the file operation with this number; the names of those that were begun."""
    begun: list[str] = []

    def wrap(operation: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            begun.append(operation.__name__)
            mine = len(begun) == number
            if mine and not after:
                raise error
            if len(begun) > number and isinstance(error, KilledError):
                raise error
            operation(*arguments)
            if mine:
                raise error

        return call

    for operation in files.CHANGES:
        monkeypatch.setattr(files, operation.__name__, wrap(operation))
    return begun


STEPS = ["write_file", "sync_file", "rename_file", "sync_directory"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(1, len(STEPS) + 1), ids=STEPS)
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KilledError()], ids=["full", "killed"]
)
def test_a_crash_leaves_the_old_state_or_the_new_one(store, witness, monkeypatch, number, after, error):
    assert witness.add_checkpoint(request(0, 3)).status == 200
    old = witness.read_checkpoint(LOG_ID)
    with monkeypatch.context() as patch:
        begun = break_at(patch, number, error, after=after)
        with pytest.raises((PgsealError, KilledError)):
            witness.add_checkpoint(request(3, 5))
        assert begun[:number] == STEPS[:number]
    found = witness.read_checkpoint(LOG_ID)
    is_new = held_size(store) == 5
    assert is_new == (STEPS.index("rename_file") + 1 < number + after)
    assert is_new or found == old
    # The log asks again, and goes on.
    assert witness.add_checkpoint(request(3, 5)).status == (409 if is_new else 200)
    assert witness.add_checkpoint(request(5, 8)).status == 200
    assert sorted(path.suffix for path in store.directory.iterdir()) == [".json", ".lock"]


def test_it_is_durable_before_the_answer(witness, monkeypatch):
    begun = break_at(monkeypatch, -1, OSError(), after=False)
    assert witness.add_checkpoint(request(0, 3)).status == 200
    assert begun == STEPS


# -- company


def test_of_two_histories_one_is_cosigned_whatever_the_threads_do(store: WitnessStore, witness: Witness):
    """Each round many threads ask for the next size of two histories that part there."""
    for size in range(1, 10):
        bodies = [request(size - 1, size), request(size - 1, size, leaves=[*LEAVES[: size - 1], b"x" * 32])] * 4
        answers: list[int] = []
        gate = threading.Barrier(len(bodies))

        def ask(body: bytes, answers=answers, gate=gate) -> None:
            gate.wait()
            answers.append(witness.add_checkpoint(body).status)

        threads = [threading.Thread(target=ask, args=(body,)) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers.count(200) == 1
        assert set(answers) == {200, 409}
        log = store.find_log(LOG_ID)
        assert log is not None
        if log.read_checkpoint() != tree(size):  # the other history won: begin anew with the true one
            (store.directory / f"{LOG_ID}.json").unlink()
            store.add_key(LOG.name, LOG.verifier)
            assert witness.add_checkpoint(request(0, size)).status == 200


PROCESS = """
import sys
from pathlib import Path
from tests.unit.core.test_witness import LEAVES, request
from tests.unit.ledger.test_witness import SIGNER
from pgseal.ledger.witness import Witness, WitnessStore
witness = Witness(WitnessStore(Path(sys.argv[1])), SIGNER, lambda: int(sys.argv[2]))
sys.stdin.readline()
leaves = [sys.argv[2].encode() * 16, *LEAVES]
for size in range(1, 20):
    if witness.add_checkpoint(request(size - 1, size, leaves=leaves)).status == 200:
        print(size)
"""


def test_of_two_histories_one_is_cosigned_whatever_the_processes_do(store: WitnessStore):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, store.directory, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for number in (11, 22, 33)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(outputs) == [[], [], [str(size) for size in range(1, 20)]], "a history of its own for each who asks"
    log = store.find_log(LOG_ID)
    assert log is not None
    assert log.note is not None
    opened = open_checkpoint(log.note, [LOG.verifier, SIGNER.verifier])
    assert opened.signatures[1].timestamp == [11, 22, 33][outputs.index(max(outputs))]
