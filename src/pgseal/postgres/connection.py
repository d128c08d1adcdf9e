"""One way to open PostgreSQL connections and to tell its errors apart.

Every connection pins what changes output text, so that the same row always gives the same bytes, and says
who it is in ``application_name``. Database errors leave this module as pgseal's own: ``UnavailableError``
(worth trying again) or ``ConfigError`` (someone has to act); never as a finding.
"""

import re
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from select import select
from typing import Any, LiteralString

import psycopg
from psycopg import conninfo, pq, sql

from pgseal.errors import ConfigError, StorageError, UnavailableError
from pgseal.postgres.hints import explain_denied

MINIMUM_VERSION = 140000

# What changes the text of a value or a name (DESIGN.md, "Captured bytes do not depend on the session").
OUTPUT_SETTINGS: Mapping[str, str] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    "lc_monetary": "C",
    "quote_all_identifiers": "off",
}

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """Which server this is; changes when it is restored, failed over or re-created."""

    system_identifier: int
    timeline: int


_MISSING = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedObject,
    psycopg.errors.InvalidSchemaName,
)
_CHANGED = "what pgseal init installed there was dropped or changed: restore it from a backup"


@contextmanager
def translated_errors(side: str, *, role: str | None = None) -> Generator[None, None, None]:
    """Turn psycopg's errors into pgseal's.

    ``side`` is the words for what was being talked to; ``role`` the role acted as, None for the login itself.

    Raises:
        UnavailableError: the connection failed or broke, or the server is out of resources.
        ConfigError: a missing privilege or database, or a wrong login.
        StorageError: what pgseal has installed there is not as it was, or the server cannot read its own data.

    Violations of constraints come through as they are: whoever can cause one knows what it means.
    """
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        message = _first_line(error)
        raise ConfigError(f"{side}: {message}; {explain_denied(message, side=side, role=role)}") from error
    except (psycopg.errors.InvalidPassword, psycopg.errors.InvalidAuthorizationSpecification) as error:
        raise ConfigError(f"{side}: login refused: {_first_line(error)}; check user and password of the DSN") from error
    except psycopg.errors.InvalidCatalogName as error:
        raise ConfigError(f"{side}: {_first_line(error)}; create the database or correct the DSN") from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise UnavailableError(f"{side}: {_first_line(error)}") from error
    except _MISSING as error:
        raise StorageError(f"{side}: {_first_line(error)}; {_CHANGED}") from error
    except psycopg.IntegrityError:
        raise
    except psycopg.DatabaseError as error:
        raise StorageError(f"{side}: the server refuses: {_first_line(error)}") from error


def _first_line(error: psycopg.Error) -> str:
    text = error.diag.message_primary or str(error)
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__


def connect(dsn: str, *, side: str, role: LiteralString | None = None) -> Connection:
    """Open an autocommit connection with pinned output settings.

    Args:
        dsn: libpq connection string or URI.
        side: words for errors, e.g. ``source 'clinic'``.
        role: role to ``SET ROLE`` to; the login must be a member of it. Errors later on are to be translated with it.

    Raises:
        ConfigError: malformed DSN, refused login, missing database, role not granted, server older than 14.
        UnavailableError: the server cannot be reached.
    """
    try:
        conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise ConfigError(f"{side}: malformed DSN; expected postgresql://user@host/database") from error
    with translated_errors(side):
        try:
            connection = psycopg.connect(dsn, autocommit=True, fallback_application_name="pgseal", connect_timeout=10)
        except psycopg.OperationalError as error:
            raise _login_error(side, error) from error
    try:
        check_server(connection, side=side)
        with translated_errors(side):
            prepare_session(connection, role=role, side=side)
    except BaseException:
        connection.close()
        raise
    return connection


def _login_error(side: str, error: psycopg.OperationalError) -> ConfigError | UnavailableError:
    # libpq reports refused logins without an SQLSTATE; the server's words are in the message.
    text = " ".join(str(error).split())
    for words in ("password", "does not exist", "no pg_hba.conf entry", "authentication failed"):
        if words in text:
            return ConfigError(f"{side}: cannot log in ({_tail(text)}); check the DSN")
    return UnavailableError(f"cannot reach the {side} ({_tail(text)})")


def _tail(text: str) -> str:
    return text.split("FATAL: ", 1)[-1].strip()[:300]


def prepare_session(connection: Connection, *, role: LiteralString | None, side: str) -> None:
    """Pin search_path, output settings and what would make us slow, and take the role."""
    settings = {
        **OUTPUT_SETTINGS,
        "search_path": "pg_catalog, pg_temp",
        "client_encoding": "UTF8",
        "statement_timeout": "0",
        "lock_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        # It compiles for seconds what then reads a few rows of the catalog.
        "jit": "off",
    }
    calls = sql.SQL(", ").join(
        sql.SQL("pg_catalog.set_config({}, {}, false)").format(sql.Literal(name), sql.Literal(value))
        for name, value in settings.items()
    )
    connection.execute(sql.SQL("SELECT {}").format(calls))
    if role is None:
        return
    try:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidParameterValue) as error:
        user = connection.info.user
        raise ConfigError(
            f"{side}: login {user!r} may not act as {role}; run pgseal init, or: GRANT {role} TO {quote_name(user)}",
        ) from error


def quote_name(name: str) -> str:
    """Return a name as a person has to write it in SQL."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def check_server(connection: Connection, *, side: str) -> None:
    """Refuse servers older than PostgreSQL 14, and databases that do not check their text.

    Raises:
        ConfigError: the server is too old, or the database has encoding SQL_ASCII.
    """
    version = connection.info.server_version
    if version < MINIMUM_VERSION:
        raise ConfigError(f"{side}: PostgreSQL {version // 10000} is too old; pgseal needs 14 or later")
    if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
        raise ConfigError(
            f"{side}: database {connection.info.dbname!r} has encoding SQL_ASCII; pgseal needs one with characters"
        )


def read_identity(connection: Connection) -> ServerIdentity:
    """Read system identifier and timeline of a primary (any role may)."""
    row = connection.execute(
        "SELECT s.system_identifier, "
        "('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint "
        "FROM pg_control_system() AS s",
    ).fetchone()
    assert row is not None  # noqa: S101  a SELECT without WHERE gives a row
    return ServerIdentity(int(row[0]), int(row[1]))


def copy_lines(
    connection: Connection, query: sql.Composable, *, side: str, role: str | None = None
) -> Generator[bytes, None, None]:
    """Yield the rows of a query as COPY text lines, without their newline."""
    with closing(copy_messages(connection, query, side=side, role=role)) as messages:
        for message in messages:
            yield message[:-1]


def copy_messages(
    connection: Connection, query: sql.Composable, *, side: str, role: str | None = None, binary: bool = False
) -> Generator[bytes, None, None]:
    """Yield what ``COPY (query) TO STDOUT`` sends, message by message: a row each (binary: header and trailer too).

    Talks to libpq directly: psycopg's own loop costs more for each row than the row does. A generator that is closed
    early cancels the query.
    """
    statement = sql.SQL("COPY ({}) TO STDOUT{}").format(query, sql.SQL(" (FORMAT binary)" if binary else ""))
    pgconn = connection.pgconn
    with translated_errors(side, role=role), connection.lock:
        pgconn.send_query(statement.as_bytes(connection))
        _finish_results(pgconn, until_copy=True)
        is_complete = False
        try:
            while True:
                length, data = pgconn.get_copy_data(1)
                if length > 0:
                    yield bytes(data)
                elif length == 0:
                    _wait_for_input(pgconn)
                else:
                    break
            is_complete = True
        finally:
            if not is_complete:
                pgconn.get_cancel().cancel()
                while pgconn.get_copy_data(0)[0] > 0:
                    pass
                with suppress(psycopg.errors.QueryCanceled):
                    _finish_results(pgconn)
        _finish_results(pgconn)


def _finish_results(pgconn: pq.abc.PGconn, *, until_copy: bool = False) -> None:
    """Read what the server still has to say, up to its COPY answer or to the end; raises psycopg's errors."""
    failure: psycopg.Error | None = None
    while True:
        while pgconn.is_busy():
            _wait_for_input(pgconn)
        result = pgconn.get_result()
        if result is None or (until_copy and result.status == pq.ExecStatus.COPY_OUT):
            break
        if result.status == pq.ExecStatus.FATAL_ERROR:
            failure = psycopg.errors.error_from_result(result)
    if failure is not None:
        raise failure


def _wait_for_input(pgconn: pq.abc.PGconn) -> None:
    # select, not a blocking call of libpq's: Ctrl-C must get through.
    select([pgconn.socket], [], [])
    pgconn.consume_input()
