"""Attacks 10, 11 and 12: any role bends what capture runs, or what it prints.

None of it is possible: the functions are pinned to pg_catalog, look at no value but by its output function unless its
type is built in, and pin every setting that changes its text. Nothing is left to be caught afterwards.
"""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.attacks.attack import Attack
from tests.attacks.conftest import MODES, changes, follow, make_table, run

#: The oldest and the newest at hand: the suite is long.
pytestmark = pytest.mark.servers(15, 18)
STAGED = (
    Attack(
        10,
        "superuser",
        "`session_replication_role = replica`, then change data, also in apply workers",
        "still captured",
        "nothing is left to be caught",
    ),
    Attack(
        11,
        "any role",
        "search_path, shadowed functions and operators, types with casts, policies",
        "not possible",
        "nothing is left to be caught",
    ),
    Attack(
        12,
        "any role",
        "session settings that change output",
        "captured bytes are the same",
        "nothing is left to be caught",
    ),
)

#: Two forms of capture: what was generated for the table, and what is for any table (audit.format_insert).
FORMS = ("generated", "altered")

MARK = "CREATE FUNCTION {} LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.ran VALUES (current_user); RETURN {}; END $$"
#: What a role without rights can own and capture might run: functions, casts, operators, types, relations, all hostile.
HOSTILE = (
    "CREATE TABLE public.ran (who text)",
    "GRANT ALL ON public.ran TO PUBLIC",
    "CREATE TYPE mood AS ENUM ('good', 'bad')",
    "CREATE TYPE pair AS (m mood, n int)",
    MARK.format("less(mood, mood) RETURNS float8 IMMUTABLE", "1.0"),
    "CREATE TYPE moods AS RANGE (subtype = mood, subtype_diff = less)",
    MARK.format("check_mood(mood) RETURNS boolean", "true"),
    "CREATE DOMAIN checked AS mood CHECK (check_mood(VALUE))",
    "CREATE DOMAIN number AS int CHECK (VALUE IS NOT NULL OR true)",
    *(
        statement
        for name, to in (("json", "json"), ("jsonb", "jsonb"), ("text", "text"), ("int", "int"))
        for statement in (
            MARK.format(f"mood_to_{name}(mood) RETURNS {to}", f"'1'::{to}"),
            f"CREATE CAST (mood AS {to}) WITH FUNCTION mood_to_{name}(mood) AS IMPLICIT",
            MARK.format(f"pair_to_{name}(pair) RETURNS {to}", f"'1'::{to}"),
            f"CREATE CAST (pair AS {to}) WITH FUNCTION pair_to_{name}(pair) AS IMPLICIT",
        )
    ),
    MARK.format("public.to_jsonb(anyelement) RETURNS jsonb", "'0'"),
    MARK.format("public.to_json(anyelement) RETURNS json", "'0'"),
    MARK.format("public.format(text, VARIADIC text[]) RETURNS text", "'x'"),
    MARK.format("public.clock_timestamp() RETURNS timestamptz", "now()"),
    MARK.format("public.nextval(regclass) RETURNS bigint", "1"),
    MARK.format("public.not_same(mood, mood) RETURNS boolean", "false"),
    "CREATE OPERATOR public.= (LEFTARG = mood, RIGHTARG = mood, FUNCTION = public.not_same)",
    MARK.format("public.not_same(text, text) RETURNS boolean", "true"),
    "CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.not_same)",
    MARK.format("public.joined(text, text) RETURNS text", "'x'"),
    "CREATE OPERATOR public.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = public.joined)",
    "CREATE DOMAIN public.jsonb AS text",
    "CREATE DOMAIN public.regtype AS text",
    "CREATE TABLE public.pg_class (oid oid)",
    "CREATE TABLE public.old_rows (id int)",
    "CREATE TABLE public.new_rows (id int)",
    "CREATE COLLATION public.\"C\" (provider = icu, locale = 'und-u-ks-level1', deterministic = false)",
)  # fmt: skip
#: The same in each session's own schema, which is searched first where nothing is said about it.
TEMPORARY = (
    "CREATE TEMP TABLE old_rows (id int, note text)",
    "CREATE TEMP TABLE new_rows (id int, note text)",
    "CREATE TEMP TABLE pg_trigger (oid oid)",
    "CREATE TEMP TABLE pg_attribute (attrelid oid)",
    "CREATE TEMP TABLE record (id int)",
    "CREATE DOMAIN pg_temp.text AS int",
    "CREATE DOMAIN pg_temp.regtype AS int",
    "CREATE FUNCTION pg_temp.to_jsonb(anyelement) RETURNS pg_catalog.jsonb LANGUAGE sql AS 'SELECT NULL::jsonb'",
)
COLUMNS = (
    "id pg_catalog.int4 PRIMARY KEY, note pg_catalog.text, m mood, ms mood[], p pair, ps pair[], r moods, c checked, "
    "n number"
)
ROW = "'good', '{good,bad}', '(bad,1)', '{\"(good,2)\"}', '[good,bad]', 'bad', 7"
IMAGE = {
    "m": "good", "ms": "{good,bad}", "p": "(bad,1)", "ps": '{"(good,2)"}', "r": "[good,bad]", "c": "bad", "n": "7",
}  # fmt: skip


def shadow_everything(lowly: psycopg.Connection) -> None:
    for statement in HOSTILE:
        try:
            lowly.execute(statement)  # pyright: ignore[reportArgumentType]
        except psycopg.errors.FeatureNotSupported:
            if "icu" not in statement:  # the server may be built without it
                raise


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", MODES)
def test_no_user_code_runs_as_the_owner(source, log_in, mode, form):
    """Attack 11. A role shadows all that capture could call, by search_path, pg_temp, types, casts and operators."""
    lowly = log_in("lowly")
    shadow_everything(lowly)
    make_table(lowly, "public.item", COLUMNS, mode)
    follow(source, "item")
    if form == "altered":
        run(lowly, "ALTER TABLE public.item ADD COLUMN later mood DEFAULT 'good'")
    with psycopg.connect(lowly.info.dsn, autocommit=True) as session:
        run(session, *TEMPORARY, "SET search_path = pg_temp, public, pg_catalog")
        run(lowly, "TRUNCATE public.ran")
        run(
            session,
            f"INSERT INTO public.item VALUES (1, 'a', {ROW})",
            f"INSERT INTO public.item SELECT g, 'b', {ROW} FROM generate_series(2, 4) AS g",
            "UPDATE public.item SET m = 'bad' WHERE id OPERATOR(pg_catalog.=) 1",
            "UPDATE public.item SET note = 'A', p = '(good,1)'",
        )
        ran = source.execute("SELECT DISTINCT who FROM public.ran").fetchall()
        run(session, "DELETE FROM public.item WHERE id OPERATOR(pg_catalog.=) 1", "DELETE FROM public.item")
    assert ("pgseal_owner",) not in ran + source.execute("SELECT DISTINCT who FROM public.ran").fetchall()
    assert [action for action, *_ in changes(source)] == ["INSERT"] * 4 + ["UPDATE"] * 5 + ["DELETE"] * 4
    later: dict[str, Any] = {"later": "good"} if form == "altered" else {}
    assert changes(source)[0] == ("INSERT", {"id": 1}, None, {"id": 1, "note": "a", **IMAGE, **later})
    assert changes(source)[4][2] == {"m": "good"}
    assert sorted(old["note"] for _, _, old, _ in changes(source)[5:9]) == ["a", "b", "b", "b"]
    assert {tuple(old) for _, _, old, _ in changes(source)[5:9]} == {("p", "note")}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", MODES)
def test_policies_on_audited_tables_hide_nothing(source, log_in, mode, form):
    """Attack 11. The table's owner puts row security on it, forced, with a policy that runs his code."""
    lowly = log_in("lowly")
    run(lowly, *HOSTILE[:2])
    make_table(lowly, "public.item", "id int PRIMARY KEY, note text", mode)
    follow(source, "item")
    run(
        lowly,
        MARK.format("visible(int) RETURNS boolean", "true"),
        "CREATE POLICY mine ON item USING (visible(id))",
        "ALTER TABLE item ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE item FORCE ROW LEVEL SECURITY",
        *(["ALTER TABLE item ADD COLUMN later int"] if form == "altered" else []),
        "INSERT INTO item VALUES (1, 'a')",
        "INSERT INTO item VALUES (2, 'b'), (3, 'c')",
        "UPDATE item SET note = 'd'",
        "DELETE FROM item WHERE id = 1",
        "TRUNCATE item",
    )
    assert ("pgseal_owner",) not in source.execute("SELECT DISTINCT who FROM ran").fetchall()
    actions = [action for action, *_ in changes(source)]
    assert actions == ["INSERT"] * 3 + ["UPDATE"] * 3 + ["DELETE", "TRUNCATE"]


#: Settings that anybody may change, each a way to change what is parsed, planned, printed or found.
SETTINGS = (
    "search_path = ''", "search_path = pg_temp", "TimeZone = 'Asia/Kolkata'", "DateStyle = 'German, DMY'",
    "IntervalStyle = 'sql_standard'", "extra_float_digits = -15", "bytea_output = 'escape'", "xmlbinary = 'hex'",
    "quote_all_identifiers = on", "standard_conforming_strings = off", "array_nulls = off",
    "transform_null_equals = on",
    "plan_cache_mode = 'force_generic_plan'", "plan_cache_mode = 'force_custom_plan'", "jit_above_cost = 0",
    "plpgsql.extra_errors = 'all'", "row_security = off", "client_encoding = 'LATIN1'", "enable_hashjoin = off",
    "enable_mergejoin = off", "enable_nestloop = off", "enable_sort = off", "work_mem = '64kB'",
    "xmloption = 'document'",
    "default_transaction_isolation = 'serializable'", "debug_parallel_query = on", "force_parallel_mode = on",
    "restrict_nonsystem_relation_kind = 'view,foreign-table'", "check_function_bodies = off",
)  # fmt: skip


def iter_settings(session: psycopg.Connection) -> Iterator[str | None]:
    """Set one after the other, those of other versions left out; None: nothing is set."""
    yield None
    for setting in SETTINGS:
        try:
            session.execute(f"SET {setting}")  # pyright: ignore[reportArgumentType]
        except psycopg.Error:
            continue
        yield setting
        session.execute("RESET ALL")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", MODES)
def test_captured_bytes_do_not_depend_on_the_session(source, log_in, mode, form):
    """Attack 12. A role changes every setting there is, for itself by SET, for its next login by ALTER ROLE."""
    app = log_in("app")
    make_table(
        source,
        "item",
        "id int PRIMARY KEY, f float8, fs float4[], t timestamptz, d date, i interval, b bytea, m money, "
        "r tstzrange, n numeric, w char(5)",
        mode,
    )
    follow(source, "item")
    if form == "altered":
        run(source, 'ALTER TABLE item ADD COLUMN later "char"')
    statements = (
        (
            "INSERT INTO public.item SELECT g, g + 1.0/3, ARRAY[0.1, g], timestamptz '2026-11-23 09:00:00.5+00', "
            "date '2026-11-23', make_interval(days => g, hours => 3), decode('00ff', 'hex'), 12.5::numeric::money, "
            "tstzrange(timestamptz '2026-01-01 00:00+00', NULL), 1.50, 'x' FROM generate_series(1, {last}) AS g"
        ),
        "UPDATE public.item SET f = f + 1e-14, n = 1.500",
        "DELETE FROM public.item",
    )
    expected: list[Any] = []
    for setting in iter_settings(app):
        before = len(changes(source))
        for last in (1, 3):
            run(app, *(statement.format(last=last) for statement in statements))
        found = [(action, key, old, new) for action, key, old, new in changes(source)[before:]]
        found.sort(key=lambda change: (change[0], str(change[1])))  # rows are updated in the order they lie in
        expected = expected or found
        assert found == expected, setting
    assert len(expected) == 12
    assert all(set(old) == {"f", "n"} for action, _, old, _ in expected if action == "UPDATE")


@pytest.mark.parametrize("mode", MODES)
def test_replica_sessions_are_captured(source, mode):
    """Attack 10. A superuser makes triggers silent by session_replication_role, for a session or by ALTER ROLE.

    Caught by nothing, because it has no effect. (Apply workers: tests/postgres/test_ways.py.)
    """
    make_table(source, "item", "id int PRIMARY KEY, note text", mode)
    follow(source, "item")
    role = f"r_{source.info.dbname}"[:63]
    run(source, f"CREATE ROLE {role} SUPERUSER LOGIN", f"ALTER ROLE {role} SET session_replication_role = replica")
    try:
        with psycopg.connect(make_conninfo(source.info.dsn, user=role), autocommit=True) as session:
            assert session.execute("SHOW session_replication_role").fetchone() == ("replica",)
            run(session, "INSERT INTO item VALUES (1, 'a')", "INSERT INTO item VALUES (2, 'b'), (3, 'c')")
            run(session, "UPDATE item SET note = 'd'", "DELETE FROM item WHERE id = 1", "TRUNCATE item")
    finally:
        run(source, f"DROP ROLE {role}")
    actions = [action for action, *_ in changes(source)]
    assert actions == ["INSERT"] * 3 + ["UPDATE"] * 3 + ["DELETE", "TRUNCATE"]


@pytest.mark.parametrize("mode", MODES)
def test_plans_are_never_stale(source, log_in, mode):
    """Attack 11. What is folded into plans is stale after an ALTER that a session has not noticed, or took back.

    The table's owner alters it between a session's statements, in savepoints, and around prepared statements.
    """
    lowly = log_in("lowly")
    make_table(lowly, "public.item", "id int PRIMARY KEY, note text", mode)
    follow(source, "item")
    with psycopg.connect(lowly.info.dsn, autocommit=True) as session:
        run(
            session,
            "SET plan_cache_mode = force_generic_plan",
            "PREPARE p AS INSERT INTO item (id, note) VALUES ($1, $2)",
        )
        run(session, "EXECUTE p (1, 'a')")
        run(lowly, "ALTER TABLE item ADD COLUMN later text DEFAULT 'x'")
        run(session, "EXECUTE p (2, 'b')")
        with session.transaction():
            run(session, "SAVEPOINT s", "ALTER TABLE item RENAME note TO other")
            run(session, "INSERT INTO item VALUES (3, 'c')", "ROLLBACK TO s", "INSERT INTO item VALUES (4, 'd')")
        run(lowly, "ALTER TABLE item DROP COLUMN later")
        run(session, "EXECUTE p (5, 'e')", "DISCARD PLANS")
        run(source, "ALTER SCHEMA public RENAME TO private", "SET search_path = private")
        run(session, "INSERT INTO private.item VALUES (6, 'f')")
    assert [new for _, _, _, new in changes(source)] == [
        {"id": 1, "note": "a"},
        {"id": 2, "note": "b", "later": "x"},
        {"id": 4, "note": "d", "later": "x"},
        {"id": 5, "note": "e"},
        {"id": 6, "note": "f"},
    ]
    relations = source.execute("SELECT relation FROM audit.record WHERE source = 'row' ORDER BY id").fetchall()
    assert [name for (name,) in relations] == ["public.item"] * 4 + ["private.item"]
