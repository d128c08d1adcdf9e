"""PostgreSQL as pgseal meets it: connections with pinned settings, translated errors, installed schemas."""

from pgseal.postgres.connection import (
    OUTPUT_SETTINGS,
    Connection,
    ServerIdentity,
    connect,
    copy_lines,
    copy_messages,
    quote_name,
    read_identity,
    translated_errors,
)
from pgseal.postgres.schema import OWNER, SEALER, InstalledSchema, install_schema, load_migrations, read_version

__all__ = [
    "OUTPUT_SETTINGS",
    "OWNER",
    "SEALER",
    "Connection",
    "InstalledSchema",
    "ServerIdentity",
    "connect",
    "copy_lines",
    "copy_messages",
    "install_schema",
    "load_migrations",
    "quote_name",
    "read_identity",
    "read_version",
    "translated_errors",
]
