"""How long it takes to make and to verify a pack of 100,000 records, in how much memory, and how large it is."""

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg

from benchmarks.common import UPDATE, Figure, deployment, make_table, median, server, workplace
from pgseal.sealer.seal import Sealer
from pgseal.settings import Settings
from pgseal.trail.capture import TableRule
from pgseal.trail.track import track

RECORDS = 100_000
SMALL = 10_000

# Started anew for each round, as people do, with the start of the command in the time.
PROGRAM = """
import json, sys, time
began = time.perf_counter()
from pgseal.cli.app import run
code = run(sys.argv[1:])
seconds, cpu = time.perf_counter() - began, time.process_time()
rss = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"seconds": seconds, "cpu": cpu, "rss": rss, "code": code}), file=sys.stderr)
"""


def run(arguments: Namespace) -> Iterator[Figure]:
    with server("pack") as cluster, workplace() as directory, deployment(cluster, directory) as (settings, source):
        with psycopg.connect(source, autocommit=True) as connection:
            make_table(connection, "packed", RECORDS)
            track(source, "public", "packed", TableRule(), side="source", baseline=False)
            connection.execute(UPDATE.format(name="packed"))
        with closing(Sealer.open(settings)) as sealer:
            sealer.seal_once()
        pack = settings.path.with_name("pack.zip")
        key = str(settings.read_verifier())
        make = ("pack", "--end", str(RECORDS), "-o", str(pack), "--force")
        made = [_measure(settings, *make) for _ in range(arguments.rounds)]
        verified = [_measure(settings, "verify", str(pack), "--vkey", key) for _ in range(arguments.rounds)]
        size = pack.stat().st_size
        small = _measure(settings, "pack", "--end", str(SMALL), "-o", str(pack), "--force")
        small_verified = _measure(settings, "verify", str(pack), "--vkey", key)
    yield Figure("pack.seconds_100k", median([one["seconds"] for one in made]), "s")
    yield Figure("pack.cpu_seconds_100k", median([one["cpu"] for one in made]), "s")
    yield Figure("pack.peak_memory", max(one["rss"] for one in made) / 1024, "MiB")
    yield Figure("pack.memory_growth_10k_to_100k", max(one["rss"] for one in made) / small["rss"], "ratio")
    yield Figure("pack.bytes_per_record", size / RECORDS, "bytes")
    yield Figure("pack.verify_seconds_100k", median([one["seconds"] for one in verified]), "s")
    yield Figure("pack.verify_peak_memory", max(one["rss"] for one in verified) / 1024, "MiB")
    growth = max(one["rss"] for one in verified) / small_verified["rss"]
    yield Figure("pack.verify_memory_growth_10k_to_100k", growth, "ratio")


def _measure(settings: Settings, *arguments: str) -> dict[str, float]:
    script = Path(settings.path.with_name("measured.py"))
    script.write_text(PROGRAM)
    command = [sys.executable, script, "--config", settings.path, *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured = json.loads(done.stderr)
    if measured["code"]:
        raise RuntimeError(done.stdout)
    return measured
