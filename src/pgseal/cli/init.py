"""``pgseal init``: install both sides, make the key, write ``pgseal.toml``.

Everything is looked at before anything is changed, and every step may be repeated: after a crash, or an error that has
been mended, the same command goes on. The configuration is written last but one, so whoever finds it finds the rest.
"""

import os
import secrets
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pgseal.cli.invocation import find_invocation
from pgseal.cli.key_file import write_new_key
from pgseal.cli.options import AsJson
from pgseal.errors import ConfigError, FormatError

if TYPE_CHECKING:
    from pgseal.core.keys import Signer
    from pgseal.postgres import Connection
    from pgseal.settings import Settings

EXAMPLE = (
    "pgseal init --source postgresql://app@db/clinic --vault postgresql://audit@vault/pgseal "
    "--ledger /var/lib/pgseal/ledger --origin clinic.example/prod"
)

_STATE = ".pgseal"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be set up; paths and connection strings as a person wrote them."""

    path: Path
    source: str
    vault: str
    ledger: str
    origin: str
    name: str
    key: str
    state: str


def init(
    context: typer.Context,
    *,
    source: Annotated[str | None, typer.Option(metavar="DSN", help="The database to audit.")] = None,
    vault: Annotated[str | None, typer.Option(metavar="DSN", help="Another database, for the sealed records.")] = None,
    ledger: Annotated[str | None, typer.Option(metavar="DIR", help="An empty directory, for the log.")] = None,
    origin: Annotated[
        str | None, typer.Option(metavar="NAME", help="The log's name, such as clinic.example/prod.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="TRAIL", help="The source's name (default: its database's).")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="FILE", help="Where the key is, or is made; pkcs11:… for one in a token.")
    ] = None,
    state: Annotated[
        str | None, typer.Option(metavar="DIR", help="What the sealer keeps; outside vault and ledger.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Install both sides, make the key, write pgseal.toml.

    Safe to repeat.

    Connection strings may be env:NAME or file:PATH, so that no password stands in pgseal.toml.
    """
    from pgseal import settings

    path = find_invocation(context).path
    found = settings.load(path) if os.path.lexists(path) else None
    plan = _make_plan(
        path, found, source=source, vault=vault, ledger=ledger, origin=origin, name=name, key=key, state=state
    )
    _set_up(plan, found, as_json=as_json)


def _make_plan(
    path: Path,
    found: "Settings | None",
    *,
    source: str | None,
    vault: str | None,
    ledger: str | None,
    origin: str | None,
    name: str | None,
    key: str | None,
    state: str | None,
) -> Plan:
    """Complete what was given from the configuration that is there; raises ``ConfigError`` where they disagree."""
    from pgseal.settings import describe_dsn

    for option, value in (("--source", source), ("--vault", vault), ("--ledger", ledger), ("--origin", origin)):
        if found is None and not value:
            raise ConfigError(f"{option} is missing, and there is no {path} yet; see pgseal init --help")
    if found is None:
        assert source and vault and ledger and origin  # noqa: S101, PT018 - the loop above
        name = name or _name_trail(describe_dsn(_reveal(source, "--source")))
        return Plan(path, source, vault, ledger, origin, name, key or "pgseal.key", state or _STATE)
    for option, value, kept in (
        ("--origin", origin, found.origin),
        ("--ledger", ledger and _absolute(ledger), str(found.ledger)),
        ("--state", state and _absolute(state), str(found.state)),
        ("--key", key and _absolute(key), str(found.key.path)),
    ):
        if value and value != kept:
            raise ConfigError(f"{option} {value!r}: {path} says {kept!r} already; name another file with --config")
    known = {one.name: one for one in found.sources}
    if name is None:
        name = (
            next(iter(known))
            if len(known) == 1 or source is None
            else _name_trail(describe_dsn(_reveal(source, "--source")))
        )
    if name not in known and source is None:
        raise ConfigError(f"--source is missing: {path} has no source {name!r} yet")
    if name in known and source is not None and _reveal(source, "--source") != known[name].dsn.reveal():
        raise ConfigError(
            f"{path} has another database as source {name!r} already: give the new one another name with --name"
        )
    if vault is not None and _reveal(vault, "--vault") != found.vault.dsn.reveal():
        raise ConfigError(f"--vault: {path} names another vault already; name another file with --config")
    return Plan(
        path,
        source or "",
        vault or "",
        str(found.ledger),
        found.origin,
        name,
        str(found.key.path or ""),
        str(found.state),
    )


def _set_up(plan: Plan, found: "Settings | None", *, as_json: bool) -> None:
    from pgseal.cli import preflight
    from pgseal.cli.output import print_json, warn
    from pgseal.core.checkpoint import check_origin
    from pgseal.ledger.adopt import prepare_directory
    from pgseal.postgres import connect, install_schema
    from pgseal.settings import describe_dsn, load

    try:
        check_origin(plan.origin, source="--origin")
    except FormatError as error:
        raise ConfigError(f"{error}; a name such as clinic.example/prod") from error
    known = found.find_source(plan.name) if found and plan.name in {one.name for one in found.sources} else None
    source_dsn = known.admin_dsn.reveal() if known else _reveal(plan.source, "--source")
    vault_dsn = found.vault.dsn.reveal() if found else _reveal(plan.vault, "--vault")
    side = f"source {plan.name!r}"
    with closing(connect(source_dsn, side=side)) as source, closing(connect(vault_dsn, side="vault")) as vault:
        shared = preflight.check_apart(source, vault)
        warnings = [shared] if shared else []
        published = preflight.check_ledger(plan.ledger, plan.origin, is_configured=found is not None)
        signer = _check_key(plan, found)
        if found is None:
            preflight.check_one_log(vault, _state_path(plan), signer, published, plan.origin)
        elif known is None:
            warnings += preflight.check_new_source(source, found)
        trail = install_schema(source, "audit", "pgseal.trail", side=side)
        install_schema(vault, "audit", "pgseal.trail", side="vault")
        vault_schema = install_schema(vault, "vault", "pgseal.vault", side="vault")
        versions = (_version_of(source), _version_of(vault))
    checkpoint = prepare_directory(plan.ledger, plan.origin)
    is_new_key, signer = _make_key(plan, found)
    _write_configuration(plan, found, known is not None)
    settings = load(plan.path)
    size = _publish_initial(settings) if checkpoint is None else checkpoint.size
    for warning in warnings:
        warn(warning)
    if as_json:
        print_json(
            {
                "origin": plan.origin,
                "source": {"name": plan.name, "version": trail.version, "created": trail.created},
                "vault": {"version": vault_schema.version, "created": vault_schema.created},
                "ledger": {"size": size},
                "vkey": str(signer.verifier),
                "warnings": warnings,
            }
        )
        return
    done = "installed" if trail.created else "up to date"
    _report(
        [
            ("source", f"{describe_dsn(source_dsn)} ({versions[0]})", f"schema audit {done}, version {trail.version}"),
            ("vault", f"{describe_dsn(vault_dsn)} ({versions[1]})", "ready" if vault_schema.created else "up to date"),
            ("ledger", str(settings.ledger), f"{'empty log, ' if not size else ''}size {size:,}"),
            (
                "key",
                _shorten_key(str(signer.verifier)),
                f"written to {plan.key} (0600): keep a copy somewhere else" if is_new_key else "was there already",
            ),
        ],
        has_tables=bool(known and known.tables),
    )


def _reveal(dsn: str, option: str) -> str:
    from pgseal.settings import resolve_dsn

    return resolve_dsn(dsn, option)


def _name_trail(description: str) -> str:
    """Return a trail's name made of the database's, where that is possible."""
    import re

    name = re.sub(r"[^a-z0-9_-]", "_", description.partition(" on ")[0].lower())[:63]
    return name if name.strip("_") and name != "vault" else "source"


def _version_of(connection: "Connection") -> str:
    version = connection.info.server_version
    return f"PostgreSQL {version // 10000}.{version % 10000}"


def _key_path(plan: Plan, found: "Settings | None") -> Path | None:
    """Return the file of the key; None if it comes from somewhere else."""
    if found is not None:
        return found.key.path
    return None if _is_in_token(plan) else Path(plan.key).absolute()


def _is_in_token(plan: Plan) -> bool:
    from pgseal.signing import is_token_uri

    return is_token_uri(plan.key)


def _state_path(plan: Plan) -> Path:
    """Return the directory of what the sealer keeps; unless given, it is beside the configuration."""
    return Path(_absolute(plan.state)) if plan.state != _STATE else plan.path.absolute().parent / _STATE


def _check_key(plan: Plan, found: "Settings | None") -> "Signer | None":
    """Return the key that is there; None if it is to be made. Raises ``ConfigError`` if it cannot be used."""
    from pgseal.settings import Secret
    from pgseal.signing import read_signer

    path = _key_path(plan, found)
    if found is None and _is_in_token(plan):
        base = plan.path.absolute().parent
        try:
            return read_signer(plan.key, plan.origin, source="--key", base=base, environ=os.environ)
        except FormatError as error:
            raise ConfigError(str(error)) from None
    if found is not None and (path is None or os.path.lexists(path)):
        return found.read_signer()
    if path is None or not os.path.lexists(path):
        directory = path.parent if path else Path()
        if not directory.is_dir() or not os.access(directory, os.W_OK):
            raise ConfigError(f"cannot make the key {str(path)!r}: {str(directory)!r} is not a directory to write to")
        return None
    text = Secret(f"file:{path}", "--key", Path("/"), {}).reveal()
    try:
        signer = read_signer(
            text.strip(), plan.origin, source=str(path), base=plan.path.absolute().parent, environ=os.environ
        )
    except FormatError as error:
        raise ConfigError(f"{error}; nothing was overwritten, give another --key FILE") from None
    name = signer.verifier.name
    if name != plan.origin:
        raise ConfigError(f"{path} is the key of {name!r}, not of {plan.origin!r}: give another --key FILE")
    return signer


def _make_key(plan: Plan, found: "Settings | None") -> "tuple[bool, Signer]":
    """Return the key, made if there is none; never overwrites anything."""
    from pgseal.core.keys import SEED_BYTES, generate_signer

    signer = _check_key(plan, found)
    if signer is not None:
        return False, signer
    path = _key_path(plan, found)
    assert path is not None  # noqa: S101 - _check_key has read any other
    signer = generate_signer(plan.origin, secrets.token_bytes(SEED_BYTES))
    write_new_key(path, signer)
    return True, signer


def _write_configuration(plan: Plan, found: "Settings | None", is_known: bool) -> None:
    from pgseal.settings import add_source, write_new

    if found is None:
        base = plan.path.absolute().parent
        write_new(
            plan.path,
            origin=plan.origin,
            ledger=_relative(plan.ledger, base),
            key=plan.key if _is_in_token(plan) else f"file:{_relative(plan.key, base)}",
            state=_relative(plan.state, base) if plan.state != _STATE else plan.state,
            vault_dsn=_rebase(plan.vault, base),
            sources=[(plan.name, _rebase(plan.source, base))],
        )
    elif not is_known:
        add_source(plan.path, plan.name, _rebase(plan.source, plan.path.absolute().parent))


def _relative(path: str, base: Path) -> str:
    """Return a path of the command line as the file writes it: relative if it is below the file's own directory."""
    absolute = Path(_absolute(path))
    return str(absolute.relative_to(base)) if absolute.is_relative_to(base) else str(absolute)


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - resolve() would follow links, which may lead elsewhere tomorrow


def _rebase(dsn: str, base: Path) -> str:
    return f"file:{_relative(dsn.removeprefix('file:'), base)}" if dsn.startswith("file:") else dsn


def _publish_initial(settings: "Settings") -> int:
    """Sign and publish the checkpoint of the empty log, or what a crash left unpublished; returns its size."""
    from pgseal.sealer.seal import Sealer

    with closing(Sealer.open(settings)) as sealer:
        return sealer.result.size


def _shorten_key(vkey: str) -> str:
    name, key_id, key = vkey.split("+", 2)
    return f"{name}+{key_id}+{key[:6]}…"


def _report(rows: list[tuple[str, str, str]], *, has_tables: bool) -> None:
    from pgseal.cli.output import printable, say

    width = max(len(printable(what)) for _, what, _ in rows)
    for label, what, outcome in rows:
        say(("✓", "green"), f" {label:<8} {printable(what):<{width}}  {printable(outcome)}")
    say("  next: pgseal seal" if has_tables else "  next: pgseal track TABLE...")
