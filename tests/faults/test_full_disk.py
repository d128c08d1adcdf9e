"""Real disks that are full: the ledger's and the sealer's memory's, and the vault's. Nobody pretends anything here.

A file system in memory, as small as wanted, is filled up to ever fewer free pages, so that sealing fails at one step
after the other; then room is made, and everything is sealed. Mounting takes root.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import miss
from tests.deployments import Deployment, deploy, query

from pgseal.errors import UnavailableError

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def small_disk(tmp_path_factory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("disk")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m,mode=755", "none", place], capture_output=True, text=True, check=False
    )
    if done.returncode:
        miss(f"a small file system to fill cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def leave(place: Path, pages: int) -> Path:
    """Fill a disk up to `pages` free pages."""
    balloon = place / "balloon"
    found = os.statvfs(place)
    with balloon.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, (found.f_bavail - pages) * found.f_frsize)
    assert os.statvfs(place).f_bavail * found.f_frsize <= pages * PAGE
    return balloon


def seal_in_vain(deployment: Deployment) -> bool:
    try:
        deployment.seal()
    except UnavailableError:
        return True
    return False


def test_the_ledgers_disk_is_full_at_every_moment(database: str, vault_database: str, small_disk: Path):
    query(database, "CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)")
    deployment = deploy(database, vault_database, small_disk)
    deployment.track("item")
    deployment.seal()
    failed: list[bool] = []
    for pages in (*range(0, 40, 2), 400):
        query(deployment.source, "INSERT INTO item (note) SELECT 'new' FROM generate_series(1, 150)")
        balloon = leave(small_disk, pages)
        failed.append(seal_in_vain(deployment))
        balloon.unlink()
        deployment.seal()
        deployment.check_sealed()
    # Not at all, and then at ever later steps, until there is room for everything.
    assert failed[0]
    assert not failed[-1]
    assert sum(failed) > 3
    deployment.check_verified()


def test_the_vaults_disk_is_full(database: str, vault_database: str, small_disk: Path, tmp_path: Path):
    owner = Path(query(vault_database, "SHOW data_directory")[0][0]).stat()
    os.chown(small_disk, owner.st_uid, owner.st_gid)
    for parent in (small_disk.parent, small_disk.parent.parent):  # pytest's own, closed to others
        parent.chmod(0o711)
    query(database, "CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)")
    deployment = deploy(database, vault_database, tmp_path)
    deployment.track("item")
    deployment.seal()
    query(deployment.vault, f"CREATE TABLESPACE small LOCATION '{small_disk}'")
    try:
        query(deployment.vault, "ALTER TABLE vault.record SET TABLESPACE small")
        query(database, "INSERT INTO item (note) SELECT repeat(md5(n::text), 20) FROM generate_series(1, 3000) AS n")
        balloon = leave(small_disk, 40)
        assert seal_in_vain(deployment)
        assert seal_in_vain(deployment)
        balloon.unlink()
        deployment.seal()
        deployment.check_sealed()
        deployment.check_verified()
    finally:
        (small_disk / "balloon").unlink(missing_ok=True)
        query(deployment.vault, "ALTER TABLE vault.record SET TABLESPACE pg_default")
        query(deployment.vault, "DROP TABLESPACE small")
