"""DirectoryStore: durable, inside its directory, and clear about what is wrong."""

import errno
import os
import pickle
from pathlib import Path

import pytest
from tests.unit.ledger.stores import read_tree

from pgseal.errors import ConfigError, FormatError, UnavailableError
from pgseal.ledger import files
from pgseal.ledger.store import MAX_OBJECT_BYTES, DirectoryStore, MissingObjectError

OUTSIDE = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../other",
    "tile/../../other",
    "tile/..",
    "tile/./0",
    "tile//0",
    "tile/0/",
    ".hidden",
    "tile/.hidden",
    "tile/0\n",
    "tile/\x000",
    "tile\\0",
    "~/x",
    "-rf",
]


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    (tmp_path / "ledger").mkdir()
    return DirectoryStore(tmp_path / "ledger")


def test_what_is_written_is_read(store):
    objects = {f"tile/0/x00{index}/000": b"%d" % index for index in range(10)} | {"tile/entries/000.p/1": b""}
    store.write_new(objects)
    store.replace("checkpoint", b"note")
    assert {path: store.read(path) for path in objects} == objects
    assert store.read("checkpoint") == b"note"
    assert store.list_names("tile") == ["0", "entries"]
    assert store.list_names("tile/entries/000.p") == ["1"]
    assert store.exists("tile/entries/000.p/1")
    assert not store.exists("tile/entries/000.p")
    assert store.list_names("tile/7") == store.list_names("checkpoint") == []
    store.close()
    store.write_new({"tile/0/000": b"after close"})
    store.close()


def test_only_the_objects_are_left(store):
    store.write_new({"tile/0/000": b"x"})
    store.replace("checkpoint", b"first")
    store.replace("checkpoint", b"second")
    assert read_tree(store.path) == {"tile/0/000": b"x", "checkpoint": b"second"}


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leads_out_of_the_ledger(store, path):
    for call in (
        lambda: store.read(path),
        lambda: store.exists(path),
        lambda: store.list_names(path),
        lambda: store.write_new({"tile/0/000": b"", path: b""}),
        lambda: store.replace(path, b""),
        lambda: store.delete(["tile/0/000", path]),
    ):
        with pytest.raises(ValueError, match="not a path in a ledger"):
            call()
    assert read_tree(store.path.parent) == {}


def test_planted_links_are_neither_followed_nor_read(store, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_bytes(b"precious")
    (store.path / "checkpoint").symlink_to(victim / "file")
    with pytest.raises(MissingObjectError, match="what stands there is not a file"):
        store.read("checkpoint")
    assert not store.exists("checkpoint")
    (store.path / ".checkpoint.tmp").symlink_to(victim / "file")
    store.replace("checkpoint", b"note")
    (store.path / "tile").mkdir()
    (store.path / "tile/9").symlink_to(victim / "file")
    store.write_new({"tile/9": b"tile"})
    (store.path / "tile/0").symlink_to(victim)
    with pytest.raises(ConfigError, match="move it away"):
        store.write_new({"tile/0/000": b"tile"})
    assert read_tree(victim) == {"file": b"precious"}
    assert (store.read("checkpoint"), store.read("tile/9")) == (b"note", b"tile")


def test_a_pipe_does_not_hang_the_reader(store):
    os.mkfifo(store.path / "checkpoint")
    with pytest.raises(MissingObjectError):
        store.read("checkpoint")


def test_a_missing_object_is_told_from_a_missing_disk(store):
    with pytest.raises(MissingObjectError, match="tile/0/000") as caught:
        store.read("tile/0/000")
    assert caught.value.path == "tile/0/000"
    (store.path / "tile").write_bytes(b"a file where a directory should be")
    with pytest.raises(MissingObjectError):
        store.read("tile/0/000")
    (store.path / "tile").unlink()
    store.path.rmdir()
    with pytest.raises(UnavailableError, match="mounted"):
        store.read("tile/0/000")
    with pytest.raises(UnavailableError, match="mounted"):
        store.write_new({"tile/0/000": b""})
    assert not store.path.exists()


def test_too_large_an_object_is_not_read(store):
    with (store.path / "checkpoint").open("wb") as file:
        file.truncate(MAX_OBJECT_BYTES + 1)
    with pytest.raises(FormatError, match="checkpoint: expected at most"):
        store.read("checkpoint")


def test_a_directory_in_the_way_is_named(store):
    (store.path / "tile/0/000").mkdir(parents=True)
    (store.path / "checkpoint").mkdir()
    with pytest.raises(MissingObjectError, match="not a file"):
        store.read("tile/0/000")
    with pytest.raises(ConfigError, match="tile/0/000"):
        store.write_new({"tile/0/000": b""})
    with pytest.raises(ConfigError, match="checkpoint"):
        store.replace("checkpoint", b"")


def test_leftovers_are_replaced_and_hard_links_keep_theirs(store, tmp_path):
    store.write_new({"tile/0/000": b"a long leftover of a crash"})
    (tmp_path / "backup").hardlink_to(store.path / "tile/0/000")
    store.write_new({"tile/0/000": b"right"})
    assert store.read("tile/0/000") == b"right"
    assert (tmp_path / "backup").read_bytes() == b"a long leftover of a crash"


def test_delete_passes_over_what_is_gone_and_drops_empty_directories(store):
    store.write_new({"tile/0/000": b"", "tile/0/000.p/1": b"", "tile/0/000.p/2": b""})
    store.delete(["tile/0/000.p/1", "tile/0/000.p/7", "tile/5/000"])
    assert store.list_names("tile/0/000.p") == ["2"]
    store.delete(["tile/0/000.p/2"])
    assert store.list_names("tile/0") == ["000"]
    store.write_new({"tile/0/000.p/3": b"again"})
    assert store.read("tile/0/000.p/3") == b"again"
    store.delete(["checkpoint"])
    assert store.path.is_dir()


def test_everything_written_is_synced_up_to_the_root(tmp_path, monkeypatch):
    synced: list[str] = []
    fsync = os.fsync

    def record(descriptor):
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    monkeypatch.setattr(files.os, "fsync", record)
    names = ["tile/0/x001/000", "tile/0/x001/001.p/3", "tile/entries/x001/000"]
    levels = ["", "tile", "tile/0", "tile/0/x001", "tile/0/x001/001.p", "tile/entries", "tile/entries/x001"]
    # Twice: that a directory exists does not say that the process which made it lived to sync it.
    for _ in range(2):
        synced.clear()
        DirectoryStore(tmp_path).write_new(dict.fromkeys(names, b"x"))
        assert sorted(synced) == sorted(str(tmp_path / name) for name in names + levels)
    synced.clear()
    DirectoryStore(tmp_path).replace("checkpoint", b"x")
    assert synced == [str(tmp_path / ".checkpoint.tmp"), str(tmp_path)]


def test_a_copy_in_another_process_opens_the_same_directory(store):
    store.write_new({"tile/0/000": b"x", "tile/0/001": b"y"})
    assert pickle.loads(pickle.dumps(store)).read("tile/0/001") == b"y"  # noqa: S301 - our own bytes


def test_the_directory_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match="does not exist: run pgseal init"):
        DirectoryStore(tmp_path / "none")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="is not a directory"):
        DirectoryStore(tmp_path / "file")


@pytest.mark.parametrize(
    ("number", "expected", "way_out"),
    [
        (errno.EACCES, ConfigError, "give the user"),
        (errno.EROFS, ConfigError, "give the user"),
        (errno.ENOSPC, UnavailableError, "free some space"),
        (errno.EDQUOT, UnavailableError, "free some space"),
        (errno.EIO, UnavailableError, "check the disk"),
        (errno.ENOTDIR, ConfigError, "move it away"),
        (errno.ENOENT, UnavailableError, "mounted"),
    ],
)
def test_every_refusal_says_the_way_out(store, monkeypatch, number, expected, way_out):
    def fail(path, *_):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(files, "write_file", fail)
    for call in (lambda: store.write_new({"tile/0/000": b"x"}), lambda: store.replace("checkpoint", b"x")):
        with pytest.raises(expected, match=way_out) as caught:
            call()
        assert str(store.path) in str(caught.value)
        assert os.strerror(number) in str(caught.value)


@pytest.mark.parametrize(("number", "expected"), [(errno.EACCES, ConfigError), (errno.EIO, UnavailableError)])
def test_a_failing_read_is_no_missing_object(store, monkeypatch, number, expected):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "read_file", fail)
    with pytest.raises(expected, match="cannot read"):
        store.read("checkpoint")
