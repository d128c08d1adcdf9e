"""Real input end to end: Synthea's patients in a real server, clinicians at work, a sealer that is killed twice.

What must come out: the sealed history replays to the tables as they stand, `pgseal verify` is clean, every record is
sealed exactly once, and whoever touches the trail afterwards is found out.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest
from tests import synthea
from tests.conftest import miss
from tests.deployments import TRAIL, WAIT_SECONDS, Deployment, RunningSealer, deploy, query
from tests.replay import find_differences, replay_vault

CLINICIANS = 4
TRANSACTIONS = 150  # of each
#: At least so many changes have to come out of it, baseline apart.
CHANGES = 2000


@pytest.mark.slow
def test_sealed_history_replays_to_the_tables_as_they_are(any_cluster, vault_cluster, new_database, shared, tmp_path):
    data = shared / "data" / "synthea"
    if not data.is_dir():
        miss(f"no Synthea data in {data}")
    source = new_database(any_cluster)
    rows = synthea.load(source, data)
    deployment = deploy(source, new_database(vault_cluster), tmp_path, installed=True)
    tracked = deployment.run("track", "public.*")
    assert {table["relation"] for table in tracked["tables"]} == {f"public.{table}" for table in synthea.TABLES}

    with killed_and_restarted_sealer(deployment) as kill_in_mid_work:
        work(source, kill_in_mid_work)
    result = deployment.run("seal", "--once")

    check_sealed_once(deployment, result["size"])
    actions = check_replay(deployment)
    assert actions["SNAPSHOT"] == rows
    changes = actions.total() - rows
    assert changes > CHANGES
    assert {"INSERT", "UPDATE", "DELETE", "TRUNCATE"} < actions.keys()
    report = deployment.run("verify")
    assert report["ok"]
    assert report["checked"]["trail"] >= rows + changes
    check_attacks_are_found(deployment)


@contextmanager
def killed_and_restarted_sealer(deployment: Deployment) -> Iterator[Callable[[], None]]:
    """A sealer that is killed while it seals the baseline, and again by the caller; it ends when asked to."""
    sealers = [RunningSealer(deployment)]

    def count() -> int:
        return query(deployment.vault, "SELECT count(*) FROM vault.record")[0][0]

    def kill_and_restart() -> None:
        """Wait until it has sealed something more, kill it, start another."""
        before = count()
        wait_until(lambda: count() > before or sealers[-1].process.poll() is not None)
        sealers[-1].kill()
        sealers.append(RunningSealer(deployment))

    try:
        kill_and_restart()
        yield kill_and_restart
        sealers[-1].stop()
    finally:
        for sealer in sealers:
            sealer.abandon()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def work(source: str, kill_in_mid_work: Callable[[], None]) -> None:
    """Let the clinicians work, with transactions open all the while, and kill the sealer when half is done."""
    progress = synthea.Progress()
    clinicians = [synthea.Clinician(source, number) for number in range(CLINICIANS)]
    failures: list[BaseException] = []

    def run(clinician: synthea.Clinician) -> None:
        try:
            clinician.work(TRANSACTIONS, progress)
        except BaseException as error:  # noqa: BLE001 - threads tell nobody
            failures.append(error)

    threads = [threading.Thread(target=run, args=(clinician,)) for clinician in clinicians]
    with transactions_left_open(source):
        for thread in threads:
            thread.start()
        wait_until(lambda: progress.transactions > CLINICIANS * TRANSACTIONS // 2 or not any_alive(threads))
        truncate(source)
        kill_in_mid_work()
        for thread in threads:
            thread.join()
    assert failures == []
    assert progress.ends["commit"] > progress.transactions / 2, progress.ends


def any_alive(threads: list[threading.Thread]) -> bool:
    return any(thread.is_alive() for thread in threads)


def truncate(source: str) -> None:
    with psycopg.connect(source) as connection:
        rows = connection.execute("SELECT * FROM allergies").fetchall()
        connection.execute("TRUNCATE allergies")
        connection.cursor().executemany(f"INSERT INTO allergies VALUES ({', '.join(['%s'] * len(rows[0]))})", rows[:7])


@contextmanager
def transactions_left_open(source: str) -> Iterator[None]:
    """Three that write at the beginning and at the end: one commits, one is prepared and commits, one is lost."""
    insert = "INSERT INTO observations (date, code) SELECT now(), 'left open' FROM generate_series(1, 20)"
    gid = psycopg.conninfo.conninfo_to_dict(source)["dbname"]
    with (
        closing(psycopg.connect(source)) as committed,
        closing(psycopg.connect(source)) as prepared,
        closing(psycopg.connect(source)) as lost,
    ):
        for connection in (committed, prepared, lost):
            connection.execute(insert)
        prepared.execute(f"PREPARE TRANSACTION '{gid}'")
        prepared.commit()
        yield
        committed.execute("UPDATE observations SET value = 'at last' WHERE code = 'left open'")
        lost.execute("UPDATE observations SET value = 'never' WHERE code = 'left open'")
        committed.commit()
        query(source, f"COMMIT PREPARED '{gid}'")


def check_sealed_once(deployment: Deployment, size: int) -> None:
    """Each row of the trail is in the vault once, as a leaf of the ledger."""
    deployment.check_sealed()
    assert deployment.checkpoint().size == size
    sealed = deployment.sealed_ids()
    assert len(sealed) == len(set(sealed))
    assert sorted(sealed) == deployment.trail_ids()


def check_replay(deployment: Deployment) -> Counter[str]:
    """Replay the vault and compare every table; how many records of each action there were."""
    with psycopg.connect(deployment.vault) as vault:
        tables = replay_vault(vault, TRAIL)
    assert tables.keys() == {f"public.{table}" for table in synthea.TABLES}
    with psycopg.connect(deployment.source) as source:
        for relation, table in tables.items():
            assert find_differences(source, relation, table) == [], relation
    return sum((table.actions for table in tables.values()), Counter())


def check_attacks_are_found(deployment: Deployment) -> None:
    """Change one record, delete one, forge one: `verify` names exactly these three."""
    with psycopg.connect(deployment.source) as superuser:
        updates = superuser.execute("SELECT id FROM audit.record WHERE action = 'UPDATE' ORDER BY id").fetchall()
        changed, deleted, copied = (updates[len(updates) * part // 4][0] for part in (1, 2, 3))
        # An id that a rolled-back transaction drew: nobody has it.
        (forged,) = superuser.execute(
            "SELECT id + 1 FROM (SELECT id, lead(id) OVER (ORDER BY id) AS next FROM audit.record WHERE id > %s) AS r "
            "WHERE next > id + 1 ORDER BY id LIMIT 1",
            (updates[0][0],),
        ).fetchone()
        superuser.execute(
            "UPDATE audit.record SET session_role = 'somebody_else' WHERE id = %s",
            (changed,),
        )
        superuser.execute("DELETE FROM audit.record WHERE id = %s", (deleted,))
        superuser.execute(
            "INSERT INTO audit.record SELECT (json_populate_record(r, json_build_object('id', %s::bigint))).* "
            "FROM audit.record AS r WHERE id = %s",
            (forged, copied),
        )
    report = deployment.run("verify", expect=1)
    assert not report["ok"]
    found = {(each["kind"], each["where"], each["trail"], int(each["id"])) for each in report["findings"]}
    assert found == {
        ("altered_record", "trail", TRAIL, changed),
        ("missing_record", "trail", TRAIL, deleted),
        ("forged_record", "trail", TRAIL, forged),
    }
