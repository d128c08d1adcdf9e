"""`pgseal history` shows a row that moves to another partition as one move, and where a row ends with its partition."""

import contextlib
import io
import json

import psycopg
import pytest
from tests.deployments import Deployment, deploy, query

from pgseal.cli.app import run as run_command

TABLE = """
    CREATE TABLE event (id int, at date, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE event_2025 PARTITION OF event FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    CREATE TABLE event_2026 PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    INSERT INTO event VALUES (1, '2025-05-05', 'a'), (2, '2025-06-06', 'b')
"""
FIRST, LATER = '{"id": 1, "at": "2025-05-05"}', '{"id": 1, "at": "2026-05-05"}'


@pytest.fixture
def deployment(database, vault_database, tmp_path) -> Deployment:
    for statement in TABLE.split(";"):
        query(database, statement)
    deployment = deploy(database, vault_database, tmp_path)
    deployment.track("event")
    return deployment


def run(deployment: Deployment, *statements: str) -> None:
    with psycopg.connect(deployment.source, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # pyright: ignore[reportArgumentType]
    deployment.seal()


def history(deployment: Deployment, key: str) -> list[str]:
    return [record["action"] for record in deployment.call("history", "event", key)]


def text(deployment: Deployment, *arguments: str) -> list[str]:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert run_command(["--config", str(deployment.config), *arguments]) == 0
    return output.getvalue().splitlines()


def test_a_row_that_moves_is_one_row_and_the_move_one_entry(deployment: Deployment):
    run(
        deployment,
        "UPDATE event SET note = 'x' WHERE id = 1",
        "UPDATE event SET at = '2026-05-05', note = 'moved' WHERE id = 1",
        "UPDATE event SET note = 'y' WHERE id = 1",
    )
    for key in (FIRST, LATER):
        assert history(deployment, key) == ["SNAPSHOT", "UPDATE", "MOVE", "UPDATE"]
    move = deployment.call("history", "event", LATER)[2]
    assert move["key"] == json.loads(FIRST)
    assert move["old"] == {"id": 1, "at": "2025-05-05", "note": "x"}
    assert move["new"] == {"id": 1, "at": "2026-05-05", "note": "moved"}
    assert sorted(move["changed"]) == ["at", "note"]
    halves = [record for record in deployment.call("search", "--table", "event")["records"] if record["action"] in
              {"DELETE", "INSERT"}]  # fmt: skip
    assert {half["id"] for half in halves} == {move["id"], move["moved"]["delete"]["id"]}
    assert move["moved"]["from"] == "public.event_2025"
    assert move["moved"]["to"] == "public.event_2026"
    for half in halves:  # from either half the same row is found
        found = deployment.call("history", "--id", str(half["id"]))
        assert [record["action"] for record in found] == ["SNAPSHOT", "UPDATE", "MOVE", "UPDATE"]
    lines = text(deployment, "history", "event", LATER)
    (position,) = [number for number, line in enumerate(lines) if "  MOVE  " in line]
    assert lines[position + 1] == "    public.event_2025 → public.event_2026"
    assert {line.strip() for line in lines[position + 2 : position + 4]} == {
        "at    2025-05-05 → 2026-05-05",
        "note  x → moved",
    }
    deployment.check_verified()


def test_a_row_that_moves_there_and_back_in_one_transaction(deployment: Deployment):
    with psycopg.connect(deployment.source) as connection:
        connection.execute("UPDATE event SET at = '2026-05-05' WHERE id = 1")
        connection.execute("UPDATE event SET at = '2025-05-05', note = 'b' WHERE id = 1")
        connection.execute("UPDATE event SET at = '2026-06-06' WHERE id = 2")
    deployment.seal()
    assert history(deployment, FIRST) == ["SNAPSHOT", "MOVE", "MOVE"]
    assert history(deployment, '{"id": 2, "at": "2026-06-06"}') == ["SNAPSHOT", "MOVE"]


def test_what_was_deleted_and_inserted_is_shown_so(deployment: Deployment):
    run(
        deployment,
        "WITH gone AS (DELETE FROM event WHERE id = 1 RETURNING *) "
        "INSERT INTO event SELECT id, at + 365, note FROM gone",
    )
    assert history(deployment, FIRST) == ["SNAPSHOT", "DELETE"]
    assert history(deployment, LATER) == ["INSERT"]


def test_half_of_a_move_that_was_erased_leaves_the_other_as_it_is(deployment: Deployment):
    run(deployment, "UPDATE event SET at = '2026-05-05' WHERE id = 1")
    query(deployment.vault, "UPDATE vault.record SET data = NULL WHERE action = 'DELETE'")
    assert history(deployment, LATER) == ["INSERT"]


def test_rows_end_with_their_partition(deployment: Deployment):
    run(deployment, "UPDATE event SET at = '2026-05-05' WHERE id = 1", "TRUNCATE event_2025")
    assert history(deployment, '{"id": 2, "at": "2025-06-06"}') == ["SNAPSHOT", "TRUNCATE_PARTITION"]
    assert history(deployment, FIRST) == ["SNAPSHOT", "MOVE"]
    run(deployment, "INSERT INTO event VALUES (2, '2025-06-06', 'again')", "DROP TABLE event_2026")
    deployment.call("apply")
    deployment.seal()
    assert history(deployment, LATER) == ["SNAPSHOT", "MOVE", "DETACH"]
    found = deployment.call("history", "event", '{"id": 2, "at": "2025-06-06"}')
    assert [(record["action"], record["rows"]) for record in found] == [
        ("SNAPSHOT", [1]), ("TRUNCATE_PARTITION", [1]), ("INSERT", [2]),
    ]  # fmt: skip
    assert found[1]["data"]["partition"] == "public.event_2025"
    deployment.check_verified()
