"""Attack 11, in part: whoever owns a partitioned table may attach its capture function.

PostgreSQL wants that right of whoever makes or attaches a partition, because the triggers are cloned in his name;
without it an application's own role could not add one. So the function itself refuses to work anywhere else: at once,
by failing the write. A second trigger that doubles records is found by `pgseal status` and `pgseal plan --check`.
"""

import psycopg
import pytest
from tests.attacks.attack import Attack
from tests.attacks.conftest import changes, follow, run

from pgseal.trail.health import read_trigger_faults

#: The oldest and the newest at hand: the suite is long.
pytestmark = pytest.mark.servers(15, 18)
STAGED = (
    Attack(
        11,
        "owner of a partitioned table",
        "attach its capture function to another table",
        "refused: the function works for its own table only",
        "at once",
    ),
)


@pytest.fixture
def owner(source, log_in) -> psycopg.Connection:
    session = log_in("owner")
    run(session, "CREATE TABLE event (id int PRIMARY KEY, note text) PARTITION BY RANGE (id)")
    follow(source, "event")
    return session


@pytest.fixture
def function(source, owner) -> str:  # noqa: ARG001 - the table is tracked
    return source.execute("SELECT capture FROM audit.tracked").fetchone()[0]


def test_partitions_are_made_by_a_role_that_knows_nothing_of_pgseal(source, owner):
    run(
        owner,
        "CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE event_2 (id int PRIMARY KEY, note text)",
        "ALTER TABLE event ATTACH PARTITION event_2 FOR VALUES FROM (10) TO (20)",
        "CREATE TABLE event_3 PARTITION OF event FOR VALUES FROM (20) TO (30) PARTITION BY LIST (id)",
        "CREATE TABLE event_31 PARTITION OF event_3 DEFAULT",
        "INSERT INTO event VALUES (1, 'a'), (11, 'b'), (21, 'c')",
    )
    assert [(action, key["id"]) for action, key, _, _ in changes(source)] == [
        ("INSERT", 1),
        ("INSERT", 11),
        ("INSERT", 21),
    ]


def test_the_function_works_for_no_other_table(source, owner, function):
    """A table of the same form, in the same schema or with the same name in another, would forge records of rows."""
    run(
        owner,
        "CREATE TABLE other (id int PRIMARY KEY, note text)",
        f"CREATE TRIGGER pgseal_capture AFTER INSERT ON other FOR EACH ROW EXECUTE FUNCTION audit.{function}()",
        "CREATE TEMP TABLE event (id int PRIMARY KEY, note text)",
        f"CREATE TRIGGER pgseal_capture AFTER INSERT ON event FOR EACH ROW EXECUTE FUNCTION audit.{function}()",
    )
    for table in ("public.other", "pg_temp.event"):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="made for a table with another oid"):
            owner.execute(f"INSERT INTO {table} VALUES (1, 'forged')")
    assert changes(source) == []


@pytest.mark.parametrize(
    "event", ["BEFORE INSERT ON event_1 FOR EACH ROW", "AFTER INSERT ON event_1", "BEFORE TRUNCATE ON event_1"]
)
def test_the_function_does_not_record_what_does_not_happen(source, owner, function, event):
    """Before the row is written, or once for the statement, the function would record a change that is none."""
    run(owner, "CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (10)")
    run(owner, f"CREATE TRIGGER x {event} EXECUTE FUNCTION audit.{function}()")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="made by somebody else"):
        owner.execute("TRUNCATE event_1" if "TRUNCATE" in event else "INSERT INTO event_1 VALUES (1, 'forged')")
    assert changes(source) == []


def test_a_second_trigger_is_found(source, owner, function):
    run(
        owner,
        "CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (10)",
        f"CREATE TRIGGER twice AFTER INSERT ON event FOR EACH ROW EXECUTE FUNCTION audit.{function}()",
    )
    faults = [fault.describe("public.event") for fault in read_trigger_faults(source)]
    assert "trigger twice calls pgseal's function, and is not pgseal's" in faults
