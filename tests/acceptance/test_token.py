"""A signing key that stays in a token (PKCS#11): made there, sealed with, rotated to, lost and found again."""

import re
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.acceptance.shell import Shell
from tests.deployments import ORIGIN, TRAIL, WAIT_SECONDS, Deployment, RunningSealer, query
from tests.tokens import PIN, PIN_NAME, SoftToken, make_token

from pgseal.core.checkpoint import open_checkpoint
from pgseal.core.keys import VerifierKey, parse_verifier_key

pytestmark = [pytest.mark.acceptance, pytest.mark.servers(15)]


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftToken:
    return make_token(tmp_path, monkeypatch)


@pytest.fixture
def deployment(database: str, vault_database: str, tmp_path: Path) -> Deployment:
    query(database, "CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)")
    return Deployment(database, vault_database, tmp_path)


def set_up(deployment: Deployment, key: str) -> None:
    deployment.run(
        *("init", "--source", deployment.source, "--vault", deployment.vault, "--origin", ORIGIN, "--name", TRAIL),
        *("--ledger", str(deployment.ledger), "--key", key, "--state", str(deployment.directory / "state")),
    )
    deployment.run("track", "item")


def write(deployment: Deployment) -> None:
    query(deployment.source, "INSERT INTO item (note) SELECT 'x' FROM generate_series(1, 3)")


def size_under(deployment: Deployment, key: VerifierKey) -> int:
    """The size of the ledger's checkpoint, which `key` must have signed."""
    return open_checkpoint((deployment.ledger / "checkpoint").read_bytes(), [key], origin=ORIGIN).checkpoint.size


def wait_for(sealer: RunningSealer, pattern: str) -> None:
    until = time.monotonic() + WAIT_SECONDS
    while not re.search(pattern, "".join(sealer.output), re.DOTALL):
        assert sealer.process.poll() is None, sealer.output
        assert time.monotonic() < until, sealer.output
        time.sleep(0.1)


def test_a_log_is_sealed_with_a_key_that_never_leaves_its_token(
    deployment: Deployment, token: SoftToken, tmp_path: Path
):
    uri = token.uri("clinic")
    key = parse_verifier_key(deployment.run("key", "new", "--origin", ORIGIN, "--key", uri)["vkey"])
    set_up(deployment, uri)
    write(deployment)
    sealed = deployment.run("seal", "--once")
    assert size_under(deployment, key) == sealed["size"] > 0
    assert deployment.run("verify")["ok"]
    assert parse_verifier_key(deployment.run("key", "show")["vkey"]) == key
    pack = str(tmp_path / "token.zip")
    deployment.run("pack", "-o", pack)
    # Nobody else needs the token, nor the library.
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(PIN_NAME)
        assert deployment.run("verify", pack, "--vkey", str(key))["ok"]
        # Without the PIN it can be looked at, and not signed with.
        assert deployment.run("verify")["ok"]
        write(deployment)
        shell = Shell(tmp_path)
        assert f"environment variable '{PIN_NAME}', for its PIN, is not set" in shell.refuse("seal", "--once")
        # A wrong PIN is said at once, and not tried twice.
        said = shell.refuse("seal", "--once", **{PIN_NAME: "00000000"})
        assert "the token refuses the PIN (pin incorrect)" in said
        assert "00000000" not in said
        assert "the token refuses the PIN" in shell.refuse("seal", **{PIN_NAME: "00000000"})
    assert "there is a key already" in Shell(tmp_path).refuse("key", "new", "--origin", ORIGIN, "--key", uri)
    deployment.run("seal", "--once")
    for path in [*tmp_path.glob("*.toml"), *(tmp_path / "state").iterdir(), *tmp_path.glob("*.key")]:
        assert PIN.encode() not in path.read_bytes()


def test_a_sealer_waits_for_a_token_that_is_gone(deployment: Deployment, token: SoftToken, tmp_path: Path):
    # One that was made with the token's own tools, and a PIN from a file.
    private = Ed25519PrivateKey.generate()
    token.import_key(
        "imported",
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        "0a0b",
    )
    key = VerifierKey(ORIGIN, private.public_key().public_bytes_raw())
    (tmp_path / "pin").write_text(f"{PIN}\n")
    (tmp_path / "pin").chmod(0o600)
    set_up(deployment, token.uri("imported", "file:pin", id="%0A%0B"))
    sealer = RunningSealer(deployment)
    try:
        write(deployment)
        until = time.monotonic() + WAIT_SECONDS
        while size_under(deployment, key) < 4:  # TRACK and three rows
            assert time.monotonic() < until, sealer.output
            time.sleep(0.1)
        token.unplug()
        write(deployment)
        wait_for(sealer, r"token 'pgseal test'.*retrying in 1 s.*retrying in 2 s")
        token.plug_in()
        wait_for(sealer, "back at work")
        sealer.stop()
    finally:
        sealer.abandon()
    assert PIN not in "".join(sealer.output)
    deployment.run("seal", "--once")
    size = size_under(deployment, key)
    assert query(deployment.vault, "SELECT count(*) FROM vault.record") == [(size,)]
    assert query(deployment.vault, "SELECT count(*) FROM vault.record WHERE source = 'row'") == [(6,)]
    assert deployment.run("verify")["ok"]
    # For one call it is an error: unable, not found anything.
    token.unplug()
    assert "does not start" in Shell(tmp_path).refuse("seal", "--once", code=3)
    token.plug_in()
    # The PIN's file is as secret as a key.
    (tmp_path / "pin").chmod(0o644)
    advice = [one["what"] for one in deployment.run("doctor", expect=1)["advice"] if one["subject"] == "key"]
    assert any("pin can be read by" in what for what in advice), advice


def test_a_key_moves_into_a_token_and_on_to_another(deployment: Deployment, token: SoftToken, tmp_path: Path):
    path = tmp_path / "pgseal.key"
    set_up(deployment, str(path))
    write(deployment)
    deployment.run("seal", "--once")
    first = parse_verifier_key(deployment.run("key", "show")["vkey"])
    keys = [first]
    for label in ("one", "two"):
        uri = token.uri(label)
        made = parse_verifier_key(deployment.run("key", "new", "--key", uri)["vkey"])
        assert parse_verifier_key(deployment.run("key", "rotate", "--to", uri)["vkey"]) == made
        assert size_under(deployment, keys[-1]) == size_under(deployment, made)  # both sign
        deployment.run("key", "rotate", "--finish")
        assert path.read_text() == f"{uri}\n"
        keys.append(made)
    write(deployment)
    deployment.run("seal", "--once")
    assert size_under(deployment, keys[-1])
    assert deployment.run("verify")["ok"]
    assert [one["vkey"] for one in deployment.run("key", "show", "--all")["keys"]] == [str(key) for key in keys]
    # A token that cannot sign now is found out before anything changes.
    before = path.read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTHER_PIN", "00000000")
        shell = Shell(tmp_path)
        assert "refuses the PIN" in shell.refuse("key", "rotate", "--to", token.uri("one", "env:OTHER_PIN"))
    assert "no such Ed25519" in Shell(tmp_path).refuse("key", "rotate", "--to", token.uri("three"))
    assert path.read_text() == before
