"""`pgseal pack` and `pgseal verify PACK` as people use them: evidence of real servers, checked where there are none."""

import json
import os
import subprocess
import sys
from contextlib import closing

import psycopg
import pytest
from tests.acceptance.shell import fill
from tests.deployments import ORIGIN, TRAIL, Deployment, deploy, query

from pgseal.postgres import connect
from pgseal.sealer.trails import SEALER_ROLE
from pgseal.vault.store import VaultStore

NOTHING_BUT_THE_BASE = """
import sys
for name in ("psycopg", "tomlkit", "pgseal.settings", "pgseal.postgres", "pgseal.vault", "pgseal.trail"):
    sys.modules[name] = None
import socket
def refuse(*_, **__):
    raise AssertionError("no network")
socket.socket.connect = refuse
from pgseal.cli.app import run
sys.exit(run(sys.argv[1:]))
"""


def moment(dsn: str) -> str:
    """The database's time now, as records write it."""
    row = query(dsn, "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
    return row[0][0]


def beat(deployment: Deployment) -> str:
    """Seal all there is, then a HEARTBEAT with true bounds; the time that it bounds."""
    deployment.seal()
    now = moment(deployment.vault)
    rows = query(
        deployment.vault,
        "SELECT f.trail, to_char(max(r.time) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') "
        "FROM (VALUES (%s), ('vault')) AS f(trail) LEFT JOIN vault.record AS r USING (trail) GROUP BY 1",
        TRAIL,
    )
    trails = {trail: {"future": [], "high": high or "1970-01-01T00:00:00.000000Z", "low": now} for trail, high in rows}
    with closing(connect(deployment.vault, side="vault", role=SEALER_ROLE)) as connection:
        VaultStore(connection).record_act("HEARTBEAT", {"trails": trails})
    deployment.seal()
    return now


@pytest.fixture
def hour(database, vault_database, tmp_path) -> tuple[Deployment, str, str]:
    """A deployment with changes before, within and after a time that HEARTBEAT records bound; the time."""
    fill(database)
    query(database, "CREATE TABLE visits (id int PRIMARY KEY)")
    deployment = deploy(database, vault_database, tmp_path)
    deployment.track("patients", "visits")
    since = beat(deployment)
    query(database, "UPDATE patients SET name = 'Zoë \"Z\" O''Hara' WHERE id < 4")
    query(database, "INSERT INTO visits SELECT generate_series(1, 5)")
    with psycopg.connect(database) as connection:
        connection.execute("""SELECT audit.set_context('{"actor": {"id": "dr.okafor"}}')""")
        connection.execute("DELETE FROM patients WHERE id = 20")
    until = beat(deployment)
    query(database, "UPDATE patients SET name = 'later'")
    deployment.seal()
    return deployment, since, until


def vkey(deployment: Deployment) -> str:
    return str(deployment.settings.read_verifier())


def test_a_pack_answers_offline_and_in_full(hour, tmp_path):
    deployment, since, until = hour
    asked = ("--since", since, "--until", until, "--table", "patients", "--action", "update")
    made = deployment.run("pack", *asked, "-o", str(tmp_path / "pack.zip"))

    assert (made["verdict"], made["reasons"]) == ("complete", [])
    assert made["matching"] == 3
    assert made["records"] < 20
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "pack.zip").rename(elsewhere / "pack.zip")
    question = ("--since", since, "--until", until, "--table", "public.patients", "--action", "UPDATE")
    command = ("verify", "pack.zip", "--vkey", vkey(deployment), *question, "--json")
    done = subprocess.run(
        [sys.executable, "-c", NOTHING_BUT_THE_BASE, *command],
        cwd=elsewhere, capture_output=True, text=True, check=False, timeout=60,
        env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["ok"]
    assert document["complete"]
    assert document["matching"] == 3
    assert (document["origin"], document["findings"]) == (ORIGIN, [])
    assert (document["begin"], document["end"]) == (made["begin"], made["end"])
