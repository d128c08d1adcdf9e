"""The same things in an empty deployment and in one of ten million records: what grows with it, and what must not."""

import secrets
import time
from argparse import Namespace
from collections.abc import Iterator

import psycopg

from benchmarks.common import UPDATE, Figure, deployment, median, server, workplace
from benchmarks.sealing import SEAL, VERIFY, ledger_bytes, measure, measure_latency, prepare
from pgseal.core.checkpoint import open_checkpoint
from pgseal.ledger.prove import prove_leaf
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import DirectoryStore
from pgseal.settings import Settings

PROOFS = 10_000
#: Records over which the first and the last rate of sealing are taken.
SPAN = 200_000


def run(arguments: Namespace) -> Iterator[Figure]:
    if not arguments.growth:
        return
    with server("growth") as cluster, workplace() as directory, deployment(cluster, directory) as (settings, source):
        prepare(source)
        with psycopg.connect(source, autocommit=True) as connection:
            empty = _measure_updates(connection, arguments.rounds)
            _fill(connection, arguments.growth)
            connection.execute("CHECKPOINT")
            yield Figure("capture.cost_growth", _measure_updates(connection, arguments.rounds) / empty, "ratio")
        sealed = measure(settings, SEAL)
        first, last = _rates(sealed["marks"])
        yield Figure("seal.rate_growth", first / last, "ratio")
        yield Figure("seal.records_per_second_10m", sealed["records"] / sealed["seconds"], "1/s")
        yield Figure("seal.peak_memory_10m", sealed["rss"] / 1024, "MiB")
        verified = measure(settings, VERIFY)
        yield Figure("verify.records_per_second_10m", verified["records"] / verified["seconds"], "1/s")
        yield Figure("verify.peak_memory_10m", verified["rss"] / 1024, "MiB")
        yield Figure("ledger.records", verified["records"], "records")
        tiles = ledger_bytes(settings) - ledger_bytes(settings, "entries")
        yield Figure("ledger.bytes_per_record", tiles / verified["records"], "bytes")
        yield from _prove(settings)
        yield from measure_latency(settings, source, directory, "seal.commit_to_checkpoint_10m")


def _measure_updates(connection: psycopg.Connection, rounds: int) -> float:
    seconds: list[float] = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        connection.execute(UPDATE.format(name="sealed"))
        seconds.append(time.perf_counter() - began)
        connection.execute("VACUUM sealed")
    return median(seconds[1:])


def _fill(connection: psycopg.Connection, records: int) -> None:
    """Let that many records wait: those of one bulk change, over and over."""
    connection.execute("CREATE TEMP TABLE template AS SELECT * FROM audit.record ORDER BY id DESC LIMIT 100000")
    for _ in range(records // 100_000):
        connection.execute(
            "WITH numbered AS (UPDATE template SET id = nextval('audit.record_id_seq') RETURNING *) "
            "INSERT INTO audit.record SELECT * FROM numbered"
        )
        connection.execute("VACUUM template")


def _rates(marks: list[tuple[int, float]]) -> tuple[float, float]:
    """Return the rates of the first and of the last records that were sealed."""
    total, end = marks[-1]
    done, seconds = next(mark for mark in marks if mark[0] >= SPAN)
    before, moment = next(mark for mark in marks if mark[0] >= total - SPAN)
    return done / seconds, (total - before) / (end - moment)


def _prove(settings: Settings) -> Iterator[Figure]:
    """Prove random leaves: entry, audit path, and the check that it leads to the root; no tile is remembered."""
    store = DirectoryStore(settings.ledger)
    note = LedgerReader(store).checkpoint_note()
    opened = open_checkpoint(note, [settings.read_verifier()], origin=settings.origin, source="the ledger")
    size, root = opened.checkpoint.size, opened.checkpoint.root
    seconds: list[float] = []
    for _ in range(PROOFS):
        began = time.perf_counter()
        prove_leaf(LedgerReader(store), secrets.randbelow(size), size, root)
        seconds.append(time.perf_counter() - began)
    seconds.sort()
    yield Figure("prove.p50_ms", 1000 * seconds[PROOFS // 2], "ms")
    yield Figure("prove.p99_ms", 1000 * seconds[PROOFS * 99 // 100], "ms")
