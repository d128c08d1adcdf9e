"""How fast the machine is at what everything is made of, so that the figures of two machines can be compared."""

import subprocess
import time
from argparse import Namespace
from collections.abc import Iterator
from hashlib import sha256

import psycopg

from benchmarks.common import Figure, make_table, median, server
from pgseal.verifier.pool import count_processors

CALLS = 200_000


def run(arguments: Namespace) -> Iterator[Figure]:
    yield Figure("machine.sha256_300_bytes", median([_hash() for _ in range(arguments.rounds)]), "us")
    yield Figure("machine.sha256_bytes_per_second", hash_limit(), "bytes/s")
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


def hash_limit() -> float:
    """Return how many bytes all processors hash in a second, in the messages' mean size, by ``openssl speed``."""
    command = ["openssl", "speed", "-multi", str(count_processors()), "-seconds", "3", "-bytes", "256", "sha256"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1].removesuffix("k")) * 1000
