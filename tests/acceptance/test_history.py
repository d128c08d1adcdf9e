"""`pgseal history` follows a row through changes of its key, from whichever key it is asked."""

import psycopg
import pytest
from tests.deployments import Deployment, deploy

STORY = """
    INSERT INTO item VALUES (1, 'first'), (2, 'second');
    UPDATE item SET note = 'changed' WHERE id = 1;
    UPDATE item SET id = 10 WHERE id = 1;
    UPDATE item SET id = 100 WHERE id = 10;
    UPDATE item SET note = 'again' WHERE id = 100;
    INSERT INTO item VALUES (10, 'another one takes the key');
    DELETE FROM item WHERE id = 10;
    UPDATE item SET id = 10 WHERE id = 2;
"""
WHOLE = ["INSERT first", "UPDATE changed", "UPDATE changed", "UPDATE changed", "UPDATE again"]


@pytest.fixture
def deployment(database, vault_database, tmp_path) -> Deployment:
    with psycopg.connect(database) as source:
        source.execute("CREATE TABLE item (id int PRIMARY KEY, note text)")
    deployment = deploy(database, vault_database, tmp_path)
    deployment.track("item")
    with psycopg.connect(database, autocommit=True) as source:
        for statement in STORY.split(";"):
            if statement.strip():
                source.execute(statement)  # pyright: ignore[reportArgumentType]
    deployment.seal()
    return deployment


def history(deployment: Deployment, key: str) -> list[str]:
    records = deployment.call("history", "item", key)
    return [f"{record['action']} {(record['new'] or record['old'])['note']}" for record in records]


def test_from_the_newest_key_the_whole_history_is_found(deployment):
    assert history(deployment, "100") == WHOLE


def test_from_the_first_key_too(deployment):
    assert history(deployment, "1") == WHOLE


def test_a_row_that_took_over_a_used_key_is_traced_to_its_own_beginning(deployment):
    assert history(deployment, "2") == ["INSERT second", "UPDATE second"]
    others = ["INSERT another one takes the key", "DELETE another one takes the key"]
    assert sorted(history(deployment, "10")) == sorted([*WHOLE, *others, "INSERT second", "UPDATE second"])


def test_a_table_without_baseline_has_what_there_is(deployment, database):
    with psycopg.connect(database) as source:
        source.execute("CREATE TABLE late (id int PRIMARY KEY, note text)")
        source.execute("INSERT INTO late VALUES (1, 'before')")
    deployment.call("track", "late", "--no-baseline")
    with psycopg.connect(database) as source:
        source.execute("UPDATE late SET id = 2, note = 'after'")
        source.execute("UPDATE late SET note = 'later'")
    deployment.seal()
    records = deployment.call("history", "late", "2")
    assert [(record["action"], record["key"], record["new"]["note"]) for record in records] == [
        ("UPDATE", {"id": 1}, "after"),
        ("UPDATE", {"id": 2}, "later"),
    ]
