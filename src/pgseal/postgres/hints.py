"""What a person grants so that a ``permission denied`` goes away.

Whoever acts as one of our roles is granted what `pgseal init` had granted to that role. Whoever acts as itself has to
become a member of one. Never more than the command at hand needs.
"""

import re
from collections.abc import Mapping

# What pgseal_sealer may, by the name in PostgreSQL's message. Two objects may share a name: then both, on the vault.
_SEALER_GRANTS: Mapping[str, str] = {
    "audit": "USAGE ON SCHEMA audit",
    "record_id_seq": "SELECT ON audit.record_id_seq",
    "tracked": "SELECT ON audit.tracked",
    "ensure_partitions": "EXECUTE ON FUNCTION audit.ensure_partitions",
    "partitions": "EXECUTE ON FUNCTION audit.partitions",
    "record_act": "EXECUTE ON FUNCTION audit.record_act",
    "vault": "USAGE ON SCHEMA vault",
    "feed": "SELECT, INSERT, UPDATE ON vault.feed",
    "record": "SELECT ON audit.record",
    "migration": "SELECT ON audit.migration",
}
_VAULT_GRANTS: Mapping[str, str] = {
    "record": "SELECT, INSERT ON vault.record",
    "migration": "SELECT ON vault.migration",
}
# What reading the vault takes, and what installing and tracking do, for a login that acts as itself.
_READER_OBJECTS = frozenset({"vault", "record", "feed"})
_OWNER_OBJECTS = frozenset({"audit", "record_id_seq", "tracked", "migration", "mask_key"})
_PRIVILEGES = {"schema": "USAGE", "sequence": "USAGE", "function": "EXECUTE", "database": "CREATE", "table": "SELECT"}


def explain_denied(message: str, *, side: str, role: str | None) -> str:
    """Return the way out of the server's ``message`` that something is denied.

    Args:
        message: its first line.
        side: ``vault``, or words for a source.
        role: the role that was acted as; None for the login itself.
    """
    if '"pgseal_owner"' in message:  # permission denied to set role
        return "connect as a member of pgseal_owner: admin_dsn"
    denied = re.search(r"permission denied for (\w+) (\S+)", message)
    if denied is None or denied[1] not in _PRIVILEGES:
        return "connect as a role that may, such as the owner"
    kind, name = denied[1], denied[2]
    is_vault = side == "vault"
    if role is not None:
        grants = [_SEALER_GRANTS.get(name), _VAULT_GRANTS.get(name) if is_vault else None]
        statements = [f"GRANT {grant} TO {role}" for grant in grants if grant]
        return f"as a superuser: {'; '.join(statements) or _grant(kind, name, role)}"
    if is_vault and name in _READER_OBJECTS:
        return "as a superuser: GRANT pgseal_reader TO the login of the vault's dsn"
    if name in _OWNER_OBJECTS:
        login = "the login of the vault's dsn" if is_vault else "the login of admin_dsn"
        return f"as a superuser: GRANT pgseal_owner TO {login}"
    return f"as its owner: {_grant(kind, name, 'the role that pgseal logs in as')}"


def _grant(kind: str, name: str, grantee: str) -> str:
    return f"GRANT {_PRIVILEGES[kind]} ON {kind.upper()} {name} TO {grantee}"
