"""Attacks 13 and 14: an application's role uses what is pgseal's own, or says that it is somebody else.

Refused at once, by privileges. What a role says about itself is a claim, is recorded as one, and ends with its
transaction; beside it stands who logged in, which nobody can change.
"""

import psycopg
import pytest
from psycopg import sql
from tests.attacks.attack import Attack
from tests.attacks.conftest import MODES, follow, make_table, run

#: The oldest and the newest at hand: the suite is long.
pytestmark = pytest.mark.servers(15, 18)
STAGED = (
    Attack(
        13,
        "application role",
        "call what is pgseal's own, write the trail, pass off an event as a row, act as another",
        "refused; events are marked `app` and carry the role that logged in",
        "at once",
    ),
    Attack(
        14,
        "any role",
        "set pgseal's settings to suppress or forge a context",
        "without effect on facts: role, address and session are the server's; a context is a claim",
        "at once",
    ),
)

#: What everybody may call.
OPEN = {"set_context", "record_event"}
#: The mark of a context that counts, as anybody can make it.
MARK = "concat(extract(epoch FROM now()), '/', pg_backend_pid(), ' ')"


def test_nothing_in_the_schema_is_for_anybody_else(source, log_in):
    """Attack 13. Every function, table, sequence and type of the schema is tried by a role without rights."""
    make_table(source, "item", "id int PRIMARY KEY, note text", "statement")
    follow(source, "item")
    app = log_in("app")
    app.execute("CREATE TABLE mine (id int PRIMARY KEY, note text)")
    functions = source.execute(
        "SELECT proname, oid::regprocedure::text, prorettype = 'trigger'::regtype FROM pg_proc "
        "WHERE pronamespace = 'audit'::regnamespace"
    ).fetchall()
    assert len(functions) > 20
    for name, signature, is_trigger in functions:
        row = app.execute("SELECT has_function_privilege(%s, 'EXECUTE')", [signature]).fetchone()
        assert row == (name in OPEN,), signature
        if is_trigger:
            for when in ("AFTER INSERT ON mine FOR EACH ROW", "BEFORE TRUNCATE ON mine"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    app.execute(f"CREATE TRIGGER x {when} EXECUTE FUNCTION {signature}")  # pyright: ignore[reportArgumentType]
    for call in ("audit.claimed()", "audit.format_insert('item', 'INSERT', true, '{}', '{}', 'keep')",
                 "audit.swap_settings('{}')", "audit.has_layout('item', 'x')", "audit.check_place(1, 'item')",
                 "audit.record_act('TRACK', '{}')", "audit.marks('item')", "audit.note_marks()"):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute(f"SELECT {call}")  # pyright: ignore[reportArgumentType]
    relations = source.execute(
        "SELECT oid::regclass::text, relkind FROM pg_class "
        "WHERE relnamespace = 'audit'::regnamespace AND relkind IN ('r', 'p', 'v', 'S')"
    ).fetchall()
    for name, kind in relations:
        for privilege in ("USAGE", "SELECT", "UPDATE") if kind == "S" else ("SELECT", "INSERT", "UPDATE", "DELETE"):
            function = "has_sequence_privilege" if kind == "S" else "has_table_privilege"
            assert app.execute(f"SELECT {function}(%s, %s)", [name, privilege]).fetchone() == (False,), name  # pyright: ignore[reportArgumentType]
    for statement in ("CREATE TABLE audit.mine ()", "SET ROLE pgseal_owner", "SET ROLE pgseal_sealer",
                      "SET SESSION AUTHORIZATION pgseal_owner", "ALTER TABLE item DISABLE TRIGGER ALL",
                      "DROP TABLE item", "CREATE PUBLICATION p FOR TABLE audit.record"):  # fmt: skip
        with pytest.raises(psycopg.Error):
            app.execute(statement)


def test_an_event_cannot_pass_for_anything_else(source, log_in):
    """Attack 13. An application records an event that looks like a change of a row, or an act of pgseal."""
    app = log_in("app")
    for action in ("INSERT", "UPDATE", "SNAPSHOT", "TRUNCATE", "ERASE", "RETENTION", "TRACK", "REPAIR", "HEARTBEAT"):
        with pytest.raises(psycopg.errors.ReservedName):
            app.execute("SELECT audit.record_event(%s)", [action])
    app.execute(
        """SELECT audit.record_event('LOGIN', '{"relation": "public.item", "source": "row", "new": {"id": 1}}')"""
    )
    row = source.execute("SELECT source, relation, key, old, new, session_role FROM audit.record").fetchone()
    assert row == ("app", None, None, None, None, app.info.user)


@pytest.mark.parametrize("mode", MODES)
def test_a_claim_ends_with_its_transaction_and_hides_nobody(source, log_in, mode):
    """Attack 14. A role says that it is somebody else, and leaves that behind for whoever gets the session next."""
    make_table(source, "item", "id int PRIMARY KEY, note text", mode)
    follow(source, "item")
    app, other = log_in("app"), log_in("other")
    run(source, f"GRANT {other.info.user} TO {app.info.user}")
    with app.transaction():
        run(app, """SELECT audit.set_context('{"actor": "alice"}')""", "INSERT INTO item VALUES (1)")
        run(app, "SELECT set_config('pgseal.context', current_setting('pgseal.context'), false)")
    run(app, "INSERT INTO item VALUES (2)", f"SET ROLE {other.info.user}", "INSERT INTO item VALUES (3), (4)")
    run(app, "RESET ROLE", "INSERT INTO item VALUES (5)")
    rows = source.execute(
        "SELECT claimed ->> 'actor', effective_role, session_role, authenticated_role, pid FROM audit.record "
        "WHERE source = 'row' ORDER BY id"
    ).fetchall()
    facts = (app.info.user, app.info.user, app.info.backend_pid)
    assert rows == [
        ("alice", None, *facts), (None, None, *facts), (None, other.info.user, *facts), (None, other.info.user, *facts),
        (None, None, *facts),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "claimed"),
    [
        ("{bad", None),
        ("[1]", None),
        ('"alice"', None),
        ("null", None),
        ('{"actor": "\\u0000"}', None),
        ('{"actor": 1e400000}', None),
        ("[" * 16000, None),
        ('{"actor": "' + "a" * 16400 + '"}', None),
        ('{"actor": "alice", "actor": "bob"}', {"actor": "bob"}),
    ],
)
def test_a_context_written_past_set_context(source, log_in, text, claimed):
    """Attack 14. With the mark of the transaction anything can be put into the setting: no write may fail for it.

    What is not an object that set_context would take is none; what is one is a claim like any other.
    """
    make_table(source, "item", "id int PRIMARY KEY, note text", "statement")
    follow(source, "item")
    app = log_in("app")
    with app.transaction():
        app.execute(sql.SQL("SELECT set_config('pgseal.context', {} || {}, true)").format(sql.SQL(MARK), text))
        run(app, "INSERT INTO item VALUES (1)", "INSERT INTO item VALUES (2), (3)")
    rows = source.execute("SELECT claimed FROM audit.record WHERE source = 'row'").fetchall()
    assert rows == [(claimed,)] * 3


def test_values_that_nobody_could_read_do_not_keep_others_from_reading(clinic, log_in):
    """Attack 33, by any role: values nested so deep that JSON parsers give up, in rows, events and contexts.

    They are recorded and sealed; search and history show what is too deep as text.
    """
    app = log_in("app")
    deep = "[" * 5000 + "]" * 5000
    with app.transaction():
        app.execute("SELECT audit.set_context(%s::jsonb)", ['{"actor": "alice", "x": ' + deep + "}"])
        app.execute("SELECT audit.record_event('NOTE', %s::jsonb)", ['{"x": ' + deep + "}"])
        app.execute("INSERT INTO visit VALUES (2, %s)", [deep])
    clinic.seal()
    clinic.check_verified()
    assert [change["actor"]["claimed"]["actor"] for change in clinic.call("history", "visit", "2")] == ["alice"]
    assert "NOTE" in {record["action"] for record in clinic.call("search")["records"]}
