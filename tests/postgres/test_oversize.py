"""Large values: whole as far as JSON can hold them; beyond that, or over the policy's limit, a digest or an error."""

from hashlib import sha256
from typing import Any

import psycopg
import pytest

from pgseal.errors import CaptureError
from pgseal.trail import baseline
from pgseal.trail.capture import TableRule
from pgseal.trail.registry import list_tracked
from pgseal.trail.track import track, untrack

KINDS = {"statement": "", "row": " PARTITION BY RANGE (id)"}


@pytest.fixture(params=KINDS)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


def run(source: psycopg.Connection, statement: str) -> None:
    source.execute(statement)  # pyright: ignore[reportArgumentType]


def make_table(source: psycopg.Connection, mode: str, columns: str) -> None:
    run(source, f"CREATE TABLE t (id int PRIMARY KEY, {columns}){KINDS[mode]}")
    if mode == "row":
        run(source, "CREATE TABLE t1 PARTITION OF t DEFAULT")


def make(source: psycopg.Connection, mode: str, columns: str, oversize: str) -> None:
    make_table(source, mode, columns)
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
        assert 'oversize = "digest" in pgseal.toml, then pgseal apply' in str(caught.value.diag.message_hint)
    run(source, "DELETE FROM t")
    assert len(images(source)) == 4


@pytest.mark.servers(15, 18)
def test_a_refusal_shows_no_hidden_value(source: psycopg.Connection, mode: str):
    """The error that the application gets says where it comes from: never with a value that is masked or left out."""
    make_table(source, mode, "hashed text, cut text, gone text, big text")
    masks = {"hashed": "hash", "cut": "last4"}
    rule = TableRule(["gone"], masks, oversize="reject", require_actor="reject")
    track(source.info.dsn, "public", "t", rule, side="source")
    hidden, large = "'s3cret' || i, 's3cret' || i, 's3cret' || i", "repeat('x', 1000001)"
    attempts = [
        (psycopg.errors.InsufficientPrivilege, f"INSERT INTO t SELECT i, {hidden}, 'x' FROM generate_series(1, 1) i"),
        (psycopg.errors.InsufficientPrivilege, f"INSERT INTO t SELECT i, {hidden}, 'x' FROM generate_series(1, 3) i"),
        (
            psycopg.errors.ProgramLimitExceeded,
            f"INSERT INTO t SELECT i, {hidden}, {large} FROM generate_series(1, 1) i",
        ),
        (
            psycopg.errors.ProgramLimitExceeded,
            f"INSERT INTO t SELECT i, {hidden}, {large} FROM generate_series(1, 3) i",
        ),
    ]
    for altered in (False, True):
        if altered:
            run(source, "ALTER TABLE t ADD later int")
        for expected, statement in attempts:
            with source.transaction(force_rollback=True):
                if expected is psycopg.errors.ProgramLimitExceeded:
                    run(source, 'SELECT audit.set_context(\'{"actor": "alice"}\')')
                with pytest.raises(expected, match="pgseal") as caught, source.transaction():
                    run(source, statement)
            said = caught.value.diag
            shown = [getattr(said, name) for name in dir(said) if not name.startswith("_")]
            assert any("capture" in str(field) for field in shown), "the context says whose function it was"
            assert "s3cret" not in str(shown)
    assert images(source) == []


def test_json_that_jsonb_cannot_hold(source: psycopg.Connection, mode: str):
    make(source, mode, "v json, w json[]", "keep")
    value = '{"a":"\\u0000","b":"\\ud800"}'
    source.execute("INSERT INTO t VALUES (1, %s, ARRAY[%s]::json[])", [value, '"\\u0000"'])
    run(source, "UPDATE t SET v = '1'")
    assert images(source)[1] == ({"v": value}, {"id": 1, "v": "1", "w": '{"\\"\\\\u0000\\""}'})


def test_a_digest_stands_for_a_large_value_in_the_baseline(source: psycopg.Connection, mode: str):
    make_table(source, mode, 'v text, "W w" jsonb, secret text, photo bytea')
    big = "a" * 1_000_001
    run(source, "INSERT INTO t SELECT i, 'small', 'null', 's', 'p' FROM generate_series(1, 2000) AS i")
    source.execute(
        "INSERT INTO t VALUES (2001, %(big)s, NULL, %(big)s, 'p'), (2002, NULL, to_jsonb(%(big)s::text), 's', "
        "convert_to(%(big)s, 'UTF8'))",
        {"big": big},
    )
    run(source, "UPDATE t SET secret = 'other' WHERE id = 1")
    rule = TableRule(["photo"], {"secret": "redact"}, oversize="digest")
    assert track(source.info.dsn, "public", "t", rule, side="source").rows == 2002
    run(source, "DELETE FROM t WHERE id > 2000")
    found = source.execute(
        "SELECT new, old, action, source, relation, claimed FROM audit.record WHERE action IN ('SNAPSHOT', 'DELETE') "
        "AND (key ->> 'id')::int > 1999 ORDER BY (key ->> 'id')::int, id"
    ).fetchall()
    rows = [
        {"id": 2000, "v": "small", "W w": {"pgseal": "null"}, "secret": "[redacted]"},
        {"id": 2001, "v": digest(big), "W w": None, "secret": "[redacted]"},
        {"id": 2002, "v": None, "W w": digest(f'"{big}"'), "secret": "[redacted]"},
    ]
    assert [row[0] for row in found if row[2] == "SNAPSHOT"] == rows
    assert [row[1] for row in found if row[2] == "DELETE"] == rows[1:]
    assert {row[3:] for row in found} == {("row", "public.t", None)}
    ids = source.execute("SELECT id FROM audit.record WHERE source = 'row' ORDER BY action DESC, id").fetchall()
    assert ids == sorted(set(ids))
    assert len(ids) == 2004


def test_a_table_that_holds_a_value_which_its_policy_rejects_is_not_tracked(
    source: psycopg.Connection, mode: str, monkeypatch: pytest.MonkeyPatch
):
    make_table(source, mode, 'id2 int, "V w" text')
    run(source, "INSERT INTO t VALUES (1, 1, repeat('x', 1000000)), (7, 1, repeat('x', 1000001))")
    rule = TableRule(oversize="reject")
    with pytest.raises(CaptureError, match=r"column 'V w' in row \{\"id\": 7\} is larger .* --baseline none"):
        track(source.info.dsn, "public", "t", rule, side="source")
    assert list_tracked(source) == []
    # One that arrives between this look and the lock: it is told of, too, and the baseline is said to be missing.
    with monkeypatch.context() as patch:
        patch.setattr(baseline, "check_sizes", lambda *_: None)
        with pytest.raises(CaptureError, match=r"V w.* --baseline none"):
            track(source.info.dsn, "public", "t", rule, side="source")
    assert [table.baseline for table in list_tracked(source)] == ["pending"]
    for hidden in (TableRule(["V w"], oversize="reject"), TableRule(mask={"V w": "hash"}, oversize="reject")):
        assert track(source.info.dsn, "public", "t", hidden, side="source").rows == 2
        untrack(source.info.dsn, "public.t", side="source")
    run(source, "UPDATE t SET \"V w\" = '' WHERE id = 7")
    assert track(source.info.dsn, "public", "t", rule, side="source").rows == 2


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
    run(source, f"INSERT INTO t SELECT 9, {values[0]}, {values[1]}")
    untrack(source.info.dsn, "public.t", side="source")
    track(source.info.dsn, "public", "t", TableRule(), side="source")
    assert len(source.execute("SELECT FROM audit.record WHERE action = 'SNAPSHOT'").fetchall()) == 1
