"""What stands between those who could change source, vault and ledger together: nothing, where they are one's.

Much of it is so in every trial, and in many small installations on purpose: warnings, never errors. What only a
mistake explains (a key that others read) is an error.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pgseal.errors import PgsealError
from pgseal.postgres import Connection, read_identity
from pgseal.sealer.access import (
    Account,
    find_others,
    find_server_account,
    find_writable,
    has_acl,
    is_own_address,
    is_readable,
)
from pgseal.sealer.advice import Advice
from pgseal.settings import Secret, Settings
from pgseal.signing import is_token_uri, split_ring
from pgseal.signing.uri import parse_token_uri

_BOOTSTRAP_OID = 10


def compare_sides(source: Connection, vault: Connection, subject: str) -> Iterator[Advice]:
    """Say what a source shares with the vault: the server, or else the machine, superusers; credentials."""
    if read_identity(source).system_identifier == read_identity(vault).system_identifier:
        yield Advice(
            "warning",
            subject,
            "is on the same server as the vault",
            "whoever administers it can change both sides at once; only the signed ledger is left to tell",
            "move the vault to a server with other administrators",
        )
    else:
        if (place := _locate(source)) == _locate(vault):
            yield Advice(
                "warning",
                subject,
                f"is on the same machine as the vault ({'this one' if place == '' else place})",
                "whoever is root there can change both sides at once; only the signed ledger is left to tell",
                "move the vault to a machine with other administrators",
            )
        if shared := sorted(_read_superusers(source) & _read_superusers(vault)):
            yield Advice(
                "warning",
                subject,
                f"has superusers of the same name as the vault: {', '.join(shared)}",
                "if they are the same people, they can change both sides at once; only the signed ledger is left to "
                "tell",
                "give the vault other administrators: on its server, as one of them: "
                + " ".join(f"ALTER ROLE {name} NOSUPERUSER;" for name in shared),
            )
    if _credentials(source) == _credentials(vault):
        what = "user and password" if source.info.password else f"user {source.info.user}, without a password,"
        yield Advice(
            "warning",
            subject,
            f"is logged in to as the vault is: the same {what} for both",
            "whoever gets hold of the one has the other, too",
            "give the two sides logins of their own: docs/how-to/use-least-privilege-roles.md",
        )


def _locate(connection: Connection) -> str:
    """Return what tells a server's machine from others; empty for this machine."""
    if connection.info.host.startswith("/"):
        return ""
    address = connection.info.hostaddr
    return "" if is_own_address(address) else address


def _credentials(connection: Connection) -> tuple[str, str]:
    # Both are ours: nobody learns anything from how long comparing them takes.
    return connection.info.user, connection.info.password


def _read_superusers(connection: Connection) -> set[str]:
    """Return the superusers that can log in, without the one that every server begins with."""
    rows = connection.execute(
        "SELECT quote_ident(rolname) FROM pg_roles WHERE rolsuper AND rolcanlogin AND oid <> %s", [_BOOTSTRAP_OID]
    ).fetchall()
    return {row[0] for row in rows}


def examine_machine(connection: Connection, subject: str, settings: Settings) -> Iterator[Advice]:
    """Say what it means that a server runs on the machine that ledger, key and state are on."""
    if _locate(connection):
        return
    yield Advice(
        "warning",
        subject,
        "is on this machine, where ledger, key and state are",
        "whoever is root here can change it together with what is to prove that nobody did",
        "seal from another machine, or have witnesses elsewhere: docs/how-to/run-a-witness.md",
    )
    account = find_server_account(connection.pgconn.socket, connection.info.backend_pid)
    if account is None:
        return
    for name, path in (("ledger", settings.ledger), ("state", settings.state), ("configuration", settings.path)):
        yield from _examine_writable(name, path, account, subject)
    for name, path in _secret_files(settings):
        if path.exists() and is_readable(path, account):
            yield Advice(
                "warning",
                name,
                f"{path} can be read by {account.name}, as whom the server of {subject} runs",
                "a superuser of that database can read it from SQL"
                + (", and sign with it" if name == "key" else ", and log in with it"),
                f"run pgseal as a user of its own, and: chmod 600 {path}",
            )


def _examine_writable(name: str, path: Path, account: Account, subject: str) -> Iterator[Advice]:
    # The files that change in place of others, too, not only the directory they are in.
    inside = [path / part for part in ("checkpoint", "tile", "published", "feeds") if (path / part).exists()]
    for one in (path, *inside) if path.exists() else ():
        if (by := find_writable(one, account)) is not None:
            yield Advice(
                "warning",
                name,
                f"{path} can be changed by {account.name}, as whom the server of {subject} runs (through {by})",
                "a superuser of that database can change files from SQL: those that are to prove what it did, too",
                f"run pgseal as a user of its own, own {by} as that user or root, and: chmod go-w {by}",
            )
            return


def examine_files(settings: Settings) -> Iterator[Advice]:
    """Say who besides their owner can read keys and passwords, or change what pgseal relies on."""
    for name, path in _secret_files(settings):
        if path.exists() and (others := find_others(path, "read")):
            is_key = name == "key"
            yield Advice(
                "error" if is_key else "warning",
                name,
                f"{path} can be read by {', '.join(others)}",
                "whoever has the key, or its PIN, can sign a history of their own; pgseal key rotate if somebody has"
                if is_key
                else "it holds a password",
                f"{_mend_acl(path)}chmod 600 {path}",
            )
    places = (("ledger", settings.ledger), ("state", settings.state), ("configuration", settings.path))
    for name, path in (*places, *_secret_files(settings)):
        if path.exists() and (others := find_others(path, "write")):
            yield Advice(
                "warning",
                name,
                f"{path} can be changed by {', '.join(others)}",
                "it is what pgseal relies on: who can change it can stop sealing, or have something else sealed",
                f"{_mend_acl(path)}chmod go-w {path}",
            )


def _secret_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Yield the files with the key, and with passwords."""
    if settings.key.path is not None and _is_private(settings.key):
        yield "key", settings.key.path
    yield from (("key", path) for path in _pin_files(settings.key))
    dsns: list[tuple[str, Secret]] = [("vault", settings.vault.dsn)]
    for source in settings.sources:
        dsns += [(f"source {source.name}", source.dsn), (f"source {source.name}", source.admin_dsn)]
    seen: set[Path] = set()
    for name, dsn in dsns:
        path = dsn.path
        if path is None and _holds_password(settings.path, dsn):
            name, path = "configuration", settings.path  # noqa: PLW2901
        if path is not None and path not in seen:
            seen.add(path)
            yield name, path


def _mend_acl(path: Path) -> str:
    return f"setfacl -b {path} && " if has_acl(path) else ""


def _is_private(key: Secret) -> bool:
    """Tell the signing key from the verifier's, which is there for everybody to read."""
    try:
        return key.reveal().lstrip().startswith(("PRIVATE+", "pkcs11:"))
    except PgsealError:
        return True


def _pin_files(key: Secret) -> Iterator[Path]:
    """Yield the files with the PINs of tokens."""
    with suppress(PgsealError):
        for line in split_ring(key.reveal(), source=key.where):
            if is_token_uri(line):
                pin = parse_token_uri(line, source=key.where).pin_source or ""
                if pin.startswith("file:"):
                    yield key.base / pin.removeprefix("file:")


def _holds_password(path: Path, dsn: Secret) -> bool:
    """Return whether the configuration itself says ``dsn``, with a password in it."""
    from psycopg import conninfo  # noqa: PLC0415

    try:
        return bool(conninfo.conninfo_to_dict(dsn.reveal()).get("password")) and dsn.reference in path.read_text(
            "utf-8"
        )
    except (PgsealError, OSError):
        return False
