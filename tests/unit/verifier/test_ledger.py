"""Damage in the ledger's files, one after the other: what is found names the file and nothing else."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.verifier.samples import (
    ORIGIN,
    SIGNER,
    MemoryFiles,
    MemoryKept,
    Sample,
    build_files,
    make_row,
    make_sample,
    sign,
)

from pgseal.core.merkle import leaf_hashes, tree_root
from pgseal.core.tiles import entries_path, tile_path, tiles_of
from pgseal.ledger.store import DirectoryStore
from pgseal.ledger.writer import LedgerWriter
from pgseal.verifier import Report, Verifier
from pgseal.verifier import pool as pool_module
from pgseal.verifier.compare import form_leaf

BIG = 65_536 + 256 + 44  # two ranges, tiles at levels 0, 1 and 2, all of them partial at the end
PARTIAL = make_sample(300)
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "one bit flipped": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "first bit flipped": lambda data: bytes([data[0] ^ 128]) + data[1:],
    "truncated": lambda data: data[: len(data) // 2],
    "emptied": lambda _: b"",
    "lengthened": lambda data: data + b"\0",
    "deleted": lambda _: None,
}


@pytest.fixture(scope="module")
def big_files() -> dict[str, bytes]:
    files, root = build_files([b"leaf %d" % index for index in range(BIG)])
    return files | {"checkpoint": sign(BIG, root)}


def required_paths(size: int) -> list[str]:
    tiles = list(tiles_of(size))
    return [tile_path(tile) for tile in tiles] + [
        entries_path(tile.index, tile.width) for tile in tiles if not tile.level
    ]


def verify(files: dict[str, bytes], **options: object) -> Report:
    verifier = Verifier(ORIGIN, SIGNER.verifier, MemoryFiles(files), MemoryKept(), **{"workers": 1, **options})
    verifier.check_checkpoint()
    verifier.check_leaves(None)
    return verifier.finish()


def damage(files: dict[str, bytes], path: str, how: str) -> dict[str, bytes]:
    data = DAMAGES[how](files[path])
    rest = {name: content for name, content in files.items() if name != path}
    return rest if data is None else rest | {path: data}


def test_samples_hold_the_required_files_and_no_others(big_files: dict[str, bytes]):
    assert sorted(big_files) == sorted([*required_paths(BIG), "checkpoint"])
    assert sorted(PARTIAL.files) == sorted([*required_paths(300), "checkpoint"])


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 511, 512, 600])
def test_clean_ledger_of_any_size_is_ok(size: int):
    files, root = build_files([b"leaf %d" % index for index in range(size)])
    report = verify(files | {"checkpoint": sign(size, root)})
    assert report.ok, report.findings
    assert report.checked["ledger"] == report.size == size


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("path", required_paths(300))
def test_damage_to_each_file_is_one_finding_that_names_it(path: str, how: str):
    sample = PARTIAL.copy()
    sample.files = damage(sample.files, path, how)
    findings = sample.verify().findings
    lost_entries = how == "deleted" and "entries" in path
    assert [(finding.kind, finding.where) for finding in findings] == [
        ("missing_record" if lost_entries else "proof", "ledger")
    ], findings
    assert findings[0].detail.startswith(f"{path} (leaves ")


@pytest.mark.parametrize(
    ("path", "how"),
    [
        ("tile/2/000.p/1", "one bit flipped"),
        ("tile/2/000.p/1", "deleted"),
        ("tile/1/000", "one bit flipped"),
        ("tile/1/000", "deleted"),
        ("tile/1/001.p/1", "one bit flipped"),
        ("tile/0/255", "one bit flipped"),
        ("tile/0/256", "one bit flipped"),
        ("tile/0/257.p/44", "one bit flipped"),
    ],
)
def test_damage_at_each_level_of_a_big_ledger_is_one_finding(big_files: dict[str, bytes], path: str, how: str):
    findings = verify(damage(big_files, path, how)).findings
    assert [finding.kind for finding in findings] == ["proof"]
    assert findings[0].detail.startswith(f"{path} (leaves ")


@pytest.mark.parametrize("path", ["tile/entries/255", "tile/entries/256", "tile/entries/257.p/44"])
def test_changed_entry_of_a_big_ledger_is_named(big_files: dict[str, bytes], path: str):
    findings = verify(damage(big_files, path, "one bit flipped")).findings
    assert [finding.kind for finding in findings] == ["proof"]
    assert findings[0].detail.startswith(f"{path} (leaves ")
    assert "changed at leaf " in findings[0].detail


def test_big_ledger_checked_by_processes_finds_the_same(big_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool_module, "MIN_PARALLEL_RANGES", 2)
    monkeypatch.setattr("pgseal.verifier.verifier.MIN_PARALLEL_RANGES", 2)
    damaged = damage(big_files, "tile/0/256", "one bit flipped")
    seen: list[tuple[str, int, int | None]] = []
    report = verify(damaged, workers=2, progress=lambda *step: seen.append(step))
    assert report == verify(damaged)
    assert seen == [("ledger", 65_536, BIG), ("ledger", BIG, BIG)]


@pytest.mark.parametrize(("first", "second"), [("tile/0/000", "tile/0/001"), ("tile/0/001", "tile/1/000.p/2")])
def test_swapped_tiles_are_both_found(sample: Sample, first: str, second: str):
    files = sample.files
    files[first], files[second] = files[second], files[first]
    named = {finding.detail.split()[0] for finding in sample.verify().findings}
    assert named == {first, second}


def test_swapped_bundles_are_both_found(sample: Sample):
    files = sample.files
    for kind in ("entries", "0"):
        files[f"tile/{kind}/000"], files[f"tile/{kind}/001"] = files[f"tile/{kind}/001"], files[f"tile/{kind}/000"]
    named = [finding.detail.split()[0] for finding in sample.verify().findings]
    assert named == ["tile/entries/000", "tile/entries/001"]


def test_ledger_rewritten_up_to_the_root_is_found(sample: Sample):
    rows = [make_row(index, xid=1) for index in range(600)]
    files, _ = build_files([form_leaf(row) or b"" for row in rows])
    sample.files |= files
    sample.rows, sample.trail.rows = rows, rows
    findings = sample.verify().findings
    assert [(finding.kind, finding.where) for finding in findings] == [("proof", "ledger")]
    assert "the entries lead to root" in findings[0].detail


def test_full_tile_may_stand_in_for_a_partial_one(sample: Sample):
    entries = [form_leaf(make_row(index)) or b"" for index in range(1000)]
    newer, _ = build_files(entries)
    for old in ("tile/0/002.p/88", "tile/entries/002.p/88"):
        del sample.files[old]
        sample.files[old.partition(".")[0]] = newer[old.partition(".")[0]]
    assert sample.verify().ok
    sample.files["tile/0/002"] = b"x" + sample.files["tile/0/002"][1:]
    assert [finding.kind for finding in sample.verify().findings] == ["proof"]


def test_files_above_the_size_are_nobodys_business(sample: Sample):
    sample.files |= {"tile/0/003": b"torn", "tile/entries/003.p/7": b"", "tile/0/002": b"too early"}
    assert sample.verify().ok


def test_ledger_that_the_writer_wrote_is_clean(tmp_path):
    store = DirectoryStore(tmp_path)
    writer = LedgerWriter.open(store, 0, tree_root([]))
    rows = [make_row(index) for index in range(600)]
    for end in (3, 256, 300, 600):
        writer.append([form_leaf(row) or b"" for row in rows[writer.size : end]])
        writer.publish(sign(end, writer.root()), end)
    verifier = Verifier(ORIGIN, SIGNER.verifier, store, MemoryKept())
    verifier.check_checkpoint()
    verifier.check_leaves(None)
    report = verifier.finish()
    assert report.ok
    assert report.root == tree_root(leaf_hashes([form_leaf(row) or b"" for row in rows]))


@given(st.data())
def test_any_damage_to_any_file_is_found(data: st.DataObject):
    sample = PARTIAL.copy()
    path = data.draw(st.sampled_from(sorted(sample.files)))
    content = sample.files[path]
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    replaced = st.binary() | st.sampled_from(sorted(sample.files.values())) | st.just(content[: bit // 8])
    damaged = data.draw(st.just(bytes(flipped)) | replaced.filter(lambda found: found != content))
    sample.files[path] = damaged
    assert not sample.verify().ok
