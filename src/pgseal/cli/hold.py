"""``pgseal hold``: legal holds, which keep records from being erased or dropped."""

import re
import secrets
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from pgseal.cli.invocation import load_settings
from pgseal.cli.options import AsJson
from pgseal.errors import ConfigError

if TYPE_CHECKING:
    from pgseal.core.hold import Hold
    from pgseal.sealer.holds import Noted
    from pgseal.settings import Settings
    from pgseal.vault.store import VaultStore

app = typer.Typer(help="Legal holds: what must not be erased or dropped.", rich_markup_mode=None)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SALT_BYTES = 32
_MAX_TEXT = 1000

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; sealed, and never erased: name nobody.")]
ApprovedBy = Annotated[
    str, typer.Option("--approved-by", metavar="WHO", help="Who decided it; sealed, and never erased.")
]


@app.callback(invoke_without_command=True)
def group(context: typer.Context) -> None:
    """Hold the commands about holds; alone, say which there are."""
    if context.invoked_subcommand is None:
        sys.stdout.write(f"{context.get_help()}\n")


@app.command(
    epilog="Example: pgseal hold add case-2026-17 --table public.patients --key 42 --reason 'claim 17' "
    "--approved-by j.doe"
)
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What the hold is called: letters, digits, dots and dashes.")],
    *,
    reason: Reason,
    approved_by: ApprovedBy,
    table: Annotated[str | None, typer.Option(help="Only records about this table.")] = None,
    key: Annotated[str | None, typer.Option(help="Only about the row with this key, as for pgseal history.")] = None,
    as_json: AsJson = False,
) -> int:
    """Keep records from being erased and dropped: everything, those of a table, or of one row.

    The hold is a record of its own, sealed. It holds from this moment until it is released.
    """
    from pgseal.core.hold import HOLD, Hold, hash_key
    from pgseal.sealer.acts import Act, write_and_seal
    from pgseal.sealer.holds import alone_with_holds, read_holds

    if not _NAME.fullmatch(name):
        raise ConfigError(f"expected a name such as case-2026-17, of letters, digits, dots and dashes, got {name!r}")
    if key is not None and table is None:
        raise ConfigError("--key says which row of a --table: name the table, too")
    _check_texts(reason, approved_by)
    settings = load_settings(context)
    relation, keys = _find_row(settings, table, key)
    salt = secrets.token_bytes(_SALT_BYTES) if keys is not None else None
    hashes = None
    if keys is not None and salt is not None:
        hashes = tuple(sorted(hash_key(salt, relation or "", one) for one in keys))
    hold = Hold(name, relation, salt, hashes, reason)
    with _open(settings) as vault, alone_with_holds(vault):
        if any(noted.hold.name == name for noted in read_holds(settings, vault)):
            raise ConfigError(f"there is, or was, a hold {name!r} already: choose another name")
        (leaf_index,) = write_and_seal(
            settings, vault, [Act(HOLD, hold.to_json(), claimed={"approved_by": approved_by})]
        )
    return _report(f"{_describe(hold)} held from now on", {"hold": name, "index": leaf_index}, as_json=as_json)


@app.command(name="list", epilog="Example: pgseal hold list")
def list_holds(
    context: typer.Context,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Those that were released, too.")] = False,
    as_json: AsJson = False,
) -> int:
    """List the holds there are."""
    from pgseal.cli.output import print_json, printable, say
    from pgseal.sealer.holds import read_holds

    settings = load_settings(context)
    with _open(settings) as vault:
        found = [one for one in read_holds(settings, vault) if everything or one.released is None]
    if as_json:
        print_json({"holds": [_to_json(one) for one in found]})
        return 0
    for one in found:
        state = "" if one.released is None else f"  released {one.released_at}: {printable(one.released.reason)}"
        say(f"{printable(one.hold.name)}  {_describe(one.hold)}  since {one.time or 'now, not sealed yet'}{state}")
        say(f"    {printable(one.hold.reason)}  (approved by {printable(one.approved_by or 'nobody known')})")
    if not found:
        say("no hold: pgseal hold add")
    return 0


@app.command(epilog="Example: pgseal hold release case-2026-17 --reason 'claim settled' --approved-by j.doe")
def release(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What the hold is called.")],
    *,
    reason: Reason,
    approved_by: ApprovedBy,
    as_json: AsJson = False,
) -> int:
    """End a hold. That it ended, and why, is a record of its own, sealed."""
    from pgseal.core.hold import RELEASE, Release
    from pgseal.sealer.acts import Act, seal_all, write_and_seal
    from pgseal.sealer.holds import alone_with_holds, read_holds

    _check_texts(reason, approved_by)
    settings = load_settings(context)
    with _open(settings) as vault, alone_with_holds(vault):
        seal_all(settings)  # a release counts only behind its hold
        noted = {one.hold.name: one for one in read_holds(settings, vault)}
        if name not in noted or noted[name].released is not None:
            active = ", ".join(one.hold.name for one in noted.values() if one.released is None)
            raise ConfigError(f"there is no hold {name!r}: {active or 'there is none at all'}")
        act = Act(RELEASE, Release(name, reason).to_json(), claimed={"approved_by": approved_by})
        (leaf_index,) = write_and_seal(settings, vault, [act])
    return _report(f"hold {name} released", {"hold": name, "index": leaf_index}, as_json=as_json)


def _check_texts(reason: str, approved_by: str) -> None:
    for option, text in (("--reason", reason), ("--approved-by", approved_by)):
        if not text.strip() or len(text) > _MAX_TEXT or not text.isprintable():
            raise ConfigError(f"{option}: expected one line of at most {_MAX_TEXT} characters, and not an empty one")


def _find_row(settings: "Settings", table: str | None, key: str | None) -> tuple[str | None, set[str] | None]:
    """Return the table and every key that the row has had, as records write them; None: not asked for."""
    from pgseal.postgres import connect
    from pgseal.vault.search import resolve_relation
    from pgseal.vault.subject import find_keys

    if table is None:
        return None, None
    with closing(connect(settings.vault.dsn.reveal(), side="vault")) as connection:
        relation = resolve_relation(connection, table)
        return relation, None if key is None else find_keys(connection, relation, key)


@contextmanager
def _open(settings: "Settings") -> "Generator[VaultStore]":
    from pgseal.postgres import connect
    from pgseal.sealer.trails import SEALER_ROLE
    from pgseal.vault.store import VaultStore

    with closing(connect(settings.vault.dsn.reveal(), side="vault", role=SEALER_ROLE)) as connection:
        store = VaultStore(connection)
        store.check_installed()
        yield store


def _describe(hold: "Hold") -> str:
    from pgseal.cli.output import printable

    if hold.relation is None:
        return "everything"
    return f"{'one row of ' if hold.keys is not None else ''}{printable(hold.relation)}"


def _to_json(noted: "Noted") -> dict[str, object]:
    return {
        "hold": noted.hold.name,
        "relation": noted.hold.relation,
        "scope": "everything" if noted.hold.relation is None else "table" if noted.hold.keys is None else "row",
        "reason": noted.hold.reason,
        "approved_by": noted.approved_by,
        "index": noted.leaf_index,
        "time": noted.time,
        "released": None
        if noted.released is None
        else {"reason": noted.released.reason, "approved_by": noted.released_by, "time": noted.released_at},
    }


def _report(words: str, document: dict[str, object], *, as_json: bool) -> int:
    from pgseal.cli.output import print_json, say

    if as_json:
        print_json(document)
    else:
        say(("✓ ", "green"), words)
    return 0
