"""How-to pages that can be followed here; their code in the frameworks they are about, where these are installed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from tests.docs.markdown import ROOT, blocks
from tests.tokens import make_token

HOW_TO = ROOT / "docs" / "how-to"


@pytest.fixture
def environment(cluster, database, vault_database):
    programs = f"{Path(sys.executable).parent}:{cluster.bin}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    path = f"{programs}:{os.environ['PATH']}"
    return {**kept, "PATH": path, "PSQLRC": "/dev/null", "CLINIC_DSN": database, "VAULT_DSN": vault_database}


@pytest.fixture
def shell(environment, tmp_path):
    """Runs commands in a directory where pgseal is set up for a source with a table of patients."""

    def run(script, *, code=0):
        done = subprocess.run(
            ["bash", "-eu", "-c", script],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    sql(
        environment["CLINIC_DSN"],
        "CREATE TABLE patients (id int PRIMARY KEY, city text, ssn text, photo text, email text)",
    )
    sql(environment["CLINIC_DSN"], "INSERT INTO patients VALUES (1, 'Bath'), (2, 'Wilmslow')")
    run('pgseal init --source "$CLINIC_DSN" --vault "$VAULT_DSN" --ledger ledger --origin clinic.example/prod')
    return run


@pytest.fixture
def patients(shell, environment):
    """DSN of the source with its table tracked."""
    shell("pgseal track patients")
    return environment["CLINIC_DSN"]


def sql(dsn, statement):
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else None


def claims(dsn):
    """What was claimed with each UPDATE, in order."""
    return [row[0] for row in sql(dsn, "SELECT claimed FROM audit.record WHERE action = 'UPDATE' ORDER BY id")]


def follow(page, shell, dsn):
    """Run the blocks of a page as a person would; one of SQL goes to psql, a statement at a time."""
    printed = ""
    for block in blocks(page):
        if block.language == "sql":
            shell(f"psql -q -v ON_ERROR_STOP=1 '{dsn}' <<'SQL'\n{block.text}\nSQL")
        elif block.language == "sh":
            code = int(block.note.removeprefix("exit: ")) if block.note.startswith("exit: ") else 0
            printed += shell(block.text, code=code)
    return printed


@pytest.mark.slow
def test_partitioned_tables(shell, environment):
    dsn = environment["CLINIC_DSN"]
    sql(dsn, "CREATE TABLE old_events (id bigint, at timestamptz, body text, PRIMARY KEY (id, at))")
    shell("pgseal track public.old_events")
    printed = follow(HOW_TO / "track-partitioned-tables.md", shell, dsn)
    for line in next(blocks(HOW_TO / "track-partitioned-tables.md", "")).text.splitlines():
        assert " ".join(line.split()) in " ".join(printed.split())
    assert sql(dsn, "SELECT action, data ->> 'partition' FROM audit.record WHERE action ~ 'TACH$' ORDER BY id") == [
        ("DETACH", "public.events_2027"), ("ATTACH", "public.old_events"), ("DETACH", "public.old_events"),
    ]  # fmt: skip
    sql(dsn, "UPDATE events SET at = at + interval '1 year' WHERE id = 1")
    shell("pgseal seal --once")
    moved = shell("""pgseal history events '{"id": 1, "at": "2025-05-05T00:00:00+00:00"}'""")
    assert "MOVE" in moved
    assert "public.events_2025 → public.events_2026" in moved


@pytest.mark.slow
def test_a_policy_in_version_control(shell, environment, tmp_path):
    dsn = environment["CLINIC_DSN"]
    page = HOW_TO / "keep-the-policy-in-version-control.md"
    (tmp_path / "pgseal.toml").write_text(next(blocks(page, "toml")).text, encoding="utf-8")
    del environment["VAULT_DSN"]
    shell("pgseal apply")
    role = f"reporting_{conninfo_to_dict(dsn)['dbname']}"
    sql(dsn, "CREATE TABLE invoices (id int)")
    sql(dsn, "ALTER TABLE patients DISABLE TRIGGER pgseal_capture_update")
    sql(dsn, f"CREATE ROLE {role}")
    try:
        sql(dsn, f"GRANT SELECT ON audit.record TO {role}")
        expected = next(blocks(page, "")).text.replace("reporting", role)
        assert shell("pgseal plan") == expected
        follow(page, shell, dsn)
        assert shell("pgseal plan --check").startswith("✓")
    finally:
        sql(dsn, f"DROP OWNED BY {role}")
        sql(dsn, f"DROP ROLE {role}")


@pytest.mark.slow
def test_rotation(shell, patients):
    printed = follow(HOW_TO / "rotate-the-key.md", shell, patients)
    assert "both keys sign" in printed
    assert printed.count("clinic.example/prod+") > 4
    assert "the new key alone signs" in printed
    assert "nothing was changed" in shell("pgseal seal --once && pgseal verify")


@pytest.mark.slow
def test_a_key_in_a_token(shell, patients, environment, tmp_path, monkeypatch):
    token = make_token(tmp_path, monkeypatch)
    page = HOW_TO / "keep-the-key-in-an-hsm.md"
    uri = next(block.text.strip() for block in blocks(page, "") if block.text.startswith("pkcs11:"))
    environment |= {"KEY": uri, "PGSEAL_PIN": "73016452", "SO_PIN": "11223344"}
    environment["SOFTHSM2_CONF"] = str(token.directory.with_name("softhsm2.conf"))
    printed = follow(page, shell, patients)
    assert "both keys sign" in printed
    assert "nothing was changed" in printed
    assert (tmp_path / "pgseal.key").read_text() == f"{uri}\n"


@pytest.mark.slow
def test_evidence(shell, patients):
    sql(patients, "UPDATE patients SET city = 'London' WHERE id = 1")
    printed = follow(HOW_TO / "hand-evidence-to-an-auditor.md", shell, patients)
    assert "✓ november.zip: " in printed
    assert "✓ nothing in this pack was changed, removed, added or reordered" in printed
    question = "--since 1h --table public.patients --action UPDATE"
    shell(f"pgseal pack {question} -o hour.zip")
    assert "1 match" in shell(f'pgseal verify hour.zip --vkey "$(cat clinic.vkey)" {question}')
    shell('pgseal verify hour.zip --vkey "$(cat clinic.vkey)" --require-complete', code=3)


@pytest.mark.slow
def test_pgbouncer(shell, patients):
    follow(HOW_TO / "use-with-pgbouncer.md", shell, patients)
    assert claims(patients) == [{"actor": "dr.okafor", "request": "r-17"}, None]


@pytest.mark.slow
def test_postgrest(shell, patients):
    """What PostgREST does for a request, with the function of the page."""
    page = HOW_TO / "use-with-supabase-and-postgrest.md"
    sql(patients, next(blocks(page, "sql")).text)
    with psycopg.connect(patients) as connection:
        connection.execute(
            "SELECT set_config('request.jwt.claims', %s, true), set_config('request.headers', %s, true)",
            [json.dumps({"sub": "8f14", "role": "authenticated", "email": "x@y.z"}), '{"x-request-id": "r-17"}'],
        )
        connection.execute("SELECT public.say_request()")
        connection.execute("UPDATE patients SET city = 'London' WHERE id = 1")
    wanted = {"actor": "8f14", "role": "authenticated", "request": "r-17", "via": "request.jwt.claims"}
    assert claims(patients) == [wanted]
    shell("pgseal seal --once")
    assert "London" in shell("pgseal search --actor 8f14")


@pytest.mark.slow
@pytest.mark.usefixtures("patients")
def test_witness(shell, environment, tmp_path):
    """Both sides of the page, with a directory, an address and a key of this test's in place of the page's."""
    page = HOW_TO / "run-a-witness.md"
    scripts = [block.text.replace("/var/lib/pgseal-witness", "paris") for block in blocks(page, "sh")]
    key = shell(scripts[0]).strip()
    shell("pgseal key show > clinic.vkey")
    adding, serving = scripts[1].strip().split("\n")
    assert shell(adding).startswith("✓ clinic.example/prod")
    assert "nothing cosigned yet" in shell("pgseal witness list --dir paris")
    serving = serving.replace("127.0.0.1:8780", "127.0.0.1:0")
    with subprocess.Popen(
        ["bash", "-c", f"exec {serving}"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        policy, witness = next(blocks(page, "toml")).text.split("\n\n")
        witness = re.sub('url = ".*"', f'url = "{url}"', re.sub('key = ".*"', f'key = "{key}"', witness))
        config = tmp_path / "pgseal.toml"
        config.write_text(f"{policy}\nwitness_deadline = 10\n{config.read_text()}\n{witness}", encoding="utf-8")
        printed = shell(scripts[2])
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert list(blocks(page, ""))[-1].text.strip().rpartition("   ")[2] in printed
    assert "witnessed up to" in printed
    assert "3 leaves" in shell("pgseal witness list --dir paris")


SQLALCHEMY = """
import os
import psycopg
from audit import who
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(os.environ["CLINIC_DSN"]))

def work():
    with Session(engine) as session:
        session.execute(text("UPDATE patients SET city = 'a' WHERE id = 1"))
        session.commit()
        with session.begin_nested():
            session.execute(text("UPDATE patients SET city = 'b' WHERE id = 1"))
        session.commit()

token = who.set({"actor": "dr.okafor"})
work()
who.reset(token)
work()
"""


def run_python(code, environment, directory):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=directory, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_sqlalchemy(patients, environment, tmp_path):
    pytest.importorskip("sqlalchemy")
    code = next(blocks(HOW_TO / "set-the-context-in-sqlalchemy.md", "python")).text
    (tmp_path / "audit.py").write_text(code, encoding="utf-8")
    run_python(SQLALCHEMY, environment, tmp_path)
    assert claims(patients) == [{"actor": "dr.okafor"}, {"actor": "dr.okafor"}, None, None]


DJANGO = """
import logging, os, sys, types
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict

where = conninfo_to_dict(os.environ["CLINIC_DSN"])
place = {"NAME": where["dbname"], "USER": where["user"], "HOST": where["host"], "PORT": where.get("port", "")}
exec(open("settings_block").read())
DATABASES["default"].update(place)
settings.configure(SECRET_KEY="x" * 50, ROOT_URLCONF="clinic.urls", ALLOWED_HOSTS=["*"], DATABASES=DATABASES,
    MIDDLEWARE=MIDDLEWARE,
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"])
import django
django.setup()
logging.disable(logging.CRITICAL)
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection, transaction
from django.http import HttpResponse
from django.test import Client
from django.urls import path

def update(city):
    with connection.cursor() as cursor:
        cursor.execute("UPDATE patients SET city = %s WHERE id = 1", [city])

def change(request):
    update("a")
    if "fail" in request.GET:
        raise RuntimeError
    with transaction.atomic():
        update("b")
    return HttpResponse()

@transaction.non_atomic_requests
def loose(request):
    update("c")
    with transaction.atomic():
        update("d")
    return HttpResponse()

urls = types.ModuleType("clinic.urls")
urls.urlpatterns = [path("change", change), path("loose", loose)]
sys.modules["clinic.urls"] = urls
call_command("migrate", verbosity=0)
client = Client(raise_request_exception=False)
client.force_login(User.objects.create(username="dr.okafor"))
assert [client.get(path).status_code for path in ("/change", "/change?fail=1", "/loose")] == [200, 500, 200]
from clinic.audit import audit_context
with audit_context(actor="nightly import"), transaction.atomic():
    update("e")
update("f")
"""


@pytest.mark.slow
def test_django(patients, environment, tmp_path):
    pytest.importorskip("django")
    audit, settings_block, _ = [block.text for block in blocks(HOW_TO / "set-the-context-in-django.md", "python")]
    (tmp_path / "clinic").mkdir()
    (tmp_path / "clinic" / "__init__.py").touch()
    (tmp_path / "clinic" / "audit.py").write_text(audit, encoding="utf-8")
    (tmp_path / "settings_block").write_text(settings_block, encoding="utf-8")
    run_python(DJANGO, environment, tmp_path)
    actors = [claim and claim["actor"] for claim in claims(patients)]
    assert actors == ["dr.okafor", "dr.okafor", None, "dr.okafor", "nightly import", None]
