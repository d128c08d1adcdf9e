"""`pgseal erase`: what is recorded about a data subject is gone from trail and vault, and everything still verifies."""

import json
from pathlib import Path

import psycopg
import pytest
from tests.deployments import Deployment, RunningSealer, deploy, query

WHY = ("--reason", "request 2026-17", "--approved-by", "j.doe")
#: What no file may hold once it is erased.
SECRET = "Zebediah"


@pytest.fixture
def deployment(any_database: str, vault_database: str, tmp_path) -> Deployment:
    query(any_database, "CREATE TABLE patients (id int PRIMARY KEY, name text)")
    query(any_database, "CREATE TABLE visits (id int PRIMARY KEY, patient_id int, note text)")
    deployment = deploy(any_database, vault_database, tmp_path)
    query(any_database, "INSERT INTO patients VALUES (7, 'Zebediah before')")
    deployment.track("patients", "visits")
    query(any_database, "INSERT INTO patients SELECT i, 'patient ' || i FROM generate_series(20, 40) AS i")
    query(
        any_database,
        "SELECT audit.set_context('{\"actor\": \"Zebediah\"}'); UPDATE patients SET name = 'Zebediah R.' WHERE id = 7",
    )
    query(any_database, "UPDATE patients SET id = 107 WHERE id = 7")
    query(any_database, "INSERT INTO visits VALUES (107, 107, 'of Zebediah'), (21, 21, 'of another')")
    for dsn, data in (
        (any_database, '{"resource": "patients/107", "note": "Zebediah"}'),
        (any_database, '{"targets": [{"type": "patient", "id": 7}, {"type": "patient", "id": 20}]}'),
        (vault_database, '{"metadata": {"deep": [{"patient_id": "107", "note": "Zebediah"}]}}'),
        (any_database, '{"resource": "invoices/107", "amount": 107}'),
    ):
        query(dsn, "SELECT audit.record_event('VIEWED', %s::jsonb)", data)
    deployment.seal()
    return deployment


def leaves_with(deployment: Deployment, text: str) -> list[int]:
    return [
        row[0]
        for row in query(deployment.vault, "SELECT leaf_index FROM vault.record AS r WHERE concat(actor, data) LIKE %s "
                         "ORDER BY 1", f"%{text}%")
    ]  # fmt: skip


def blank_leaves(deployment: Deployment) -> list[int]:
    """Leaves without content, in the vault; both parts and both salts are gone."""
    return [
        row[0]
        for row in query(
            deployment.vault,
            "SELECT leaf_index FROM vault.record WHERE num_nulls(actor, actor_salt, data, data_salt) = 4 ORDER BY 1",
        )
    ]


def count_rows(dsn: str, text: str) -> int:
    return query(dsn, "SELECT count(*) FROM audit.record AS r WHERE r::text LIKE %s", f"%{text}%")[0][0]


def files_with(dsn: str, text: str, schema: str) -> list[str]:
    """Files of a schema's tables, their TOAST tables and indexes, and of the statistics, that have a text in them."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        rows = connection.execute(
            "WITH t AS (SELECT oid FROM pg_class WHERE relnamespace = %s::regnamespace OR relname = 'pg_statistic'), "
            "o AS (SELECT oid FROM t UNION SELECT reltoastrelid FROM pg_class JOIN t USING (oid)) "
            "SELECT c.oid::regclass::text, current_setting('data_directory') || '/' || pg_relation_filepath(c.oid) "
            "FROM pg_class AS c WHERE c.oid IN (SELECT oid FROM o) "
            "OR c.oid IN (SELECT indexrelid FROM pg_index JOIN o ON indrelid = o.oid)",
            [schema],
        ).fetchall()
    return [name for name, path in rows if path and text.encode() in Path(path).read_bytes()]


@pytest.mark.servers(15, 16, 18)
def test_what_is_about_a_subject_is_gone_and_all_verifies(deployment: Deployment, tmp_path):
    before = leaves_with(deployment, SECRET)
    visit = leaves_with(deployment, "of Zebediah")
    root = deployment.checkpoint().root

    # Looking at it changes nothing.
    looked = deployment.call("erase", "--table", "patients", "--key", "7", "--dry-run")
    assert (deployment.checkpoint().root, leaves_with(deployment, SECRET)) == (root, before)
    assert looked["dry_run"]
    counts = {(one["trail"], one["relation"], one["action"]): one["records"] for one in looked["records"]}
    assert counts == {
        ("clinic", "public.patients", "SNAPSHOT"): 1,
        ("clinic", "public.patients", "UPDATE"): 2,
        ("clinic", None, "VIEWED"): 2,
        ("vault", None, "VIEWED"): 1,
    }
    assert len(looked["mentioned"]) == 1  # the invoice with that number
    deployment.call("erase", "--table", "patients", "--key", "7", *WHY, expect=2)  # nobody is there to ask

    done = deployment.run("erase", "--table", "patients", "--key", "107", *WHY, "--yes")
    assert done["ok"]
    assert done["destroyed"] == {"trails": {"clinic": 5, "vault": 1}, "vault": 6}
    assert done["not_vacuumed"] == {}
    assert done["unreachable"]
    deployment.check_verified()
    assert deployment.call("verify")["erased"] == 6
    blanked = blank_leaves(deployment)
    assert len(blanked) == 6
    deployment.seal()

    # Gone from both sides, but for the row of another table that nobody named.
    assert leaves_with(deployment, SECRET) == visit
    assert (count_rows(deployment.source, SECRET), count_rows(deployment.vault, SECRET)) == (1, 0)
    assert [one["index"] for one in deployment.call("search", "--text", SECRET)["records"]] == visit
    assert deployment.call("history", "patients", "107") == []
    again = deployment.call("erase", "--table", "visits", "--key", "107", *WHY, "--yes", "--rewrite")
    assert again["destroyed"]["trails"] == {"clinic": 1}
    assert [files_with(deployment.source, SECRET, "audit"), files_with(deployment.vault, SECRET, "audit"),
            files_with(deployment.vault, SECRET, "vault")] == [[], [], []]  # fmt: skip
    deployment.check_verified()

    # The record says what may be gone, who approved it, and nothing of the subject.
    (index,) = done["erase"]
    (row,) = query(
        deployment.vault, "SELECT trail, source, action, data, actor FROM vault.record WHERE leaf_index = %s", index
    )
    assert row[:3] == ("vault", "system", "ERASE")
    data = json.loads(row[3])
    assert data.keys() == {"leaves", "parts", "reason"}
    assert sorted(data["parts"]) == ["actor", "data"]
    assert [leaf for begin, end in data["leaves"] for leaf in range(begin, end)] == blanked
    assert json.loads(row[4])["claimed"] == {"approved_by": "j.doe"}

    # A pack refers to it, and an auditor is content.
    pack = tmp_path / "evidence.zip"
    made = deployment.call("pack", "--table", "public.patients", "-o", str(pack))
    assert made["erased"] == 6
    vkey = deployment.call("key", "show")["vkey"]
    checked = deployment.call("verify", str(pack), "--vkey", vkey, "--table", "public.patients")
    assert (checked["ok"], checked["erased"]) == (True, 6)


@pytest.mark.servers(18)
def test_actors_single_records_and_parts(deployment: Deployment):
    # Who acted goes from every record; what was done stays, and so do pgseal's own acts.
    acted = deployment.call("erase", "--actor", SECRET, *WHY, "--yes")
    assert [(one["action"], one["parts"], one["records"]) for one in acted["records"]] == [("UPDATE", ["actor"], 1)]
    (who,) = query(deployment.vault, "SELECT actor, actor_salt, data LIKE '%Zebediah R.%' FROM vault.record "
                   "WHERE actor IS NULL")  # fmt: skip
    assert who == (None, None, True)
    role = query(deployment.vault, "SELECT session_user")[0][0]
    assert deployment.call("erase", "--actor", role, "--dry-run")["acts_kept"] >= 2
    deployment.check_verified()

    # One that only mentions the number has to be named.
    (named,) = deployment.call("erase", "--table", "patients", "--key", "107", "--dry-run")["mentioned"]
    single = deployment.call("erase", "--record", named, *WHY, "--yes")
    assert [(one["relation"], one["records"]) for one in single["records"]] == [(None, 1)]
    kept = deployment.call("erase", "--table", "patients", "--key", "107", "--keep-actors", *WHY, "--yes")
    assert {tuple(one["parts"]) for one in kept["records"]} == {("data",)}
    deployment.seal()
    deployment.check_verified()
    # What was erased is not found again, and asking for it does no harm.
    assert deployment.call("erase", "--table", "patients", "--key", "107", *WHY, "--yes")["erase"] == []

    act = query(deployment.vault, "SELECT trail || '/' || id FROM vault.record WHERE action = 'TRACK' LIMIT 1")[0][0]
    for wrong in (
        ("--record", act, *WHY),
        ("--table", "patients", *WHY),
        ("--table", "patients", "--key", "20", "--reason", "x"),
        ("--table", "patients", "--key", "Zebediah", "--reason", "asked by Zebediah", "--approved-by", "j"),
        ("--again", "--actor", "x", *WHY),
        (),
        ("--table", "nothing", "--key", "1", *WHY),
    ):
        deployment.call("erase", *wrong, "--yes", expect=2)


@pytest.mark.servers(15)
def test_holds_keep_rows_tables_and_everything(deployment: Deployment):
    erase = ("erase", "--table", "patients", "--key", "7", *WHY, "--yes")
    # A row is held under every key it had, and no other.
    added = deployment.call("hold", "add", "row", "--table", "patients", "--key", "107", *WHY)
    assert deployment.call(*erase, expect=1)["held_by"] == ["row"]
    assert deployment.call("erase", "--table", "patients", "--key", "21", *WHY, "--yes")["ok"]
    # An event about both of them is held, too.
    assert deployment.call("erase", "--table", "patients", "--key", "20", *WHY, "--yes", expect=1)["held_by"] == ["row"]
    assert deployment.call("erase", "--actor", SECRET, *WHY, "--yes", expect=1)["held_by"] == ["row"]
    deployment.call("hold", "add", "row", *WHY, expect=2)
    deployment.call("hold", "add", "table", "--table", "patients", *WHY)
    deployment.call("hold", "add", "all", *WHY)
    deployment.call("hold", "release", "row", *WHY)
    assert deployment.call(*erase, expect=1)["held_by"] == ["table", "all"]
    assert deployment.call("erase", "--table", "visits", "--key", "21", *WHY, "--yes", expect=1)["held_by"] == ["all"]
    deployment.call("hold", "release", "table", *WHY)
    deployment.call("hold", "release", "table", *WHY, expect=2)
    deployment.call("hold", "release", "all", *WHY)

    found = deployment.call("hold", "list", "--all")["holds"]
    assert [(one["hold"], one["scope"], one["approved_by"]) for one in found] == [
        ("row", "row", "j.doe"), ("table", "table", "j.doe"), ("all", "everything", "j.doe"),
    ]  # fmt: skip
    assert found[0]["index"] == added["index"]
    assert all(one["released"]["approved_by"] == "j.doe" for one in found)
    assert deployment.call("hold", "list")["holds"] == []
    # Nothing of the row is in the record, which stays for ever.
    holds = query(deployment.vault, "SELECT data FROM vault.record WHERE action = 'HOLD' ORDER BY leaf_index")
    said = json.loads(holds[0][0])
    assert said.keys() == {"hold", "relation", "keys", "reason"}
    assert {len(one) for one in (said["keys"]["salt"], *said["keys"]["sha256"])} == {64}
    assert deployment.call(*erase)["destroyed"]["vault"] == 6
    deployment.check_verified()


@pytest.mark.servers(16)
def test_beside_a_sealer_at_work(deployment: Deployment):
    sealer = RunningSealer(deployment)
    try:
        query(deployment.source, "INSERT INTO patients VALUES (7, 'Zebediah once more')")
        done = deployment.call("erase", "--table", "patients", "--key", "7", *WHY, "--yes")
        assert done["ok"]
        deployment.call("erase", "--table", "patients", "--key", "7", *WHY, "--yes")  # what was sealed after that
        sealer.stop()
    finally:
        sealer.abandon()
    deployment.seal()
    assert count_rows(deployment.source, "once more") == 0
    assert leaves_with(deployment, "once more") == []
    deployment.check_verified()
