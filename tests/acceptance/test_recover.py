"""`pgseal recover`: servers restored, failed over, upgraded and re-created, with real backups and standbys.

What each test wants to see: the sealer stops, recover says what is gone and what waits, sealing goes on, verify is
clean, and what was lost is still in the vault.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.clusters import Cluster
from tests.conftest import NewCluster
from tests.deployments import TRAIL, Deployment, deploy, query

from pgseal.errors import MissingRecordError, RollbackError
from pgseal.sealer.recover import Said, SealedSide, examine, record
from pgseal.sealer.seal import Sealer
from pgseal.sealer.trails import trail_addresses
from pgseal.vault.source import VaultRows

Made = tuple[Cluster, Deployment]


@pytest.fixture
def made(new_cluster: NewCluster, vault_database: str, tmp_path: Path) -> Made:
    """A source on a server of its own with 20 sealed changes."""
    return make(new_cluster(16), vault_database, tmp_path)


def make(cluster: Cluster, vault_database: str, directory: Path) -> Made:
    directory.mkdir(exist_ok=True)
    source = cluster.create_database("clinic")
    query(source, "CREATE TABLE item (id int PRIMARY KEY, note text)")
    deployment = deploy(source, vault_database, directory)
    deployment.track("item")
    change(deployment, 1, 20)
    deployment.seal()
    return cluster, deployment


def change(deployment: Deployment, first: int, last: int) -> None:
    """Insert rows, each in a transaction of its own."""
    with psycopg.connect(deployment.source, autocommit=True) as connection:
        for number in range(first, last + 1):
            connection.execute("INSERT INTO item VALUES (%s, %s)", [number, f"note {number}"])


def lose(made: Made, first: int, last: int) -> None:
    """Insert and seal rows, and then restore the source as it was before."""
    cluster, deployment = made
    cluster.keep()
    change(deployment, first, last)
    deployment.seal()
    cluster.put_back()


def recover(deployment: Deployment, *arguments: str) -> dict[str, Any]:
    """Recover the one trail that needs it and see that all is well."""
    [found] = deployment.call("recover", "--yes", *arguments)["recovered"]
    deployment.check_verified()
    assert deployment.seal().sealed == 0
    return found


def sealed_notes(deployment: Deployment) -> list[tuple[int, str]]:
    """Incarnation and note of every sealed INSERT of the trail, in leaf order."""
    return query(
        deployment.vault,
        "SELECT incarnation, data::jsonb #>> '{new,note}' FROM vault.record WHERE trail = %s AND action = 'INSERT' "
        "ORDER BY leaf_index",
        TRAIL,
    )


def point_to(deployment: Deployment, dsn: str) -> Deployment:
    text = deployment.config.read_text()
    assert deployment.source in text
    deployment.config.write_text(text.replace(deployment.source, dsn))
    return Deployment(dsn, deployment.vault, deployment.directory)


def test_what_a_backup_brings_back_of_erased_content_is_erased_again(made: Made):
    cluster, deployment = made
    cluster.stop()
    cluster.snapshot()
    cluster.start()
    why = ("--reason", "request 1", "--approved-by", "j.doe", "--yes")
    assert deployment.call("erase", "--table", "item", "--key", "7", *why)["destroyed"]["trails"] == {TRAIL: 1}
    change(deployment, 21, 22)
    deployment.seal()
    cluster.stop()
    cluster.restore()
    cluster.start()
    change(deployment, 101, 103)
    returned = "SELECT count(*) FROM audit.record WHERE new ->> 'note' = 'note 7'"
    assert query(deployment.source, returned) == [(1,)]

    found = recover(deployment)
    assert (found["lost"]["count"], found["unsealed"]) == (2, 3)  # the row that came back is no other
    assert query(deployment.source, returned) == [(0,)]
    assert deployment.call("verify")["erased"] == 1


def test_a_restored_backup_loses_what_came_after_it_and_nothing_more(made: Made):
    cluster, deployment = made
    cluster.keep()
    change(deployment, 21, 30)
    deployment.seal()
    sealed = deployment.checkpoint().size
    lost = deployment.trail_ids()[-10:]
    cluster.put_back()
    # The application goes on before anybody notices; ids and xids of what was lost are drawn again.
    change(deployment, 101, 103)
    assert set(deployment.trail_ids()[-3:]) <= set(lost)

    with pytest.raises(RollbackError, match="pgseal recover clinic"):
        deployment.seal()
    assert deployment.checkpoint().size == sealed

    seen = deployment.call("recover", "--dry-run")
    assert deployment.checkpoint().size == sealed
    found = recover(deployment, "--reason", "disk failure")
    assert seen["recovered"][0]["lost"] == found["lost"]
    assert (found["kind"], found["incarnation"], found["reason"]) == ("restored", 2, "disk failure")
    assert found["lost"] == {"count": 10, "leaves": [[sealed - 10, sealed]]}
    assert found["unsealed"] == 3
    assert found["signs"]

    assert sealed_notes(deployment)[-13:] == [
        *((1, f"note {number}") for number in range(21, 31)),
        *((2, f"note {number}") for number in range(101, 104)),
    ]
    [told] = deployment.call("verify")["recovered"]
    assert (told["trail"], told["incarnation"], told["lost"]) == (TRAIL, 2, found["lost"])
    assert [(row["new"]["note"], row["lost"]) for row in deployment.call("history", "item", "25")] == [
        ("note 25", True)
    ]
    assert [row["lost"] for row in deployment.call("history", "item", "101")] == [False]


def test_recovering_is_told_in_the_ledger_before_anything_of_the_new_incarnation(made: Made):
    _, deployment = made
    lose(made, 21, 22)
    change(deployment, 31, 32)
    recover(deployment)
    entries = [json.loads(entry) for entry in deployment.entries()]
    told = next(index for index, entry in enumerate(entries) if entry["action"] == "RECOVER")
    assert entries[told]["trail"] == "vault"
    assert told < next(index for index, entry in enumerate(entries) if entry["incarnation"] == 2)


def test_going_back_twice_and_forth_again(made: Made):
    """What a first restore took away can be back after a second one, to a later backup of the old server."""
    cluster, deployment = made
    for name, first in (("early", 21), ("late", 31)):
        cluster.keep(name)
        change(deployment, first, first + 9)
        deployment.seal()
    # The late backup is not behind what was sealed since the early one came back: there somebody has to say it.
    for name, lost, said in (("early", 20, ()), ("late", 10 + 1, ("--kind", "restored")), ("early", 20 + 2, ())):
        cluster.put_back(name)
        with pytest.raises(RollbackError):
            deployment.seal()  # noted: before long the server shows no sign of it any more
        number = 1000 + lost
        change(deployment, number, number)
        found = recover(deployment, *said)
        assert found["lost"]["count"] == lost
        assert found["unsealed"] == 1
    assert [one["incarnation"] for one in deployment.call("verify")["recovered"]] == [2, 3, 4]


def test_a_failover_that_loses_nothing_goes_on_with_what_waited(made: Made):
    cluster, deployment = made
    cluster.base_backup("backup")
    standby = cluster.clone("backup", standby=True)
    standby.start()
    try:
        change(deployment, 21, 25)  # not sealed
        wait_for(standby, "SELECT count(*) = 25 FROM item")
        cluster.kill()
        standby.execute("SELECT pg_promote()")
        moved = point_to(deployment, standby.dsn("clinic"))
        change(moved, 26, 27)

        with pytest.raises(RollbackError, match="expected timeline 1, got 2"):
            moved.seal()
        found = recover(moved)
        assert (found["kind"], found["unsealed"], found["lost"]) == ("failed_over", 7, {"count": 0, "leaves": []})
        assert [incarnation for incarnation, _ in sealed_notes(moved)] == [1] * 20 + [2] * 7
        moved.check_sealed()
        change(moved, 28, 28)
        assert moved.seal().sealed == 1
        moved.check_verified()
    finally:
        standby.destroy()


def test_a_failover_that_loses_commits_says_which(made: Made):
    cluster, deployment = made
    cluster.base_backup("backup")
    standby = cluster.clone("backup", standby=True)
    standby.start()
    try:
        wait_for(standby, "SELECT count(*) = 20 FROM item")
        standby.stop()
        standby.settings["primary_conninfo"] = ""  # it gets nothing any more
        standby.start()
        change(deployment, 21, 23)
        deployment.seal()
        cluster.kill()
        standby.execute("SELECT pg_promote()")
        moved = point_to(deployment, standby.dsn("clinic"))
        found = recover(moved)
        assert (found["kind"], found["lost"]["count"]) == ("restored", 3)
    finally:
        standby.destroy()


def test_a_dump_in_another_server_is_a_new_incarnation_with_all_its_history(
    made: Made, new_cluster: NewCluster, tmp_path: Path
):
    """Transaction ids begin anew there, below those of the rows."""
    cluster, deployment = made
    with psycopg.connect(deployment.source, autocommit=True) as connection:
        for _ in range(3000):  # xids that the other server will not have reached
            connection.execute("SELECT pg_current_xact_id()")
    change(deployment, 21, 22)
    deployment.seal()
    change(deployment, 23, 24)  # not sealed
    other = new_cluster(18, label="other")
    moved_dsn = move(cluster, deployment.source, other, tmp_path)
    moved = point_to(deployment, moved_dsn)
    moved.call("apply")
    change(moved, 25, 26)

    found = recover(moved)
    assert (found["kind"], found["lost"]["count"], found["matching"] > 20) == ("recreated", 0, True)
    assert int(found["base_id"]) > int(found["last_id"])
    change(moved, 27, 29)
    assert moved.seal().sealed == 3
    moved.check_verified()
    moved.check_sealed()
    assert [note for _, note in sealed_notes(moved)] == [f"note {number}" for number in range(1, 30)]

    # What the sealer keeps of it is checked against the sealed record.
    query(moved.vault, "UPDATE vault.feed SET base_id = base_id + 100 WHERE trail = %s", TRAIL)
    with pytest.raises(RollbackError, match="base_id"):
        moved.seal()
    findings = moved.call("verify", expect=1)["findings"]
    assert ("rollback", "vault") in {(one["kind"], one["where"]) for one in findings}


def test_a_dump_waits_for_a_transaction_that_may_have_written(made: Made, new_cluster: NewCluster, tmp_path: Path):
    cluster, deployment = made
    with psycopg.connect(deployment.source, autocommit=True) as connection:
        for _ in range(3000):
            connection.execute("SELECT pg_current_xact_id()")
    change(deployment, 21, 22)
    deployment.seal()
    other = new_cluster(16, label="other")
    moved = point_to(deployment, move(cluster, deployment.source, other, tmp_path))
    moved.call("apply")
    with psycopg.connect(moved.source) as writer:
        writer.execute("INSERT INTO item VALUES (50, 'open')")
        moved.call("recover", "--yes", expect=3)
        writer.commit()
    assert recover(moved)["unsealed"] >= 1
    assert sealed_notes(moved)[-1] == (2, "open")


def test_pg_upgrade_is_another_system_identifier_with_the_same_rows(
    new_cluster: NewCluster, vault_database: str, tmp_path: Path
):
    cluster, deployment = make(new_cluster(16), vault_database, tmp_path / "deployment")
    change(deployment, 21, 22)  # not sealed
    upgraded = new_cluster(18, label="upgraded")
    if not (upgraded.bin / "pg_upgrade").exists():
        pytest.skip("no pg_upgrade beside these servers")
    cluster.stop()
    upgraded.stop()
    shutil.rmtree(upgraded.data)
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-data-checksums"]
    upgraded._run([upgraded.bin / "initdb", "-D", upgraded.data, *options])
    upgrade(cluster, upgraded, tmp_path)
    upgraded.start()
    moved = point_to(deployment, upgraded.dsn("clinic"))
    change(moved, 23, 24)
    found = recover(moved)
    assert (found["kind"], found["lost"]["count"], found["unsealed"], found["base_id"]) == ("upgraded", 0, 4, "0")
    # All of the catalog was written anew, so what was done to capture meanwhile cannot be told: a new baseline.
    moved.call("apply")
    assert moved.call("plan")["changes"] == []


def test_a_removed_record_cannot_be_called_a_restore(made: Made):
    _, deployment = made
    query(deployment.source, "INSERT INTO item SELECT i, 'many' FROM generate_series(100, 120) AS i")
    deployment.seal()
    [gone] = query(deployment.source, "SELECT max(id) - 5 FROM audit.record")[0]
    query(deployment.source, "DELETE FROM audit.record WHERE id = %s", gone)

    # Nothing says that the server was restored.
    assert deployment.call("recover", "--yes") == {"ok": True, "dry_run": False, "recovered": [], "findings": []}
    deployment.call("recover", TRAIL, "--yes", expect=2)
    with pytest.raises(RollbackError):
        deployment.seal()  # what it misses is noted, and no sign of a restore
    deployment.call("recover", "--yes", expect=2)
    # Said to be one nonetheless: a restore takes transactions as a whole.
    with pytest.raises(MissingRecordError, match=f"clinic/{gone}.* no restore does that"):
        examine_now(deployment, Said("restored"))
    deployment.call("recover", TRAIL, "--yes", "--kind", "restored", expect=1)
    [finding] = deployment.call("verify", expect=1)["findings"]
    assert (finding["kind"], finding["id"]) == ("missing_record", gone)


@pytest.mark.parametrize("attack", ["a row changed", "a row removed in the middle", "a row added, dated back"])
def test_tampering_does_not_hide_behind_a_restore(made: Made, attack: str):
    """A real restore, and besides it somebody with superuser rights was at work."""
    _, deployment = made
    with closing(Sealer.open(deployment.settings)) as sealer:
        sealer.beat()  # so that it shows which batch comes later
    change(deployment, 21, 25)
    deployment.seal()
    lose(made, 31, 40)
    ids = deployment.trail_ids()
    fifth, free = ids[4], max(set(range(ids[4] - 20, ids[4])) - set(ids))
    if attack == "a row changed":
        query(deployment.source, """UPDATE audit.record SET new = '{"id": 3, "note": "x"}' WHERE id = %s""", fifth)
    elif attack == "a row removed in the middle":
        query(deployment.source, "DELETE FROM audit.record WHERE id = %s", fifth)
    else:
        query(
            deployment.source,
            "CREATE TEMP TABLE one AS SELECT * FROM audit.record WHERE id = %s; "
            "UPDATE one SET id = FREE, recorded_at = recorded_at - interval '1 s'; "
            "INSERT INTO audit.record SELECT * FROM one".replace("%s", str(fifth)).replace("FREE", str(free)),
        )
    kinds = {"a row changed": "altered", "a row removed in the middle": "missing", "a row added, dated back": "forged"}
    document = deployment.start("recover", "--yes")
    output, errors = document.communicate()
    assert document.returncode == 1, output + errors
    assert f"{kinds[attack]}_record" in errors.replace(" ", "_"), errors
    assert "nothing was recorded" in errors
    assert query(deployment.vault, "SELECT incarnation FROM vault.feed WHERE trail = 'clinic'") == [(1,)]


def test_a_second_record_of_an_incarnation_says_nothing(made: Made):
    _, deployment = made
    lose(made, 21, 22)
    found = recover(deployment)
    del found["unsealed"]
    change(deployment, 31, 33)
    deployment.seal()
    ids = deployment.trail_ids()[3:5]
    [[begin]] = query(
        deployment.vault, "SELECT leaf_index FROM vault.record WHERE trail = 'clinic' AND id = %s", ids[0]
    )
    forged = found | {"lost": {"count": 2, "leaves": [[begin, begin + 2]]}}
    query(deployment.vault, "SELECT audit.record_act('RECOVER', %s::jsonb, 'administration')", json.dumps(forged))
    deployment.seal()
    query(deployment.source, "DELETE FROM audit.record WHERE id = ANY(%s)", ids)
    findings = deployment.call("verify", expect=1)["findings"]
    assert {(one["kind"], one["id"]) for one in findings} == {
        ("forged_record", None),
        *(("missing_record", record_id) for record_id in ids),
    }


def test_rows_that_only_an_administrator_of_the_vault_knew_are_told(made: Made):
    """He adds one that waits to be signed, and then makes the source look like another server."""
    _, deployment = made
    size = deployment.checkpoint().size
    query(
        deployment.vault,
        "INSERT INTO vault.record SELECT %s, trail, incarnation, id + 1, time, xid, source, category, action, outcome, "
        "relation, actor, actor_salt, data, data_salt FROM vault.record WHERE leaf_index = %s - 1",
        size,
        size,
    )
    query(deployment.vault, "UPDATE vault.feed SET timeline = timeline + 1 WHERE trail = 'clinic'")
    deployment.call("recover", "--yes", expect=1)
    assert deployment.checkpoint().size == size
    assert query(deployment.vault, "SELECT incarnation FROM vault.feed WHERE trail = 'clinic'") == [(1,)]


def test_an_altered_vault_is_not_recovered_from(made: Made):
    _, deployment = made
    lose(made, 21, 22)
    query(deployment.vault, "UPDATE vault.record SET data = replace(data, 'note 7', 'note 8') WHERE trail = 'clinic'")
    document = deployment.call("recover", "--yes", expect=1)
    assert {one["kind"] for one in document["findings"]} == {"altered_record"}
    assert query(deployment.vault, "SELECT incarnation FROM vault.feed WHERE trail = 'clinic'") == [(1,)]


def test_nothing_is_recovered_without_a_yes(made: Made):
    _, deployment = made
    lose(made, 21, 22)
    deployment.run("recover", expect=2)
    assert query(deployment.vault, "SELECT incarnation FROM vault.feed WHERE trail = 'clinic'") == [(1,)]
    deployment.call("recover", "nosuch", "--yes", expect=2)
    deployment.call("recover", "--kind", "magic", "--yes", expect=2)


def test_killed_after_recording_the_sealer_goes_on_by_itself(made: Made, monkeypatch):
    _, deployment = made
    lose(made, 21, 30)
    change(deployment, 41, 60)
    examine_now(deployment, Said("restored"), write=True)
    # Also in the middle of the first batch, where some rows have been passed over and some have not.
    monkeypatch.setattr("pgseal.sealer.incarnation._ROWS_AT_ONCE", 7)
    killed = 0
    while not is_sealed(deployment, "note 60"):
        with closing(Sealer.open(deployment.settings)) as sealer:
            keep = sealer._keep_chunks

            def keep_two(chunks: Any, keep: Callable[[Any], Any] = keep) -> Any:
                for number, chunk in enumerate(keep(chunks)):
                    if number == 2:
                        raise KeyboardInterrupt
                    yield chunk

            monkeypatch.setattr(sealer, "_keep_chunks", keep_two)
            try:
                sealer.seal_once()
            except KeyboardInterrupt:
                killed += 1
    assert killed > 1
    deployment.seal()
    deployment.check_verified()
    assert [note for incarnation, note in sealed_notes(deployment) if incarnation == 2] == [
        f"note {number}" for number in range(41, 61)
    ]


def test_the_vault_server_may_fail_over_too(new_cluster: NewCluster, database: str, tmp_path: Path):
    vault_cluster = new_cluster(16, label="vault")
    query(database, "CREATE TABLE item (id int PRIMARY KEY, note text)")
    deployment = deploy(database, vault_cluster.create_database("vault"), tmp_path)
    deployment.track("item")
    change(deployment, 1, 5)
    query(deployment.vault, "SELECT audit.record_event('LOGIN')")
    deployment.seal()
    vault_cluster.stop()
    vault_cluster.snapshot()
    standby = vault_cluster.clone("snapshot", standby=True)
    standby.settings["primary_conninfo"] = ""
    standby.start()
    try:
        standby.execute("SELECT pg_promote()")
        moved = Deployment(deployment.source, standby.dsn("vault"), deployment.directory)
        moved.config.write_text(moved.config.read_text().replace(deployment.vault, moved.vault))
        change(moved, 6, 7)
        with pytest.raises(RollbackError, match="pgseal recover vault"):
            moved.seal()
        found = recover(moved)
        assert (found["trail"], found["kind"]) == ("vault", "failed_over")
        assert is_sealed(moved, "note 7")
    finally:
        standby.destroy()


def is_sealed(deployment: Deployment, note: str) -> bool:
    return note in {found for _, found in sealed_notes(deployment)}


def examine_now(deployment: Deployment, said: Said, *, write: bool = False) -> None:
    """Examine the trail, and record what was found, as the command does."""
    settings = deployment.settings
    [address] = [one for one in trail_addresses(settings) if one.name == TRAIL]
    with (
        closing(Sealer.open(settings, without={TRAIL})) as sealer,
        closing(VaultRows(settings.vault.dsn.reveal(), "leaf_index")) as rows,
    ):
        side = SealedSide(sealer.vault, rows, sealer.ledger, sealer.result.size, sealer.result.size)
        examined = examine(address, side, [], said)
        if write:
            record(sealer.vault, examined)


def move(cluster: Cluster, source: str, other: Cluster, directory: Path) -> str:
    """Dump a database and restore it in another cluster."""
    dump = directory / "clinic.dump"
    subprocess.run([cluster.bin / "pg_dump", "-Fc", "-f", dump, source], check=True, capture_output=True)
    roles = subprocess.run(
        [cluster.bin / "pg_dumpall", "-d", cluster.dsn(), "--roles-only"], check=True, capture_output=True, text=True
    )
    for line in roles.stdout.splitlines():
        if line.startswith(("CREATE ROLE pgseal", "ALTER ROLE pgseal", "GRANT pgseal")):
            other.execute(line)
    dsn = other.create_database("clinic")
    done = subprocess.run([other.bin / "pg_restore", "-d", dsn, dump], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dsn


def upgrade(old: Cluster, new: Cluster, directory: Path) -> None:
    user = {"user": old.data.owner()} if old.data.owner() != "root" else {}
    work = directory / "upgrade"
    work.mkdir()
    work.chmod(0o777)
    done = subprocess.run(
        [
            *(new.bin / "pg_upgrade", "-b", old.bin, "-B", new.bin, "-d", old.data, "-D", new.data),
            *("-U", "postgres", "-s", "/tmp"),
        ],
        cwd=work, check=False, capture_output=True, text=True, **user,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def wait_for(cluster: Cluster, statement: str) -> None:
    """Wait until a standby's database answers with true."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if cluster.execute(statement, "clinic") == [(True,)]:
            return
        time.sleep(0.05)
    raise TimeoutError(statement)
