"""Attacks 11 and 12 on row filters: any role bends what a filter is made of, or what it compares.

Not possible: constants were normalised when the table was tracked, operators, types and the collation are pg_catalog's
by name, and of a type that is not built in only the printed value is looked at.
"""

import psycopg
import pytest
from tests.attacks.attack import Attack
from tests.attacks.conftest import MODES, changes, follow, make_table, run
from tests.attacks.test_hijack import COLUMNS, FORMS, ROW, TEMPORARY, iter_settings, shadow_everything

from pgseal.trail.capture import TableRule

#: The oldest and the newest at hand: the suite is long.
pytestmark = pytest.mark.servers(15, 18)
STAGED = (
    Attack(
        11,
        "any role",
        "bend what a row filter is made of: operators, types, casts, collations",
        "not possible: everything in a filter is pg_catalog's by name",
        "nothing is left to be caught",
    ),
    Attack(
        12,
        "any role",
        "session settings that would change what a filter compares",
        "not possible: the settings are pinned",
        "nothing is left to be caught",
    ),
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", MODES)
def test_a_filter_runs_no_user_code_and_covers_what_it_says(source, log_in, mode, form):
    """Attack 11. Functions, operators, casts and a collation of a role's own stand where a filter could find them."""
    lowly = log_in("lowly")
    shadow_everything(lowly)
    make_table(lowly, "public.item", COLUMNS, mode)
    where = (
        "note in ('a', 'b') and m = 'good' and ms <> '{}' and p = '(bad,1)' and r is not null and c = 'bad' "
        "and n = '7' and id >= 1 and not note > 'b'"
    )
    follow(source, "item", TableRule(where=where, truncate="rows"))
    if form == "altered":
        run(lowly, "ALTER TABLE public.item ADD COLUMN later mood DEFAULT 'good'")
    with psycopg.connect(lowly.info.dsn, autocommit=True) as session:
        run(session, *TEMPORARY, "SET search_path = pg_temp, public, pg_catalog")
        run(lowly, "TRUNCATE public.ran")
        run(
            session,
            f"INSERT INTO public.item VALUES (1, 'a', {ROW})",
            f"INSERT INTO public.item VALUES (2, 'A', {ROW})",
            f"INSERT INTO public.item SELECT g, CASE WHEN g < 5 THEN 'b' ELSE 'B' END, {ROW} "
            "FROM generate_series(3, 6) AS g",
            "UPDATE public.item SET m = 'bad' WHERE id OPERATOR(pg_catalog.=) 1",  # leaves
            "UPDATE public.item SET note = 'a' WHERE id OPERATOR(pg_catalog.>) 4",  # two enter
            "UPDATE public.item SET r = NULL WHERE id OPERATOR(pg_catalog.=) 1",  # outside
            "DELETE FROM public.item WHERE id OPERATOR(pg_catalog.<) 3",
        )
        ran = source.execute("SELECT DISTINCT who FROM public.ran").fetchall()
        run(session, "TRUNCATE public.item")
    assert ("pgseal_owner",) not in ran + source.execute("SELECT DISTINCT who FROM public.ran").fetchall()
    assert [(action, key["id"]) for action, key, _, _ in changes(source) if key] == [
        ("INSERT", 1), ("INSERT", 3), ("INSERT", 4), ("UPDATE", 1), ("UPDATE", 5), ("UPDATE", 6),
        *(("DELETE", row) for row in (3, 4, 5, 6)),
    ]  # fmt: skip


@pytest.mark.servers(18)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", MODES)
def test_what_a_filter_covers_does_not_depend_on_the_session(source, log_in, mode, form):
    """Attack 12. A role changes every setting there is, so that values print or constants read otherwise."""
    app = log_in("app")
    make_table(
        source,
        "item",
        "id int PRIMARY KEY, f float8, t timestamptz, d date, i interval, b bytea, m money, w text",
        mode,
    )
    where = (
        "f = '0.30000000000000004' and t >= '2026-11-23T12:00:00+03:00' and t < '2026-11-23 09:00:01Z' and "
        "d = '2026-11-23' and i = '1 day 03:00:00' and b = '\\x00ff' and m = '$12.50' and w = 'back\\slash ''quoted'''"
    )
    follow(source, "item", TableRule(where=where))
    if form == "altered":
        run(source, 'ALTER TABLE item ADD COLUMN later "char"')
    values = (
        "0.1::float8 + 0.2::float8, timestamptz '2026-11-23 09:00:00.5+00', date '2026-11-23', "
        "make_interval(days => 1, hours => 3), decode('00ff', 'hex'), 12.5::numeric::money, "
        "concat('back', chr(92), 'slash ', chr(39), 'quoted', chr(39))"
    )
    statements = (
        f"INSERT INTO public.item SELECT g, {values} FROM generate_series(1, %s) AS g",
        "UPDATE public.item SET f = 0.3::float8 WHERE id = 1",  # leaves
        "UPDATE public.item SET f = 0.3::float8",  # the others leave
        "UPDATE public.item SET f = 0.4::float8",  # outside
    )
    tried = 0
    for setting in iter_settings(app):
        if setting and "jit" in setting:  # compiles for seconds, and is tried where less is evaluated
            continue
        tried += 1
        before = len(changes(source))
        for last in (1, 3):
            run(app, *(statement.replace("%s", str(last)) for statement in statements))
            run(source, "DELETE FROM item")
        found = [(action, key["id"]) for action, key, _, _ in changes(source)[before:]]
        one, three = found[:2], found[2:]
        assert one == [("INSERT", 1), ("UPDATE", 1)], setting
        assert three[:4] == [("INSERT", 1), ("INSERT", 2), ("INSERT", 3), ("UPDATE", 1)], setting
        assert sorted(three[4:]) == [("UPDATE", 2), ("UPDATE", 3)], setting
    assert tried > 20
