"""What the benchmarks share: figures, servers, a table of twelve columns, a working deployment."""

import secrets
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg
from tests.clusters import Cluster, find_binaries, make_cluster

from pgseal.core.keys import format_signer_key, generate_signer
from pgseal.postgres import connect, install_schema
from pgseal.sealer.seal import Sealer
from pgseal.settings import Settings, load, write_new

# A server as a small production one is set up; durability is on, because sealing is measured with it.
SETTINGS: dict[str, str | int] = {
    "fsync": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "autovacuum": "off",
}

TABLE = """
CREATE TABLE {name} (id bigint PRIMARY KEY, name text, email text, phone text, city text, zip text,
    balance numeric(12,2), born date, created timestamptz, updated timestamp, active boolean, visits integer)
WITH (fillfactor = 50)
"""
ROWS = """
INSERT INTO {name} SELECT i, 'Name ' || i, 'user' || i || '@example.org', '+1-555-' || i, 'Springfield',
    lpad((i % 99999)::text, 5, '0'), i * 1.25, date '1970-01-01' + i % 10000, now(), localtimestamp, i % 2 = 0, i % 100
FROM generate_series(1, {rows}) AS i
"""
UPDATE = "UPDATE {name} SET balance = balance + 1, visits = visits + 1"


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    unit: str

    def to_json(self) -> dict[str, object]:
        """Return it as build/bench.json has it."""
        return asdict(self) | {"value": round(self.value, 4)}


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory for ledgers and keys, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="pgseal-bench-") as name:
        yield Path(name)


@contextmanager
def server(label: str) -> Iterator[Cluster]:
    """Start Debian's PostgreSQL, or the newest there is."""
    binaries = find_binaries()
    cluster = make_cluster(15 if 15 in binaries else max(binaries), settings=SETTINGS, label=label)
    with cluster:
        yield cluster


def make_table(connection: psycopg.Connection, name: str, rows: int) -> None:
    connection.execute(TABLE.format(name=name))
    connection.execute(ROWS.format(name=name, rows=rows))


@contextmanager
def deployment(cluster: Cluster, directory: Path, number: int = 0) -> Iterator[tuple[Settings, str]]:
    """Install source, vault, ledger and key below ``directory``; yield the settings and the source's connection string.

    Everything stays until the server and the directory go: file systems find new inodes slowly for minutes after many
    files were deleted, which would be measured too.
    """
    source, vault = cluster.create_database(f"source{number}"), cluster.create_database(f"vault{number}")
    home = directory / str(number)
    home.mkdir()
    for dsn, side in ((source, "source"), (vault, "vault")):
        with closing(connect(dsn, side=side)) as connection:
            install_schema(connection, "audit", "pgseal.trail", side=side)
            if side == "vault":
                install_schema(connection, "vault", "pgseal.vault", side=side)
    signer = generate_signer("bench.example", secrets.token_bytes(32))
    (home / "pgseal.key").write_text(format_signer_key(signer))
    (home / "pgseal.key").chmod(0o600)
    write_new(
        home / "pgseal.toml",
        origin="bench.example",
        ledger="ledger",
        key="file:pgseal.key",
        state=".pgseal",
        vault_dsn=vault,
        sources=[("source", source)],
    )
    settings = load(home / "pgseal.toml", {})
    Sealer.open(settings).close()
    yield settings, source
