"""A table that logical replication copies from one server to another, where it is tracked."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from tests.clusters import Cluster
from tests.deployments import open_trail

_WAIT_SECONDS = 60


@contextmanager
def replicating(new_cluster: Callable[..., Any], major: int) -> Iterator[tuple[psycopg.Connection, psycopg.Connection]]:
    """Connections to the original and to the copy, which has the trail; `subscribe` begins to copy."""
    publisher: Cluster = new_cluster(major, {"wal_level": "logical"}, label="publisher")
    subscriber: Cluster = new_cluster(major, label="subscriber")
    publisher.create_database("original")
    with (
        psycopg.connect(publisher.dsn("original"), autocommit=True) as original,
        open_trail(subscriber.create_database("copy")) as copy,
    ):
        original.execute("CREATE PUBLICATION p FOR ALL TABLES")
        yield original, copy
        copy.execute("DROP SUBSCRIPTION s")


def subscribe(original: psycopg.Connection, copy: psycopg.Connection) -> None:
    """Copy what is there, and all that comes."""
    info = original.info  # not its whole dsn: an older server's library does not know every option of ours
    dsn = make_conninfo(host=info.host, port=info.port, dbname=info.dbname, user=info.user)
    copy.execute(sql.SQL("CREATE SUBSCRIPTION s CONNECTION {} PUBLICATION p").format(sql.Literal(dsn)))
    wait_for(lambda: copy.execute("SELECT srsubstate FROM pg_subscription_rel").fetchall() == [("r",)])


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
