"""What capture costs, against no audit and against the smallest generic trigger, in the same run, round by round."""

import re
import subprocess
import time
from argparse import Namespace
from collections.abc import Iterator

import psycopg
from tests.clusters import Cluster

from benchmarks.common import ROWS, UPDATE, Figure, make_table, median, server
from pgseal.postgres import connect, install_schema
from pgseal.trail.capture import TableRule
from pgseal.trail.track import track

MINIMAL = """
CREATE TABLE minimal_log (id bigserial PRIMARY KEY, old jsonb, new jsonb);
CREATE FUNCTION minimal_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO minimal_log (old, new) VALUES (to_jsonb(OLD), to_jsonb(NEW)); RETURN NULL; END $$;
CREATE TRIGGER minimal AFTER INSERT OR UPDATE OR DELETE ON minimal FOR EACH ROW EXECUTE FUNCTION minimal_trigger();
"""
TABLES = ("plain", "minimal", "sealed")
CLIENTS = 2
SECONDS = 8
WARM_UP_SECONDS = 2


def run(arguments: Namespace) -> Iterator[Figure]:
    with server("capture") as cluster:
        dsn = cluster.create_database("bench")
        with psycopg.connect(dsn, autocommit=True) as connection:
            _prepare(connection, dsn, arguments.rows)
            yield from _bulk(connection, arguments)
        yield from _single(cluster, arguments, "single_update", "off")
        # As applications have it: each commit waits for the disk.
        yield from _single(cluster, arguments, "durable_update", "on")
        yield from _tpcb(cluster, arguments)


def _prepare(connection: psycopg.Connection, dsn: str, rows: int) -> None:
    for name in TABLES:
        make_table(connection, name, rows)
    connection.execute(MINIMAL)
    with connect(dsn, side="source") as installer:
        install_schema(installer, "audit", "pgseal.trail", side="source")
    track(dsn, "public", "sealed", TableRule(), side="source", baseline=False)


def _bulk(connection: psycopg.Connection, arguments: Namespace) -> Iterator[Figure]:
    """Every row of a table updated, then deleted, then inserted again, by one statement each."""
    statements = {"update": UPDATE, "delete": "DELETE FROM {name}", "insert": ROWS}
    seconds = {(kind, name): list[float]() for kind in statements for name in TABLES}
    sizes: dict[str, list[float]] = {"minimal": [], "sealed": []}
    for number in range(arguments.rounds + 1):
        for kind, statement in statements.items():
            connection.execute("TRUNCATE minimal_log, audit.record")
            connection.execute("CHECKPOINT")
            for name in _in_turn(number):
                began = time.perf_counter()
                connection.execute(statement.format(name=name, rows=arguments.rows))
                if number:  # the first round warms up
                    seconds[kind, name].append(time.perf_counter() - began)
            for name in TABLES:
                connection.execute(f"VACUUM {name}")
            if kind == "update":
                for name, size in (("minimal", "pg_total_relation_size('minimal_log')"), ("sealed", _TRAIL_SIZE)):
                    row = connection.execute(f"SELECT {size}").fetchone()
                    sizes[name].append(int(row[0]) / arguments.rows if row else 0)
    for kind in statements:
        plain, minimal, sealed = (median(seconds[kind, name]) for name in TABLES)
        yield Figure(f"capture.bulk_{kind}.unaudited_seconds", plain, "s")
        yield Figure(f"capture.bulk_{kind}.minimal_seconds", minimal, "s")
        yield Figure(f"capture.bulk_{kind}.pgseal_seconds", sealed, "s")
        yield Figure(f"capture.bulk_{kind}.added_vs_minimal", (sealed - plain) / (minimal - plain), "ratio")
    yield Figure("capture.bytes_per_update", median(sizes["sealed"]), "bytes")
    yield Figure("capture.bytes_per_update.minimal", median(sizes["minimal"]), "bytes")


def _tpcb(cluster: Cluster, arguments: Namespace) -> Iterator[Figure]:
    """The script that pgbench brings, with all four tables tracked and without."""
    databases = {name: cluster.create_database(f"tpcb_{name}") for name in ("plain", "sealed")}
    for dsn in databases.values():
        subprocess.run(["pgbench", "-i", "-q", "-s", "10", dsn], capture_output=True, check=True)
    with connect(databases["sealed"], side="source") as installer:
        install_schema(installer, "audit", "pgseal.trail", side="source")
    for table in ("accounts", "branches", "history", "tellers"):
        track(databases["sealed"], "public", f"pgbench_{table}", TableRule(), side="source", baseline=False)
    rates: dict[str, list[float]] = {name: [] for name in databases}
    for number in range(arguments.rounds + 1):
        for name in list(databases)[:: 1 if number % 2 else -1]:
            dsn = cluster.dsn(f"tpcb_{name}", options="-c synchronous_commit=off")
            rate = _run_pgbench(dsn, SECONDS if number else WARM_UP_SECONDS)
            if number:
                rates[name].append(rate)
    yield Figure("capture.tpcb.unaudited_tps", median(rates["plain"]), "1/s")
    yield Figure("capture.tpcb.pgseal_tps", median(rates["sealed"]), "1/s")
    yield Figure("capture.tpcb.tps_vs_unaudited", median(rates["sealed"]) / median(rates["plain"]), "ratio")


def _in_turn(number: int) -> list[str]:
    """Return the tables in another order each round: who comes first has the caches of the one before."""
    first = number % len(TABLES)
    return [*TABLES[first:], *TABLES[:first]]


_TRAIL_SIZE = "(SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('audit.record') WHERE isleaf)"


def _single(cluster: Cluster, arguments: Namespace, figure: str, synchronous_commit: str) -> Iterator[Figure]:
    """Transactions that change one row each, from two clients."""
    rates: dict[str, list[float]] = {name: [] for name in TABLES}
    for number in range(arguments.rounds + 1):
        for name in _in_turn(number):
            rate = _pgbench(cluster, name, arguments.rows, SECONDS if number else WARM_UP_SECONDS, synchronous_commit)
            if number:
                rates[name].append(rate)
    plain, minimal, sealed = (median(rates[name]) for name in TABLES)
    yield Figure(f"capture.{figure}.unaudited_tps", plain, "1/s")
    yield Figure(f"capture.{figure}.minimal_tps", minimal, "1/s")
    yield Figure(f"capture.{figure}.pgseal_tps", sealed, "1/s")
    yield Figure(f"capture.{figure}.tps_vs_minimal", sealed / minimal, "ratio")


def _pgbench(cluster: Cluster, table: str, rows: int, seconds: int, synchronous_commit: str) -> float:
    script = (
        f"\\set id random(1, {rows})\nUPDATE {table} SET balance = balance + 1, visits = visits + 1 WHERE id = :id;\n"
    )
    return _run_pgbench(cluster.dsn("bench", options=f"-c synchronous_commit={synchronous_commit}"), seconds, script)


def _run_pgbench(dsn: str, seconds: int, script: str | None = None) -> float:
    chosen = [] if script is None else ["-f", "/dev/stdin"]
    done = subprocess.run(
        ["pgbench", "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "1", "-T", str(seconds), *chosen, dsn],
        input=script,
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"tps = ([0-9.]+)", done.stdout)
    if found is None:
        raise RuntimeError(done.stdout + done.stderr)
    return float(found[1])
