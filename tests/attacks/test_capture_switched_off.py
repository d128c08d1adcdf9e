"""Attacks 8, 9 and 27: capture is stopped for a while, and made to look as if it never had been.

The owner of a table may disable and drop triggers; only an administrator of the trail or a superuser can do anything to
the functions and to the registry. Caught by `pgseal status` and `pgseal plan --check` the next time they look, however
well everything was put back: the catalog's rows say which transaction wrote them (trail/marks.py). What was changed
meanwhile nobody can tell; `pgseal apply` records the rows as they are now.
"""

import psycopg
import pytest
from tests.attacks.attack import Attack
from tests.attacks.conftest import read_plan, read_warnings, run
from tests.deployments import Deployment, query

#: The oldest and the newest at hand: the suite is long.
pytestmark = pytest.mark.servers(15, 18)
STAGED = (
    Attack(
        8,
        "table owner",
        "disable or drop a capture trigger, change data, enable it again",
        "status, plan --check, doctor: the catalog's marks have moved",
        "when `pgseal status` or `pgseal plan --check` next looks",
    ),
    Attack(
        9,
        "trail administrator, superuser",
        "replace or alter the capture function, its owner, its settings",
        "status, plan --check: made again and compared",
        "when `pgseal status` or `pgseal plan --check` next looks",
    ),
    Attack(
        27,
        "superuser",
        "disable and enable, or replace and restore, so that definitions look the same",
        "the catalog's marks: which transaction wrote each row",
        "when `pgseal status` or `pgseal plan --check` next looks",
    ),
)

TRIGGERS = {"item": "pgseal_capture_insert", "visit": "pgseal_capture"}
PUT_BACK = "was changed or disabled since it was made, and put back"


@pytest.fixture
def owner(source, clinic, log_in) -> psycopg.Connection:  # noqa: ARG001 - the tables are there
    session = log_in("owner")
    for table in TRIGGERS:
        run(source, f"ALTER TABLE {table} OWNER TO {session.info.user}")
    return session


def test_nothing_is_found_where_nothing_was_done(source, clinic: Deployment, owner):
    """Work on tables that changes no row and no trigger: no warning comes of it."""
    for table in TRIGGERS:
        run(
            owner,
            f"CLUSTER {table} USING {table}_pkey",
            f"VACUUM FULL {table}",
            f"VACUUM (ANALYZE, FREEZE) {table}",
            f"REINDEX TABLE {table}",
            f"ALTER TABLE {table} SET UNLOGGED",
            f"ALTER TABLE {table} SET LOGGED",
            f"ALTER TABLE {table} SET (fillfactor = 70)",
            f"ALTER TABLE {table} REPLICA IDENTITY FULL",
            f"ALTER TABLE {table} ADD CONSTRAINT positive CHECK (id > 0)",
            f"CREATE INDEX ON {table} (note)",
            f"GRANT SELECT ON {table} TO PUBLIC",
            f"TRUNCATE {table}",
            f"INSERT INTO {table} VALUES (2, 'b')",
        )
    run(source, "VACUUM (FREEZE) pg_trigger", "VACUUM FULL pg_trigger", "VACUUM FULL pg_proc", "ANALYZE audit.record")
    assert read_warnings(clinic) == ""
    assert read_plan(clinic) == ""
    clinic.seal()
    clinic.check_verified()


def test_a_trigger_disabled_within_one_transaction(clinic: Deployment, owner):
    """The table's owner disables a trigger, changes data, and enables it as it was, all before the commit."""
    for table, trigger in TRIGGERS.items():
        with owner.transaction():
            run(
                owner,
                f"ALTER TABLE {table} DISABLE TRIGGER {trigger}",
                f"INSERT INTO {table} VALUES (666, 'unseen')",
                f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}",
            )
    warnings, plan = read_warnings(clinic), read_plan(clinic)
    for table, trigger in TRIGGERS.items():
        assert f"public.{table}: capture was changed: trigger {trigger} {PUT_BACK}" in warnings
        assert f"public.{table}: trigger {trigger} {PUT_BACK}" in plan

    clinic.call("apply")  # a new baseline: from now on it is known that there is a row 666
    assert read_warnings(clinic) == read_plan(clinic) == ""
    clinic.seal()
    clinic.check_verified()
    for table in TRIGGERS:
        assert [change["action"] for change in clinic.call("history", table, "666")] == ["SNAPSHOT"]


def test_what_pg_restore_does_with_disable_triggers(source, clinic: Deployment, owner):
    """Triggers are disabled and enabled as `pg_restore --disable-triggers` does, by the owner (ALL by a superuser)."""
    for session, table, which in ((owner, "item", "USER"), (source, "visit", "ALL")):
        with session.transaction():
            run(session, f"ALTER TABLE {table} DISABLE TRIGGER {which}", f"INSERT INTO {table} VALUES (666, 'unseen')")
            run(session, f"ALTER TABLE {table} ENABLE TRIGGER {which}")
    warnings, plan = read_warnings(clinic), read_plan(clinic)
    for table, trigger in TRIGGERS.items():
        assert f"public.{table}: trigger {trigger} is not enabled for every session" in plan
        assert any(f"public.{table}" in line and f"trigger {trigger} is not enabled for every session" in line
                   for line in warnings.splitlines())  # fmt: skip


def test_a_trigger_dropped_cannot_be_made_again(source, clinic: Deployment, owner):
    """The owner drops a trigger; to make it again he would need EXECUTE on its function."""
    definitions: list[str] = []
    for table, trigger in TRIGGERS.items():
        definition = source.execute(
            "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = %s AND tgrelid = %s::regclass",
            [trigger, table],
        ).fetchone()[0]
        definitions.append(definition)
        run(owner, f"DROP TRIGGER {trigger} ON {table}", f"INSERT INTO {table} VALUES (666, 'unseen')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            owner.execute(definition)
    warnings = read_warnings(clinic)
    assert all(f"trigger {trigger} is missing" in warnings for trigger in TRIGGERS.values())
    # A superuser can; it is another trigger all the same.
    for (table, trigger), definition in zip(TRIGGERS.items(), definitions, strict=True):
        run(source, definition, f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")
    warnings = read_warnings(clinic)
    assert all(f"trigger {trigger} {PUT_BACK}" in warnings for trigger in TRIGGERS.values())


def test_rows_rewritten_by_ddl(clinic: Deployment, owner):
    """The owner changes values by an ALTER TABLE that leaves the type as it is: no trigger fires."""
    run(owner, *(f"ALTER TABLE {table} ALTER note TYPE text USING 'forged'" for table in TRIGGERS))
    words = "has a column that was altered, and all rows written anew: how is not recorded"
    assert read_warnings(clinic).count(words) == read_plan(clinic).count(words) == len(TRIGGERS)
    clinic.call("apply")
    assert read_warnings(clinic) == ""
    clinic.seal()
    for table in TRIGGERS:
        assert clinic.call("history", table, "1")[-1]["new"]["note"] == "forged"


def test_a_partition_detached_for_a_while(clinic: Deployment, owner):
    """The owner detaches a partition, changes its rows where nobody sees it, and attaches it again."""
    run(
        owner,
        "CREATE TABLE event (id int PRIMARY KEY, note text) PARTITION BY RANGE (id)",
        "CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM (100) TO (200)",
        "INSERT INTO event VALUES (1, 'a')",
    )
    clinic.track("event")
    with owner.transaction():
        run(
            owner,
            "ALTER TABLE event DETACH PARTITION event_1",
            "UPDATE event_1 SET note = 'forged'",
            "ALTER TABLE event ATTACH PARTITION event_1 FOR VALUES FROM (0) TO (100)",
        )
    words = "public.event_1 was detached and attached again: what became of its rows is not recorded"
    assert words in read_warnings(clinic)
    assert words in read_plan(clinic)
    clinic.call("apply")
    assert read_warnings(clinic) == ""
    run(
        owner,
        "ALTER TABLE event_2 DISABLE TRIGGER pgseal_capture",
        "ALTER TABLE event_2 ENABLE ALWAYS TRIGGER pgseal_capture",
    )
    assert f"trigger pgseal_capture of public.event_2 {PUT_BACK}" in read_warnings(clinic)
    clinic.call("apply")
    assert read_warnings(clinic) == ""
    run(owner, "ALTER TABLE event DETACH PARTITION event_2")
    words = "public.event_2 was detached: that its rows went is not recorded, and its changes are not captured any more"
    assert words in read_warnings(clinic)
    assert words in read_plan(clinic)
    clinic.call("apply")
    assert read_plan(clinic) == ""


def test_rows_put_into_a_child_table(clinic: Deployment, owner):
    """The owner makes a table that inherits from a tracked one: its rows show in it, and no trigger of it fires."""
    for table in TRIGGERS:
        run(
            owner,
            f"CREATE TABLE child_of_{table} () INHERITS ({table})",
            f"INSERT INTO child_of_{table} VALUES (666, 'unseen')",
        )
    warnings, plan = read_warnings(clinic), read_plan(clinic)
    for table in TRIGGERS:
        words = f"public.child_of_{table}: inherits from public.{table}, and "
        assert words + "its changes are not recorded" in warnings
        assert words + "is not tracked" in plan


TAKE_DEFINITION = "CREATE TEMP TABLE kept AS SELECT pg_get_functiondef('audit.{}'::regproc) AS definition"
PUT_DEFINITION_BACK = "DO $$ BEGIN EXECUTE (SELECT definition FROM kept); END $$"
SILENT = {
    "capture": "CREATE OR REPLACE FUNCTION audit.{}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "has_layout": "CREATE OR REPLACE FUNCTION audit.{}(relation regclass, layout text) RETURNS boolean "
    "LANGUAGE sql AS 'SELECT false'",
}


def test_a_function_replaced_and_put_back(source, clinic: Deployment):
    """A superuser replaces the capture function, or one that all share, changes data, and puts it back."""
    for function, statement in SILENT.items():
        name = function
        if function == "capture":
            (name,) = query(clinic.source, "SELECT capture FROM audit.tracked WHERE relation = 'public.item'")[0]
        run(source, "DROP TABLE IF EXISTS kept", TAKE_DEFINITION.format(name), statement.format(name))
        source.execute("INSERT INTO item SELECT max(id) + 1, 'unseen' FROM item")
        assert "was rewritten" in read_plan(clinic)
        source.execute(PUT_DEFINITION_BACK)
        words = (
            "has a capture function that was replaced or altered since it was made, and put back"
            if function == "capture"
            else "function audit.has_layout(regclass,text) was changed since it was made"
        )
        assert words in read_warnings(clinic)
        assert words.replace(" was changed", ": was changed") in read_plan(clinic)
        clinic.call("apply")
        assert read_warnings(clinic) == read_plan(clinic) == ""


def test_a_function_altered(source, clinic: Deployment, log_in):
    """A superuser takes the pinned settings, the owner or SECURITY DEFINER from a capture function."""
    (name,) = query(clinic.source, "SELECT capture FROM audit.tracked WHERE relation = 'public.item'")[0]
    for statement, words in (
        ("SET search_path = public", "was rewritten"),
        ("RESET ALL", "was rewritten"),
        ("SECURITY INVOKER", "was rewritten"),
        (f"OWNER TO {log_in('other').info.user}", "has owner"),
    ):
        source.execute(f"ALTER FUNCTION audit.{name}() {statement}")
        assert words in read_plan(clinic)
        assert "capture function that was replaced or altered" in read_warnings(clinic)
        source.execute(f"ALTER FUNCTION audit.{name}() OWNER TO pgseal_owner")
        clinic.call("apply")
        assert read_warnings(clinic) == read_plan(clinic) == ""


def test_the_registry_edited_to_match(source, clinic: Deployment):
    """A superuser switches capture off for a while and then writes today's marks into the registry.

    Caught by `pgseal status`: their digest was sealed when capture was made.
    """
    run(source, "ALTER TABLE item DISABLE TRIGGER pgseal_capture_insert", "INSERT INTO item VALUES (666, 'unseen')")
    run(source, "ALTER TABLE item ENABLE ALWAYS TRIGGER pgseal_capture_insert")
    run(source, "UPDATE audit.tracked SET marks = audit.marks(table_oid)")
    assert read_plan(clinic) == ""
    warnings = read_warnings(clinic)
    assert "public.item: what audit.tracked says of its capture is not what was sealed" in warnings
    assert "visit" not in warnings
    clinic.call("untrack", "item")
    clinic.call("track", "item")
    assert read_warnings(clinic) == ""  # the new TRACK record waits, and says the same
    clinic.seal()
    assert read_warnings(clinic) == ""
