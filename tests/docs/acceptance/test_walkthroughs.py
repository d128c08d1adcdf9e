"""README and tutorial, followed to the letter: their shell blocks, in order, in an empty directory on real servers."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.docs.markdown import ROOT, blocks

HOW_TO = ROOT / "docs" / "how-to" / "use-least-privilege-roles.md"


def run(block, environment, directory):
    """Run one block as a person would paste it; returns what it printed."""
    expected = int(match[1]) if (match := re.search(r"exit: (\d)", block.note)) else 0
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", block.text],
        cwd=directory, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    printed = done.stdout + done.stderr
    assert done.returncode == expected, f"{block.path}:{block.line}: exit {done.returncode}\n{block.text}\n{printed}"
    return printed


@pytest.fixture
def environment(cluster):
    programs = f"{Path(sys.executable).parent}:{cluster.bin}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "PATH": f"{programs}:{os.environ['PATH']}", "PSQLRC": "/dev/null"}


@pytest.fixture
def two_databases(environment, database, vault_database):
    return {**environment, "CLINIC_DSN": database, "VAULT_DSN": vault_database}


def is_export(block):
    return all(line.startswith("export ") for line in block.text.splitlines())


@pytest.mark.slow
def test_readme_five_minutes_work(two_databases, tmp_path):
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    begin = text.count("\n", 0, text.index("## Five minutes"))
    end = text.count("\n", 0, text.index("## What is promised"))
    steps = [block for block in blocks(readme, "sh") if begin < block.line < end and not is_export(block)]
    *work, last = steps
    printed = "".join(run(block, two_databases, tmp_path) for block in work)
    assert "3 records   " in printed or "3 records," in printed
    assert "dr.okafor (postgres)" in printed
    assert "no actor set" in printed
    assert "nothing was changed, removed or added behind pgseal's back" in printed
    # The last block is the attack; its verify has to fail.
    done = subprocess.run(
        ["bash", "-u", "-c", last.text], cwd=tmp_path, env=two_databases, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "altered_record" in done.stdout


@pytest.mark.slow
def test_tutorial_works(two_databases, tmp_path):
    page = ROOT / "docs" / "tutorial" / "first-trail.md"
    printed = "".join(run(block, two_databases, tmp_path) for block in blocks(page, "sh") if not is_export(block))
    assert '"balance": 340.00' in printed, "the proof was checked and its content shown"
    assert "missing_record" in printed


#: Everybody but the superuser has to give a password.
PASSWORDS = "local all postgres trust\nlocal all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n"


@pytest.mark.slow
def test_least_privilege_roles_suffice(environment, new_cluster, tmp_path):
    """The whole page in order, with the passwords it sets: its SQL, its files, its commands."""
    source, vault = new_cluster(16, label="source", listen=True), new_cluster(18, label="vault", listen=True)
    source.create_database("clinic")
    vault.create_database("pgseal")
    source.execute("CREATE ROLE clinic_owner", "clinic")
    source.execute("CREATE TABLE patients (id integer PRIMARY KEY)", "clinic")
    source.execute("ALTER TABLE patients OWNER TO clinic_owner; INSERT INTO patients VALUES (1)", "clinic")
    for cluster in (source, vault):
        (cluster.data / "pg_hba.conf").write_text(PASSWORDS, encoding="utf-8")
        cluster.execute("SELECT pg_reload_conf()")
    places = {
        "@db/": f"@127.0.0.1:{source.port}/",
        "@vault/": f"@127.0.0.1:{vault.port}/",
        "/var/lib/pgseal/ledger": str(tmp_path / "ledger"),
    }
    printed, exported = "", "true"
    for block in blocks(HOW_TO):
        text = block.text
        for place, own in places.items():
            text = text.replace(place, own)
        side = block.note.removeprefix("test: ")
        if block.language == "sql":
            (source if side == "source" else vault).execute(text, "clinic" if side == "source" else "pgseal")
        elif block.language == "toml":
            (tmp_path / side).write_text(text, encoding="utf-8")
        else:
            # What is exported in one block is there in the next, as in a person's shell.
            printed += run(replace(block, text=f"{exported}\n{text}"), environment, tmp_path)
            exported += "\n" + "\n".join(line for line in text.splitlines() if line.startswith("export "))
    assert "✓ nothing was changed" in printed
    assert "SNAPSHOT" in printed
    assert "TRACK" in printed

    environment["AUDITOR_DSN"] = f"postgresql://auditor:change-me-5{places['@vault/']}pgseal"

    def read(*arguments, expect=0):
        done = subprocess.run(
            ["pgseal", "--config", "reader.toml", *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == expect, f"{arguments}: {done.stderr}"
        assert "pgseal_owner" not in done.stderr
        return done.stdout

    record = json.loads(read("search", "--json"))["records"][0]
    assert read("prove", f"clinic/{record['id']}").startswith("c2sp.org/tlog-proof@v1")
    read("verify", expect=2)
    read("seal", "--once", expect=2)
    environment["AUDITOR_DSN"] = environment["AUDITOR_DSN"].replace("change-me-5", "wrong")
    read("search", expect=2)
