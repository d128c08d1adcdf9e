"""What people see of records: every value, shortened, harmless, and NULL told from texts."""

import pytest
from tests.acceptance.shell import Shell
from tests.deployments import deploy, query

LONG = "x" * 500


@pytest.fixture
def show(database, vault_database, tmp_path):
    query(database, "CREATE TABLE patients (id int PRIMARY KEY, name text, balance numeric, meta jsonb)")
    deployment = deploy(database, vault_database, tmp_path)
    deployment.track("patients")
    query(database, "INSERT INTO patients VALUES (1, 'Ada Byron', 12.50, '{\"a\": [1]}'), (2, NULL, NULL, NULL)")
    query(database, "INSERT INTO patients VALUES (3, 'null', NULL, NULL), (4, '', 0, NULL), (5, 'NULL', 1, NULL)")
    query(database, f"INSERT INTO patients VALUES (6, '{LONG}', 1, NULL)")
    query(database, "INSERT INTO patients VALUES (7, E'a\\x1b[2J\\nb\\u202ec', 1, NULL), (8, 'x  balance 0', 1, NULL)")
    query(database, "UPDATE patients SET name = NULL WHERE id = 3")
    query(database, "UPDATE patients SET name = 'null' WHERE id = 2")
    query(database, "DELETE FROM patients WHERE id = 1")
    query(database, "INSERT INTO patients VALUES (9, 'Eve', 1, NULL)")
    query(database, "DELETE FROM patients WHERE id = 9")
    query(database, "INSERT INTO patients VALUES (9, 'Zoe', 1, NULL)")
    deployment.seal()
    shell = Shell(tmp_path)
    return lambda *arguments: shell(*arguments, "--utc").stdout


def test_content_of_inserted_and_deleted_rows_is_shown(show):
    shown = show("history", "patients", "1").splitlines()

    assert [line.strip() for line in shown if line.startswith("    ")] == [
        'id 1  meta {"a":[1]}  name Ada Byron  balance 12.50'
    ] * 2
    assert "name Ada Byron" in show("search", "--action", "DELETE")


def test_null_is_told_from_texts(show):
    assert "name NULL" in show("history", "patients", "2")
    assert 'name  NULL → "null"' in show("history", "patients", "2")
    assert 'meta NULL  name "null"  balance NULL' in show("history", "patients", "3")
    assert 'name  "null" → NULL' in show("history", "patients", "3")
    assert 'name ""' in show("history", "patients", "4")
    assert 'name "NULL"' in show("history", "patients", "5")


def test_long_values_are_shortened_and_none_can_pass_for_more_than_one(show):
    shown = show("history", "patients", "6")
    assert LONG[:40] in shown
    assert LONG[:80] not in shown
    assert 'name "x  balance 0"' in show("history", "patients", "8")


def test_control_characters_are_escaped(show):
    shown = show("history", "patients", "7")

    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\\u001b[2J\\nb" in shown


def test_a_key_without_records_is_told_with_the_columns_of_the_key(show):
    shown = show("history", "patients", "77")

    assert "no sealed record of such a row" in shown
    assert "key (id)" in shown


def test_several_rows_with_one_key_are_shown_one_after_the_other(show):
    shown = show("history", "patients", "9")

    assert "3 records of 2 rows" in shown
    assert shown.index("row 1") < shown.index("Eve") < shown.index("row 2") < shown.index("Zoe")
    assert "row 1" not in show("history", "patients", "1")
