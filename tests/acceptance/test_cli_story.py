"""The installed command, from nothing to a finding, as a newcomer types it; and how it refuses what cannot work."""

from collections.abc import Sequence

import psycopg
import pytest
from psycopg import conninfo

from pgseal.core.keys import parse_verifier_key
from pgseal.core.proof import check_proof_file

ORIGIN = "clinic.example/prod"


def init(source: str, vault: str) -> Sequence[str]:
    return ("init", "--source", source, "--vault", vault, "--ledger", "ledger", "--origin", ORIGIN, "--name", "clinic")


def fill(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE patients (id int PRIMARY KEY, name text, ssn text, balance numeric(10, 2))")
        connection.execute(
            "INSERT INTO patients SELECT g, 'name ' || g, 'ssn ' || g, g FROM generate_series(1, 50) AS g"
        )
        connection.execute("CREATE VIEW people AS SELECT * FROM patients")


def test_from_nothing_to_a_finding(shell, database, vault_database):  # noqa: PLR0915 - one story, told in order
    fill(database)

    first = shell.json(*init(database, vault_database))
    assert first["source"]["created"]
    assert (shell.directory / "pgseal.key").stat().st_mode & 0o777 == 0o600
    again = shell.json("init")
    assert (again["vkey"], again["source"]["created"], again["ledger"]) == (first["vkey"], False, {"size": 0})

    tracked = shell.json("track", "public.*", "--mask", "ssn=redact")
    assert tracked["tables"] == [
        {"relation": "public.patients", "exclude": [], "mask": {"ssn": "redact"}, "where": None, "baseline": 50}
    ]
    assert "already tracked" in shell.refuse("track", "patients")

    with psycopg.connect(database) as connection:
        connection.execute("""SELECT audit.set_context('{"actor": "dr.okafor"}')""")
        connection.execute("UPDATE patients SET name = 'Ann', balance = 3.50 WHERE id = 7")
    with psycopg.connect(database) as connection:
        connection.execute("DELETE FROM patients WHERE id = 7")

    sealed = shell.json("seal", "--once")
    assert sealed["origin"] == ORIGIN
    assert sealed["size"] == sealed["sealed"] >= 53

    history = shell.json("history", "patients", "7")
    assert [record["action"] for record in history] == ["SNAPSHOT", "UPDATE", "DELETE"]
    update = history[1]
    assert update["changed"] == ["name", "balance"]
    assert update["old"] == {"id": 7, "name": "name 7", "ssn": "[redacted]", "balance": 7.0}
    assert update["new"] == {"id": 7, "name": "Ann", "ssn": "[redacted]", "balance": 3.5}
    assert update["actor"]["claimed"] == {"actor": "dr.okafor"}
    assert [history[0]["old"], history[2]["new"]] == [None, None]

    shown = shell("history", "patients", "7", "--utc").stdout
    assert "dr.okafor (postgres)" in shown
    assert "balance  7.00 → 3.50" in shown
    assert shown.count("✓ sealed") == 3
    assert shown.count("no actor set") == 1
    assert "\x1b" not in shown

    found = shell.json("search", "--actor", "dr.okafor", "--table", "patients", "--since", "1h")
    assert found == {"records": [update], "next": None}
    page = shell.json("search", "--limit", "2")
    following = shell.json("search", "--limit", "2", "--cursor", page["next"])
    indexes = [record["index"] for record in page["records"] + following["records"]]
    assert indexes == list(range(sealed["size"] - 1, sealed["size"] - 5, -1))

    shell("prove", f"clinic/{update['id']}", "-o", "record.tlog-proof")
    vkey = parse_verifier_key(shell("key", "show").stdout.strip())
    proved = check_proof_file((shell.directory / "record.tlog-proof").read_bytes(), [vkey])
    assert (proved.record.envelope.id, proved.checkpoint.size) == (update["id"], sealed["size"])

    clean = shell.json("verify")
    assert clean["ok"]
    assert clean["checked"]["ledger"] == clean["checked"]["vault"] == sealed["size"]
    assert "✓ nothing was changed" in shell("verify").stdout
    status = shell.json("status")
    assert (status["origin"], status["ledger"]["size"]) == (ORIGIN, sealed["size"])

    with psycopg.connect(database) as connection:
        connection.execute("""UPDATE audit.record SET new = '{"id": 7}' WHERE id = %s""", [update["id"]])
    found = shell.json("verify", code=1)
    assert [(finding["where"], finding["trail"], finding["id"]) for finding in found["findings"]] == [
        ("trail", "clinic", update["id"])
    ]
    assert f"pgseal history --id clinic/{update['id']}" in shell("verify", code=1).stdout


def test_what_cannot_work_is_refused_in_one_line_and_changes_nothing(shell, cluster, database, vault_database):
    fill(database)

    assert "source and vault are the same database" in shell.refuse(*init(database, database))
    nowhere = conninfo.make_conninfo(database, dbname="no_such_database")
    assert "does not exist" in shell.refuse(*init(nowhere, vault_database))
    unreachable = conninfo.make_conninfo(vault_database, host="/nowhere", password="geheim")
    refused = shell.refuse(*init(database, unreachable), code=3)
    assert "geheim" not in refused
    (shell.directory / "ledger").mkdir()
    (shell.directory / "ledger" / "holiday.jpg").touch()
    assert "not empty" in shell.refuse(*init(database, vault_database))
    (shell.directory / "ledger" / "holiday.jpg").unlink()
    (shell.directory / "pgseal.key").write_text("mine\n", encoding="utf-8")
    assert "nothing was overwritten" in shell.refuse(*init(database, vault_database))
    assert (shell.directory / "pgseal.key").read_text(encoding="utf-8") == "mine\n"
    assert not (shell.directory / "pgseal.toml").exists()
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT to_regnamespace('audit')").fetchone() == (None,)

    (shell.directory / "pgseal.key").unlink()
    shell(*init(database, vault_database))
    assert "already" in shell.refuse(*init(database, cluster.dsn("postgres")))
    configuration = (shell.directory / "pgseal.toml").read_bytes()
    for arguments, expected in (
        (("track", "nothing"), "does not exist"),
        (("track", "people"), "is a view"),
        (("track", "patients", "--exclude", "nothing"), "no column 'nothing'"),
        (("track", "patients", "--mask", "id=hash"), "part of the key"),
        (("untrack", "patients"), "is not tracked"),
        (("history", "patients", "7"), "no sealed record"),
        (("prove", "7"), "no sealed record"),
    ):
        assert expected in shell.refuse(*arguments)
    assert (shell.directory / "pgseal.toml").read_bytes() == configuration
    assert "reach" in shell.refuse("search", code=3, PGSEAL_VAULT_DSN=unreachable)
    assert "PGSEAL_ORIGIN" in shell.refuse("verify", PGSEAL_ORIGIN="with space")


def test_one_cluster_for_both_is_warned_of(shell, cluster, new_database):
    source, vault = new_database(cluster), new_database(cluster)

    done = shell(*init(source, vault))

    assert "on the same server" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("--help",), ("status",), ("status", "--json"), ("search",), ("search", "--json")]
)
def test_a_reader_that_has_seen_enough_is_no_failure(deployment, arguments):
    with deployment.start(*arguments) as process:
        process.stdout.close()
        process.stderr.close()
        assert process.wait(60) == 141
