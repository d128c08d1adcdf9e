"""What pgseal is told: ``pgseal.toml``, overridden by ``PGSEAL_*``; the only reader of both.

::

    origin = "clinic.example/prod"
    ledger = "/var/lib/pgseal/ledger"
    key    = "file:pgseal.key"            # or env:NAME, or pkcs11:… for one in a token; never the key itself
    state  = ".pgseal"                    # what sealer and verifier remember; outside vault and ledger

    [vault]
    dsn = "postgresql://audit@vault/pgseal"    # or env:NAME, file:PATH
    admin_dsn = "…"                       # what erase connects with there, if not dsn

    [[source]]
    name = "clinic"                       # the trail's name
    dsn  = "env:CLINIC_DSN"
    admin_dsn = "…"                       # what init, track, untrack, retain and erase connect with, if not dsn
    retention = "400 days"                # how long the trail keeps what is sealed; for ever, if not given

    [source.tables."public.patients"]
    exclude = ["photo"]
    mask = { ssn = "redact" }             # hash | redact | last4

    [source.tables."public.*"]            # a pattern: also tables that are made later, once pgseal apply sees them
    except = ["public.sessions", "public.tmp_*"]

    [[witness]]                           # cosigns every checkpoint; at the top: witness_policy = "any 1"
    name = "paris"
    url  = "https://witness.example"
    key  = "witness.example/paris+…"      # what pgseal witness show-key prints

Relative paths are relative to the file, in ``PGSEAL_*`` to the working directory. Whatever is wrong is one
``ConfigError`` with file, line and key. Secrets are read when they are used, so that searching the vault needs neither
the signing key nor a source's password; no message, ``repr`` or ``str`` shows one.
"""

from pgseal.settings.edit import add_source, edit_tables, write_new
from pgseal.settings.files import describe_os_error
from pgseal.settings.load import DEFAULT_PATH, find_path, load
from pgseal.settings.model import VAULT_TRAIL, Masking, Settings, Source, TablePolicy, Vault, WitnessAddress, is_pattern
from pgseal.settings.secret import Dsn, Secret, describe_dsn, resolve_dsn

__all__ = [
    "DEFAULT_PATH",
    "VAULT_TRAIL",
    "Dsn",
    "Masking",
    "Secret",
    "Settings",
    "Source",
    "TablePolicy",
    "Vault",
    "WitnessAddress",
    "add_source",
    "describe_dsn",
    "describe_os_error",
    "edit_tables",
    "find_path",
    "is_pattern",
    "load",
    "resolve_dsn",
    "write_new",
]
