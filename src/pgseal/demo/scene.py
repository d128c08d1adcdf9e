"""Where attacks happen, and what counts as caught: only what a real command really reported."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

from psycopg import sql

from pgseal.demo.commands import Pgseal
from pgseal.demo.servers import Server, Servers
from pgseal.demo.workload import DATABASE
from pgseal.errors import PgsealError
from pgseal.postgres import Connection
from pgseal.settings import Settings

VAULT_DATABASE = "vault"


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was reported, and about what."""

    kind: str
    what: str


@dataclass(frozen=True, slots=True)
class Attack:
    """One row of the red-team table: ``run`` stages it, looks, and undoes it; None is returned if it went unseen."""

    number: int
    attacker: str
    title: str
    run: "Callable[[Scene], Sighting | None]"


@dataclass(frozen=True, slots=True)
class Place:
    """One sealed record: its trail's id and its leaf."""

    id: int
    index: int


@dataclass(slots=True)
class Scene:
    """The running demo after the morning's work.

    ``crime`` is the record of what the administrator did, ``visit`` that of the doctor before; ``old_checkpoint`` was
    published before the morning.
    """

    pgseal: Pgseal
    servers: Servers
    settings: Settings
    crime: Place
    visit: Place
    old_checkpoint: bytes

    @property
    def ledger(self) -> Path:
        """The ledger's directory."""
        return self.settings.ledger

    def source(self, user: str = "postgres") -> Connection:
        """Connect to the source; close it."""
        return self.servers.source.connect(DATABASE, user, application="psql")

    def vault(self) -> Connection:
        """Connect to the vault; close it."""
        return self.servers.vault.connect(VAULT_DATABASE, application="psql")

    def verify(self) -> list[dict[str, Any]]:
        """Return the findings of ``pgseal verify``; raises ``PgsealError`` if it could not check."""
        outcome = self.pgseal.run(["verify", "--json"])
        if outcome.code not in {0, 1}:
            raise PgsealError(f"pgseal verify could not check in the demo: {outcome.errors.strip()}")
        findings: list[dict[str, Any]] = outcome.document["findings"]
        # An exit code that does not fit what is printed is as good as nothing found.
        return findings if outcome.code == bool(findings) else []

    def find_records(self, kind: str, where: str, ids: Sequence[int]) -> Sighting | None:
        """Verify: caught if exactly these records are named, and nothing else is accused."""
        found = [(one["kind"], one["where"], one["trail"], one["id"]) for one in self.verify()]
        if sorted(found) != sorted((kind, where, DATABASE, id_) for id_ in ids):
            return None
        return Sighting(kind, f"{where}, record{'s' if len(ids) > 1 else ''} {_list(ids)}")

    def find_checkpoint(self, kind: str) -> Sighting | None:
        """Verify: caught if the checkpoint is found to be wrong in this way."""
        found = [one for one in self.verify() if one["kind"] == kind and one["where"] == "checkpoint"]
        return Sighting(kind, "checkpoint of the ledger") if found else None

    def refuses_to_seal(self, kind: str, where: str) -> Sighting | None:
        """Try to seal: caught if the sealer names this and the ledger's checkpoint has not moved."""
        checkpoint = self.ledger / "checkpoint"
        before = checkpoint.read_bytes()
        tampering = self.pgseal.run(["seal", "--once", "--json"]).tampering
        if tampering is None or tampering[:2] != (kind, where) or checkpoint.read_bytes() != before:
            return None
        return Sighting(kind, f"{where}; nothing was sealed")


@contextmanager
def restored_rows(
    connection: Connection, table: LiteralString, column: LiteralString, values: Sequence[int]
) -> Generator[None]:
    """Put the rows of ``table`` with these values of ``column`` back at the end, exactly as they were."""
    names = {"table": sql.SQL(table), "column": sql.SQL(column), "values": sql.Literal(list(values))}
    connection.execute(
        sql.SQL("CREATE TEMP TABLE saved AS SELECT * FROM {table} WHERE {column} = ANY({values})").format(**names)
    )
    try:
        yield
    finally:
        with connection.transaction():
            connection.execute(sql.SQL("DELETE FROM {table} WHERE {column} = ANY({values})").format(**names))
            connection.execute(sql.SQL("INSERT INTO {table} SELECT * FROM saved").format(**names))
            connection.execute("DROP TABLE saved")


@contextmanager
def restored_file(path: Path) -> Generator[bytes]:
    """Yield a file's content and put it back at the end."""
    content = path.read_bytes()
    try:
        yield content
    finally:
        path.write_bytes(content)


@contextmanager
def from_backup(server: Server) -> Generator[None]:
    """Run ``server`` from its old backup for a while."""
    server.stop()
    try:
        server.restore()
        server.start()
        yield
    finally:
        server.stop(immediately=True)
        server.undo_restore()
        server.start()


@contextmanager
def edited(connection: Connection, table: LiteralString, column: LiteralString, *values: int) -> Generator[Connection]:
    """Yield ``connection`` to change these rows with; they are put back and it is closed at the end."""
    with closing(connection), restored_rows(connection, table, column, values):
        yield connection


def _list(ids: Sequence[int]) -> str:
    ordered = sorted(ids)
    if len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1)):  # noqa: PLR2004
        return f"{ordered[0]}-{ordered[-1]}"
    return ", ".join(map(str, ordered))
