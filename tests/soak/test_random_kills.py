"""Writers at work, a sealer that is killed at random moments, a source and a vault that crash: nothing is lost.

Only `make soak` runs it, for SOAK_SECONDS (600).
"""

import os
import random
import threading
import time

import psycopg
import pytest
from tests.clusters import Cluster
from tests.deployments import Deployment, RunningSealer, deploy, query
from tests.replay import find_differences, replay_vault

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
WRITERS = 3
#: Of the moments at which something is killed, how many are the source's, and how many the vault's.
SOURCE_SHARE, VAULT_SHARE = 0.1, 0.1


def write(dsn: str, seed: int, until: float) -> None:
    """Change rows in transactions of random length, some rolled back; connect again when the server is gone."""
    chance = random.Random(seed)
    while time.monotonic() < until:
        try:
            with psycopg.connect(dsn) as connection:
                while time.monotonic() < until:
                    for _ in range(chance.randint(1, 30)):
                        change(connection, chance)
                    if chance.random() < 0.2:
                        connection.rollback()
                    else:
                        connection.commit()
        except psycopg.OperationalError:
            time.sleep(0.2)


def change(connection: psycopg.Connection, chance: random.Random) -> None:
    key, kind = chance.randint(1, 2000), chance.random()
    if kind < 0.4:
        connection.execute(
            "INSERT INTO item VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET note = excluded.note",
            (key, "x" * chance.randint(0, 300)),
        )
    elif kind < 0.9:
        connection.execute("UPDATE item SET note = note || 'y' WHERE id BETWEEN %s AND %s + 3", (key, key))
    else:
        connection.execute("DELETE FROM item WHERE id = %s", (key,))


@pytest.mark.soak
def test_nothing_is_lost_doubled_or_reordered(new_cluster, new_database, tmp_path):
    source: Cluster = new_cluster(16, label="source")
    vault: Cluster = new_cluster(18, label="vault")
    deployment = deploy(new_database(source), new_database(vault), tmp_path)
    query(deployment.source, "CREATE TABLE item (id int PRIMARY KEY, note text)")
    deployment.track("item")
    until = time.monotonic() + SECONDS
    threads = [threading.Thread(target=write, args=(deployment.source, number, until)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    kills = kill_at_random(deployment, source, vault, until)
    for thread in threads:
        thread.join()

    deployment.run("seal", "--once")
    deployment.check_sealed()
    deployment.check_verified()
    with psycopg.connect(deployment.vault) as connection:
        table = replay_vault(connection, "clinic")["public.item"]
    with psycopg.connect(deployment.source) as connection:
        assert find_differences(connection, "public.item", table) == []
    print(f"{kills} kills, {deployment.checkpoint().size} records")  # noqa: T201 - what a soak came to


def kill_at_random(deployment: Deployment, source: Cluster, vault: Cluster, until: float) -> int:
    chance = random.Random()
    sealer = RunningSealer(deployment)
    kills = 0
    while time.monotonic() < until:
        time.sleep(chance.uniform(0.05, 3))
        kind = chance.random()
        if kind < SOURCE_SHARE + VAULT_SHARE:
            server = source if kind < SOURCE_SHARE else vault
            server.kill()
            time.sleep(chance.uniform(0, 2))
            server.start()
        else:
            assert sealer.process.poll() is None, "".join(sealer.output)
            sealer.kill()
            sealer = RunningSealer(deployment)
        kills += 1
    sealer.abandon()
    return kills
