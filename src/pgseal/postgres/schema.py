"""Puts a schema of pgseal's into a database and brings it to the newest version.

Migrations are the numbered ``.sql`` files of a package's ``sql`` folder. Idempotent; one transaction a call.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import LiteralString, cast

import psycopg
from psycopg import sql

from pgseal.errors import ConfigError
from pgseal.postgres.connection import Connection, check_server, quote_name, translated_errors

OWNER, SEALER, READER = "pgseal_owner", "pgseal_sealer", "pgseal_reader"
_ROLES = {OWNER: sql.SQL("NOLOGIN"), SEALER: sql.SQL("LOGIN"), READER: sql.SQL("NOLOGIN")}
_ROLES_LOCK = "pgseal install"
_SET_OPTION_VERSION = 160000


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step of a schema; ``statements`` is trusted SQL from this package."""

    version: int
    statements: LiteralString


@dataclass(frozen=True, slots=True)
class InstalledSchema:
    """What an installation found and left behind."""

    version: int
    created: bool


def load_migrations(package: str) -> Sequence[Migration]:
    """Read the numbered ``.sql`` files of ``package``'s ``sql`` folder in order.

    This is the one place where text from a file is trusted as SQL.
    """
    folder = resources.files(package) / "sql"
    files = sorted((item.name, item) for item in folder.iterdir() if item.name.endswith(".sql"))
    return [
        Migration(int(name.split("_", 1)[0]), cast("LiteralString", item.read_text("utf-8"))) for name, item in files
    ]


def install_schema(connection: Connection, schema: LiteralString, package: str, *, side: str) -> InstalledSchema:
    """Install or migrate a schema of pgseal's.

    Args:
        connection: autocommit connection of a superuser, or of a role with CREATEROLE and CREATE on the database.
        schema: ``audit`` or ``vault``.
        package: whose ``sql`` folder has the migrations.
        side: words for errors.

    Raises:
        ConfigError: a missing privilege, a foreign schema of that name, or a schema newer than this pgseal.
        UnavailableError: the connection broke; nothing was changed.
    """
    check_server(connection, side=side)
    migrations = load_migrations(package)
    newest = migrations[-1].version
    with translated_errors(side), connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [_ROLES_LOCK])
        _ensure_roles(connection, side)
        version = read_version(connection, schema, side=side)
        if version > newest:
            raise ConfigError(
                f"{side}: schema {schema} has version {version}, this pgseal knows {newest}; upgrade pgseal",
            )
        _check_may_create(connection, side, needed=version == 0)
        for migration in migrations:
            if migration.version > version:
                connection.execute(migration.statements)
                connection.execute(
                    sql.SQL("INSERT INTO {} (version) VALUES ({})").format(
                        sql.Identifier(schema, "migration"),
                        sql.Literal(migration.version),
                    ),
                )
    return InstalledSchema(newest, created=version == 0)


def read_version(connection: Connection, schema: LiteralString, *, side: str) -> int:
    """Read the installed version of a schema; 0 where it is not installed.

    Raises:
        ConfigError: a schema of that name exists that is not pgseal's.
    """
    row = connection.execute(
        "SELECT pg_get_userbyid(nspowner), to_regclass(%s) IS NOT NULL FROM pg_namespace WHERE nspname = %s",
        [f"{schema}.migration", schema],
    ).fetchone()
    if row is None:
        return 0
    if row != (OWNER, True):
        raise ConfigError(
            f"{side}: a schema {schema!r} that is not pgseal's exists already; rename it or use another database"
        )
    version = connection.execute(
        sql.SQL("SELECT max(version) FROM {}").format(sql.Identifier(schema, "migration")),
    ).fetchone()
    return version[0] if version and version[0] else 0


def _ensure_roles(connection: Connection, side: str) -> None:
    for role, attributes in _ROLES.items():
        exists = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).fetchone() is not None
        if not exists:
            try:
                connection.execute(sql.SQL("CREATE ROLE {} {}").format(sql.Identifier(role), attributes))
            except psycopg.errors.InsufficientPrivilege as error:
                user = connection.info.user
                raise ConfigError(
                    f"{side}: {user!r} may not create role {role}; as a superuser: "
                    f"ALTER ROLE {quote_name(user)} CREATEROLE",
                ) from error
    for role in (OWNER, SEALER):
        # Since 16 a role is not by itself allowed to act as the roles it has made.
        modes = ["USAGE", "SET"] if connection.info.server_version >= _SET_OPTION_VERSION else ["USAGE"]
        may = connection.execute(
            "SELECT bool_and(pg_has_role(session_user, %s, mode)) FROM unnest(%s::text[]) AS mode", [role, modes]
        ).fetchone()
        if may != (True,):
            _grant_membership(connection, role, side)
    _grant_statistics(connection)


def _grant_membership(connection: Connection, role: str, side: str) -> None:
    # Schemas and functions are created in the owner's name, and sealing acts as pgseal_sealer.
    user = connection.info.user
    try:
        with connection.transaction():
            connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(user)))
    except psycopg.errors.InsufficientPrivilege as error:
        way_out = (
            "run it with PGSEAL_VAULT_DSN set to an administrator's login"
            if side == "vault"
            else "set admin_dsn to an administrator's login"
        )
        if user not in _ROLES:  # ours keep the rights they have
            way_out += f", or as a superuser: GRANT {role} TO {quote_name(user)}"
        raise ConfigError(f"{side}: {user!r} is not a member of {role}: {way_out}") from error


def _grant_statistics(connection: Connection) -> None:
    """Let the owner see when a backend began; where that is not ours to grant, records do without."""
    may = connection.execute("SELECT pg_has_role(%s, 'pg_read_all_stats', 'USAGE')", [OWNER]).fetchone()
    if may != (True,):
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege), connection.transaction():
            connection.execute(sql.SQL("GRANT pg_read_all_stats TO {}").format(sql.Identifier(OWNER)))


def _check_may_create(connection: Connection, side: str, *, needed: bool) -> None:
    if not needed:
        return
    may = connection.execute("SELECT has_database_privilege(current_database(), 'CREATE')").fetchone()
    if may != (True,):
        user, database = connection.info.user, connection.info.dbname
        raise ConfigError(
            f"{side}: {user!r} may not create a schema in {database!r}; "
            f"as its owner: GRANT CREATE ON DATABASE {quote_name(database)} TO {quote_name(user)}",
        )
