"""What row capture records, images, keys, actors, and what no session can bend."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgseal.core.record import format_relation
from pgseal.errors import CaptureError, ConfigError
from pgseal.trail.capture import TableRule
from pgseal.trail.track import track, untrack

#: The oldest and the newest at hand: the suite is long.
pytestmark = pytest.mark.servers(15, 18)

Row = dict[str, Any]


@pytest.fixture
def make_role(source: psycopg.Connection) -> Iterator[Any]:
    made: list[sql.Identifier] = []

    def make(name: str, *grants: str) -> str:
        role = sql.Identifier(f"{name}_{source.info.dbname}")
        made.append(role)
        source.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
        for grant in grants:
            source.execute(sql.SQL(grant).format(role=role))
        return role._obj[0]

    yield make
    for role in made:
        source.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(role))
        source.execute(sql.SQL("DROP ROLE {}").format(role))


def follow(source: psycopg.Connection, name: str, rule: TableRule | None = None, schema: str = "public"):
    return track(source.info.dsn, schema, name, rule or TableRule(), side="source", baseline=False)


def records(source: psycopg.Connection) -> list[Row]:
    cursor = source.cursor(row_factory=psycopg.rows.dict_row)
    return cursor.execute("SELECT * FROM audit.record WHERE source <> 'system' ORDER BY id").fetchall()


def changes(source: psycopg.Connection) -> list[tuple[Any, ...]]:
    return [(row["action"], row["key"], row["old"], row["new"]) for row in records(source)]


def test_insert_update_delete_and_truncate(source: psycopg.Connection):
    source.execute("CREATE TABLE t (id int PRIMARY KEY, name text, amount numeric)")
    follow(source, "t")
    source.execute("INSERT INTO t VALUES (1, 'a', 1.50), (2, NULL, 'NaN')")
    source.execute("UPDATE t SET name = 'b' WHERE id = 1")
    source.execute("DELETE FROM t WHERE id = 2")
    source.execute("TRUNCATE t")
    assert changes(source) == [
        ("INSERT", {"id": 1}, None, {"id": 1, "name": "a", "amount": 1.5}),
        ("INSERT", {"id": 2}, None, {"id": 2, "name": None, "amount": "NaN"}),
        ("UPDATE", {"id": 1}, {"name": "a"}, {"id": 1, "name": "b", "amount": 1.5}),
        ("DELETE", {"id": 2}, {"id": 2, "name": None, "amount": "NaN"}, None),
        ("TRUNCATE", None, None, None),
    ]
    assert {row["relation"] for row in records(source)} == {"public.t"}
    assert {(row["source"], row["category"], row["outcome"]) for row in records(source)} == {
        ("row", "data_modification", "success")
    }


def test_a_change_that_the_types_equality_does_not_see(source: psycopg.Connection):
    source.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n numeric, i interval, j jsonb, c bpchar, f float8, a numeric[], d json)"
    )
    source.execute("INSERT INTO t VALUES (1, 1.0, '1 day', '{\"a\": 1.0}', 'x', 0.1, '{1.0}', '{\"a\":1,\"a\":2}')")
    follow(source, "t")
    source.execute(
        "UPDATE t SET n = 1.00, i = '24:00:00', j = '{\"a\": 1.00}', c = 'x  ', f = 0.1::float4, a = '{1.00}', "
        "d = '{\"a\":2}'"
    )
    row = source.execute("SELECT old::text FROM audit.record WHERE action = 'UPDATE'").fetchone()
    assert row is not None
    for name in "nijcfad":
        assert f'"{name}": ' in row[0]
    assert '"n": 1.0}' in row[0]


def test_an_update_that_changes_nothing_is_recorded_as_such(source: psycopg.Connection):
    source.execute("CREATE TABLE t (id int PRIMARY KEY, name text)")
    source.execute("INSERT INTO t VALUES (1, 'a')")
    follow(source, "t")
    source.execute("UPDATE t SET name = name")
    assert changes(source) == [("UPDATE", {"id": 1}, {}, {"id": 1, "name": "a"})]


def test_key_change_links_old_and_new_key(source: psycopg.Connection):
    source.execute('CREATE TABLE t (a int, "B b" text, v int, PRIMARY KEY ("B b", a))')
    source.execute("INSERT INTO t VALUES (1, 'x', 0)")
    follow(source, "t")
    source.execute("UPDATE t SET a = 2")
    assert changes(source) == [("UPDATE", {"a": 1, "B b": "x"}, {"a": 1}, {"a": 2, "B b": "x", "v": 0})]


def test_table_without_key_and_without_columns(source: psycopg.Connection):
    source.execute("CREATE TABLE t (v int)")
    source.execute("CREATE TABLE nothing ()")
    follow(source, "t")
    follow(source, "nothing")
    source.execute("INSERT INTO t VALUES (1)")
    source.execute("INSERT INTO nothing DEFAULT VALUES")
    assert changes(source) == [("INSERT", None, None, {"v": 1}), ("INSERT", None, None, {})]


@pytest.mark.parametrize("name", ['"; DROP TABLE x; --', "größe $pgseal$ %s {}", "a'b\\c", "x" * 63])
def test_evil_names_of_schema_table_and_column(source: psycopg.Connection, name: str):
    schema = f"s{name}"[:63]
    identifiers = {"s": sql.Identifier(schema), "t": sql.Identifier(schema, name), "c": sql.Identifier(name)}
    source.execute(sql.SQL("CREATE SCHEMA {s}").format(**identifiers))
    source.execute(sql.SQL("CREATE TABLE {t} (id int PRIMARY KEY, {c} text)").format(**identifiers))
    follow(source, name, schema=schema)
    source.execute(sql.SQL("INSERT INTO {t} VALUES (1, 'old')").format(**identifiers))
    source.execute(sql.SQL("UPDATE {t} SET {c} = 'new'").format(**identifiers))
    assert changes(source)[-1] == ("UPDATE", {"id": 1}, {name: "old"}, {"id": 1, name: "new"})
    untrack(source.info.dsn, format_relation(schema, name), side="source")
    source.execute(sql.SQL("DELETE FROM {t}").format(**identifiers))
    assert len(changes(source)) == 2


def test_two_hundred_columns(source: psycopg.Connection):
    columns = ", ".join(f"c{number} text" for number in range(200))
    source.execute(f"CREATE TABLE t (id int PRIMARY KEY, {columns})")
    follow(source, "t")
    source.execute("INSERT INTO t (id, c7) VALUES (1, 'x')")
    source.execute("UPDATE t SET c7 = 'y', c150 = 'z'")
    _, _, old, new = changes(source)[-1]
    assert old == {"c7": "x", "c150": None}
    assert len(new) == 201
    assert new["c150"] == "z"


def test_excluded_and_masked_values_are_nowhere(source: psycopg.Connection):
    source.execute("CREATE TABLE t (id int PRIMARY KEY, photo bytea, ssn text, pin int, name text)")
    source.execute("INSERT INTO t VALUES (1, 'verysecret1', 'verysecret2', 987651, 'a')")
    rule = TableRule(exclude=["photo"], mask={"ssn": "hash", "pin": "redact"})
    track(source.info.dsn, "public", "t", rule, side="source")
    source.execute("UPDATE t SET photo = 'verysecret3', ssn = 'verysecret4', pin = 987654")
    source.execute("INSERT INTO t VALUES (2, NULL, NULL, NULL, 'b'), (3, NULL, 'verysecret4', 1, 'c')")
    source.execute("DELETE FROM t")
    row = source.execute("SELECT string_agg(r::text, ' ') FROM audit.record r").fetchone()
    assert row is not None
    assert "verysecret" not in row[0]
    assert "9876" not in row[0]
    _, _, old, new = next(change for change in changes(source) if change[0] == "UPDATE")
    assert set(old) == {"ssn", "pin"}
    assert old["ssn"] != new["ssn"]
    assert new["pin"] == "[redacted]"
    inserted = [change[3] for change in changes(source) if change[0] == "INSERT"]
    assert inserted[0]["ssn"] is None
    assert inserted[1]["ssn"] == new["ssn"]


def test_captured_bytes_do_not_depend_on_the_session(source: psycopg.Connection):
    source.execute(
        "CREATE TABLE t (id serial PRIMARY KEY, f float8, ts timestamptz, d date, i interval, b bytea, m money, x xml)"
    )
    follow(source, "t")
    insert = (
        "INSERT INTO t (f, ts, d, i, b, m) VALUES (1.0/3, '2026-11-23 09:00:00.5+00', '2026-11-23', "
        "'1 mon 2 days 03:04:05', '\\x00ff', 12.5::numeric::money)"
    )
    source.execute(insert)
    for setting in (
        "extra_float_digits = -12",
        "TimeZone = 'Asia/Kolkata'",
        "DateStyle = 'German, DMY'",
        "IntervalStyle = 'sql_standard'",
        "bytea_output = 'escape'",
        "xmlbinary = 'hex'",
        "quote_all_identifiers = on",
        "search_path = pg_temp",
    ):
        source.execute(f"SET {setting}")
    source.execute(insert.replace("INTO t", "INTO public.t"))
    # A float update below the session's precision is a change all the same.
    source.execute("UPDATE public.t SET f = f + 1e-14 WHERE id = 1")
    source.execute("RESET ALL")
    first, second, update = changes(source)
    assert {**first[3], "id": 0} == {**second[3], "id": 0}
    assert set(update[2]) == {"f"}


def test_replica_role_is_captured_too(source: psycopg.Connection):
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    follow(source, "t")
    source.execute("SET session_replication_role = replica")
    source.execute("INSERT INTO t VALUES (1)")
    source.execute("TRUNCATE t")
    assert [change[0] for change in changes(source)] == ["INSERT", "TRUNCATE"]


def test_rolled_back_work_leaves_nothing(source: psycopg.Connection):
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    follow(source, "t")
    with source.transaction():
        source.execute("INSERT INTO t VALUES (1)")
        with source.transaction(force_rollback=True):
            source.execute("INSERT INTO t VALUES (2)")
    with source.transaction(force_rollback=True):
        source.execute("INSERT INTO t VALUES (3)")
    assert [change[1] for change in changes(source)] == [{"id": 1}]


def test_partitions_are_captured_under_their_tables_name(source: psycopg.Connection):
    source.execute("CREATE TABLE t (id int, v int, PRIMARY KEY (id, v)) PARTITION BY RANGE (v)")
    source.execute("CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10)")
    source.execute("INSERT INTO t VALUES (1, 5)")
    tracked = track(source.info.dsn, "public", "t", TableRule(), side="source")
    assert tracked.rows == 1
    source.execute("CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20)")
    source.execute("INSERT INTO t1 VALUES (2, 6)")
    source.execute("INSERT INTO t2 VALUES (3, 16)")
    assert [(row["action"], row["relation"]) for row in records(source)] == [
        ("SNAPSHOT", "public.t"),
        ("INSERT", "public.t"),
        ("INSERT", "public.t"),
    ]
    with pytest.raises(CaptureError, match="is a partition"):
        follow(source, "t1")


# -- who ---------------------------------------------------------------------------------------------------


def test_who_facts_and_claims(source: psycopg.Connection, make_role: Any):
    role = make_role("app", "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {role}")
    other = make_role("other")
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    source.execute(sql.SQL("GRANT INSERT ON t TO {}, {}").format(sql.Identifier(role), sql.Identifier(other)))
    source.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(other), sql.Identifier(role)))
    follow(source, "t")
    dsn = psycopg.conninfo.make_conninfo(source.info.dsn, user=role, application_name='billing "app" \\x')
    with psycopg.connect(dsn, autocommit=True) as app:
        with app.transaction():
            app.execute("""SELECT audit.set_context('{"actor": "dr.okafor", "request": 7}')""")
            app.execute("INSERT INTO t VALUES (1)")
        app.execute("INSERT INTO t VALUES (2)")
        app.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(other)))
        app.execute("INSERT INTO t VALUES (3)")
        pid = app.info.backend_pid
    first, second, third = records(source)
    assert (first["session_role"], first["effective_role"]) == (role, None)
    assert first["application"] == 'billing "app" \\x'
    assert first["pid"] == pid
    assert first["claimed"] == {"actor": "dr.okafor", "request": 7}
    assert second["claimed"] is None
    assert (third["session_role"], third["effective_role"]) == (role, other)


def test_a_context_left_behind_is_ignored(source: psycopg.Connection):
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    follow(source, "t")
    with source.transaction():
        source.execute("""SELECT audit.set_context('{"actor": "alice"}')""")
        row = source.execute("SELECT current_setting('pgseal.context')").fetchone()
    assert row is not None
    source.execute(sql.SQL("SET pgseal.context = {}").format(sql.Literal(row[0])))  # what a pooler would leave
    source.execute("INSERT INTO t VALUES (1)")
    source.execute("SET pgseal.context = 'no context at all'")
    source.execute("INSERT INTO t VALUES (2)")
    assert [row["claimed"] for row in records(source)] == [None, None]


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ("null", "pgseal: context must be a JSON object"),
        ("[1]", "pgseal: context must be a JSON object"),
        ('"alice"', "pgseal: context must be a JSON object"),
        ('{"a": "' + "x" * 16384 + '"}', "pgseal: .* at most 16384"),
        ('{"actor": "\\u0000"}', "Unicode escape"),
        ('{"actor": "\\ud800"}', "for type json"),
        ("{actor: alice}", "for type json"),
    ],
)
def test_context_is_checked(source: psycopg.Connection, context: str, message: str):
    with pytest.raises(psycopg.Error, match=message):
        source.execute("SELECT audit.set_context(%s::jsonb)", [context])


def test_a_context_of_bytes_that_are_no_text_is_refused(source: psycopg.Connection):
    """By the server, before pgseal has it; what is written after that is recorded, without an actor."""
    source.execute("CREATE TABLE t (id int)")
    follow(source, "t")
    for value in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"a\x00b"):
        binary = b"\x01" + b'{"actor": "' + value + b'"}'  # text would end at a NUL
        result = source.pgconn.exec_params(b"SELECT audit.set_context($1)", [binary], [0], [1])
        assert b"invalid byte sequence" in result.error_message
    source.execute("INSERT INTO t VALUES (1)")
    assert [row["claimed"] for row in records(source)] == [None]


def test_application_events(source: psycopg.Connection, make_role: Any):
    role = make_role("app")
    with psycopg.connect(psycopg.conninfo.make_conninfo(source.info.dsn, user=role), autocommit=True) as app:
        row = app.execute(
            "SELECT audit.record_event('LOGIN', '{\"resource\": \"auth\"}', 'authentication', 'failure')"
        ).fetchone()
        for arguments in ("'login'", "'LOGIN', '[]'", "'LOGIN', '{}', 'nonsense'", "'LOGIN', outcome => 'maybe'"):
            with pytest.raises(psycopg.Error, match="pgseal: "):
                app.execute(f"SELECT audit.record_event({arguments})")
    (event,) = records(source)
    assert row == (event["id"],)
    assert (event["source"], event["action"], event["outcome"]) == ("app", "LOGIN", "failure")
    assert event["session_role"] == role


# -- what no session may do ------------------------------------------------------------------------------------


def test_an_application_role_cannot_touch_the_trail(source: psycopg.Connection, make_role: Any):
    role = make_role("app", "GRANT ALL ON SCHEMA public TO {role}")
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    follow(source, "t")
    capture = source.execute("SELECT capture FROM audit.tracked").fetchone()
    assert capture is not None
    dsn = psycopg.conninfo.make_conninfo(source.info.dsn, user=role)
    with psycopg.connect(dsn, autocommit=True) as app:
        app.execute("CREATE TABLE mine (id int PRIMARY KEY, name text)")
        for statement in (
            "SELECT * FROM audit.record",
            "INSERT INTO audit.record (id) VALUES (1)",
            "DELETE FROM audit.record",
            "UPDATE audit.record SET action = 'X'",
            "TRUNCATE audit.record",
            "SELECT nextval('audit.record_id_seq')",
            "SELECT * FROM audit.mask_key",
            "SELECT * FROM audit.tracked",
            "SELECT audit.mask_hash('x')",
            "SELECT audit.claimed()",
            "SELECT audit.transaction_mark()",
            "SELECT audit.ensure_partitions()",
            "SELECT audit.record_act('FAKE', '{}')",
            f"SELECT audit.{capture[0]}()",
            f"CREATE TRIGGER x AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION audit.{capture[0]}()",
            "CREATE TRIGGER x AFTER TRUNCATE ON mine EXECUTE FUNCTION audit.capture_truncate('public.t')",
            "CREATE TABLE audit.shadow ()",
            "SET ROLE pgseal_owner",
            "ALTER TABLE t DISABLE TRIGGER ALL",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(statement)
    assert records(source) == []


def test_the_owner_role_may_not_change_the_past(source: psycopg.Connection):
    source.execute("SET ROLE pgseal_owner")
    for statement in ("UPDATE audit.record SET action = 'X'", "DELETE FROM audit.record", "TRUNCATE audit.record"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            source.execute(statement)


LEAVE_MARK = "CREATE FUNCTION {} LANGUAGE plpgsql AS $$ BEGIN INSERT INTO ran VALUES (current_user); RETURN {}; END $$"


def test_no_user_code_runs_as_the_owner(source: psycopg.Connection, make_role: Any):
    # An enum with a cast to json, a function and an operator that shadow built-in ones: each would leave a mark.
    role = make_role("app", "GRANT ALL ON SCHEMA public TO {role}")
    source.execute("CREATE TABLE ran (who text)")
    source.execute("GRANT ALL ON ran TO PUBLIC")
    dsn = psycopg.conninfo.make_conninfo(source.info.dsn, user=role)
    with psycopg.connect(dsn, autocommit=True) as app:
        for statement in (
            "CREATE TYPE mood AS ENUM ('good', 'bad')",
            "CREATE TYPE pair AS (a mood, b int)",
            LEAVE_MARK.format("leave_mark(mood) RETURNS json", "'1'"),
            "CREATE CAST (mood AS json) WITH FUNCTION leave_mark(mood)",
            LEAVE_MARK.format("leave_mark2(mood) RETURNS text", "'x'"),
            "CREATE CAST (mood AS text) WITH FUNCTION leave_mark2(mood) AS IMPLICIT",
            LEAVE_MARK.format("to_jsonb(anyelement) RETURNS jsonb", "'null'"),
            "CREATE TABLE t (id int PRIMARY KEY, m mood, ms mood[], p pair)",
        ):
            app.execute(statement)
        follow(source, "t")
        app.execute("SET search_path = public, pg_catalog")
        app.execute("INSERT INTO t VALUES (1, 'good', '{bad,good}', '(bad,1)')")
        app.execute("UPDATE t SET m = 'bad'")
        app.execute("DELETE FROM t")
    assert source.execute("SELECT * FROM ran").fetchall() == []
    assert changes(source)[0][3] == {"id": 1, "m": "good", "ms": "{bad,good}", "p": "(bad,1)"}
    assert changes(source)[1][2] == {"m": "good"}


# -- what cannot be tracked ------------------------------------------------------------------------------------


def test_refusals_name_the_reason(source: psycopg.Connection):
    source.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    source.execute("CREATE VIEW w AS SELECT * FROM t")
    source.execute("CREATE MATERIALIZED VIEW mv AS SELECT * FROM t")
    for name, message in (("w", "is a view"), ("mv", "materialized view"), ("nowhere", "does not exist")):
        with pytest.raises((CaptureError, ConfigError), match=message):
            follow(source, name)
    for rule, message in (
        (TableRule(exclude=["x"]), "no column 'x'"),
        (TableRule(mask={"v": "rot13"}), "unknown mask"),
        (TableRule(mask={"id": "hash"}), "part of the key"),
    ):
        with pytest.raises(ConfigError, match=message):
            follow(source, "t", rule)
    follow(source, "t")
    with pytest.raises(CaptureError, match="already tracked"):
        follow(source, "t")


def test_a_locked_table_is_left_alone(source: psycopg.Connection):
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with psycopg.connect(source.info.dsn) as other:
        other.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(CaptureError, match="locked"):
            follow(source, "t")
    assert source.execute("SELECT * FROM audit.tracked").fetchall() == []
    follow(source, "t")


LEAVE_MARK_IN_SEEN = (
    "CREATE FUNCTION evil(mine) RETURNS int LANGUAGE plpgsql AS "
    "$$ BEGIN INSERT INTO public.seen VALUES (current_user); RETURN 7; END $$"
)


def give_column_an_evil_type(connection: psycopg.Connection, context: str = "") -> None:
    """Change t.a from int to a type of one's own, of which a cast to int leaves a mark of who it ran as."""
    for statement in (
        "CREATE TYPE mine AS (x text)",
        LEAVE_MARK_IN_SEEN,
        f"CREATE CAST (mine AS int) WITH FUNCTION evil(mine) {context}",
        "ALTER TABLE t ALTER a TYPE mine USING row(a::text)::mine",
    ):
        connection.execute(statement)  # pyright: ignore[reportArgumentType]


def test_a_type_changed_by_its_owner_runs_no_code_of_his_as_the_owner(source: psycopg.Connection, make_role: Any):
    role = make_role("lowly", "GRANT ALL ON SCHEMA public TO {role}")
    dsn = psycopg.conninfo.make_conninfo(source.info.dsn, user=role)
    with psycopg.connect(dsn, autocommit=True) as lowly:
        lowly.execute("CREATE TABLE t (id int PRIMARY KEY, a int)")
        lowly.execute("CREATE TABLE seen (who text)")
        lowly.execute("GRANT INSERT ON seen TO PUBLIC")
        follow(source, "t")
        lowly.execute("INSERT INTO t VALUES (1, 1)")
        give_column_an_evil_type(lowly)
    # In a session that has not prepared the expressions for the old type, and in one that has.
    with psycopg.connect(dsn, autocommit=True) as lowly:
        for statement in ("INSERT INTO t VALUES (2, row('q'))", "UPDATE t SET a = row('r')", "DELETE FROM t"):
            lowly.execute(statement)  # pyright: ignore[reportArgumentType]
    assert source.execute("SELECT * FROM seen").fetchall() == []
    assert changes(source)[-1][2]["a"] == "(r)"


def test_no_cast_runs_in_a_transaction_that_sees_the_former_catalog(source: psycopg.Connection, make_role: Any):
    role = make_role("lowly", "GRANT ALL ON SCHEMA public TO {role}")
    dsn = psycopg.conninfo.make_conninfo(source.info.dsn, user=role)
    with psycopg.connect(dsn, autocommit=True) as lowly:
        lowly.execute("CREATE TABLE t (id int PRIMARY KEY, a int)")
        lowly.execute("CREATE TABLE seen (who text)")
        lowly.execute("GRANT INSERT ON seen TO PUBLIC")
        follow(source, "t")
        with psycopg.connect(dsn) as old:
            old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            old.execute("SELECT 1")
            give_column_an_evil_type(lowly, "AS IMPLICIT")
            old.execute("INSERT INTO t VALUES (2, row('q'))")
            old.execute("UPDATE t SET a = row('r')")
            old.commit()
            old.execute("DELETE FROM t")
    assert source.execute("SELECT * FROM seen").fetchall() == []
    assert changes(source) == [
        ("INSERT", {"id": 2}, None, {"id": 2, "a": "(q)"}),
        ("UPDATE", {"id": 2}, {"a": "(q)"}, {"id": 2, "a": "(r)"}),
        ("DELETE", {"id": 2}, {"id": 2, "a": "(r)"}, None),
    ]


def test_an_image_is_never_rounded_to_a_type_that_the_column_had(source: psycopg.Connection):
    source.execute("CREATE TABLE n (id int PRIMARY KEY, amount int)")
    source.execute("INSERT INTO n VALUES (1, 10)")
    follow(source, "n")
    source.execute("ALTER TABLE n ALTER amount TYPE numeric")
    source.execute("UPDATE n SET amount = 10.49")
    assert changes(source)[-1] == ("UPDATE", {"id": 1}, {"amount": 10}, {"id": 1, "amount": 10.49})


def test_hashes_do_not_depend_on_the_session(source: psycopg.Connection):
    source.execute("CREATE TABLE m (id int PRIMARY KEY, d date)")
    follow(source, "m", TableRule(mask={"d": "hash"}))
    source.execute("INSERT INTO m VALUES (1, '2020-03-04')")
    source.execute("SET datestyle = 'German'")
    source.execute("INSERT INTO m VALUES (2, '2020-03-04')")
    source.execute("RESET datestyle")
    first, second = (change[3]["d"] for change in changes(source))
    assert first == second


def test_a_table_that_was_renamed_or_dropped_can_be_untracked(source: psycopg.Connection):
    for name in ("a", "b"):
        source.execute(sql.SQL("CREATE TABLE {} (id int PRIMARY KEY)").format(sql.Identifier(name)))
        follow(source, name)
    source.execute("ALTER TABLE a RENAME TO c")
    source.execute("DROP TABLE b")
    for name in ("a", "b"):
        untrack(source.info.dsn, f"public.{name}", side="source")
    source.execute("INSERT INTO c VALUES (1)")
    assert changes(source) == []
