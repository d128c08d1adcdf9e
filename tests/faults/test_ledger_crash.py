"""The crash table of the ledger: break every file operation in turn, then carry on and end with the same bytes.

A sealer of three lines drives the writer; what it has signed is its only memory. Each operation that changes the disk
fails once with a full disk, and once the process dies at it: before it, in the middle of it (a torn file) and just
after it. At every moment what the published checkpoint promises must be there.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import pytest
from tests.unit.ledger.stores import ORIGIN, SIGNER, check_ledger, make_leaves, make_note, read_tree

from pgseal.core.checkpoint import open_checkpoint
from pgseal.core.merkle import EMPTY_ROOT, leaf_hashes, tree_root
from pgseal.errors import ConfigError, UnavailableError
from pgseal.ledger import files
from pgseal.ledger.store import CHECKPOINT, DirectoryStore
from pgseal.ledger.writer import LedgerWriter

BATCHES = (1, 255, 3, 400)
SIZES = [sum(BATCHES[: count + 1]) for count in range(len(BATCHES))]


class KilledError(BaseException):
    """The process is gone: nothing catches this."""


class Breaker:
    """Counts the operations that change the disk and breaks one of them."""

    def __init__(self, at: int, how: str) -> None:
        self.at, self.how, self.count, self.dead = at, how, 0, False

    def wrap(self, operation: Callable[..., None]) -> Callable[..., None]:
        def call(path: Path, *arguments: Any) -> None:
            if self.dead:
                raise KilledError
            self.count += 1
            if self.count != self.at:
                operation(path, *arguments)
            elif self.how == "full disk":
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            else:
                self.dead = True
                if self.how == "torn" and operation.__name__ == "write_file":
                    operation(path, arguments[0][: len(arguments[0]) // 2])
                elif self.how == "after":
                    operation(path, *arguments)
                raise KilledError

        return call


@contextmanager
def breaking(at: int = 0, how: str = "") -> Iterator[Breaker]:
    breaker = Breaker(at, how)
    with pytest.MonkeyPatch.context() as patch:
        for operation in files.CHANGES:
            patch.setattr(files, operation.__name__, breaker.wrap(operation))
        # What matters here is what is written, in which order; test_store shows that it is synced.
        patch.setattr(files.os, "fsync", lambda _: None)
        # In the order of the calls, so that the k-th operation is always the same.
        patch.setattr(DirectoryStore, "_run", lambda _, function, calls: [function(*call) for call in calls])
        yield breaker


class Sealer:
    """Remembers what it signed, in a place that the faults do not reach."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.size, self.root, self.note = 0, EMPTY_ROOT, b""

    def start(self) -> LedgerWriter:
        writer = LedgerWriter.open(DirectoryStore(self.directory), self.size, self.root)
        if self.note:
            writer.publish(self.note, self.size)
        return writer

    def run(self, writer: LedgerWriter) -> None:
        for size in SIZES:
            if size > self.size:
                writer.append(make_leaves(self.size, size))
                self.size, self.root, self.note = size, writer.root(), make_note(size, writer.root())
            if self.note:
                writer.publish(self.note, self.size)


def check_published(directory: Path) -> None:
    store = DirectoryStore(directory)
    if store.exists(CHECKPOINT):
        checkpoint = open_checkpoint(store.read(CHECKPOINT), [SIGNER.verifier], origin=ORIGIN).checkpoint
        assert checkpoint.size in SIZES
        assert checkpoint.root == root_of(checkpoint.size)
        check_ledger(store, make_leaves(0, checkpoint.size))


@cache
def root_of(size: int) -> bytes:
    return tree_root(leaf_hashes(make_leaves(0, size)))


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A directory in memory if there is one: thousands of small files, and no disk is asked to keep them."""
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as directory:
        yield Path(directory)


@pytest.fixture
def place(memory: Path) -> Path:
    return Path(mkdtemp(dir=memory))


@pytest.fixture(scope="module")
def undisturbed(memory: Path) -> tuple[dict[str, bytes], int]:
    """What a run without faults leaves, and how many operations it takes."""
    directory = memory / "undisturbed"
    directory.mkdir()
    sealer = Sealer(directory)
    with breaking() as breaker:
        sealer.run(sealer.start())
    check_published(directory)
    assert sealer.size == SIZES[-1]
    assert breaker.count > 40
    return read_tree(directory), breaker.count


@pytest.mark.parametrize("how", ["before", "torn", "after"])
def test_killed_at_any_operation_it_carries_on_to_the_same_bytes(place, undisturbed, how):
    expected, operations = undisturbed
    for at in range(1, operations + 1):
        directory = place / str(at)
        directory.mkdir()
        sealer = Sealer(directory)
        with breaking(at, how) as breaker:
            with pytest.raises(KilledError):
                sealer.run(sealer.start())
            assert breaker.dead
        check_published(directory)
        with breaking():
            sealer.run(sealer.start())
        assert read_tree(directory) == expected, f"killed {how} operation {at}"


def test_killed_twice_it_carries_on_to_the_same_bytes(place, undisturbed):
    expected, operations = undisturbed
    for at in range(1, operations, 3):
        directory = place / str(at)
        directory.mkdir()
        sealer = Sealer(directory)
        for again, how in ((at, "torn"), (1 + at % 7, "after")):
            with breaking(again, how), pytest.raises(KilledError):
                sealer.run(sealer.start())
            check_published(directory)
        with breaking():
            sealer.run(sealer.start())
        assert read_tree(directory) == expected, f"killed at operation {at}"


@pytest.mark.parametrize("reopen", [False, True])
def test_a_full_disk_at_any_operation_harms_nothing(place, undisturbed, reopen):
    expected, operations = undisturbed
    for at in range(1, operations + 1):
        directory = place / str(at)
        directory.mkdir()
        sealer = Sealer(directory)
        with breaking(at, "full disk"):
            writer = sealer.start()
            with pytest.raises(UnavailableError, match="free some space"):
                sealer.run(writer)
            check_published(directory)
            if reopen:
                writer = sealer.start()
            sealer.run(writer)
        assert read_tree(directory) == expected, f"full at operation {at}"


def test_leaves_may_differ_after_a_crash_before_signing(place):
    """What was never signed binds nobody: a batch may come back in other parts, or with other leaves."""
    with breaking(8, "torn"), pytest.raises(KilledError):
        LedgerWriter.open(DirectoryStore(place), 0, EMPTY_ROOT).append([b"other"] * 900)
    sealer = Sealer(place)
    with breaking():
        sealer.run(sealer.start())
    check_published(place)


def test_a_ledger_that_becomes_unwritable_is_explained(place, monkeypatch):
    sealer = Sealer(place)
    with breaking():
        writer = sealer.start()
        sealer.run(writer)

    def refuse(path: Path, _: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(files, "write_file", refuse)
    with pytest.raises(ConfigError, match="Read-only file system"):
        writer.append([b"more"])
    check_published(place)
