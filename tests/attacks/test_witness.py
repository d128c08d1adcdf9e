"""Attacks 18, 19 and 31, where only a witness remembers: older states put back, and histories signed beside each other.

The attacker has everything of ours: ledger, vault, signing key and both memories, and no witness.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.attacks.attack import Attack
from tests.deployments import ORIGIN, Deployment, deploy, query
from tests.witnesses import RunningWitness, configure, running_witnesses

from pgseal.core.checkpoint import Checkpoint, format_checkpoint
from pgseal.core.merkle import leaf_hashes, prove_consistency, tree_root
from pgseal.core.note import sign_note
from pgseal.core.witness import AddCheckpoint, format_request
from pgseal.errors import ForkError, RollbackError
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import DirectoryStore
from pgseal.ledger.witness_client import WitnessClient
from pgseal.ledger.writer import LedgerWriter

STATE = "state"
STAGED = (
    Attack(
        18,
        "ledger storage, with both memories of ours",
        "put back an older checkpoint, with or without what was cosigned",
        "verify: `rollback`: the witnesses show more; `signature` where `witnessed` is removed or stripped",
        "at the next `pgseal verify`",
    ),
    Attack(
        19,
        "key holder",
        "sign a fork: same size, smaller, larger and inconsistent",
        "the witness refuses (422, 409, 400); verify of a ledger written anew: `fork`; the sealer stops",
        "at once; at the next `pgseal verify`",
    ),
    Attack(
        31,
        "operator",
        "restore source, vault, ledger and state directory together to an older moment",
        "the sealer: `rollback`, a witness has cosigned more; verify: `rollback`",
        "before anything new is sealed",
    ),
)


@pytest.fixture
def witnesses(tmp_path: Path) -> Iterator[list[RunningWitness]]:
    with running_witnesses(tmp_path / "witnesses") as found:
        yield found


@pytest.fixture
def deployment(database: str, vault_database: str, tmp_path: Path, witnesses: list[RunningWitness]) -> Deployment:
    """Some records sealed and cosigned by two witnesses."""
    query(database, "CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)")
    found = deploy(database, vault_database, tmp_path)
    found.track("item")
    configure(found.config, witnesses)
    write(found, 5)
    found.seal()
    return found


def write(deployment: Deployment, count: int) -> None:
    query(deployment.source, "INSERT INTO item (note) SELECT 'x' FROM generate_series(1, %s::int)", count)


def forget(deployment: Deployment) -> None:
    """Rid both memories of ours of what was published and verified."""
    for path in (deployment.directory / STATE).iterdir():
        if path.name == "published" or path.name.startswith("verified-"):
            path.unlink()


def findings(deployment: Deployment) -> set[tuple[str, str]]:
    return {(one["kind"], one["where"]) for one in deployment.run("verify", expect=1)["findings"]}


def test_18_an_older_checkpoint_that_is_put_back_is_found_without_any_memory_of_ours(deployment: Deployment):
    older = {name: (deployment.ledger / name).read_bytes() for name in ("checkpoint", "witnessed")}
    write(deployment, 3)
    deployment.seal()
    newest = (deployment.ledger / "witnessed").read_bytes()
    # The checkpoint alone: what the witnesses have cosigned lies beside it.
    (deployment.ledger / "checkpoint").write_bytes(older["checkpoint"])
    forget(deployment)
    assert ("rollback", "checkpoint") in findings(deployment)
    # Both: the witnesses themselves show more.
    (deployment.ledger / "witnessed").write_bytes(older["witnessed"])
    forget(deployment)
    assert ("rollback", "checkpoint") in findings(deployment)
    # Everything in its place again.
    (deployment.ledger / "checkpoint").write_bytes(newest)
    (deployment.ledger / "witnessed").write_bytes(newest)
    assert deployment.run("verify")["ok"]


def test_18_what_the_witnesses_cosigned_cannot_be_removed_or_forged(deployment: Deployment):
    path = deployment.ledger / "witnessed"
    cosigned = path.read_bytes()
    log_only = b"\n".join(cosigned.split(b"\n")[:5]) + b"\n"
    for content in (None, b"", log_only, log_only + cosigned.split(b"\n")[5] + b"\n"):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        assert findings(deployment) == {("signature", "checkpoint")}
        path.write_bytes(cosigned)
    assert deployment.run("verify")["ok"]


def test_31_everything_set_back_together_stops_the_sealer(deployment: Deployment, tmp_path: Path):
    """Source and vault from backups, ledger and state directory with them: all of ours agree."""
    tables = ("vault.record", "vault.feed")
    kept = {name: query(deployment.vault, f"SELECT * FROM {name}") for name in tables}
    for name in ("ledger", STATE):
        shutil.copytree(deployment.directory / name, tmp_path / "backup" / name)
    write(deployment, 3)
    size = deployment.seal().size
    set_back(deployment, kept)
    for name in ("ledger", STATE):
        shutil.rmtree(deployment.directory / name)
        shutil.copytree(tmp_path / "backup" / name, deployment.directory / name)
    with pytest.raises(RollbackError, match=f"has cosigned size {size} .*it shows one of size {size}"):
        deployment.seal()
    assert ("rollback", "checkpoint") in findings(deployment)
    # Nothing new was sealed.
    assert deployment.checkpoint().size < size


def set_back(deployment: Deployment, kept: dict[str, list[tuple[object, ...]]]) -> None:
    query(deployment.source, "ALTER TABLE audit.record DISABLE TRIGGER ALL")
    query(deployment.source, "DELETE FROM audit.record WHERE id > (SELECT max(id) - 3 FROM audit.record)")
    query(deployment.source, "ALTER TABLE audit.record ENABLE TRIGGER ALL")
    with psycopg.connect(deployment.vault) as connection:
        size = len(kept["vault.record"])
        connection.execute("SET session_replication_role = replica")
        connection.execute("DELETE FROM vault.record WHERE leaf_index >= %s", [size])
        connection.execute("DELETE FROM vault.feed")
        for row in kept["vault.feed"]:
            marks = ", ".join(["%s"] * len(row))
            connection.execute(f"INSERT INTO vault.feed VALUES ({marks})", row)


# -- 19: the holder of the key


def sign(deployment: Deployment, leaves: list[bytes]) -> bytes:
    checkpoint = Checkpoint(ORIGIN, len(leaves), tree_root(leaves))
    return sign_note(format_checkpoint(checkpoint), deployment.settings.read_signer())


def show(witness: RunningWitness, old: int, note: bytes, proof: list[bytes]) -> int:
    client = WitnessClient(witness.url, 30)
    try:
        return client.add_checkpoint(format_request(AddCheckpoint(old, tuple(proof), note))).status
    finally:
        client.close()


def prove(old: int, leaves: list[bytes]) -> list[bytes]:
    def read(ranges):
        return [tree_root(leaves[index << level : (index + 1) << level]) for level, index in ranges]

    return prove_consistency(old, len(leaves), read)


def test_19_a_witness_refuses_every_second_history(deployment: Deployment, witnesses: list[RunningWitness]):
    leaves = leaf_hashes(deployment.entries())
    size, witness = len(leaves), witnesses[0]
    forged = [b"f" * 32, *leaves[1:]]
    longer = [*forged, b"g" * 32]
    assert show(witness, size, sign(deployment, forged), []) == 422, "same size, other root"
    assert show(witness, size - 1, sign(deployment, forged[:-1]), []) == 409, "smaller"
    assert show(witness, 0, sign(deployment, forged[:-1]), []) == 409, "as if from the beginning"
    assert show(witness, size, sign(deployment, forged[:-1]), []) == 400, "smaller than what it holds"
    assert show(witness, size, sign(deployment, longer), prove(size, longer)) == 422, "larger, with the forger's proof"
    assert show(witness, size, sign(deployment, longer), prove(size, [*leaves, b"g" * 32])) == 422
    # And goes on with the true one.
    write(deployment, 1)
    deployment.seal()
    assert deployment.run("verify")["ok"]


@pytest.mark.parametrize("cosigned", ["what was cosigned left in its place", "what was cosigned removed"])
def test_19_a_rewritten_ledger_is_found_by_what_was_cosigned(
    deployment: Deployment, tmp_path: Path, witnesses: list[RunningWitness], cosigned: str
):
    """All of the ledger written anew with one entry changed, signed with the true key, every memory of ours erased."""
    entries = deployment.entries()
    witnessed = (deployment.ledger / "witnessed").read_bytes()
    entries[2] = entries[2].replace(b'"outcome":"success"', b'"outcome":"failure"')
    forged = tmp_path / "forged"
    forged.mkdir()
    store = DirectoryStore(forged)
    writer = LedgerWriter.open(store, 0, tree_root([]))
    writer.append(entries)
    note = sign_note(
        format_checkpoint(Checkpoint(ORIGIN, writer.size, writer.root())), deployment.settings.read_signer()
    )
    writer.publish(note, writer.size)
    if cosigned == "what was cosigned left in its place":
        (forged / "witnessed").write_bytes(witnessed)
    shutil.rmtree(deployment.ledger)
    forged.rename(deployment.ledger)
    forget(deployment)
    for name in ("checkpoint", "published"):
        (deployment.directory / STATE / name).write_bytes(note)
    assert LedgerReader(DirectoryStore(deployment.ledger)).checkpoint_note() == note
    assert ("fork", "checkpoint") in findings(deployment)
    # The witnesses are away, or the network is: what they have cosigned is enough, and its absence is a finding, too.
    for witness in witnesses:
        witness.end()
    assert ("fork" if "left" in cosigned else "signature", "checkpoint") in findings(deployment)
    for witness in witnesses:
        witness.start()
    # And the sealer does not go on with it.
    (deployment.ledger / "witnessed").unlink(missing_ok=True)
    ((record_id,),) = query(deployment.vault, "SELECT id FROM vault.record WHERE leaf_index = 2")
    query(deployment.vault, "UPDATE vault.record SET outcome = 'failure' WHERE leaf_index = 2")
    query(deployment.source, "ALTER TABLE audit.record DISABLE TRIGGER ALL")
    query(deployment.source, "UPDATE audit.record SET outcome = 'failure' WHERE id = %s", record_id)
    with pytest.raises(ForkError, match="another history"):
        deployment.seal()
