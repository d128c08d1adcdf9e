"""`pgseal key` as people use it: show, make, rotate with both keys signing for a while, and everything that goes on."""

import json
import os
import re
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tests.deployments import ORIGIN, WAIT_SECONDS, Deployment, RunningSealer, deploy, query
from tests.witnesses import StrangeWitness, configure

from pgseal.core.keys import SignerKey, VerifierKey, format_signer_key, parse_signer_key, parse_verifier_key
from pgseal.core.note import parse_note
from pgseal.errors import ConfigError, SignatureError
from pgseal.sealer.seal import Sealer

pytestmark = pytest.mark.servers(15)


@pytest.fixture
def deployment(database: str, vault_database: str, tmp_path: Path) -> Deployment:
    query(database, "CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)")
    found = deploy(database, vault_database, tmp_path)
    found.track("item")
    write(found)
    return found


def write(deployment: Deployment, count: int = 3) -> None:
    query(deployment.source, "INSERT INTO item (note) SELECT 'x' FROM generate_series(1, %s::int)", count)


def signers(deployment: Deployment) -> set[bytes]:
    """The ids of the keys that signed the ledger's checkpoint."""
    return {line.key_id for line in parse_note((deployment.ledger / "checkpoint").read_bytes())[1]}


def pinned(deployment: Deployment, key: VerifierKey) -> Deployment:
    """The same log, seen by somebody else, who trusts `key` and has no memory yet."""
    directory = deployment.directory / key.key_id.hex()
    directory.mkdir(exist_ok=True)
    text = deployment.config.read_text(encoding="utf-8")
    (directory / "log.vkey").write_text(f"{key}\n")
    for name, value in (("key", "file:log.vkey"), ("state", directory), ("ledger", deployment.ledger)):
        text = re.sub(rf"^{name} = .*$", f'{name} = "{value}"', text, count=1, flags=re.MULTILINE)
    (directory / "pgseal.toml").write_text(text)
    return Deployment(deployment.source, deployment.vault, directory)


def key_file(deployment: Deployment) -> list[str]:
    return (deployment.directory / "pgseal.key").read_text().split()


def findings(deployment: Deployment) -> set[str]:
    return {one["kind"] for one in deployment.call("verify", expect=1)["findings"]}


def make_pack(deployment: Deployment, name: str, *arguments: str) -> str:
    path = str(deployment.directory / name)
    deployment.call("pack", *arguments, "-o", path)
    return path


def wait_until(sealer: RunningSealer, is_so: Callable[[], bool]) -> None:
    """Wait as long as the sealer is alive, and not for ever."""
    until = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert sealer.process.poll() is None, sealer.output
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_log_passes_from_key_to_key_and_everyone_can_follow(deployment: Deployment):
    deployment.seal()
    deployment.check_verified()  # the verifier's memory is signed with the old key
    old = deployment.settings.read_verifier()
    before = make_pack(deployment, "before.zip")
    size = deployment.checkpoint().size

    # Begin: the record says so, and both sign.
    begun = deployment.run("key", "rotate")
    new = parse_verifier_key(begun["vkey"])
    assert (begun["old_vkey"], begun["from_size"], begun["finished"]) == (str(old), size, False)
    assert signers(deployment) == {old.key_id, new.key_id}
    assert len(key_file(deployment)) == 2
    assert (deployment.directory / "pgseal.key").stat().st_mode & 0o777 == 0o600
    assert not list(deployment.directory.glob(".pgseal.key*"))
    (data,) = query(deployment.vault, "SELECT data::jsonb FROM vault.record WHERE action = 'KEY_ROTATE'")[0]
    assert data == {"from_size": size, "new": str(new), "old": str(old)}
    deployment.check_verified()
    for key in (old, new):
        pinned(deployment, key).check_verified()
    shown = deployment.call("key", "show")
    assert (shown["vkey"], shown["old_vkey"]) == (str(new), str(old))
    assert deployment.call("status")["key"]["old_vkey"] == str(old)
    advice = [one for one in deployment.call("doctor", expect=1)["advice"] if one["subject"] == "key"]
    assert [(one["severity"], one["what"]) for one in advice] == [("note", "is being rotated: two keys sign")]
    # Again: nothing more happens.
    assert deployment.run("key", "rotate") == begun | {"age_s": pytest.approx(begun["age_s"], abs=60)}
    write(deployment)
    deployment.seal()
    assert signers(deployment) == {old.key_id, new.key_id}
    during = make_pack(deployment, "during.zip", "--begin", "0", "--end", "3")

    # Finish: the new key alone.
    assert deployment.run("key", "rotate", "--finish")["finished"]
    assert deployment.run("key", "rotate", "--finish")["finished"]
    assert [parse_signer_key(line).verifier for line in key_file(deployment)] == [new]
    write(deployment)
    deployment.seal()
    assert signers(deployment) == {new.key_id}
    deployment.check_verified()
    for key in (old, new):
        pinned(deployment, key).check_verified()  # with a memory, and by the record
    fresh = pinned(deployment, old)
    for path in fresh.directory.glob("verified-*"):
        path.unlink()
    fresh.check_verified()  # without
    after = make_pack(deployment, "after.zip", "--begin", "0", "--end", "3")
    whole = make_pack(deployment, "whole.zip")

    # Packs: what a key signed is good under it, and the old key leads on to the new one, never back.
    for path, keys in ((before, [old]), (during, [old, new]), (after, [old, new]), (whole, [old, new])):
        for key in (old, new):
            document = deployment.call("verify", path, "--vkey", str(key), expect=0 if key in keys else 1)
            assert document["ok"] == (key in keys), (path, str(key))
    stranger = SignerKey(ORIGIN, bytes(32)).verifier
    assert not deployment.call("verify", after, "--vkey", str(stranger), expect=1)["ok"]
    check_history(deployment, [old, new], size)


def check_history(deployment: Deployment, keys: list[VerifierKey], size: int) -> None:
    """Every key there ever was; and once more."""
    old, new = keys
    history = deployment.call("key", "show", "--all")["keys"]
    assert [one["vkey"] for one in history] == [str(old), str(new)]
    assert [one["begin_size"] for one in history] == [0, size + 1]
    third = parse_verifier_key(deployment.call("key", "rotate")["vkey"])
    deployment.call("key", "rotate", "--finish")
    write(deployment)
    deployment.seal()
    assert signers(deployment) == {third.key_id}
    for key in (old, new, third):
        pinned(deployment, key).check_verified()
    assert deployment.call("verify", make_pack(deployment, "third.zip"), "--vkey", str(old))["ok"]


def test_a_sealer_at_work_takes_the_new_key_up_by_itself(deployment: Deployment):
    sealer = RunningSealer(deployment)
    try:
        wait_until(sealer, lambda: deployment.checkpoint().size > 0)
        old = deployment.settings.read_verifier()
        new = parse_verifier_key(deployment.call("key", "rotate")["vkey"])
        assert signers(deployment) == {old.key_id, new.key_id}
        deployment.call("key", "rotate", "--finish")
        size = deployment.checkpoint().size
        wait_until(sealer, lambda: "".join(sealer.output).count("the key was changed") == 2)
        write(deployment)
        wait_until(sealer, lambda: signers(deployment) == {new.key_id})
        assert deployment.checkpoint().size > size
        sealer.stop()
    finally:
        sealer.abandon()
    deployment.seal()
    deployment.check_sealed()
    deployment.check_verified()


def test_witnesses_go_on_through_a_rotation(deployment: Deployment, tmp_path: Path):
    witness = StrangeWitness("paris", tmp_path / "paris")
    try:
        configure(deployment.config, [witness])
        deployment.seal()
        deployment.check_verified()
        new = parse_verifier_key(deployment.call("key", "rotate")["vkey"])
        old = deployment.settings.read_verifier()
        assert deployment.call("status")["witnesses"]["cosigned"] == 1  # it knows the old one
        with pytest.raises(AssertionError, match="paris does not know the new key yet"):
            deployment.call("key", "rotate", "--finish")
        assert len(key_file(deployment)) == 2
        witness.add_log(ORIGIN, new)
        write(deployment)
        deployment.seal()
        deployment.call("key", "rotate", "--finish")
        write(deployment)
        deployment.seal()
        assert signers(deployment) == {new.key_id, witness.signer.verifier.key_id}
        status = deployment.call("status")
        assert (status["witnesses"]["cosigned"], status["warnings"]) == (1, [])
        for key in (old, new):
            pinned(deployment, key).check_verified()
    finally:
        witness.close()


def test_a_key_that_is_given_is_looked_at_before_anything_changes(deployment: Deployment, tmp_path: Path):
    deployment.seal()
    before = key_file(deployment)
    (tmp_path / "foreign.key").write_text(format_signer_key(SignerKey("other.example", bytes(32))))
    (tmp_path / "next.key").write_text(format_signer_key(next_key := SignerKey(ORIGIN, bytes(32))))
    for arguments, expected in (
        (["--to", f"file:{tmp_path}/foreign.key"], "got one of 'other.example'"),
        (["--to", f"file:{tmp_path}/none.key"], "cannot read"),
        (["--to", format_signer_key(next_key)], "not shown, it may be secret"),
        (["--to", "pkcs11:object=x?pin-value=1234"], "pin-value"),
        (["--force"], "--force goes with --finish"),
    ):
        with pytest.raises(AssertionError) as caught:
            deployment.call("key", "rotate", *arguments)
        assert "exit code 2" in str(caught.value)
        assert expected in str(caught.value).partition("exit code")[2]
        assert "1234" not in str(caught.value).partition("exit code")[2]
        assert key_file(deployment) == before
    assert deployment.call("key", "rotate", "--to", f"file:{tmp_path}/next.key")["vkey"] == str(next_key.verifier)
    # One at a time.
    (tmp_path / "third.key").write_text(format_signer_key(SignerKey(ORIGIN, bytes([1]) * 32)))
    with pytest.raises(AssertionError, match="under way"):
        deployment.call("key", "rotate", "--to", f"file:{tmp_path}/third.key")
    made = deployment.call("key", "new", "--key", str(tmp_path / "made.key"))
    assert parse_signer_key((tmp_path / "made.key").read_text().strip()).verifier == parse_verifier_key(made["vkey"])
    with pytest.raises(AssertionError, match="file exists"):
        deployment.call("key", "new", "--key", str(tmp_path / "made.key"))


def test_keys_that_were_changed_by_hand_do_not_sign(deployment: Deployment):
    deployment.seal()
    path = deployment.directory / "pgseal.key"
    old = path.read_text()
    # Replaced without a record.
    path.write_text(format_signer_key(SignerKey(ORIGIN, bytes(32))))
    with pytest.raises(SignatureError, match="pgseal key rotate"):
        Sealer.open(deployment.settings)
    path.write_text(old)
    # Two lines, in a file or a variable, are a rotation all the same.
    new = SignerKey(ORIGIN, bytes(32))
    path.write_text(f"{format_signer_key(new)}\n{old}")
    assert deployment.call("verify")["ok"]  # nothing is recorded yet
    deployment.seal()
    assert len(signers(deployment)) == 2
    deployment.check_verified()
    # Back to the old key alone: the log has passed to the new one.
    path.write_text(old)
    with pytest.raises(ConfigError, match="has passed to key"):
        Sealer.open(deployment.settings)
    path.write_text(format_signer_key(new))
    write(deployment)
    deployment.seal()
    deployment.check_verified()
    # A key that others can read is an error of `doctor`.
    path.chmod(0o640)
    advice = [one for one in deployment.call("doctor", expect=1)["advice"] if one["subject"] == "key"]
    assert "can be read by group" in advice[0]["what"]
    assert advice[0]["command"] == f"chmod 600 {path}"


def test_the_old_key_has_to_stay_until_the_record_is_sealed(deployment: Deployment, monkeypatch: pytest.MonkeyPatch):
    deployment.seal()
    write(deployment)
    path = deployment.directory / "pgseal.key"
    new = format_signer_key(SignerKey(ORIGIN, bytes(32)))
    old = path.read_text()
    path.write_text(f"{new}\n{old}")
    with closing(Sealer.open(deployment.settings)):
        pass  # recorded, not sealed
    path.write_text(new)
    with pytest.raises(ConfigError, match="before the record of its successor is sealed"):
        Sealer.open(deployment.settings)
    # A key in a variable: what is in force is what stands there.
    path.unlink()
    monkeypatch.setenv("LOG_KEY", f"{new}\n{old}")
    text = deployment.config.read_text()
    lines = ['key = "env:LOG_KEY"' if line.startswith("key =") else line for line in text.split("\n")]
    deployment.config.write_text("\n".join(lines))
    deployment.seal()
    deployment.check_verified()
    with pytest.raises(AssertionError, match="not in a file"):
        deployment.call("key", "rotate")
    monkeypatch.setenv("LOG_KEY", new)
    write(deployment)
    deployment.seal()
    deployment.check_verified()
    assert os.environ["LOG_KEY"] not in json.dumps(deployment.call("status"))
