"""What is wrong with configuration, key, ledger and vault rows: one line or a finding, and nothing harmed."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.acceptance.shell import Shell, check_unharmed, fill, update
from tests.conftest import NewCluster
from tests.deployments import Deployment, RunningSealer, deploy, query

from pgseal.core.keys import SignerKey, format_signer_key

TOML = """\
origin = "clinic.example/prod"
ledger = "ledger"
key = "file:pgseal.key"

[vault]
dsn = "host=/nowhere password=geheim"

[[source]]
name = "clinic"
dsn = "host=/nowhere password=geheim"
"""


def files_of(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# -- pgseal.toml


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"[vault]", b"[vault", "line 5"),
        (b"ledger =", b"leger =", "line 2, leger: there is no such setting"),
        (b"[vault]\ndsn", b"[vault]\nds", "line 6, vault.ds: there is no such setting"),
        (b'"ledger"', b"3", "line 2, ledger: expected a string"),
        (b"[[source]]", b"[source]", "line 8, source: expected a list"),
        (b"clinic.example", b"clinic \xff", "line 1 is not UTF-8"),
        (b'"clinic"', b'"Clinic"', "line 9, source.name"),
        (b'"file:pgseal.key"', b'"PRIVATE+KEY+geheim"', "line 3, key"),
    ],
    ids=["syntax", "unknown", "unknown below", "type", "table", "encoding", "value", "key itself"],
)
def test_what_is_wrong_in_the_configuration_is_named_with_its_line_and_key(shell, old, new, expected):
    path = shell.directory / "pgseal.toml"
    path.write_bytes(TOML.encode().replace(old, new, 1))
    before = files_of(shell.directory)

    for command in (("status",), ("seal", "--once"), ("track", "patients")):
        message = shell.refuse(*command)
        assert expected in message
        assert "pgseal.toml" in message
        assert "geheim" not in message
    assert files_of(shell.directory) == before


# -- key and origin


@pytest.mark.slow
def test_a_key_that_is_missing_unreadable_or_wrong_is_refused_and_kept(shell, deployment):
    key, text = shell.directory / "pgseal.key", (shell.directory / "pgseal.key").read_text()
    for content, expected in (
        (None, "no such file"),
        ("", "is empty"),
        ("nonsense", "sealing needs the key that pgseal init made"),
        (format_signer_key(SignerKey("other.example", bytes(32))), "got one of 'other.example'"),
    ):
        key.unlink(missing_ok=True)
        if content is not None:
            key.write_text(content)
        ledger = files_of(deployment.ledger)
        assert expected in shell.refuse("seal", "--once")
        assert "key" in shell.refuse("verify")
        shell("status", code=3)
        shell("search")  # the vault answers without a key
        assert files_of(deployment.ledger) == ledger
        assert not key.exists() if content is None else key.read_text() == content
    key.write_text(format_signer_key(SignerKey(deployment.settings.origin, bytes(32))))
    assert shell.refuse("seal", "--once", code=1)
    assert shell.json("verify", code=1)["findings"][0]["kind"] == "signature"
    key.write_text(text)
    check_unharmed(deployment)


def test_a_key_or_a_state_that_may_not_be_read_is_named(new_cluster: NewCluster, shell):
    cluster = new_cluster(16, listen=True)
    source, vault = cluster.create_database("app"), cluster.create_database("vault")
    fill(source)
    source, vault = cluster.dsn("app", tcp=True), cluster.dsn("vault", tcp=True)
    deployment = deploy(source, vault, shell.directory)
    deployment.track("patients")
    other = shell.without_privileges()

    for path, code, commands in (
        (shell.directory / "pgseal.key", 2, [("seal", "--once"), ("verify",)]),
        (shell.directory / "pgseal.toml", 2, [("seal", "--once"), ("verify",), ("track", "patients")]),
        (deployment.ledger, 2, [("seal", "--once"), ("verify",)]),
        (deployment.ledger / "checkpoint", 2, [("seal", "--once"), ("verify",)]),
        (shell.directory / "state" / "checkpoint", 3, [("seal", "--once")]),
    ):
        mode = path.stat().st_mode
        path.chmod(0)
        for command in commands:
            assert str(path) in other.refuse(*command, code=code).replace("pgseal: pgseal.toml", str(path))
        path.chmod(mode)
    deployment.ledger.chmod(0o500)
    message = other.refuse("seal", "--once")
    assert "cannot write" in message
    assert "give the user who runs pgseal the right to write there" in message
    assert other.json("verify")["ok"]
    deployment.ledger.chmod(0o755)
    (shell.directory / "locked").mkdir(mode=0o500)
    init = ("init", "--source", source, "--vault", vault, "--origin", "a/b", "--config", "other.toml")
    assert "cannot write" in other.refuse(*init, "--ledger", "locked", "--key", "other.key", "--state", "other")
    assert "cannot make the key" in other.refuse(*init, "--ledger", "new", "--key", "locked/key", "--state", "other")
    assert not (shell.directory / "other.toml").exists()
    check_unharmed(deployment)


def test_a_ledger_or_configuration_of_another_origin_is_refused(shell, deployment, tmp_path_factory):
    ledger = files_of(deployment.ledger)
    other = Shell(tmp_path_factory.mktemp("other"))
    init = ("init", "--source", deployment.source, "--vault", deployment.vault, "--origin", "other.example")

    message = other.refuse(*init, "--ledger", str(deployment.ledger))
    assert "holds the log of another origin: expected 'other.example', got 'clinic.example/test'" in message
    message = other.refuse(*init, "--ledger", "ledger", "--key", str(shell.directory / "pgseal.key"))
    assert "is the key of 'clinic.example/test', not of 'other.example'" in message
    assert list(other.directory.iterdir()) == []
    (other.directory / "parts" / "tile").mkdir(parents=True)
    assert "without its checkpoint" in other.refuse(*init, "--ledger", "parts")
    (other.directory / "parts" / "checkpoint").write_bytes(b"\xff")
    assert "or choose an empty directory" in other.refuse(*init, "--ledger", "parts")
    assert len(files_of(other.directory)) == 1
    for command in (("seal", "--once"), ("verify",)):
        assert "got one of 'clinic.example/test'" in shell.refuse(*command, PGSEAL_ORIGIN="other.example")
    (shell.directory / "other.key").write_text(format_signer_key(SignerKey("other.example", bytes(32))))
    elsewhere = {"PGSEAL_ORIGIN": "other.example", "PGSEAL_KEY": "file:other.key"}
    assert "holds the log of another origin" in shell.refuse("seal", "--once", **elsewhere)
    assert "expected one of other.example" in shell("verify", code=1, **elsewhere).stdout
    assert files_of(deployment.ledger) == ledger
    check_unharmed(deployment)


# -- the ledger's disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of half a megabyte at the place of the ledger."""
    disk = tmp_path / "ledger"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k,mode=755", "tmpfs", disk]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small file system, and not everywhere")
    yield disk
    subprocess.run(["umount", disk], check=True)


def fill_disk(disk: Path) -> Path:
    (disk / "lost+found").mkdir(exist_ok=True)  # the one thing that may stand beside a ledger
    filler = disk / "lost+found" / "filler"
    with filler.open("wb", buffering=0) as file:
        while os.statvfs(disk).f_bfree:
            file.write(bytes(4096))
    return filler


def test_a_full_disk_stops_sealing_until_there_is_space(shell, small_disk, database, vault_database):
    fill(database)
    query(database, "CREATE TABLE many (id int PRIMARY KEY)")
    deployment = deploy(database, vault_database, shell.directory)
    deployment.track("patients", "many")
    deployment.call("seal", "--once")
    update(deployment)

    filler = fill_disk(small_disk)
    message = shell.refuse("seal", "--once", code=3)
    assert "No space left on device: free some space" in message
    assert shell.json("verify")["ok"]
    filler.unlink()
    check_unharmed(deployment)

    # Full in the middle of the work: the entries alone are more than the disk takes.
    query(database, "INSERT INTO many SELECT generate_series(1, 3000)")
    message = shell.refuse("seal", "--once", code=3)
    assert "No space left on device: free some space" in message
    assert shell.json("verify")["ok"]
    assert shell.refuse("seal", "--once", code=3) == message or "No space left" in message
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    check_unharmed(deployment)


# -- damage


def on_ledger(path: str, change: Callable[[bytes], bytes] | None) -> Callable[[Deployment], Callable[[], None]]:
    """Change a file of the ledger, or remove it; what is returned puts it back."""

    def damage(deployment: Deployment) -> Callable[[], None]:
        [file] = deployment.ledger.glob(path)
        before = file.read_bytes()
        file.unlink()
        if change is not None:
            file.write_bytes(change(before))
        return lambda: (file.parent.mkdir(exist_ok=True), file.write_bytes(before))[0]

    return damage


def on_vault(change: str) -> Callable[[Deployment], Callable[[], None]]:
    """Change the vault's row of the last leaf; what is returned puts it back."""

    def damage(deployment: Deployment) -> Callable[[], None]:
        query(deployment.vault, "CREATE TABLE public.aside AS SELECT * FROM vault.record WHERE leaf_index = 20")
        query(deployment.vault, change + " WHERE leaf_index = 20")

        def mend() -> None:
            query(deployment.vault, "DELETE FROM vault.record AS r USING public.aside AS a WHERE r.id = a.id")
            query(deployment.vault, "INSERT INTO vault.record SELECT * FROM public.aside")
            query(deployment.vault, "DROP TABLE public.aside")

        return mend

    return damage


#: What is damaged, and the exit codes of status, seal, prove, history and search.
DAMAGES = {
    "tile missing": (on_ledger("tile/0/000.p/21", None), (0, 3, 3, 0, 0)),
    "tile torn": (on_ledger("tile/0/000.p/21", lambda data: data[:-7]), (0, 3, 3, 0, 0)),
    "tile changed": (on_ledger("tile/0/000.p/21", lambda data: bytes([data[0] ^ 1]) + data[1:]), (0, 1, 1, 0, 0)),
    "entries missing": (on_ledger("tile/entries/000.p/21", None), (0, 3, 0, 0, 0)),
    "entries garbage": (on_ledger("tile/entries/000.p/21", lambda data: b"\xff" * len(data)), (0, 3, 0, 0, 0)),
    "checkpoint missing": (on_ledger("checkpoint", None), (3, 3, 3, 0, 0)),
    "checkpoint garbage": (on_ledger("checkpoint", lambda _: b"\xff\0"), (3, 3, 3, 0, 0)),
    "checkpoint changed": (on_ledger("checkpoint", lambda data: data.replace(b"\n21\n", b"\n22\n")), (3, 1, 1, 0, 0)),
    "row missing": (on_vault("DELETE FROM vault.record"), (0, 1, 2, 2, 0)),
    "row without JSON": (on_vault("UPDATE vault.record SET data = '\\'"), (0, 1, 1, 3, 3)),
    "row of another kind": (on_vault("UPDATE vault.record SET source = 'x'"), (0, 1, 1, 0, 0)),
    "row without a time": (on_vault("UPDATE vault.record SET time = 'infinity'"), (0, 1, 1, 0, 0)),
    "row with half a salt": (on_vault("UPDATE vault.record SET data_salt = '\\x00'"), (0, 1, 1, 0, 0)),
    "row with another actor": (on_vault("UPDATE vault.record SET actor = '[]'"), (0, 1, 1, 3, 3)),
}


@pytest.mark.slow
def test_damage_is_a_finding_of_verify_and_one_line_of_every_other_command(shell, deployment):
    [[record_id]] = query(deployment.vault, "SELECT id FROM vault.record WHERE leaf_index = 20")
    commands = (
        ("status",),
        ("seal", "--once"),
        ("prove", str(record_id)),
        ("history", "--id", str(record_id)),
        ("search", "--limit", "3", "--json"),
    )
    for name, (damage, codes) in DAMAGES.items():
        mend = damage(deployment)
        found = shell.json("verify", code=1)
        assert found["findings"], name
        for command, code in zip(commands, codes, strict=True):
            if code == 0 or command == ("status",):
                assert shell(*command, code=code).stderr == "", (name, command)
            else:
                shell.refuse(*command, code=code)
        mend()
    check_unharmed(deployment)


def test_verify_says_what_it_did_not_compare(shell, deployment):
    sealed = deployment.ledger / "checkpoint"
    note = sealed.read_bytes()
    sealed.unlink()
    (shell.directory / "state" / "published").unlink()  # nothing is left that says what the ledger holds

    shown = shell("verify", code=1).stdout
    assert [" ".join(line.split()) for line in shown.splitlines()[:4]] == [
        "trail clinic not compared",
        "trail vault not compared",
        "vault not compared",
        "ledger not compared",
    ]
    assert " ok" not in shown
    found = shell.json("verify", code=1)
    assert found["not_compared"] == ["ledger", "vault", "trail clinic", "trail vault"]
    assert found["checked"] == {"trail": 0, "vault": 0, "ledger": 0}

    sealed.write_bytes(note)
    assert shell.json("verify")["not_compared"] == []
    assert "not compared" not in shell("verify").stdout


# -- two at a time


def wait_until_sealed(deployment: Deployment) -> None:
    deadline = time.monotonic() + 60
    while sorted(deployment.sealed_ids()) != deployment.trail_ids():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_second_sealer_is_refused_and_the_first_goes_on(shell, deployment):
    first = RunningSealer(deployment)
    try:
        wait_until_sealed(deployment)
        for arguments in (("seal", "--once"), ("seal",)):
            assert "another sealer works with" in shell.refuse(*arguments, code=3)
        assert "another sealer works on this vault" in shell.refuse("seal", "--once", code=3, PGSEAL_STATE="elsewhere")
        update(deployment)
        wait_until_sealed(deployment)
        first.stop()
    finally:
        first.abandon()
    check_unharmed(deployment)
