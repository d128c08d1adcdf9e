"""Row filters and what goes with them, as a person sets them: track, plan, apply, status, and every way to err."""

import psycopg
import pytest
from tests.deployments import query

WHERE = "tenant = 'a' or total >= 100"


@pytest.fixture
def clinic(shell, database, vault_database):
    """A source with two tables of bills and one of notes, initialised, with nothing tracked."""
    query(database, "CREATE TABLE bills (id int PRIMARY KEY, tenant text, total numeric, secret text, body text)")
    query(database, "CREATE TABLE old_bills (LIKE bills INCLUDING ALL)")
    query(database, "CREATE TABLE notes (id int PRIMARY KEY, secret text)")
    for name in ("bills", "old_bills"):
        query(database, f"INSERT INTO {name} VALUES (1, 'a', 1, 's3cret', 'x'), (2, 'b', 2, 's3cret', 'x')")
    shell.json(
        "init", "--source", database, "--vault", vault_database, "--ledger", "ledger", "--origin", "clinic.example/prod"
    )
    return database


def write_policy(shell, text):
    path = shell.directory / "pgseal.toml"
    path.write_text(path.read_text().split("[source.tables")[0].rstrip() + "\n" + text)


def texts(shell):
    return [f"{change['subject']}: {change['text']}" for change in shell.json("plan")["changes"]]


def recorded(dsn):
    return query(dsn, "SELECT action, coalesce(new, old) FROM audit.record WHERE source = 'row' ORDER BY id")


def test_all_of_a_tables_policy_on_the_command_line(shell, clinic):
    big = "repeat('y', 1000001)"
    query(clinic, f"UPDATE bills SET body = {big}")
    shown = shell(
        *("track", "bills", "--where", "TENANT='a'  or (total>=100)", "--truncate", "rows", "--oversize", "digest"),
        *("--mask", "secret=redact"),
    ).stdout
    assert f"1 row   secret redacted, only rows where {WHERE}" in shown
    assert f'where = "{WHERE}"' in (shell.directory / "pgseal.toml").read_text()
    query(clinic, f"INSERT INTO bills VALUES (3, 'b', 3, 's3cret', {big}), (4, 'a', 4, 's3cret', {big})")
    query(clinic, "UPDATE bills SET tenant = 'b' WHERE id = 1")
    query(clinic, "UPDATE bills SET tenant = 'c' WHERE id = 1")
    query(clinic, "TRUNCATE bills")
    found = recorded(clinic)
    assert [(action, row and row["id"]) for action, row in found] == [
        ("SNAPSHOT", 1), ("INSERT", 4), ("UPDATE", 1), ("DELETE", 4), ("TRUNCATE", None),
    ]  # fmt: skip
    assert {row["body"]["length"] for _, row in found if row} == {1000001}
    assert "s3cret" not in str(found)
    assert query(clinic, "SELECT data - '{key,old,new}'::text[] FROM audit.record WHERE action = 'TRUNCATE'") == [
        ({"rows": 4, "covered": 1},)
    ]
    shell("seal", "--once")
    shell("verify")
    (track,) = shell.json("search", "--action", "TRACK")["records"]
    assert track["data"]["where"] == WHERE
    assert [table["where"] for table in shell.json("status")["tables"]] == [WHERE]
    assert f"public.bills: only rows where {WHERE}" in shell("status").stdout
    assert f"--where '{WHERE}'".replace("'a'", "'\"'\"'a'\"'\"'") in shell("untrack", "bills").stdout


def test_a_filter_in_the_file_is_planned_applied_and_changed(shell, clinic):
    write_policy(shell, f'\n[source.tables."public.*bills"]\nwhere = "{WHERE}"\nmask = {{ secret = "hash" }}\n')
    assert texts(shell) == [
        f"public.{name}: not captured yet, matched by 'public.*bills', only rows where {WHERE}"
        for name in ("bills", "old_bills")
    ]
    applied = shell.json("apply")
    assert [table["baseline"] for table in applied["tables"]] == [1, 1]
    assert texts(shell) == []
    write_policy(shell, f'\n[source.tables."public.*"]\nwhere = "{WHERE}"\n\n[source.tables."public.bills"]\n')
    assert texts(shell) == [
        "public.bills: column secret: hash → recorded",
        f"public.bills: captured: only rows where {WHERE} → all rows",
        "public.notes: not captured yet, matched by 'public.*'",
        "public.old_bills: column secret: hash → recorded",
    ]
    shell("apply")
    query(clinic, "UPDATE bills SET total = 5")
    query(clinic, "UPDATE old_bills SET total = 5")
    updates = [row["id"] for action, row in recorded(clinic) if action == "UPDATE"]
    assert sorted(updates) == [1, 1, 2]
    query(clinic, "ALTER TABLE old_bills DROP tenant")
    query(clinic, "UPDATE old_bills SET total = 6")
    assert [action for action, _ in recorded(clinic)].count("UPDATE") == 5
    (warning,) = [words for words in shell.json("status")["warnings"] if "old_bills" in words]
    assert "all rows are recorded, not only those where" in warning
    assert texts(shell) == [
        "public.old_bills: altered: capture follows, but wants renewing, with a new baseline",
        f"public.old_bills: all rows are captured now, not only rows where {WHERE}: what it tests became another",
        f"public.old_bills: captured: only rows where {WHERE} → all rows",
    ]
    shell("apply")
    assert texts(shell) == []


def test_a_filter_that_cannot_be_is_refused_and_nothing_is_changed(shell, clinic):
    before = (shell.directory / "pgseal.toml").read_text()
    wrong = {
        "tenant = 'a' and nope = 1": "public.bills has no column 'nope', which its 'where' tests",
        "tenant like 'a%'": "where, character 8: expected = <> != < <= > >=, in or is after 'tenant', got like",
        "tenant = 'a": "where, character 10: an unclosed text cannot stand here",
        "tenant = null": "where, character 10: expected a value, which null is not: write 'is null', got null",
        "tenant = 5": "compares 'tenant' with 5: expected a 'text'",
        "secret = 'x'": "'where' tests 'secret', which is left out or masked",
        "tenant = 'a'; drop table bills": "where, character 13: ';' cannot stand here",
        "": "where, character 1: expected a column, got the end",
    }
    for where, words in wrong.items():
        assert words in shell.refuse("track", "bills", "--mask", "secret=redact", "--where", where)
    assert (shell.directory / "pgseal.toml").read_text() == before
    for where in list(wrong)[:2]:
        write_policy(shell, f'\n[source.tables."public.bills"]\nmask = {{ secret = "redact" }}\nwhere = "{where}"\n')
        for command in ("plan", "apply"):
            refusal = shell.refuse(command)
            assert wrong[where] in refusal
            assert "public.bills" in refusal
    assert query(clinic, "SELECT * FROM audit.tracked") == []


def test_a_filter_that_none_of_a_patterns_tables_can_follow_is_refused(shell, clinic):
    write_policy(shell, '\n[source.tables."public.*"]\nwhere = "secret = \'x\' and nope is null"\n')
    assert "no table that 'public.*' matches has all columns that its 'where' tests" in shell.refuse("plan")
    write_policy(shell, '\n[source.tables."public.*"]\nwhere = " "\n')
    assert "expected which rows to record" in shell.refuse("plan")
    assert query(clinic, "SELECT * FROM audit.tracked") == []


def test_a_table_that_holds_what_its_policy_rejects_is_not_tracked(shell, clinic):
    query(clinic, "UPDATE bills SET body = repeat('x', 1000001) WHERE id = 2")
    before = (shell.directory / "pgseal.toml").read_text()
    refusal = shell.refuse("track", "bills", "--oversize", "reject")
    assert "public.bills: the value of column 'body' in row {\"id\": 2} is larger than 1000000 bytes" in refusal
    assert "--baseline none" in refusal
    assert (shell.directory / "pgseal.toml").read_text() == before
    assert query(clinic, "SELECT * FROM audit.tracked") == []
    assert query(clinic, "SELECT * FROM pg_trigger WHERE tgname ~ '^pgseal_' AND tgrelid = 'bills'::regclass") == []
    shell("track", "bills", "--oversize", "reject", "--where", "tenant = 'a'")
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):
        query(clinic, "UPDATE bills SET tenant = 'a' WHERE id = 2")
