"""The trails a configuration names, connected: the vault's own and one for each source."""

from dataclasses import dataclass

from pgseal.errors import ConfigError
from pgseal.postgres import Connection, connect, read_version
from pgseal.settings import Settings

VAULT_TRAIL = "vault"
SEALER_ROLE = "pgseal_sealer"


@dataclass(frozen=True, slots=True)
class TrailAddress:
    """Where a trail is: its name, how to connect, and what to call its server in messages."""

    name: str
    dsn: str
    side: str

    def connect(self) -> Connection:
        """Connect as pgseal_sealer; raises ``ConfigError`` or ``UnavailableError``."""
        connection = connect(self.dsn, side=self.side, role=SEALER_ROLE)
        if read_version(connection, "audit", side=self.side) == 0:
            connection.close()
            raise ConfigError(f"{self.side}: no trail is installed; run pgseal init")
        return connection


def trail_addresses(settings: Settings) -> list[TrailAddress]:
    """Return the trails in sealing order: the sources as configured, then the vault's own."""
    sources = [TrailAddress(source.name, source.dsn.reveal(), f"source {source.name!r}") for source in settings.sources]
    return [*sources, TrailAddress(VAULT_TRAIL, settings.vault.dsn.reveal(), "vault")]
