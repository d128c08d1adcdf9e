"""The trails a configuration names: the vault's own and one for each source; open, or lost for a while."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pgseal.errors import AlteredRecordError, ConfigError, UnavailableError
from pgseal.postgres import SEALER, Connection, ServerIdentity, connect, read_version, translated_errors
from pgseal.sealer.encode import ChunkEncoder
from pgseal.settings import Settings
from pgseal.trail.feed import FeedState, Floor, PollFeed
from pgseal.vault.store import FeedRow, VaultStore

VAULT_TRAIL = "vault"
SEALER_ROLE = SEALER
_MAX_PAUSE_SECONDS = 30.0
_FLOOR = len(Floor._fields)


class TrailLostError(UnavailableError):
    """A source cannot be read now; the other trails go on."""


@dataclass(frozen=True, slots=True)
class TrailAddress:
    """Where a trail is: its name, how to connect, and what to call its server in messages."""

    name: str
    dsn: str = field(repr=False)
    side: str

    def connect(self) -> Connection:
        """Connect as pgseal_sealer; raises ``ConfigError`` or ``UnavailableError``."""
        connection = connect(self.dsn, side=self.side, role=SEALER_ROLE)
        try:
            with translated_errors(self.side, role=SEALER_ROLE):
                version = read_version(connection, "audit", side=self.side)
            if version == 0:
                raise ConfigError(f"{self.side}: no trail is installed; run pgseal init")  # noqa: TRY301
        except BaseException:
            connection.close()
            raise
        return connection


@dataclass(slots=True)
class OpenTrail:
    """A connected trail; ``state`` says how far it is kept in the vault."""

    address: TrailAddress
    connection: Connection = field(repr=False)
    feed: PollFeed
    state: FeedState
    encoder: ChunkEncoder

    @property
    def name(self) -> str:
        """The trail's name in envelopes."""
        return self.address.name


@dataclass(slots=True)
class LostTrail:
    """A source that could not be read the last time, tried again after pauses that grow."""

    address: TrailAddress
    error: UnavailableError
    pause_seconds: float = 1.0
    retry_at: float = field(default_factory=lambda: time.monotonic() + 1.0)

    def fail(self, error: UnavailableError) -> None:
        """Note another attempt in vain."""
        self.error = error
        self.pause_seconds = min(2 * self.pause_seconds, _MAX_PAUSE_SECONDS)
        self.retry_at = time.monotonic() + self.pause_seconds


@contextmanager
def losing(trail: OpenTrail) -> Generator[None, None, None]:
    """Tell a source that cannot be read now from everything else that cannot: raises ``TrailLostError``."""
    try:
        yield
    except UnavailableError as error:
        if trail.name == VAULT_TRAIL:
            raise
        raise TrailLostError(str(error)) from error


def open_trail(address: TrailAddress, vault: VaultStore) -> OpenTrail:
    """Connect a trail, check that it is the server that was sealed from, and make its partitions.

    Raises ``UnavailableError``, ``ConfigError``, or ``RollbackError``.
    """
    connection = address.connect()
    try:
        feed = PollFeed(connection, side=address.side)
        state = read_state(vault, address.name)
        feed.check_restart(state)
        feed.maintain()
    except BaseException:
        connection.close()
        raise
    return OpenTrail(address, connection, feed, state, ChunkEncoder(address.name, state.incarnation))


def trail_addresses(settings: Settings) -> list[TrailAddress]:
    """Return the trails in sealing order: the sources as configured, then the vault's own."""
    sources = [TrailAddress(source.name, source.dsn.reveal(), f"source {source.name!r}") for source in settings.sources]
    return [*sources, TrailAddress(VAULT_TRAIL, settings.vault.dsn.reveal(), "vault")]


def read_state(vault: VaultStore, trail: str) -> FeedState:
    """Read how far a trail is sealed; from the beginning, where it never was."""
    row = vault.read_feed(trail)
    return to_state(row) if row else FeedState(trail)


def to_state(row: FeedRow) -> FeedState:
    """Read how far a trail is sealed from its row in the vault; raises ``AlteredRecordError`` if it was damaged."""
    identity = None
    if row.system_identifier is not None and row.timeline is not None:
        identity = ServerIdentity(row.system_identifier, row.timeline)
    flat = list(row.floors)
    is_whole = (
        len(flat) % _FLOOR == 0
        and all(type(number) is int and number >= 0 for number in flat)
        and (row.pending is not None or (row.position == row.pending_last_id == row.pending_time == 0))
    )
    if not is_whole:
        raise AlteredRecordError(
            f"the vault's note of how far trail {row.trail!r} is sealed was damaged: vault.feed has floors {flat} and "
            f"position {row.position}, which no sealer wrote; restore it",
            where="vault",
            trail=row.trail,
        )
    return FeedState(
        row.trail, row.incarnation, row.snapshot, row.pending, row.position,
        tuple(map(Floor, flat[::_FLOOR], flat[1::_FLOOR], flat[2::_FLOOR])), row.pending_last_id, row.pending_time,
        identity, row.flush_lsn, row.base_id,
    )  # fmt: skip


def to_row(state: FeedState) -> FeedRow:
    """Write how far a trail is sealed as its row in the vault."""
    identity = state.identity
    return FeedRow(
        state.trail, state.incarnation, state.snapshot, state.pending, state.position,
        [number for floor in state.floors for number in floor], state.pending_last_id, state.pending_time,
        identity.system_identifier if identity else None, identity.timeline if identity else None, state.flush_lsn,
        state.base_id,
    )  # fmt: skip
