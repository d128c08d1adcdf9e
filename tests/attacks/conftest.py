"""What the attacks on a source begin with: tables of both kinds of capture, roles of every kind, a whole deployment."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from tests.clusters import Cluster
from tests.conftest import NewDatabase
from tests.deployments import Deployment, deploy, make_trail_template

from pgseal.trail.capture import TableRule
from pgseal.trail.track import track

#: What a table is captured by; an AFTER ROW trigger of its own makes it the latter.
MODES = ("statement", "row")

Rows = list[tuple[Any, ...]]


def run(connection: psycopg.Connection, *statements: str) -> None:
    """Run statements that must succeed."""
    for statement in statements:
        connection.execute(statement)  # pyright: ignore[reportArgumentType]


def make_table(connection: psycopg.Connection, name: str, columns: str, mode: str) -> None:
    run(connection, f"CREATE TABLE {name} ({columns})", f"GRANT ALL ON {name} TO PUBLIC")
    if mode == "row":
        run(
            connection,
            "CREATE OR REPLACE FUNCTION public.leave_alone() RETURNS trigger "
            "LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            f"CREATE TRIGGER a_trigger AFTER UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION public.leave_alone()",
        )


def follow(connection: psycopg.Connection, name: str, rule: TableRule | None = None) -> None:
    track(connection.info.dsn, "public", name, rule or TableRule(), side="source", baseline=False)


def changes(connection: psycopg.Connection) -> Rows:
    """Action, key, old and new of each record of a row."""
    return connection.execute(
        "SELECT action, key, old, new FROM audit.record WHERE source = 'row' ORDER BY id"
    ).fetchall()


@pytest.fixture
def any_database(new_database: NewDatabase, any_cluster: Cluster) -> str:
    """The DSN of a fresh database that has the trail in it."""
    return new_database(any_cluster, template=make_trail_template(any_cluster))


@pytest.fixture
def source(any_database: str) -> Iterator[psycopg.Connection]:
    """A superuser's connection to that database; everybody may create things in public."""
    with psycopg.connect(any_database, autocommit=True) as connection:
        run(connection, "GRANT ALL ON SCHEMA public TO PUBLIC")
        yield connection


@pytest.fixture
def log_in(any_database: str) -> Iterator[Callable[..., psycopg.Connection]]:
    """Makes a role with a login, and a connection of it."""
    made: dict[str, psycopg.Connection] = {}
    suffix = psycopg.conninfo.conninfo_to_dict(any_database)["dbname"]

    def make(name: str) -> psycopg.Connection:
        role = f"{name}_{suffix}"[:63]
        if role not in made:
            with psycopg.connect(any_database, autocommit=True) as connection:
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
            made[role] = psycopg.connect(make_conninfo(any_database, user=role), autocommit=True)
        return made[role]

    yield make
    with psycopg.connect(any_database, autocommit=True) as connection:
        for role, session in made.items():
            session.close()
            connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(role)))
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.fixture
def clinic(source: psycopg.Connection, vault_database: str, tmp_path: Any) -> Deployment:
    """A deployment with tracked tables ``item`` (by statement) and ``visit`` (by row), each with a sealed record."""
    deployment = deploy(source.info.dsn, vault_database, tmp_path)
    for name, mode in zip(("item", "visit"), MODES, strict=True):
        make_table(source, name, "id int PRIMARY KEY, note text", mode)
    deployment.track("item", "visit")
    run(source, "INSERT INTO item VALUES (1, 'a')", "INSERT INTO visit VALUES (1, 'a')")
    deployment.seal()
    return deployment


@contextmanager
def at_work(deployment: Deployment, dsn: str, table: str) -> Iterator[psycopg.Connection]:
    """A superuser at work on one side; afterwards its rows are put back as they were, which verify confirms."""
    place = sql.SQL(table)  # pyright: ignore[reportArgumentType]
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE TABLE public.aside AS SELECT * FROM {}").format(place))
        try:
            yield connection
        finally:
            connection.execute(sql.SQL("DELETE FROM {}").format(place))
            connection.execute(sql.SQL("INSERT INTO {} SELECT * FROM public.aside").format(place))
            connection.execute("DROP TABLE public.aside")
    deployment.check_verified()


def read_warnings(deployment: Deployment) -> str:
    """The warnings of ``pgseal status``, but for those that there is no witness, and that this machine is slow."""
    expected = ("witness", "no checkpoint was signed for")
    warnings = deployment.call("status")["warnings"]
    return "\n".join(line for line in warnings if not any(words in line for words in expected))


def read_plan(deployment: Deployment) -> str:
    """What ``pgseal plan --check`` finds, a line each; empty (and exit code 0) if nothing."""
    found = deployment.call("plan")["changes"]
    deployment.call("plan", "--check", expect=1 if found else 0)
    return "\n".join(f"{change['subject']}: {change['text']}" for change in found)
