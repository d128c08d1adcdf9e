"""What status, plan and refusals advise is what mends it, and leaves the policy in the file as it is."""

import psycopg
import pytest


@pytest.fixture
def clinic(shell, database, vault_database):
    """An initialised source whose tables a pattern has tracked."""
    execute(
        database,
        'CREATE TABLE "Customer" (id int PRIMARY KEY, name text)',
        "CREATE TABLE patients (id int PRIMARY KEY, ssn text, note text)",
        "CREATE TABLE visits (id int PRIMARY KEY, note text)",
        "INSERT INTO patients VALUES (1, 's', 'n')",
    )
    shell.json(
        "init", "--source", database, "--vault", vault_database, "--ledger", "ledger", "--origin", "clinic.example/prod"
    )
    return database


def execute(dsn, *statements):
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def track(shell, policy):
    path = shell.directory / "pgseal.toml"
    path.write_text(path.read_text().split("[source.tables")[0].rstrip() + "\n" + policy)
    shell("apply")


def warnings(shell):
    return [warning for warning in shell.json("status")["warnings"] if warning.startswith("public.")]


def test_what_a_pattern_covers_is_mended_by_apply(shell, clinic):
    track(shell, '\n[source.tables."public.*"]\n')
    before = (shell.directory / "pgseal.toml").read_text()
    execute(
        clinic,
        "ALTER TABLE patients ADD more int",
        "DROP TABLE visits",
        "CREATE TABLE visits (id int PRIMARY KEY)",
        'ALTER TABLE "Customer" DISABLE TRIGGER pgseal_capture_update',
    )
    found = warnings(shell)
    assert len(found) == 3
    assert all(warning.endswith("pgseal apply") for warning in found), found
    assert any(warning.startswith("public.visits: the table was dropped and made anew") for warning in found)
    shell("apply")
    assert warnings(shell) == []
    assert (shell.directory / "pgseal.toml").read_text() == before

    execute(clinic, "DROP TABLE visits")
    assert warnings(shell) == ["public.visits: the table was dropped; pgseal untrack public.visits"]
    assert "matches it" in shell("untrack", "public.visits", "public.patients").stdout
    assert "public.patients" in str(shell.json("plan")["changes"])

    done = shell("status", code=3, PGSEAL_SOURCE_DSN="host=127.0.0.1 port=1 dbname=x")
    assert "tables   unknown" in done.stdout


def test_what_apply_cannot_mend_is_said_and_how(shell, clinic):
    name = psycopg.conninfo.conninfo_to_dict(clinic)["dbname"]
    role = f"intruder_{name}"
    execute(clinic, f"CREATE ROLE {role}", f"GRANT pgseal_owner TO {role}", f"GRANT USAGE ON SCHEMA audit TO {role}")
    try:
        by_hand = {change["text"]: change.get("by_hand") for change in shell.json("plan")["changes"]}
        assert by_hand == {
            f"may be taken by {role}": f"REVOKE pgseal_owner FROM {role};",
            f"has privilege {role} USAGE": f"REVOKE USAGE ON SCHEMA audit FROM {role};",
        }
        shown = shell("plan", "--check", code=1).stdout
        assert "next: pgseal apply" not in shown
        assert f"by hand: REVOKE pgseal_owner FROM {role};" in shown
        execute(clinic, *by_hand.values())
        assert shell.json("plan", "--check")["changes"] == []
    finally:
        execute(clinic, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_a_hidden_column_that_was_renamed_is_named(shell, clinic):
    track(shell, '\n[source.tables."public.patients"]\nmask = { ssn = "hash" }\nwhere = "note = \'n\'"\n')
    execute(clinic, "ALTER TABLE patients RENAME ssn TO social")
    expect_refusal(shell, "public.patients", "column 'ssn' is called 'social' now")
    execute(clinic, "ALTER TABLE patients RENAME social TO ssn", "ALTER TABLE patients RENAME note TO remark")
    expect_refusal(shell, "public.patients", "'where' reads remark = 'n' now")
    execute(clinic, "ALTER TABLE patients DROP remark", "ALTER TABLE patients DROP ssn")
    expect_refusal(
        shell,
        *("public.patients", "column 'ssn' is gone"),
        *("public.patients", "column 'note', which 'where' tests, is gone"),
    )
    # A new column has the name of the one that is to be hidden, which the policy as it stands would show.
    execute(clinic, "ALTER TABLE patients ADD ssn text", "ALTER TABLE patients ADD note text")
    track(shell, '\n[source.tables."public.patients"]\nmask = { ssn = "hash" }\n')
    execute(
        clinic,
        "ALTER TABLE patients RENAME ssn TO social",
        "ALTER TABLE patients RENAME note TO ssn",
        "UPDATE patients SET social = 's3cret'",
    )
    expect_refusal(shell, "public.patients", "column social: hash → recorded, only because it is called so now")
    track(shell, '\n[source.tables."public.patients"]\nmask = { social = "hash" }\n')
    execute(clinic, "UPDATE patients SET social = 's3cret too'")
    assert "s3cret" not in records(clinic)


def test_a_hidden_column_that_was_renamed_under_a_pattern_is_not_shown(shell, clinic):
    """A pattern means the columns that there are: nothing would be left of what it says about a renamed one."""
    execute(clinic, "ALTER TABLE visits ADD ssn text")
    policy = '\n[source.tables."public.*"]\nwhere = "note = \'n\'"\n'
    track(shell, policy + 'mask = { ssn = "hash" }\nexclude = ["name"]\n')
    execute(
        clinic,
        "ALTER TABLE patients RENAME ssn TO social",
        'ALTER TABLE "Customer" RENAME name TO called',
        "ALTER TABLE visits RENAME note TO remark",
    )
    expect_refusal(
        shell,
        'public."Customer"', "column 'name' is called 'called' now",
        "public.patients", "column social: hash → recorded, only because it is called so now",
        "public.visits", "'where' reads remark = 'n' now",
    )  # fmt: skip
    execute(clinic, "INSERT INTO patients VALUES (2, 's3cret', 'n')", "INSERT INTO \"Customer\" VALUES (2, 's3cret')")
    assert "s3cret" not in records(clinic)
    # What is said outright, of a column by its name of now or of this very table, is done.
    policy += 'mask = { ssn = "hash" }\nexclude = ["called"]\n'
    track(shell, policy + "".join(f'[source.tables."public.{table}"]\n' for table in ("patients", "visits")))
    execute(clinic, "UPDATE patients SET note = 'm' WHERE id = 2", "INSERT INTO \"Customer\" VALUES (3, 'hidden')")
    assert "s3cret" in records(clinic)
    assert "hidden" not in records(clinic)
    assert shell.json("plan", "--check")["changes"] == []


def expect_refusal(shell, *expected):
    """Plan shows the differences, table and words in turn, and whoever applies them changes nothing."""
    found = [change for change in shell.json("plan", "--check", code=1)["changes"] if "by_hand" in change]
    assert [word for change in found for word in (change["subject"], change["text"])] == [*expected]
    assert all(change["outside"] and "in pgseal.toml" in change["by_hand"] for change in found)
    for command in (("apply",), ("plan", "--sql")):
        refusal = shell.refuse(*command)
        assert all(f"{change['subject']}: {change['text']}; " in refusal for change in found)
    assert "pgseal apply does none of it" in shell("plan").stdout


def records(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        return str(connection.execute("SELECT key, old, new FROM audit.record").fetchall())


def test_names_that_are_not_found(shell, clinic):
    assert "double quotes: 'public.\"Customer\"'" in shell.refuse("track", "Customer")
    assert "double quotes: 'public.\"Customer\"'" in shell.refuse("track", "public.Customer")
    shell("track", 'public."Customer"')
    assert "change pgseal.toml, then pgseal apply" in shell.refuse("track", 'public."Customer"')
    execute(clinic, "INSERT INTO \"Customer\" VALUES (1, 'n')")
    assert "no sealed record is about a table 'public.patients'" in shell.refuse("search", "--table", "public.patients")
    shell("seal", "--once")
    for name in ("Customer", "public.Customer", "customer"):
        assert "double quotes: 'public.\"Customer\"'" in shell.refuse("search", "--table", name)
    assert "no sealed record is about a table 'nosuch.table'; pgseal status" in shell.refuse(
        "search", "--table", "nosuch.table"
    )
    assert len(shell.json("search", "--table", 'public."Customer"')["records"]) > 0


def test_a_vault_that_is_somewhere_else(shell, clinic):
    shell("seal", "--once")
    shell("verify")
    for command in (("verify",), ("seal", "--once")):
        assert "vault: nothing is installed there" in shell.refuse(*command, PGSEAL_VAULT_DSN=clinic)
