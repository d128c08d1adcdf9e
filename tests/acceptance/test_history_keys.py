"""The key that a person types finds the record, however its value is spelled there."""

import json

import psycopg
import pytest
from tests.deployments import deploy, query

# Column type, recorded value as SQL, what a person may type.
SPELLINGS = [
    ("numeric", "1.50", ["1.5", "1.50", "1.500", "+1.5", "15e-1", "01.5", '{"k": 1.5}', '{"k": "1.5"}']),
    ("numeric(10,2)", "7", ["7", "7.0", "7.00"]),
    ("bigint", "1000", ["1000", "1e3", "1000.0", "01000"]),
    ("float8", "0.1", ["0.1", "0.10", "1e-1", ".1"]),
    ("boolean", "true", ["true", "t", "yes", "TRUE", "1", '{"k": true}', '{"k": "t"}']),
    ("char(4)", "'ab'", ["ab", "ab  ", "ab ", '{"k": "ab"}']),
    ("text", "'1.50'", ["1.50", '{"k": "1.50"}']),
    (
        "uuid",
        "'593aaa05-d864-1df7-5b96-155fbdb19f28'",
        ["593AAA05-D864-1DF7-5B96-155FBDB19F28", "593aaa05d8641df75b96155fbdb19f28"],
    ),
    (
        "timestamptz",
        "'2026-11-23 09:14:02.5+00'",
        [
            "2026-11-23T09:14:02.5+00:00",
            "2026-11-23 09:14:02.500Z",
            "2026-11-23 10:14:02.5+01",
            "2026-11-23 09:14:02.5",
        ],
    ),
    ("timestamp", "'2026-11-23 09:14:00'", ["2026-11-23T09:14:00", "2026-11-23 09:14", "23 Nov 2026 9:14"]),
    ("date", "'2026-11-03'", ["2026-11-03", "20261103", "3 nov 2026"]),
    ("inet", "'10.0.0.1'", ["10.0.0.1", "10.0.0.1/32"]),
]
OTHERS = ["2.5", "f", "2026-11-23 09:14:03+00", "x"]


@pytest.fixture
def deployment(database, vault_database, tmp_path):
    for number, (type_name, value, _) in enumerate(SPELLINGS):
        query(database, f"CREATE TABLE t{number} (k {type_name} PRIMARY KEY, note text)")
        query(database, f"INSERT INTO t{number} VALUES ({value}, 'it')")
    query(database, "CREATE TABLE pair (a numeric, b timestamptz, note text, PRIMARY KEY (a, b))")
    query(database, "INSERT INTO pair VALUES (1.50, '2026-11-23 09:14Z', 'it')")
    query(database, "CREATE TABLE code (k text PRIMARY KEY, note text)")
    query(
        database, "INSERT INTO code VALUES ('1.5', 'one'), ('1.50', 'other'), ('2026-01-01', 'day'), (' y ', 'blank')"
    )
    deployment = deploy(database, vault_database, tmp_path)
    deployment.track("public.*")
    deployment.seal()
    return deployment


def test_a_key_is_found_by_its_value(deployment):
    for number, (type_name, _, spellings) in enumerate(SPELLINGS):
        for typed in spellings:
            found = deployment.call("history", f"t{number}", typed)
            assert [record["new"]["note"] for record in found] == ["it"], f"{type_name}: {typed}"
        for other in OTHERS:
            assert deployment.call("history", f"t{number}", other) == [], f"{type_name}: {other}"


def test_composite_keys_too(deployment):
    for typed in ({"a": 1.5, "b": "2026-11-23 09:14"}, {"b": "2026-11-23T10:14+01:00", "a": "1.500"}):
        assert len(deployment.call("history", "pair", json.dumps(typed))) == 1
    assert deployment.call("history", "pair", '{"a": 1.5, "b": "2026-11-23 09:15"}') == []


def test_texts_that_look_like_numbers_are_texts(deployment):
    assert [record["new"]["note"] for record in deployment.call("history", "code", "1.5")] == ["one"]
    assert [record["new"]["note"] for record in deployment.call("history", "code", "1.50")] == ["other"]
    assert deployment.call("history", "code", "1.500") == []


def test_a_number_spelled_anew_stays_one_row(deployment, database):
    with psycopg.connect(database) as source:
        source.execute("UPDATE t0 SET k = 1.5, note = 'again'")
        source.execute("UPDATE t0 SET note = 'and again'")
    deployment.seal()

    for typed in ("1.5", "1.50"):
        found = deployment.call("history", "t0", typed)
        assert [record["new"]["note"] for record in found] == ["it", "again", "and again"]
        assert {number for record in found for number in record.get("rows", [1])} == {1}


def test_a_key_that_a_row_was_only_given_is_found_however_it_is_typed(deployment, database):
    query(database, "UPDATE t1 SET k = 9")
    query(database, "UPDATE t8 SET k = '2027-01-01 00:00Z'")
    query(database, "UPDATE pair SET a = 2")
    deployment.seal()

    for table, typed in (
        ("t1", "9"),
        ("t1", "9.0"),
        ("t8", "2027-01-01 00:00"),
        ("pair", '{"a": 2, "b": "2026-11-23 09:14Z"}'),
    ):
        found = deployment.call("history", table, typed)
        assert [record["action"] for record in found] == ["SNAPSHOT", "UPDATE"], f"{table}: {typed}"


def test_a_key_that_could_be_several_recorded_ones_is_refused_and_they_are_named(deployment, database):
    for text in ("0.1", "0.1000000001", "0.25"):
        query(database, "INSERT INTO code VALUES (%s, 'float of one size or the other')", text)
    deployment.seal()

    with deployment.start("history", "code", "1.000000001e-1") as process:
        _, errors = process.communicate()
    assert process.returncode == 2
    assert '{"k": "0.1"}' in errors
    assert '{"k": "0.1000000001"}' in errors


def test_a_key_of_before_the_table_had_another_or_none_is_found(deployment, database):
    query(database, "UPDATE code SET note = 'two' WHERE k = '1.5'")
    query(database, "ALTER TABLE code DROP CONSTRAINT code_pkey")
    query(database, "UPDATE code SET note = 'three' WHERE k = '1.5'")
    query(database, "UPDATE t4 SET note = 'two'")
    query(database, "ALTER TABLE t4 DROP CONSTRAINT t4_pkey, ADD n int NOT NULL DEFAULT 7 PRIMARY KEY")
    query(database, "UPDATE t4 SET note = 'three'")
    deployment.call("track", "public.t4")
    deployment.seal()
    assert [one["action"] for one in deployment.call("history", "code", "1.5")] == ["SNAPSHOT", "UPDATE"]
    assert deployment.call("history", "code", "nobody", expect=2) is None
    for key in ("true", '{"k": true}'):
        assert [one["action"] for one in deployment.call("history", "t4", key)] == ["SNAPSHOT", "UPDATE"]
    assert [one["action"] for one in deployment.call("history", "t4", "7")] == ["UPDATE", "SNAPSHOT"]
