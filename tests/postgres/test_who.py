"""Who: facts that no session can bend, claims that end with their transaction, and the view for everyone else."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgseal.trail.capture import TableRule
from pgseal.trail.track import track

#: The oldest and the newest at hand: the suite is long.
pytestmark = pytest.mark.servers(15, 18)
PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")


@pytest.fixture
def source(source: psycopg.Connection) -> psycopg.Connection:
    source.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    source.execute("INSERT INTO t SELECT i, 0 FROM generate_series(1, 9) AS i")
    track(source.info.dsn, "public", "t", TableRule(), side="source", baseline=False)
    return source


def claims(source: psycopg.Connection) -> list[Any]:
    rows = source.execute("SELECT claimed FROM audit.record WHERE source = 'row' ORDER BY id").fetchall()
    return [row[0] for row in rows]


def test_who_logged_in_is_a_fact(source: psycopg.Connection):
    source.execute("CREATE ROLE somebody_else_here SUPERUSER")
    try:
        source.execute("SET SESSION AUTHORIZATION somebody_else_here")
        source.execute("UPDATE t SET v = 1 WHERE id = 1")
        source.execute("UPDATE t SET v = 2")
    finally:
        source.execute("RESET SESSION AUTHORIZATION")
        source.execute("DROP ROLE somebody_else_here")
    facts = source.execute(
        "SELECT DISTINCT session_role, authenticated_role, pid, backend_start FROM audit.record WHERE source = 'row'"
    ).fetchall()
    start = source.execute("SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()").fetchone()
    assert start is not None
    assert facts == [("somebody_else_here", source.info.user, source.info.backend_pid, start[0])]


def test_two_sessions_with_one_function_are_told_apart(source: psycopg.Connection):
    source.execute("UPDATE t SET v = 1 WHERE id = 1")
    with psycopg.connect(source.info.dsn, autocommit=True) as other:
        other.execute("UPDATE t SET v = 2 WHERE id = 1")
    starts = source.execute("SELECT count(DISTINCT backend_start) FROM audit.record WHERE source = 'row'").fetchone()
    assert starts == (2,)


@pytest.mark.parametrize(("setting", "value", "claim"), [
    ("request.jwt.claims", {"sub": "u-1", "role": "authenticated", "email": "x@y.z"},
     {"actor": "u-1", "role": "authenticated", "via": "request.jwt.claims"}),
    ("request.jwt.claims", {"role": "anon"}, {"role": "anon", "via": "request.jwt.claims"}),
    ("request.jwt.claim.sub", "u-2", {"actor": "u-2", "via": "request.jwt.claim.sub"}),
    ("hasura.user", {"x-hasura-user-id": "27", "x-hasura-role": "nurse"},
     {"actor": "27", "role": "nurse", "via": "hasura.user"}),
    ("request.jwt.claims", "{not json", {"via": "unreadable"}),
    ("request.jwt.claims", '{"sub": "\\u0000"}', {"via": "unreadable"}),
    ("hasura.user", '["x"]', {"via": "hasura.user"}),
])  # fmt: skip
def test_gateways_are_understood(source: psycopg.Connection, setting: str, value: Any, claim: dict[str, str]):
    text = value if isinstance(value, str) else json.dumps(value)
    with source.transaction():
        source.execute("SELECT set_config(%s, %s, true)", [setting, text])
        source.execute("UPDATE t SET v = 1 WHERE id = 1")
        source.execute("UPDATE t SET v = 2 WHERE id < 3")
    source.execute("UPDATE t SET v = 3 WHERE id = 1")
    assert claims(source) == [claim, claim, claim, None]


def test_a_context_completes_what_a_gateway_says(source: psycopg.Connection):
    with source.transaction():
        source.execute('SELECT set_config(\'request.jwt.claims\', \'{"sub": "u-1", "role": "r"}\', true)')
        source.execute('SELECT audit.set_context(\'{"actor": "alice", "request": "42"}\')')
        source.execute("UPDATE t SET v = 1 WHERE id = 1")
    assert claims(source) == [{"actor": "alice", "request": "42", "role": "r", "via": "request.jwt.claims"}]


def test_a_context_past_the_limit_is_none(source: psycopg.Connection):
    with source.transaction():
        source.execute('SELECT audit.set_context(\'{"actor": "alice"}\')')
        source.execute(
            "SELECT set_config('pgseal.context', "
            "replace(current_setting('pgseal.context'), 'alice', repeat('a', 20000)), true)"
        )
        source.execute("UPDATE t SET v = 1 WHERE id = 1")
    assert claims(source) == [None]


def test_a_change_without_an_actor_can_be_rejected(source: psycopg.Connection):
    for name, parts in (("strict", ""), ("parts", "PARTITION BY LIST (id)")):
        source.execute(f"CREATE TABLE {name} (id int PRIMARY KEY) {parts}")  # pyright: ignore[reportArgumentType]
        if parts:
            source.execute("CREATE TABLE parts_1 PARTITION OF parts DEFAULT")
        rule = TableRule(require_actor="reject")
        track(source.info.dsn, "public", name, rule, side="source", baseline=False)
        for statement in ("INSERT INTO {} VALUES (1)", "INSERT INTO {} VALUES (1), (2)", "TRUNCATE {}"):
            with pytest.raises(
                psycopg.errors.InsufficientPrivilege, match=r"pgseal: a change of public.* name an actor"
            ):
                source.execute(statement.format(name))  # pyright: ignore[reportArgumentType]
        source.execute(f"DELETE FROM {name}")  # pyright: ignore[reportArgumentType]
        with source.transaction():
            source.execute('SELECT audit.set_context(\'{"actor": "alice"}\')')
            source.execute(f"INSERT INTO {name} VALUES (1), (2)")  # pyright: ignore[reportArgumentType]
            source.execute(f"TRUNCATE {name}")  # pyright: ignore[reportArgumentType]
        with source.transaction(force_rollback=True):
            source.execute('SELECT audit.set_context(\'{"actor": ""}\')')
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                source.execute(f"INSERT INTO {name} VALUES (3)")  # pyright: ignore[reportArgumentType]


def test_a_mask_that_leaves_the_last_four(source: psycopg.Connection):
    source.execute("CREATE TABLE cards (id int PRIMARY KEY, number text, pin int)")
    rule = TableRule(mask={"number": "last4", "pin": "last4"})
    track(source.info.dsn, "public", "cards", rule, side="source", baseline=False)
    source.execute("INSERT INTO cards VALUES (1, '4929123412341234', 1234), (2, NULL, NULL)")
    source.execute("UPDATE cards SET number = '4929999999991234' WHERE id = 1")
    source.execute("ALTER TABLE cards ADD more int")
    source.execute("UPDATE cards SET number = '4929123412345678' WHERE id = 1")
    rows = source.execute(
        "SELECT old, new FROM audit.record WHERE relation = 'public.cards' AND source = 'row' ORDER BY id"
    ).fetchall()
    assert rows == [
        (None, {"id": 1, "number": "****1234", "pin": "****"}),
        (None, {"id": 2, "number": None, "pin": None}),
        ({"number": "****1234"}, {"id": 1, "number": "****1234", "pin": "****"}),
        ({"number": "****1234"}, {"id": 1, "number": "****5678", "pin": "****", "more": None}),
    ]


def test_the_customary_table_as_a_view(source: psycopg.Connection):
    source.execute('CREATE TABLE "Odd name" (id int PRIMARY KEY, v text)')
    track(source.info.dsn, "public", "Odd name", TableRule(), side="source")
    with source.transaction():
        source.execute("""SELECT audit.set_context('{"actor": {"id": "u-7", "type": "user"}}')""")
        source.execute("INSERT INTO \"Odd name\" VALUES (1, 'a')")
    source.execute("UPDATE \"Odd name\" SET v = 'b'")
    source.execute('DELETE FROM "Odd name"')
    rows = source.execute(
        "SELECT table_name, action, old_data, new_data, actor_id FROM audit.audit_log "
        "WHERE changed_at <= clock_timestamp() ORDER BY id"
    ).fetchall()
    user = source.info.user
    assert rows == [
        ("Odd name", "INSERT", None, {"id": 1, "v": "a"}, "u-7"),
        ("Odd name", "UPDATE", {"id": 1, "v": "a"}, {"id": 1, "v": "b"}, user),
        ("Odd name", "DELETE", {"id": 1, "v": "b"}, None, user),
    ]


# -- behind a pooler --------------------------------------------------------------------------------------------


@pytest.fixture
def pooler(source: psycopg.Connection, tmp_path: Path) -> Iterator[str]:
    """A real pgbouncer in transaction mode with one server connection, which all clients share."""
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={source.info.host} port={source.info.port} user={source.info.user}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\ndefault_pool_size = 1\nignore_startup_parameters = extra_float_digits\n"
    )
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    # It refuses to run as root.
    user = ["-u", "postgres"] if os.geteuid() == 0 else []
    command = [PGBOUNCER, "-q", *user, str(tmp_path / "pgbouncer.ini")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    dsn = make_conninfo(host="127.0.0.1", port=port, dbname=source.info.dbname, user=source.info.user)
    try:
        for _ in range(100):
            try:
                psycopg.connect(dsn).close()
                break
            except psycopg.OperationalError:
                time.sleep(0.1)
        yield dsn
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def test_actors_do_not_mix_behind_a_pooler(source: psycopg.Connection, pooler: str):
    options: dict[str, Any] = {"autocommit": True, "prepare_threshold": None}
    with psycopg.connect(pooler, **options) as alice, psycopg.connect(pooler, **options) as bob:
        pids = {connection.execute("SELECT pg_backend_pid()").fetchone() for connection in (alice, bob)}
        assert len(pids) == 1
        with alice.transaction():
            alice.execute('SELECT audit.set_context(\'{"actor": "alice"}\')')
            alice.execute("UPDATE t SET v = 1 WHERE id = 1")
        bob.execute("UPDATE t SET v = 2 WHERE id = 1")
        # What a session-level SET leaves behind: a copy of a mark that was true once.
        with alice.transaction():
            alice.execute('SELECT audit.set_context(\'{"actor": "alice"}\')')
            alice.execute("SELECT set_config('pgseal.context', current_setting('pgseal.context'), false)")
        assert bob.execute("SELECT current_setting('pgseal.context') LIKE '%alice%'").fetchone() == (True,)
        bob.execute("UPDATE t SET v = 3 WHERE id = 1")
        with bob.transaction():
            bob.execute('SELECT audit.set_context(\'{"actor": "bob"}\')')
            bob.execute("UPDATE t SET v = 4 WHERE id = 1")
    assert claims(source) == [{"actor": "alice"}, None, None, {"actor": "bob"}]
