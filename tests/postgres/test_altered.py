"""Tables that are altered while they are tracked: capture goes on, at once, in every session, and hides what it hid."""

from typing import Any

import psycopg
import pytest

from pgseal.trail.capture import TableRule
from pgseal.trail.health import read_drift, read_trigger_faults
from pgseal.trail.registry import list_tracked
from pgseal.trail.track import track
from pgseal.trail.triggers import TRIGGERS

KINDS = {
    "statement": "CREATE TABLE t (id int PRIMARY KEY, a int, b text, secret text, photo text)",
    "row": "CREATE TABLE t (id int PRIMARY KEY, a int, b text, secret text, photo text) PARTITION BY RANGE (id); "
    "CREATE TABLE t_1 (photo text, gone int, id int NOT NULL, b text, a int, secret text); "
    "ALTER TABLE t_1 DROP gone; ALTER TABLE t ATTACH PARTITION t_1 FOR VALUES FROM (0) TO (1000)",
}


@pytest.fixture(params=KINDS)
def tracked(source: psycopg.Connection, request: pytest.FixtureRequest) -> psycopg.Connection:
    """A connection whose session has captured already, and so has everything prepared."""
    source.execute(KINDS[request.param])
    rule = TableRule(exclude=["photo"], mask={"secret": "redact"})
    track(source.info.dsn, "public", "t", rule, side="source", baseline=False)
    mode = source.execute("SELECT mode FROM audit.tracked").fetchone()
    assert mode == (request.param,)
    source.execute("INSERT INTO t VALUES (1, 1, 'x', 's3cret', 'ph0to'), (2, 2, 'y', 's3cret', 'ph0to')")
    source.execute("UPDATE t SET a = a + 1")
    source.execute("UPDATE t SET a = a - 1 WHERE id = 1")
    source.execute("UPDATE t SET a = a - 1 WHERE id = 2")
    return source


def newest(source: psycopg.Connection, row: int = 2) -> tuple[Any, ...]:
    found = source.execute(
        "SELECT action, relation, key, old, new FROM audit.record WHERE coalesce(new, old) ->> 'id' = %s "
        "ORDER BY id DESC LIMIT 1",
        [str(row)],
    ).fetchone()
    assert found is not None
    return found


def everything(source: psycopg.Connection) -> str:
    row = source.execute("SELECT string_agg(r::text, ' ') FROM audit.record AS r").fetchone()
    assert row is not None
    return row[0]


def change_all(source: psycopg.Connection, assignment: str) -> None:
    source.execute(f"UPDATE t SET {assignment} WHERE id = 1")  # pyright: ignore[reportArgumentType]
    source.execute(f"UPDATE t SET {assignment} WHERE id < 3")  # pyright: ignore[reportArgumentType]


HIDDEN = {"secret": "[redacted]"}


def test_a_new_column_is_recorded_at_once(tracked: psycopg.Connection):
    tracked.execute("ALTER TABLE t ADD c timestamptz DEFAULT '2026-01-02 03:04:05+00'")
    tracked.execute("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'")
    change_all(tracked, "c = c + '1 day'")
    assert newest(tracked, 1) == (
        "UPDATE", "public.t", {"id": 1}, {"c": "2026-01-03T03:04:05+00:00"},
        {"id": 1, "a": 1, "b": "x", "c": "2026-01-04T03:04:05+00:00", **HIDDEN},
    )  # fmt: skip
    assert newest(tracked)[4] == {"id": 2, "a": 2, "b": "y", "c": "2026-01-03T03:04:05+00:00", **HIDDEN}
    assert tracked.execute("SHOW TimeZone").fetchone() == ("Asia/Tokyo",)
    assert tracked.execute("SHOW DateStyle").fetchone() == ("German, DMY",)
    tracked.execute("DELETE FROM t")
    assert [newest(tracked, row)[0] for row in (1, 2)] == ["DELETE", "DELETE"]


def test_a_dropped_column_and_a_renamed_one(tracked: psycopg.Connection):
    tracked.execute("ALTER TABLE t DROP b")
    tracked.execute('ALTER TABLE t RENAME a TO "A \'"" %"')
    change_all(tracked, '"A \'"" %" = "A \'"" %" + 1')
    assert newest(tracked)[3:] == ({"A '\" %": 2}, {"id": 2, "A '\" %": 3, **HIDDEN})


def test_a_hidden_column_stays_hidden_under_another_name(tracked: psycopg.Connection):
    tracked.execute("ALTER TABLE t RENAME secret TO b2")
    tracked.execute("ALTER TABLE t RENAME photo TO picture")
    change_all(tracked, "b2 = b2 || 'x', picture = picture || 'x'")
    assert newest(tracked)[3:] == ({"b2": "[redacted]"}, {"id": 2, "a": 2, "b": "y", "b2": "[redacted]"})
    track(tracked.info.dsn, "public", "t", TableRule(), side="source")
    change_all(tracked, "b2 = b2 || 'y', picture = picture || 'y'")
    assert newest(tracked)[3:] == ({"b2": "[redacted]"}, {"id": 2, "a": 2, "b": "y", "b2": "[redacted]"})
    assert "s3cret" not in everything(tracked)
    assert "ph0to" not in everything(tracked)
    assert list_tracked(tracked)[0].rule == TableRule(["picture"], {"b2": "redact"})


@pytest.mark.parametrize("type_name", ["numeric", "float8", "text", "money", "text[]", "jsonb"])
def test_another_type(tracked: psycopg.Connection, type_name: str):
    using = {"text[]": "ARRAY[a::text]", "jsonb": "to_jsonb(a)"}.get(type_name, f"a::{type_name}")
    tracked.execute(f"ALTER TABLE t ALTER a TYPE {type_name} USING {using}")  # pyright: ignore[reportArgumentType]
    tracked.execute("SET extra_float_digits = -12")
    change_all(tracked, "a = a, b = b || '.'")
    printed = {"numeric": 2, "float8": "2", "text": "2", "money": "$2.00", "text[]": "{2}", "jsonb": 2}[type_name]
    assert newest(tracked)[3:] == ({"b": "y"}, {"id": 2, "a": printed, "b": "y.", **HIDDEN})


def test_within_the_altering_transaction_and_after_its_rollback(tracked: psycopg.Connection):
    with tracked.transaction(force_rollback=True):
        tracked.execute("ALTER TABLE t ADD c int")
        change_all(tracked, "c = 7")
        assert newest(tracked)[3:] == ({"c": None}, {"id": 2, "a": 2, "b": "y", "c": 7, **HIDDEN})
    change_all(tracked, "a = 0")
    assert newest(tracked)[3:] == ({"a": 2}, {"id": 2, "a": 0, "b": "y", **HIDDEN})
    with tracked.transaction():
        change_all(tracked, "a = 1")
        tracked.execute("ALTER TABLE t DROP b")
        change_all(tracked, "a = 2")
    assert newest(tracked) == ("UPDATE", "public.t", {"id": 2}, {"a": 1}, {"id": 2, "a": 2, **HIDDEN})
    assert read_drift(tracked)[0].name_now == "public.t"


def test_a_table_that_is_renamed_or_moved(tracked: psycopg.Connection):
    tracked.execute('CREATE SCHEMA "Other"')
    tracked.execute("ALTER TABLE t RENAME TO t2")
    tracked.execute('ALTER TABLE t2 SET SCHEMA "Other"')
    tracked.execute('UPDATE "Other".t2 SET a = 9 WHERE id = 2')
    assert newest(tracked)[:4] == ("UPDATE", '"Other".t2', {"id": 2}, {"a": 2})
    assert read_drift(tracked)[0].name_now == '"Other".t2'
    track(tracked.info.dsn, "Other", "t2", TableRule(), side="source")
    assert [table.relation for table in list_tracked(tracked)] == ['"Other".t2']
    assert read_drift(tracked) == []
    assert read_trigger_faults(tracked) == []
    tracked.execute('UPDATE "Other".t2 SET a = 10 WHERE id = 2')
    assert newest(tracked)[:4] == ("UPDATE", '"Other".t2', {"id": 2}, {"a": 9})


def test_another_key(tracked: psycopg.Connection):
    tracked.execute("ALTER TABLE t DROP CONSTRAINT t_pkey")
    change_all(tracked, "b = 'z'")
    assert newest(tracked)[2] is None
    tracked.execute("ALTER TABLE t ADD PRIMARY KEY (a, id)")
    change_all(tracked, "b = 'zz'")
    assert newest(tracked)[2] == {"a": 2, "id": 2}


def test_other_sessions_notice_too(tracked: psycopg.Connection):
    with psycopg.connect(tracked.info.dsn, autocommit=True) as other:
        change_all(other, "a = 5")
        tracked.execute("ALTER TABLE t ADD c int DEFAULT 3")
        change_all(other, "a = 6")
        other.execute("SET session_replication_role = replica")
        other.execute("UPDATE t SET a = 7, c = NULL WHERE id = 2")
    assert newest(tracked)[3:] == ({"a": 6, "c": 3}, {"id": 2, "a": 7, "b": "y", "c": None, **HIDDEN})


def test_tracking_again_renews_capture_and_baseline(tracked: psycopg.Connection):
    tracked.execute("ALTER TABLE t ADD c int DEFAULT 3")
    assert [drift.relation for drift in read_drift(tracked)] == ["public.t"]
    track(tracked.info.dsn, "public", "t", TableRule(), side="source")
    assert read_drift(tracked) == []
    assert newest(tracked, 1) == (
        "SNAPSHOT",
        "public.t",
        {"id": 1},
        None,
        {"id": 1, "a": 1, "b": "x", "c": 3, **HIDDEN},
    )
    change_all(tracked, "c = 4")
    assert newest(tracked)[3:] == ({"c": 3}, {"id": 2, "a": 2, "b": "y", "c": 4, **HIDDEN})


def test_a_table_that_is_made_anew(tracked: psycopg.Connection):
    tracked.execute("DROP TABLE t")
    assert read_drift(tracked)[0].name_now is None
    tracked.execute("CREATE TABLE t (id int PRIMARY KEY, secret text, photo text)")
    track(tracked.info.dsn, "public", "t", TableRule(), side="source")
    tracked.execute("INSERT INTO t VALUES (1, 's3cret', 'ph0to')")
    assert newest(tracked, 1)[4] == {"id": 1, **HIDDEN}


def test_a_table_captured_by_statements_cannot_become_a_child(source: psycopg.Connection):
    for name in ("a", "b"):
        source.execute(f"CREATE TABLE {name} (id int PRIMARY KEY)")  # pyright: ignore[reportArgumentType]
        track(source.info.dsn, "public", name, TableRule(), side="source", baseline=False)
    source.execute("CREATE TABLE p (id int) PARTITION BY RANGE (id)")
    source.execute("CREATE TABLE q (id int NOT NULL)")
    for statement in ("ALTER TABLE p ATTACH PARTITION a FOR VALUES FROM (0) TO (9)", "ALTER TABLE b INHERIT q"):
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="pgseal_untrack_before_attach"):
            source.execute(statement)  # pyright: ignore[reportArgumentType]


@pytest.mark.servers(15, 18)
@pytest.mark.parametrize("kind", KINDS)
def test_every_single_trigger_is_missed(source: psycopg.Connection, kind: str):
    source.execute(KINDS[kind])  # pyright: ignore[reportArgumentType]
    track(source.info.dsn, "public", "t", TableRule(), side="source", baseline=False)
    assert read_trigger_faults(source) == []
    for name in TRIGGERS[kind]:
        for statement, fault in (
            (f"ALTER TABLE t DISABLE TRIGGER {name}", "is disabled"),
            (f"DROP TRIGGER {name} ON t", "is missing"),
        ):
            with source.transaction(force_rollback=True):
                source.execute(statement)  # pyright: ignore[reportArgumentType]
                assert ("public.t", name, fault) in [(f.place, f.trigger, f.fault) for f in read_trigger_faults(source)]


@pytest.mark.servers(15, 18)
def test_a_trigger_put_in_the_place_of_ours_is_noticed(source: psycopg.Connection):
    source.execute(KINDS["row"])
    source.execute("CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    track(source.info.dsn, "public", "t", TableRule(), side="source", baseline=False)
    ours = source.execute("SELECT tgfoid::regproc::text FROM pg_trigger WHERE tgname = 'pgseal_capture'").fetchone()
    assert ours is not None
    for place, definition, fault in (
        (
            "t",
            "AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION nothing()",
            "calls another function",
        ),
        (
            "t",
            f"AFTER INSERT OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION {ours[0]}()",
            "fires for less than it should",
        ),
        (
            "t",
            f"AFTER INSERT OR UPDATE OF a OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION {ours[0]}()",
            "fires for less than it should",
        ),
        (
            "t",
            f"AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW WHEN (1 = 2) EXECUTE FUNCTION {ours[0]}()",
            "fires for less than it should",
        ),
    ):
        with source.transaction(force_rollback=True):
            source.execute(f"CREATE OR REPLACE TRIGGER pgseal_capture {definition}")  # pyright: ignore[reportArgumentType]
            source.execute("ALTER TABLE t ENABLE ALWAYS TRIGGER pgseal_capture")
            assert (f"public.{place}", fault) in [(f.place, f.fault) for f in read_trigger_faults(source)]
    with source.transaction(force_rollback=True):
        source.execute("ALTER TABLE t_1 DISABLE TRIGGER pgseal_capture")
        assert [(f.place, f.fault) for f in read_trigger_faults(source)] == [("public.t_1", "is disabled")]
