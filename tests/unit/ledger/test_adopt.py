"""Which directories may become a ledger."""

from pathlib import Path

import pytest
from tests.unit.ledger.stores import ORIGIN, make_leaves, read_tree, seal

from pgseal.core.merkle import EMPTY_ROOT
from pgseal.errors import ConfigError, FormatError
from pgseal.ledger import files
from pgseal.ledger.adopt import check_empty_or_ledger, prepare_directory
from pgseal.ledger.store import DirectoryStore, MissingObjectError
from pgseal.ledger.writer import LedgerWriter


def test_nothing_and_an_empty_directory_may(tmp_path: Path):
    assert check_empty_or_ledger(tmp_path / "none", ORIGIN) is None
    assert check_empty_or_ledger(tmp_path, ORIGIN) is None
    (tmp_path / "lost+found").mkdir()
    assert check_empty_or_ledger(tmp_path, ORIGIN) is None


def test_prepare_makes_the_directory_and_leaves_it_empty(tmp_path: Path):
    path = tmp_path / "var/lib/ledger"
    for _ in range(2):
        assert prepare_directory(path, ORIGIN) is None
        assert list(path.iterdir()) == []


def test_the_same_log_is_adopted_and_unchanged(tmp_path: Path):
    seal(LedgerWriter.open(DirectoryStore(tmp_path), 0, EMPTY_ROOT), make_leaves(0, 300))
    (tmp_path / ".checkpoint.tmp").write_bytes(b"left by a crash")
    before = read_tree(tmp_path)
    checkpoint = prepare_directory(tmp_path, ORIGIN)
    assert checkpoint is not None
    assert (checkpoint.origin, checkpoint.size) == (ORIGIN, 300)
    assert read_tree(tmp_path) == before


def test_another_log_is_refused_by_name(tmp_path: Path):
    seal(LedgerWriter.open(DirectoryStore(tmp_path), 0, EMPTY_ROOT), make_leaves(0, 3))
    with pytest.raises(ConfigError, match=f"expected 'other.example', got '{ORIGIN}'"):
        prepare_directory(tmp_path, "other.example")


def test_foreign_files_are_refused_by_name(tmp_path: Path):
    for name in "dcba":
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ConfigError, match="is not empty, it holds a, b, c, …: choose an empty directory"):
        prepare_directory(tmp_path, ORIGIN)
    assert len(list(tmp_path.iterdir())) == 4


def test_tiles_without_their_checkpoint_are_refused(tmp_path: Path):
    (tmp_path / "tile").mkdir()
    with pytest.raises(MissingObjectError, match="without its checkpoint"):
        check_empty_or_ledger(tmp_path, ORIGIN)


def test_a_damaged_checkpoint_is_named(tmp_path: Path):
    (tmp_path / "checkpoint").write_bytes(b"nonsense")
    with pytest.raises(FormatError, match=str(tmp_path / "checkpoint")):
        check_empty_or_ledger(tmp_path, ORIGIN)


def test_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(ConfigError, match="is not a directory"):
            prepare_directory(path, ORIGIN)


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch):
    def refuse(path, _):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "write_file", refuse)
    with pytest.raises(ConfigError, match="Permission denied: give the user"):
        prepare_directory(tmp_path, ORIGIN)
