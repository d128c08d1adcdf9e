"""`pgseal pack` and `pgseal verify PACK` as people use them: evidence of real servers, checked where there are none."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import closing

import psycopg
import pytest
from tests.acceptance.shell import Shell, fill
from tests.deployments import ORIGIN, Deployment, deploy, query
from tests.docs.markdown import ROOT, blocks
from tests.docs.node import find_node

from pgseal.sealer.seal import Sealer

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


def beat(deployment: Deployment) -> None:
    with closing(Sealer.open(deployment.settings)) as sealer:
        sealer.beat()


@pytest.fixture
def hour(database, vault_database, tmp_path, monkeypatch) -> tuple[Deployment, str, str]:
    """A deployment with changes before, within and after a time that HEARTBEAT records bound; the time."""
    monkeypatch.setattr("pgseal.sealer.heartbeat._MARGIN", 0)  # one clock, so nothing to wait for
    fill(database)
    query(database, "CREATE TABLE visits (id int PRIMARY KEY)")
    deployment = deploy(database, vault_database, tmp_path)
    deployment.track("patients", "visits")
    beat(deployment)
    since = moment(database)
    query(database, "UPDATE patients SET name = 'Zoë \"Z\" O''Hara' WHERE id < 4")
    query(database, "INSERT INTO visits SELECT generate_series(1, 5)")
    with psycopg.connect(database) as connection:
        connection.execute("""SELECT audit.set_context('{"actor": {"id": "dr.okafor"}}')""")
        connection.execute("DELETE FROM patients WHERE id = 20")
    until = moment(database)
    beat(deployment)
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


def test_what_the_maker_says_is_what_the_verifier_says(hour, tmp_path):
    deployment, since, until = hour
    time_asked = ("--since", since, "--until", until)
    questions = [
        ((), ()),
        (time_asked, time_asked),
        ((*time_asked, "--table", "public.visits"), ()),
        ((*time_asked, "--actor", "dr.okafor"), ()),
        ((*time_asked, "--category", "data_modification", "--outcome", "success", "--action", "delete"), ()),
        (time_asked, ("--withhold", "data")),
        (time_asked, ("--withhold", "actor")),
        ((*time_asked, "--actor", "dr.okafor"), ("--withhold", "actor")),
        (time_asked, ("--begin", "23")),
        (time_asked, ("--end", "25")),
        (("--since", since), ()),
        (("--until", until), ()),
        (("--since", since, "--until", "2999-01-01"), ()),
        (("--since", "2001-01-01", "--until", "2002-01-01"), ()),
    ]
    said = []
    for number, (asked, more) in enumerate(questions):
        path = tmp_path / f"{number}.zip"
        made = deployment.call("pack", *asked, *more, "-o", str(path))
        document = deployment.call("verify", str(path), "--vkey", vkey(deployment), *asked)
        assert document["ok"]
        for member in ("begin", "end", "size", "filter", "matching", "withheld", "erased", "complete", "reasons"):
            assert document[member] == made[member], (asked, more, member)
        assert document["checked"] == {"pack": made["end"] - made["begin"]}
        assert path.stat().st_size == made["bytes"]
        assert path.stat().st_mode & 0o077 == 0
        said.append((made["verdict"], made["matching"]))
    only, some = "complete for these leaves only", [verdict for verdict, _ in said]
    assert some == [
        "complete", "complete", "complete", "complete", "complete", "incomplete", "complete", "incomplete", only, only,
        only, "complete", only, "complete",
    ]  # fmt: skip
    assert said[2] == ("complete", 5)
    assert said[3] == ("complete", 1)
    assert said[4] == ("complete", 1)
    assert said[13] == ("complete", 0)


def test_content_that_was_not_asked_for_is_not_in_the_pack(hour, tmp_path):
    deployment, since, until = hour
    path = tmp_path / "pack.zip"
    deployment.call("pack", "--since", since, "--until", until, "--table", "visits", "-o", str(path))
    with zipfile.ZipFile(path) as file:
        lines = [json.loads(line) for line in file.read("records.jsonl").splitlines()]
        readme = file.read("README.txt").decode()

    for line in lines:
        envelope = line["envelope"]
        is_visit = envelope["relation"] == "public.visits" and since <= envelope["time"] < until
        assert ("text" in line["actor"]) == is_visit
        assert ("text" in line["data"]) == (is_visit or envelope["action"] == "HEARTBEAT")
    assert {line["envelope"]["relation"] for line in lines} >= {"public.patients", "public.visits"}
    assert "public.visits" in readme
    assert ORIGIN in readme


def test_a_stranger_checks_a_real_pack_in_another_language(hour, tmp_path):
    deployment, since, until = hour
    path = tmp_path / "pack.zip"
    made = deployment.call("pack", "--since", since, "--until", until, "--table", "patients", "-o", str(path))
    with zipfile.ZipFile(path) as file:
        file.extractall(tmp_path / "pack")
    program = tmp_path / "check.mjs"
    program.write_text(next(blocks(ROOT / "docs" / "reference" / "verify-by-hand.md", "js")).text, encoding="utf-8")
    done = subprocess.run(
        [find_node(), program, tmp_path / "pack", vkey(deployment), since, until, "public.patients"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    leaves = f"{made['begin']} to {made['end'] - 1} of {made['size']}"
    assert done.stdout == f"ok: leaves {leaves}, {made['matching']} match\ncomplete\n"


def test_vault_and_ledger_that_do_not_agree_give_no_pack(hour, tmp_path):
    deployment, _, _ = hour
    shell, path = Shell(tmp_path), tmp_path / "pack.zip"

    def refused() -> str:
        before = sorted(tmp_path.iterdir())
        message = shell.refuse("pack", "-o", str(path), code=1)
        assert sorted(tmp_path.iterdir()) == before
        return message

    query(deployment.vault, "UPDATE vault.record SET actor = actor || ' ' WHERE leaf_index = 5")
    assert "altered_record" in refused()
    query(deployment.vault, "UPDATE vault.record SET actor = NULL, actor_salt = NULL WHERE leaf_index = 5")
    assert "unauthorized_erasure" in refused()
    query(deployment.vault, "DELETE FROM vault.record WHERE leaf_index = 5")
    assert "missing_record" in refused()
    for entries in (deployment.ledger / "tile" / "entries" / "000.p").iterdir():
        entries.write_bytes(entries.read_bytes().replace(b'"outcome":"success"', b'"outcome":"unknown"', 1))
    assert "proof" in shell.refuse("pack", "-o", str(path), "--end", "5", code=1)


def test_wrong_ways_to_ask_are_refused_and_leave_nothing(hour, tmp_path):
    deployment, since, until = hour
    shell = Shell(tmp_path)
    before = sorted(tmp_path.iterdir())
    for arguments, words in (
        (("--since", until, "--until", since), "--until: expected a time after"),
        (("--since", "yesterday"), "--since: expected a date"),
        (("--table", "nothing"), "no sealed record is about a table 'nothing'"),
        (("--category", "x"), "--category: expected one of"),
        (("--begin", "9000"), "there are no leaves from 9000"),
        (("--begin", "4", "--end", "4"), "there are no leaves from 4 to before 4"),
    ):
        assert words in shell.refuse("pack", *arguments, "-o", "x.zip")
        assert sorted(tmp_path.iterdir()) == before
    assert "no such file or directory" in shell.refuse("pack", "-o", "nowhere/x.zip", code=3)
    shell("pack", "-o", "x.zip")
    held = (tmp_path / "x.zip").read_bytes()
    assert "is there already" in shell.refuse("pack", "-o", "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == held
    shell("pack", "-o", "x.zip", "--force", "--table", "visits")
    assert (tmp_path / "x.zip").read_bytes() != held
    assert "--vkey" in shell.refuse("verify", "x.zip", code=3)
    assert "--vkey" in shell.refuse("verify", "x.zip", "--json", code=3)
    assert "there is no file" in shell.refuse("verify", "y.zip", "--vkey", vkey(deployment))
    assert "schema.name" in shell.refuse("verify", "x.zip", "--vkey", vkey(deployment), "--table", "visits")
    assert "for a pack" in shell.refuse("verify", "--table", "public.visits")
    shell("verify", "x.zip", "--vkey", vkey(deployment), "--require-complete", code=3)


def test_a_pack_that_is_interrupted_is_not_there(database, vault_database, tmp_path):
    query(database, "CREATE TABLE item (id int PRIMARY KEY, note text)")
    deployment = deploy(database, vault_database, tmp_path)
    deployment.track("item")
    query(database, "INSERT INTO item SELECT g, md5(g::text) FROM generate_series(1, 30000) AS g")
    deployment.seal()
    before = sorted(tmp_path.iterdir())
    path = tmp_path / "pack.zip"
    for _ in range(3):
        with deployment.start("pack", "-o", str(path)) as process:
            while process.poll() is None and not list(tmp_path.glob(".pack.zip.*")):
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            code = process.wait(60)
        if code != 0:
            break
        path.unlink()  # the signal came too late: the pack was whole
    assert code == 130
    assert sorted(tmp_path.iterdir()) == before
