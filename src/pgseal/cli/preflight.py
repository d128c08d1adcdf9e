"""What ``pgseal init`` looks at before it changes anything: databases, ledger and memory that belong to something else.

Refused means ``ConfigError``: a wrong choice, and nothing was written. Damage to a log that is configured already is
somebody else's to report: with a configuration at hand, nothing here judges ledger, vault or state.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from pgseal.errors import ConfigError, FormatError, SignatureError, UnavailableError

if TYPE_CHECKING:
    from pgseal.core.checkpoint import Checkpoint
    from pgseal.core.keys import Signer
    from pgseal.postgres import Connection, ServerIdentity
    from pgseal.settings import Settings

    Place = tuple[ServerIdentity, int]


def check_apart(source: "Connection", vault: "Connection") -> str | None:
    """Refuse one database for both; return a warning if they share a server."""
    places = [_locate(source, "source"), _locate(vault, "vault")]
    if places[0][0] != places[1][0]:
        return None
    if places[0] == places[1]:
        raise ConfigError(
            f"source and vault are the same database ({source.info.dbname}): the vault must be another one, "
            "best on another server, out of reach of the source's administrators"
        )
    return "source and vault are on the same server: whoever administers it can change both; fine for a trial"


def check_new_source(source: "Connection", settings: "Settings") -> Iterator[str]:
    """Refuse a database that is a source of ``settings`` already; yields a warning for each that cannot be asked."""
    from pgseal.postgres import connect

    place = _locate(source, "source")
    for known in settings.sources:
        side = f"source {known.name!r}"
        try:
            with closing(connect(known.admin_dsn.reveal(), side=side)) as connection:
                is_same = _locate(connection, side) == place
        except (ConfigError, UnavailableError) as error:
            yield f"{side} could not be asked whether it is the same database ({error})"
            continue
        if is_same:
            raise ConfigError(
                f"--source: database {source.info.dbname!r} is source {known.name!r} already: a database has one "
                f"trail under one name; pgseal track --source {known.name} audits more of its tables"
            )


def _locate(connection: "Connection", side: str) -> "Place":
    """Return what tells a database from every other one: its server and its oid there."""
    from pgseal.postgres import read_identity, translated_errors

    with translated_errors(side):
        row = connection.execute("SELECT oid::bigint FROM pg_database WHERE datname = current_database()").fetchone()
        return read_identity(connection), row[0] if row else 0


def check_ledger(path: str, origin: str, *, is_configured: bool) -> "Checkpoint | None":
    """Return the checkpoint, not verified, of a directory that may be the ledger; raises as check_empty_or_ledger."""
    from pgseal.ledger.adopt import check_empty_or_ledger
    from pgseal.ledger.store import MissingObjectError

    try:
        return check_empty_or_ledger(path, origin)
    except (FormatError, MissingObjectError) as error:
        if is_configured:
            raise
        raise ConfigError(f"--ledger: {error}, or choose an empty directory") from error


def check_one_log(
    vault: "Connection", state: Path, signer: "Signer | None", published: "Checkpoint | None", origin: str
) -> None:
    """Refuse vault, state directory and ledger that are not all new, nor all of the log ``origin``.

    ``signer`` is the log's key, ``published`` the ledger's checkpoint; None where there is none yet.
    """
    from pgseal.core.checkpoint import open_checkpoint
    from pgseal.sealer.state import read_kept

    records = _count_records(vault)
    note = read_kept(state)
    if note is None:
        if published is not None:
            raise ConfigError(
                f"--ledger holds the log {origin!r} already, and the state directory {str(state)!r} no memory of it: "
                "give its own with --state DIR, or choose an empty ledger"
            )
        if records:
            raise ConfigError(
                f"--vault: {vault.info.dbname!r} holds {records:,} sealed records of a log that is not this one: "
                "choose an empty database, or give the --state, --key and --ledger of that log"
            )
        return
    if signer is None:
        raise ConfigError(
            f"the state directory {str(state)!r} is in use, and the key of the log it remembers is not there: "
            "give it with --key FILE, or choose another --state DIR"
        )
    try:
        size = open_checkpoint(note, [signer.verifier], origin=origin).checkpoint.size
    except (SignatureError, FormatError) as error:
        raise ConfigError(
            f"the state directory {str(state)!r} holds the memory of another log ({error}): choose another --state DIR"
        ) from error
    if records < size:
        raise ConfigError(
            f"--vault: {vault.info.dbname!r} holds {records:,} sealed records, the log {origin!r} has {size:,}: "
            "give its own vault"
        )


def _count_records(vault: "Connection") -> int:
    from pgseal.postgres import read_version, translated_errors
    from pgseal.vault.store import VaultStore

    with translated_errors("vault"):
        if read_version(vault, "vault", side="vault") == 0:
            return 0
    return VaultStore(vault).count()
