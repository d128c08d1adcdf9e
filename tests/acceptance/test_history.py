"""`pgseal history` follows each row through changes of its key, from whichever key it is asked, and mixes no two."""

import psycopg
import pytest
from tests.deployments import Deployment, deploy, query

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


@pytest.fixture
def seal_story(database, vault_database, tmp_path):
    """Make a table `item`, track it, run statements, each in its own transaction, and seal them."""

    def seal(*statements: str, key: str = "PRIMARY KEY DEFERRABLE INITIALLY DEFERRED") -> Deployment:
        query(database, f"CREATE TABLE item (id int {key}, note text)")
        deployment = deploy(database, vault_database, tmp_path)
        deployment.track("item")
        with psycopg.connect(database, autocommit=True) as source:
            for statement in statements:
                source.execute(statement)  # pyright: ignore[reportArgumentType]
        deployment.seal()
        return deployment

    return seal


def versions(records) -> list[tuple]:
    """What was there after each record: (action, id, note); for a DELETE the row that went."""
    images = [(record["action"], record["new"] or record["old"]) for record in records]
    return [(action, image and image["id"], image and image["note"]) for action, image in images]


def rows(deployment: Deployment, *arguments: str) -> list[list[tuple]]:
    records = deployment.call("history", *arguments)
    numbers = sorted({number for record in records for number in record.get("rows", [1])})
    return [versions([record for record in records if number in record.get("rows", [1])]) for number in numbers]


ANN = [("INSERT", 1, "Ann"), ("UPDATE", 2, "Ann"), ("UPDATE", 2, "Ann B.")]
BOB = [("INSERT", 2, "Bob"), ("UPDATE", 1, "Bob"), ("UPDATE", 1, "Bob C.")]


def test_two_rows_that_swapped_keys_are_two_rows(seal_story):
    deployment = seal_story(
        "INSERT INTO item VALUES (1, 'Ann'), (2, 'Bob')",
        "UPDATE item SET id = 3 - id",
        "UPDATE item SET note = 'Ann B.' WHERE id = 2",
        "UPDATE item SET note = 'Bob C.' WHERE id = 1",
    )

    assert rows(deployment, "item", "1") == rows(deployment, "item", "2") == [ANN, BOB]
    for row in (ANN, BOB):
        for record in deployment.call("history", "item", "1"):
            if versions([record])[0] in row:
                assert rows(deployment, "--id", str(record["id"])) == [row]


def test_a_row_that_took_a_key_after_another_had_left_it_is_not_part_of_the_others_history(seal_story):
    deployment = seal_story(
        "INSERT INTO item VALUES (1, 'Ann')",
        "UPDATE item SET id = 2",
        "INSERT INTO item VALUES (1, 'Eve')",
        "UPDATE item SET note = 'Eve F.' WHERE id = 1",
        "UPDATE item SET note = 'Ann B.' WHERE id = 2",
        "DELETE FROM item WHERE id = 1",
        "INSERT INTO item VALUES (1, 'Eve F.')",
    )

    eve = [("INSERT", 1, "Eve"), ("UPDATE", 1, "Eve F."), ("DELETE", 1, "Eve F.")]
    assert rows(deployment, "item", "2") == [ANN]
    assert rows(deployment, "item", "1") == [ANN, eve, [("INSERT", 1, "Eve F.")]]
    again = deployment.call("history", "item", "1")[-1]
    assert rows(deployment, "--id", str(again["id"])) == [[("INSERT", 1, "Eve F.")]]


def test_a_key_that_moves_through_a_whole_table_drags_no_other_row_in(seal_story):
    deployment = seal_story(
        "INSERT INTO item SELECT g, 'row ' || g FROM generate_series(1, 9) AS g", *["UPDATE item SET id = id + 1"] * 4
    )

    assert rows(deployment, "item", "13") == [
        [("INSERT", 9, "row 9"), *(("UPDATE", n, "row 9") for n in (10, 11, 12, 13))]
    ]
    assert [len(row) for row in rows(deployment, "item", "5")] == [5] * 5


def test_a_row_that_was_given_the_key_of_a_deleted_one_is_found_by_it(seal_story):
    deployment = seal_story(
        "INSERT INTO item VALUES (1, 'Ann'), (2, 'Bob')",
        "DELETE FROM item WHERE id = 1",
        "UPDATE item SET id = 1",
        "TRUNCATE item",
    )

    bob = [("INSERT", 2, "Bob"), ("UPDATE", 1, "Bob"), ("TRUNCATE", None, None)]
    assert rows(deployment, "item", "1") == [[("INSERT", 1, "Ann"), ("DELETE", 1, "Ann")], bob]
    assert rows(deployment, "item", "2") == [bob]


NESTED = """
    CREATE FUNCTION react() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
        IF new.note LIKE '%!' THEN
            UPDATE item SET note = rtrim(new.note, '!') WHERE id = new.id;
        ELSIF new.note = 'away' THEN
            UPDATE item SET id = -id, note = 'gone' WHERE id = new.id;
        END IF;
        RETURN NULL;
    END$$;
    CREATE TRIGGER a_first AFTER INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION react();
"""


def test_versions_stand_in_the_order_of_the_changes_though_a_trigger_was_captured_first(seal_story):
    deployment = seal_story(
        NESTED,
        "INSERT INTO item VALUES (1, 'new!')",
        "UPDATE item SET note = 'changed!'",
        "UPDATE item SET note = 'changed!'",  # ends as it began
        "UPDATE item SET note = 'away'",
        key="PRIMARY KEY",
    )

    notes = ["new!", "new", "changed!", "changed", "changed!", "changed", "away"]
    expected = [("INSERT" if note == "new!" else "UPDATE", 1, note) for note in notes] + [("UPDATE", -1, "gone")]
    assert rows(deployment, "item", "1") == rows(deployment, "item", '{"id": -1}') == [expected]
    ids = [record["id"] for record in deployment.call("history", "item", "1")]
    assert ids != sorted(ids)


def test_where_the_chain_is_broken_versions_stand_in_order_of_id(seal_story, database):
    deployment = seal_story("INSERT INTO item VALUES (1, 'a')")
    deployment.call("untrack", "item")
    query(database, "UPDATE item SET note = 'unseen'")
    deployment.call("track", "item", "--no-baseline")
    query(database, "UPDATE item SET note = 'b'")
    query(database, "UPDATE item SET note = 'c'")
    deployment.seal()

    assert rows(deployment, "item", "1") == [[("INSERT", 1, "a"), ("UPDATE", 1, "b"), ("UPDATE", 1, "c")]]


def test_a_table_tracked_anew_goes_on_with_the_rows_it_had(seal_story, database):
    deployment = seal_story("INSERT INTO item VALUES (1, 'a')")
    deployment.call("untrack", "item")
    query(database, "UPDATE item SET note = 'b'")
    deployment.call("track", "item")
    query(database, "UPDATE item SET note = 'c'")
    deployment.seal()

    assert rows(deployment, "item", "1") == [[("INSERT", 1, "a"), ("SNAPSHOT", 1, "b"), ("UPDATE", 1, "c")]]
