"""Large values: whole as far as JSON can hold them; beyond that, or over the policy's limit, a digest or an error."""

from hashlib import sha256
from typing import Any

import psycopg
import pytest

from pgseal.trail.capture import TableRule
from pgseal.trail.track import track

KINDS = {"statement": "", "row": " PARTITION BY RANGE (id)"}


@pytest.fixture(params=KINDS)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


def run(source: psycopg.Connection, statement: str) -> None:
    source.execute(statement)  # pyright: ignore[reportArgumentType]


def make(source: psycopg.Connection, mode: str, columns: str, oversize: str) -> None:
    run(source, f"CREATE TABLE t (id int PRIMARY KEY, {columns}){KINDS[mode]}")
    if mode == "row":
        run(source, "CREATE TABLE t1 PARTITION OF t DEFAULT")
    track(source.info.dsn, "public", "t", TableRule(oversize=oversize), side="source", baseline=False)


def images(source: psycopg.Connection) -> list[tuple[Any, Any]]:
    return source.execute("SELECT old, new FROM audit.record WHERE source = 'row' ORDER BY id").fetchall()


def digest(text: str) -> dict[str, Any]:
    return {"pgseal": "digest", "length": len(text), "sha256": sha256(text.encode()).hexdigest()}


def test_a_digest_stands_for_a_large_value(source: psycopg.Connection, mode: str):
    make(source, mode, "v text, w jsonb, n int", "digest")
    big, other = "a" * 1_000_001, "b" * 2_000_000
    source.execute("INSERT INTO t VALUES (1, %s, '{}', 5)", [big])
    source.execute("INSERT INTO t VALUES (2, %s, NULL, 6), (3, 'small', to_jsonb(%s::text), 7)", [other, big])
    run(source, "UPDATE t SET n = 0 WHERE id = 1")
    run(source, "UPDATE t SET v = 'small', w = 'null'")
    run(source, "DELETE FROM t WHERE id = 3")
    found = images(source)
    assert found[0] == (None, {"id": 1, "v": digest(big), "w": {}, "n": 5})
    assert found[1] == (None, {"id": 2, "v": digest(other), "w": None, "n": 6})
    assert found[2] == (None, {"id": 3, "v": "small", "w": digest(f'"{big}"'), "n": 7})
    assert found[3] == ({"n": 5}, {"id": 1, "v": digest(big), "w": {}, "n": 0})
    assert [old for old, _ in sorted(found[4:7], key=lambda pair: pair[1]["id"])] == [
        {"v": digest(big), "w": {}}, {"v": digest(other), "w": None}, {"w": digest(f'"{big}"')},
    ]  # fmt: skip
    assert found[7] == ({"id": 3, "v": "small", "w": {"pgseal": "null"}, "n": 7}, None)


def test_values_up_to_the_limit_are_whole(source: psycopg.Connection, mode: str):
    make(source, mode, "v text, b bytea", "digest")
    source.execute("INSERT INTO t VALUES (1, %s, %s)", ["é" * 500_000, b"x" * 499_999])
    assert images(source)[0][1] == {"id": 1, "v": "é" * 500_000, "b": "\\x" + "78" * 499_999}


def test_a_write_is_refused_if_the_policy_says_so(source: psycopg.Connection, mode: str):
    make(source, mode, 'id2 int, "V w" text', "reject")
    run(source, "INSERT INTO t VALUES (1, 1, repeat('x', 1000000)), (2, 1, NULL)")
    for statement in (
        "INSERT INTO t VALUES (3, 1, repeat('x', 1000001))",
        "INSERT INTO t VALUES (3, 1, 'x'), (4, 1, repeat('x', 1000001))",
        "UPDATE t SET \"V w\" = repeat('x', 1000001) WHERE id = 2",
        "UPDATE t SET \"V w\" = repeat('x', 1000001)",
    ):
        with pytest.raises(psycopg.errors.ProgramLimitExceeded, match=r'pgseal: .*"V w"') as caught:
            run(source, statement)
        assert "pgseal track --oversize digest" in str(caught.value.diag.message_hint)
    run(source, "DELETE FROM t")
    assert len(images(source)) == 4


def test_json_that_jsonb_cannot_hold(source: psycopg.Connection, mode: str):
    make(source, mode, "v json, w json[]", "keep")
    value = '{"a":"\\u0000","b":"\\ud800"}'
    source.execute("INSERT INTO t VALUES (1, %s, ARRAY[%s]::json[])", [value, '"\\u0000"'])
    run(source, "UPDATE t SET v = '1'")
    assert images(source)[1] == ({"v": value}, {"id": 1, "v": "1", "w": '{"\\"\\\\u0000\\""}'})


@pytest.mark.soak
@pytest.mark.servers(16)
@pytest.mark.parametrize(
    "values",
    [
        ("repeat('x', 300000000)", "NULL"),
        ("NULL", "convert_to(repeat('x', 300000000), 'UTF8')"),
        ("repeat('x', 140000000)", "convert_to(repeat('x', 70000000), 'UTF8')"),
        ("repeat(E'\\x01', 170000000)", "NULL"),
    ],
    ids=["text", "bytea", "together", "escapes"],
)
def test_what_json_cannot_hold_becomes_a_digest(source: psycopg.Connection, mode: str, values: tuple[str, str]):
    make(source, mode, "v text, b bytea", "keep")
    run(source, f"INSERT INTO t SELECT 1, {values[0]}, {values[1]}")
    run(source, "UPDATE t SET v = 'small', b = NULL")
    run(source, f"INSERT INTO t SELECT i, {values[0]}, {values[1]} FROM generate_series(2, 3) AS i")
    run(source, "DELETE FROM t")
    found = source.execute(
        'SELECT count(*) FROM audit.record WHERE coalesce(new, old) @> \'{"v": {"pgseal": "digest"}}\' '
        'OR coalesce(new, old) @> \'{"b": {"pgseal": "digest"}}\''
    ).fetchone()
    assert found == (5,)
