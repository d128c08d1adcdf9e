"""Attacks 17, 18 and 20: whoever stores the ledger changes its files, puts an old checkpoint back, or another key's."""

import shutil
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.attacks.attack import Attack
from tests.deployments import ORIGIN, Deployment, deploy, query

from pgseal.core.checkpoint import format_checkpoint
from pgseal.core.keys import SignerKey
from pgseal.core.note import parse_note, sign_note

_SOON = "at the next `pgseal verify`"
STAGED = (
    Attack(
        17, "ledger storage", "flip a bit in any file; truncate, delete or swap files",
        "verify: `proof`, `signature`", _SOON,
    ),
    Attack(
        18, "ledger storage", "put back an older signed checkpoint", "verify: `rollback` against the kept checkpoint",
        _SOON + "; witnesses refuse it",
    ),
    Attack(20, "key holder", "replace the key", "verify: `signature` under the pinned key", _SOON),
)  # fmt: skip


@pytest.fixture
def deployment(database: str, vault_database: str, tmp_path: Path) -> Deployment:
    query(database, "CREATE TABLE item (id int PRIMARY KEY)")
    deployment = deploy(database, vault_database, tmp_path)
    deployment.track("item")
    query(database, "INSERT INTO item SELECT generate_series(1, 600)")
    deployment.seal()
    deployment.check_verified()
    return deployment


def files(deployment: Deployment) -> list[Path]:
    return sorted(path for path in deployment.ledger.rglob("*") if path.is_file())


def find(deployment: Deployment) -> set[str]:
    return {one["kind"] for one in deployment.call("verify", expect=1)["findings"]}


def change(path: Path, change_bytes: Callable[[bytes], bytes]) -> Callable[[], None]:
    """Change a file; returns what puts it back."""
    before = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(change_bytes(before))
    return lambda: path.write_bytes(before) and None


def test_every_file_counts(deployment):
    paths = files(deployment)
    assert len(paths) >= 8, "tiles of two levels, entries, the checkpoint"
    for path in paths:
        name = str(path.relative_to(deployment.ledger))
        expected = {"signature"} if path.name == "checkpoint" else {"proof"}
        for damage in (
            lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
            lambda data: data[:-1],
            lambda data: data[:-1] + bytes([data[-1] ^ 0x80]),
        ):
            mend = change(path, damage)
            assert find(deployment) & expected, name
            mend()
    deployment.check_verified()


def test_a_deleted_file_is_missed(deployment, tmp_path):
    for path in files(deployment):
        if path.name == "checkpoint":
            continue
        shutil.move(path, tmp_path / "aside")
        assert find(deployment) & {"proof", "missing_record"}, path
        shutil.move(tmp_path / "aside", path)
    deployment.check_verified()


@pytest.mark.parametrize("kind", ["tile/0", "tile/entries"])
def test_swapped_files_are_found(deployment, kind):
    first, second = (deployment.ledger / kind / name for name in ("000", "001"))
    one, other = first.read_bytes(), second.read_bytes()
    for path, data in ((first, other), (second, one)):
        path.chmod(0o644)
        path.write_bytes(data)
    assert "proof" in find(deployment)


def test_an_older_checkpoint_is_a_rollback(deployment):
    """Also to somebody who verifies elsewhere, with a memory of his own."""
    elsewhere = deployment.elsewhere(deployment.directory / "auditor")
    elsewhere.check_verified()
    old = (deployment.ledger / "checkpoint").read_bytes()
    query(deployment.source, "INSERT INTO item VALUES (1000)")
    deployment.seal()
    deployment.check_verified()
    elsewhere.check_verified()
    (deployment.ledger / "checkpoint").write_bytes(old)
    assert "rollback" in find(deployment)
    assert "rollback" in find(elsewhere)


def test_another_key_is_not_the_logs(deployment):
    checkpoint = deployment.checkpoint()
    other = SignerKey(ORIGIN, b"o" * 32)
    note = sign_note(format_checkpoint(checkpoint), other)
    (deployment.ledger / "checkpoint").write_bytes(note)
    assert "signature" in find(deployment)
    # Labelled as the log's own: an id of four bytes is soon found, too.
    text, [line] = parse_note(note)
    payload = b64encode(deployment.settings.read_verifier().key_id + line.payload).decode()
    (deployment.ledger / "checkpoint").write_text(f"{text}\n— {ORIGIN} {payload}\n", encoding="utf-8")
    assert "signature" in find(deployment)
