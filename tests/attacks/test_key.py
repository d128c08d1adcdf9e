"""Attack 20: another key in the place of the log's, with and without a record that says so."""

import json
from pathlib import Path

import pytest
from tests.attacks.attack import Attack
from tests.deployments import ORIGIN, Deployment, deploy, query

from pgseal.core.canonical import encode_canonical
from pgseal.core.checkpoint import format_checkpoint
from pgseal.core.keys import SignerKey, format_signer_key, parse_signer_key
from pgseal.core.note import sign_note
from pgseal.core.rotation import Rotation
from pgseal.errors import SignatureError

pytestmark = pytest.mark.servers(15)
MALLORY = SignerKey(ORIGIN, b"m" * 32)
STAGED = (
    Attack(
        20,
        "key holder; whoever can write the key's file",
        "replace the key, sign the ledger and the sealer's memory anew",
        "verify and packs: `signature` under the pinned key, and against the verifier's memory; the sealer stops, "
        "`signature`, if its memory is left",
        "at the next `pgseal verify`; before anything new is sealed",
    ),
    Attack(
        20,
        "vault admin",
        "a KEY_ROTATE record that names the admin's own key, which the sealer seals like any other",
        "verify: `forged_record`; no verifier follows it, `pgseal verify` and packs: `signature`",
        "at the next `pgseal verify`",
    ),
    Attack(
        20,
        "holder of a key that was replaced",
        "sign on with the old key alone, or pass the log to another key once more",
        "verify and packs: `signature`; `forged_record`",
        "at the next `pgseal verify`",
    ),
)


@pytest.fixture
def deployment(database: str, vault_database: str, tmp_path: Path) -> Deployment:
    """Some records sealed and verified, and a verifier elsewhere that trusts the key it was given then."""
    query(database, "CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)")
    found = deploy(database, vault_database, tmp_path)
    found.track("item")
    write(found)
    found.seal()
    found.check_verified()
    (tmp_path / "honest.vkey").write_text(str(found.settings.read_verifier()))
    return found


def write(deployment: Deployment) -> None:
    query(deployment.source, "INSERT INTO item (note) SELECT 'x' FROM generate_series(1, 3)")


def auditor(deployment: Deployment) -> Deployment:
    """The same log for somebody who pins the key of the beginning and has no memory."""
    directory = deployment.directory / "auditor"
    directory.mkdir(exist_ok=True)
    for path in directory.glob("verified-*"):
        path.unlink()
    text = deployment.config.read_text()
    for name, value in (("key", "file:../honest.vkey"), ("state", "."), ("ledger", "../ledger")):
        (line,) = [line for line in text.split("\n") if line.startswith(f"{name} =")]
        text = text.replace(line, f'{name} = "{value}"')
    (directory / "pgseal.toml").write_text(text)
    return Deployment(deployment.source, deployment.vault, directory)


def findings(deployment: Deployment) -> set[tuple[str, str]]:
    return {(one["kind"], one["where"]) for one in deployment.call("verify", expect=1)["findings"]}


def sign_anew(deployment: Deployment, *signers: SignerKey) -> None:
    """Sign the newest checkpoint with other keys, in the ledger and in the sealer's memory."""
    checkpoint = (deployment.ledger / "checkpoint").read_bytes().partition(b"\n\n")[0].decode() + "\n"
    assert checkpoint == format_checkpoint(deployment.checkpoint())
    note = sign_note(checkpoint, *signers)
    for path in (deployment.ledger / "checkpoint", *(deployment.directory / "state" / name for name in KEPT)):
        path.write_bytes(note)


KEPT = ("checkpoint", "published")
SIGNATURE = ("signature", "checkpoint")


def pack_of(deployment: Deployment) -> str:
    path = deployment.directory / "forged.zip"
    path.unlink(missing_ok=True)
    deployment.call("pack", "-o", str(path))
    return str(path)


def check_pack(deployment: Deployment, expect: int) -> list[str]:
    """What the pinned key says of a pack that is made with the key in the configuration."""
    honest = (deployment.directory / "honest.vkey").read_text()
    document = deployment.call("verify", pack_of(deployment), "--vkey", honest, expect=expect)
    return [one["kind"] for one in document["findings"]]


def plant(deployment: Deployment, rotation: Rotation, endorsement: str) -> None:
    """Write a KEY_ROTATE into the vault's trail as its administrator can."""
    query(
        deployment.vault,
        "SELECT audit.record_act('KEY_ROTATE', %s::jsonb, 'administration', NULL, %s::jsonb)",
        json.dumps(rotation.to_json()),
        json.dumps({"endorsement": endorsement}),
    )


def test_20_a_key_in_the_place_of_ours_is_found_under_the_pinned_one(deployment: Deployment):
    key = deployment.directory / "pgseal.key"
    honest = key.read_text()
    key.write_text(format_signer_key(MALLORY))
    with pytest.raises(SignatureError):
        deployment.seal()
    # With the memory of the sealer written anew, it seals; whoever knew the key or saw the log before is not taken in.
    key.write_text(honest)
    sign_anew(deployment, MALLORY)
    key.write_text(format_signer_key(MALLORY))
    write(deployment)
    deployment.seal()
    assert findings(deployment) == {SIGNATURE}  # the verifier's memory is of the honest key
    assert SIGNATURE in findings(auditor(deployment))
    assert check_pack(deployment, 1) == ["signature"]


def test_20_a_planted_rotation_leads_nobody_to_the_planted_key(deployment: Deployment):
    old = parse_signer_key((deployment.directory / "pgseal.key").read_text().strip())
    size = deployment.checkpoint().size
    rotation = Rotation(size, MALLORY.verifier, old.verifier)
    text = f"pgseal key rotation v1\n{encode_canonical(rotation.to_json()).decode()}\n"
    alone = sign_note(text, MALLORY).decode()
    # A signature of the honest key from somewhere else, and the name of the honest key under Mallory's signature.
    checkpoint = (deployment.ledger / "checkpoint").read_bytes().decode()
    borrowed = alone + checkpoint.split("\n")[-2] + "\n"
    for endorsement in ("", "nothing", alone, borrowed):
        plant(deployment, rotation, endorsement)
    deployment.seal()
    assert deployment.checkpoint().size >= size + 4
    assert findings(deployment) == {("forged_record", "vault")}
    assert findings(auditor(deployment)) == {("forged_record", "vault")}
    assert check_pack(deployment, 0) == []  # it says nothing about keys
    # What is signed with the planted key is nothing to those who trust the honest one.
    sign_anew(deployment, MALLORY)
    assert SIGNATURE in findings(auditor(deployment))
    (deployment.directory / "pgseal.key").write_text(format_signer_key(MALLORY))
    assert SIGNATURE in findings(deployment)
    assert check_pack(deployment, 1) == ["signature"]


def test_20_a_key_that_was_replaced_signs_nothing_any_more(deployment: Deployment):
    old = parse_signer_key((deployment.directory / "pgseal.key").read_text().strip())
    deployment.call("key", "rotate")
    deployment.call("key", "rotate", "--finish")
    write(deployment)
    deployment.seal()
    deployment.check_verified()
    auditor(deployment).check_verified()
    # The old key alone, for what came after its time.
    honest = (deployment.ledger / "checkpoint").read_bytes()
    sign_anew(deployment, old)
    assert SIGNATURE in findings(deployment)
    assert SIGNATURE in findings(auditor(deployment))
    (deployment.directory / "pgseal.key").rename(deployment.directory / "new.key")
    (deployment.directory / "pgseal.key").write_text(format_signer_key(old))
    assert check_pack(deployment, 1) == ["signature"]
    (deployment.directory / "new.key").rename(deployment.directory / "pgseal.key")
    for path in (deployment.ledger / "checkpoint", *(deployment.directory / "state" / name for name in KEPT)):
        path.write_bytes(honest)
    deployment.check_verified()
    # And it cannot pass the log on a second time.
    rotation = Rotation(deployment.checkpoint().size, MALLORY.verifier, old.verifier)
    text = f"pgseal key rotation v1\n{encode_canonical(rotation.to_json()).decode()}\n"
    plant(deployment, rotation, sign_note(text, old, MALLORY).decode())
    deployment.seal()
    assert findings(deployment) == {("forged_record", "vault")}
    assert findings(auditor(deployment)) == {("forged_record", "vault")}


def test_20_the_record_of_a_rotation_cannot_be_taken_away_or_changed(deployment: Deployment):
    deployment.call("key", "rotate")
    deployment.call("key", "rotate", "--finish")
    write(deployment)
    deployment.seal()
    where = "source = 'system' AND action = 'KEY_ROTATE'"
    query(deployment.vault, "CREATE TABLE kept AS SELECT * FROM vault.record WHERE " + where)
    for statement, kind in (
        ("UPDATE vault.record SET data = replace(data, 'from_size', 'from-size') WHERE " + where, "altered_record"),
        ("UPDATE vault.record SET actor = '{}' WHERE " + where, "altered_record"),
        ("DELETE FROM vault.record WHERE " + where, "missing_record"),
    ):
        query(deployment.vault, statement)
        assert (kind, "vault") in findings(deployment)
        assert SIGNATURE in findings(auditor(deployment))  # nothing leads from the pinned key to the one that signs
        query(deployment.vault, "DELETE FROM vault.record WHERE " + where)
        query(deployment.vault, "INSERT INTO vault.record SELECT * FROM kept")
    deployment.check_verified()
    auditor(deployment).check_verified()
