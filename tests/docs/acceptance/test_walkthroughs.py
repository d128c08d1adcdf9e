"""README and tutorial, followed to the letter: their shell blocks, in order, in an empty directory on real servers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
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


@pytest.mark.slow
def test_least_privilege_roles_suffice(environment, new_cluster, tmp_path):
    source, vault = new_cluster(16, label="source"), new_cluster(18, label="vault")
    source.create_database("clinic")
    vault.create_database("pgseal")
    source.execute("CREATE ROLE clinic_owner LOGIN", "clinic")
    source.execute("GRANT CREATE ON SCHEMA public TO clinic_owner", "clinic")
    source.execute("CREATE TABLE patients (id integer PRIMARY KEY)", "clinic", user="clinic_owner")
    for block in blocks(HOW_TO, "sql"):
        if block.note.startswith("test: ") and "REVOKE" not in block.text:
            cluster = source if block.note == "test: source" else vault
            cluster.execute(block.text, "clinic" if cluster is source else "pgseal")
    names = {
        "ADMIN_DSN": source.dsn("clinic", "pgseal_admin"),
        "VAULT_ADMIN_DSN": vault.dsn("pgseal", "pgseal_admin"),
        "CLINIC_DSN": source.dsn("clinic", "pgseal_sealer"),
        "VAULT_DSN": vault.dsn("pgseal", "pgseal_sealer"),
    }
    environment = {**environment, **names}

    def pgseal(*arguments):
        done = subprocess.run(
            ["pgseal", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    pgseal(
        "init",
        "--source",
        "env:ADMIN_DSN",
        "--vault",
        "env:VAULT_ADMIN_DSN",
        "--ledger",
        "ledger",
        "--origin",
        "o/test",
    )
    path = tmp_path / "pgseal.toml"
    text = path.read_text(encoding="utf-8")
    text = text.replace('"env:ADMIN_DSN"', '"env:CLINIC_DSN"\nadmin_dsn = "env:ADMIN_DSN"')
    path.write_text(text.replace('"env:VAULT_ADMIN_DSN"', '"env:VAULT_DSN"'), encoding="utf-8")
    pgseal("track", "public.patients")
    with psycopg.connect(source.dsn("clinic", "clinic_owner"), autocommit=True) as connection:
        connection.execute("INSERT INTO patients VALUES (1)")
    pgseal("seal", "--once")
    pgseal("verify")
    pgseal("untrack", "public.patients")
    environment["VAULT_DSN"] = vault.dsn("pgseal", "auditor")
    (tmp_path / "clinic.vkey").write_text(pgseal("key", "show"), encoding="utf-8")
    environment["PGSEAL_KEY"] = "file:clinic.vkey"
    environment.pop("CLINIC_DSN")
    assert "INSERT" in pgseal("history", "patients", "1")
    record = pgseal("search", "--action", "INSERT", "--json").partition('"id":')[2].partition(",")[0]
    assert pgseal("prove", f"clinic/{record}").startswith("c2sp.org/tlog-proof@v1")
