"""How fast the machine is at what everything is made of, so that the figures of two machines can be compared."""

import time
from argparse import Namespace
from collections.abc import Iterator
from hashlib import sha256

import psycopg

from benchmarks.common import Figure, make_table, median, server

CALLS = 200_000


def run(arguments: Namespace) -> Iterator[Figure]:
    yield Figure("machine.sha256_300_bytes", median([_hash() for _ in range(arguments.rounds)]), "us")
    with server("machine") as cluster:
        dsn = cluster.create_database("bench")
        with psycopg.connect(dsn, autocommit=True) as connection:
            make_table(connection, "sealed", arguments.rows)
            connection.execute("VACUUM ANALYZE sealed")
            connection.execute("SET max_parallel_workers_per_gather = 0")
            rounds = [_query(connection, arguments.rows) for _ in range(arguments.rounds)]
    yield Figure("machine.to_jsonb_12_columns", median(rounds), "us")


def _hash() -> float:
    data = bytes(300)
    began = time.perf_counter()
    for _ in range(CALLS):
        sha256(data).digest()
    return (time.perf_counter() - began) / CALLS * 1e6


def _query(connection: psycopg.Connection, rows: int) -> float:
    began = time.perf_counter()
    connection.execute("SELECT count(to_jsonb(t)) FROM sealed AS t")
    return (time.perf_counter() - began) / rows * 1e6
