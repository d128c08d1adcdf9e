"""How fast records are sealed and verified, how late a commit is in a checkpoint, and in how much memory."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psycopg
from tests.witnesses import configure, running_witnesses

from benchmarks.common import UPDATE, Figure, deployment, make_table, median, server, workplace
from benchmarks.machine import hash_limit
from pgseal.core.leaf import ACTOR_PREFIX, DATA_PREFIX
from pgseal.core.merkle import HASH_BYTES
from pgseal.core.record import SALT_BYTES
from pgseal.settings import Settings
from pgseal.trail.capture import TableRule
from pgseal.trail.track import track

WAITING = 200_000
LARGE = 1_000_000
ROWS = 100_000
RATE = 2_000
LATENCY_SECONDS = 30
STEP_SECONDS = 0.01

# Each measured step runs in a process of its own, so that its memory is its own.
SEAL = """
import json, resource, sys, time
from contextlib import closing
from pathlib import Path
from pgseal.sealer.seal import Sealer
from pgseal.settings import load
marks = []
with closing(Sealer.open(load(Path(sys.argv[1]), {}))) as sealer:
    began = time.perf_counter()
    sealed = sealer.seal_once(lambda done: marks.append([done, time.perf_counter() - began])).sealed
    seconds = time.perf_counter() - began
rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"records": sealed, "seconds": seconds, "rss": rss, "marks": marks}))
"""
VERIFY = """
import json, resource, sys, time
from pathlib import Path
from pgseal.ledger.store import DirectoryStore
from pgseal.settings import load
from pgseal.vault.source import VaultRows
from pgseal.verifier import VAULT_COLUMNS, FileKeptCheckpoint, Verifier
def main():
    settings = load(Path(sys.argv[1]), {})
    began = time.perf_counter()
    vault = VaultRows(settings.vault.dsn.reveal(), VAULT_COLUMNS)
    kept = FileKeptCheckpoint(settings.state)
    verifier = Verifier(settings.origin, settings.read_verifier(), DirectoryStore(settings.ledger), kept)
    verifier.check_checkpoint()
    verifier.check_leaves(vault)
    report = verifier.finish()
    assert report.ok, report
    usage = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = time.perf_counter() - began
    print(json.dumps({"records": report.checked["vault"], "seconds": seconds, "rss": max(usage)}))
if __name__ == "__main__":
    main()
"""


def run_seal_and_verify(arguments: Namespace) -> Iterator[Figure]:
    rates, ratios, small, large = [], [], [], []
    with server("seal") as cluster, workplace() as directory:
        for number in range(arguments.rounds):
            with deployment(cluster, directory, number) as (settings, source):
                prepare(source)
                small.append(measure(settings, SEAL)["rss"])
                verify_small = measure(settings, VERIFY)["rss"]
                capture_rate = _capture(source, WAITING)
                measured = measure(settings, SEAL)
                rates.append(measured["records"] / measured["seconds"])
                ratios.append(rates[-1] / capture_rate)
                large.append(measured["rss"])
        # The last of them goes on to a million records: starting the verifier's processes must not be what is measured.
        _capture(source, LARGE - WAITING)
        huge = measure(settings, SEAL)["rss"]
        verified = [measure(settings, VERIFY) for _ in range(arguments.rounds)]
        limit = hash_limit() / hashed_bytes(settings)
    yield Figure("seal.records_per_second", median(rates), "1/s")
    yield Figure("seal.vs_bulk_capture", median(ratios), "ratio")
    yield Figure("seal.peak_memory", max(large) / 1024, "MiB")
    yield Figure("seal.memory_growth_25k_to_200k", median(large) / median(small), "ratio")
    yield Figure("seal.memory_growth_200k_to_800k", huge / median(large), "ratio")
    yield Figure("verify.records", verified[0]["records"], "records")
    rate = median([one["records"] / one["seconds"] for one in verified])
    yield Figure("verify.records_per_second", rate, "1/s")
    yield Figure("verify.vs_sha256_limit", rate / limit, "ratio")
    yield Figure("verify.peak_memory", max(one["rss"] for one in verified) / 1024, "MiB")
    yield Figure("verify.memory_growth_25k_to_1m", max(one["rss"] for one in verified) / verify_small, "ratio")


def prepare(source: str) -> None:
    """Make and track a table, and leave 25,000 records waiting."""
    with psycopg.connect(source, autocommit=True) as connection:
        make_table(connection, "sealed", ROWS)
        track(source, "public", "sealed", TableRule(), side="source", baseline=False)
        connection.execute("UPDATE sealed SET visits = 0 WHERE id <= 25000")


def _capture(source: str, records: int) -> float:
    """Change rows in bulk until so many records wait; return how many a second."""
    seconds = 0.0
    with psycopg.connect(source, autocommit=True) as connection:
        for _ in range(records // ROWS):
            connection.execute("VACUUM sealed")
            began = time.perf_counter()
            connection.execute(UPDATE.format(name="sealed"))
            seconds += time.perf_counter() - began
        connection.execute("CHECKPOINT")
    return records / seconds


def measure(settings: Settings, program: str) -> dict[str, Any]:
    """Run a program with the settings' path; return what it prints."""
    script = settings.path.with_name("measured.py")
    script.write_text(program)
    done = subprocess.run([sys.executable, script, settings.path], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def hashed_bytes(settings: Settings) -> float:
    """Return how many bytes are hashed for a record: two commitments, the leaf, and an inner node."""
    with psycopg.connect(settings.vault.dsn.reveal()) as vault:
        query = "SELECT avg(octet_length(actor) + octet_length(data))::float8, count(*) FROM vault.record"
        parts, records = vault.execute(query).fetchone() or (0.0, 1)
    salted = parts + len(ACTOR_PREFIX) + len(DATA_PREFIX) + 2 * SALT_BYTES
    return salted + ledger_bytes(settings, "entries") / records + 2 * HASH_BYTES


def ledger_bytes(settings: Settings, *below: str) -> int:
    """Return how many bytes the files below ``tile/…`` have."""
    directory = settings.ledger.joinpath("tile", *below)
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def run_latency(arguments: Namespace) -> Iterator[Figure]:
    del arguments
    with server("latency") as cluster, workplace() as directory, deployment(cluster, directory) as (settings, source):
        with psycopg.connect(source, autocommit=True) as connection:
            make_table(connection, "sealed", 10_000)
        track(source, "public", "sealed", TableRule(), side="source", baseline=False)
        yield from measure_latency(settings, source, directory, "seal.commit_to_checkpoint")


def measure_latency(settings: Settings, source: str, directory: Path, name: str) -> Iterator[Figure]:
    """Commit changes to the table ``sealed`` at a steady rate, with two witnesses: how late are they published?"""
    command = [Path(sys.executable).with_name("pgseal"), "--config", settings.path, "seal"]
    with running_witnesses(directory) as witnesses:
        configure(settings.path, witnesses, deadline=settings.witness_deadline)
        with (
            subprocess.Popen(command) as sealer,
            _Watch(settings.ledger / "checkpoint") as watch,
            _Watch(settings.ledger / "witnessed") as watch_witnessed,
        ):
            time.sleep(2)
            commits = _commit_at_rate(source)
            time.sleep(3)
            sealer.send_signal(signal.SIGINT)
    with psycopg.connect(settings.vault.dsn.reveal()) as vault:
        rows = vault.execute(
            "SELECT id, leaf_index FROM vault.record WHERE trail = 'source' AND id >= %s", [min(commits)]
        ).fetchall()
    delays = sorted(watch.first_time(index) - commits[number] for number, index in rows if number in commits)
    witnessed = sorted(watch_witnessed.first_time(index) - commits[number] for number, index in rows)
    yield Figure(f"{name}_witnesses", len(witnesses), "witnesses")
    yield Figure(f"{name}_rate", len(commits) / (max(commits.values()) - min(commits.values())), "1/s")
    yield Figure(f"{name}_p50_ms", 1000 * delays[len(delays) // 2], "ms")
    yield Figure(f"{name}_p99_ms", 1000 * delays[len(delays) * 99 // 100], "ms")
    yield Figure(f"{name}_max_ms", 1000 * delays[-1], "ms")
    yield Figure(
        f"{name.replace('checkpoint', 'witnessed')}_p99_ms", 1000 * witnessed[len(witnessed) * 99 // 100], "ms"
    )


def _commit_at_rate(source: str) -> dict[int, float]:
    """Commit RATE single-row transactions a second, or as many as go; return when each was acknowledged, by id."""
    commits: dict[int, float] = {}
    with psycopg.connect(source, autocommit=True) as connection:
        # The session's own newest id tells which record an update made: nobody else draws from the sequence.
        before = _last_id(connection)
        began = time.monotonic()
        total = RATE * LATENCY_SECONDS
        for number in range(total):
            passed = time.monotonic() - began
            if passed > LATENCY_SECONDS:  # a machine too slow for the rate: what it does reach is reported
                break
            if number / RATE - passed > STEP_SECONDS:
                time.sleep(number / RATE - passed)
            connection.execute("UPDATE sealed SET visits = visits + 1 WHERE id = %s", [number % 10_000 + 1])
            commits[before + number + 1] = time.monotonic()
    return commits


def _last_id(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT last_value FROM audit.record_id_seq").fetchone()
    return int(row[0]) if row else 0


class _Watch(contextlib.AbstractContextManager["_Watch"]):
    """Notes when each size of a checkpoint in the ledger was first seen."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: list[tuple[int, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(STEP_SECONDS):
            size = int(self._path.read_text().split("\n")[1]) if self._path.exists() else 0
            if not self._seen or size > self._seen[-1][0]:
                self._seen.append((size, time.monotonic()))

    def first_time(self, leaf_index: int) -> float:
        return next(moment for size, moment in self._seen if size > leaf_index)
