"""``pgseal recover``: after a restore, failover, upgrade or re-creation of a server, record what happened and go on."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from pgseal.cli.failures import FOUND
from pgseal.cli.invocation import load_settings
from pgseal.cli.options import AsJson
from pgseal.errors import ConfigError

if TYPE_CHECKING:
    from pgseal.ledger.reader import LedgerReader
    from pgseal.sealer.recover import Examined, Said
    from pgseal.sealer.trails import TrailAddress
    from pgseal.settings import Settings
    from pgseal.vault.store import VaultStore
    from pgseal.verifier import Report

EXAMPLE = 'pgseal recover --reason "disk failure, restored from last night\'s backup"'

_SHOWN_RANGES = 3
_HAPPENED = {
    "restored": "its server was restored to an earlier state",
    "failed_over": "another server took over, and nothing was lost",
    "upgraded": "its server was upgraded",
    "recreated": "its server was created anew",
}


def recover(
    context: typer.Context,
    *,
    trails: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TRAIL...]", help="Which trails (default: all that show signs of it).", show_default=False
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="KIND", help="What happened: restored, failed_over, upgraded or recreated (default: as it looks)."
        ),
    ] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; goes into the sealed record.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be recorded; change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> int:
    """Go on after a server was restored, failed over, upgraded or re-created.

    Compares the trail with all that was sealed of it, seals a RECOVER record that says what is gone, and then what was
    never sealed. What is gone from the trail stays in vault and ledger. What no restore explains is a finding.
    """
    from pgseal.cli.retain import has_obstacles
    from pgseal.core.recovery import KINDS
    from pgseal.sealer.recover import Said

    if kind is not None and kind not in KINDS:
        raise ConfigError(f"--kind {kind!r} is none: {', '.join(KINDS)}")
    settings = load_settings(context)
    report = _verify(settings, quiet=as_json)
    if has_obstacles(report, but_for=("erased_content",)):
        return _refuse(report, as_json=as_json)
    said = Said(kind, reason)
    if dry_run:
        examined = _examine_only(settings, trails, said)
        _show(examined, dry_run=True, as_json=as_json)
        return 0
    if not yes and not sys.stdin.isatty():
        raise ConfigError("nobody is there to ask: look at it with --dry-run, then run it with --yes")
    examined = _recover(settings, trails, said, yes=yes, as_json=as_json)
    if as_json:
        _show(examined, dry_run=False, as_json=True)
    return 0


def _verify(settings: "Settings", *, quiet: bool) -> "Report":
    """Compare the vault with the ledger: a trail is judged by it."""
    from pgseal.cli.verify import verify_all
    from pgseal.verifier import FileKeptCheckpoint

    kept = FileKeptCheckpoint(settings.state)
    return verify_all(settings, settings.read_verifier(), kept, quiet=quiet, trails=False)[0]


def _refuse(report: "Report", *, as_json: bool) -> int:
    from pgseal.cli.output import print_json, say
    from pgseal.cli.verify import show_findings

    if as_json:
        print_json({"ok": False, "recovered": [], "findings": report.to_json()["findings"]})
    else:
        say("nothing is recovered while vault and ledger do not agree:")
        show_findings(report)
    return FOUND


def _examine_only(settings: "Settings", trails: Sequence[str] | None, said: "Said") -> "list[Examined]":
    from pgseal.ledger.reader import LedgerReader
    from pgseal.ledger.store import DirectoryStore
    from pgseal.postgres import connect
    from pgseal.sealer.acts import read_sealed_size
    from pgseal.sealer.recover import find_signs
    from pgseal.sealer.trails import SEALER_ROLE
    from pgseal.vault.store import VaultStore

    with closing(connect(settings.vault.dsn.reveal(), side="vault", role=SEALER_ROLE)) as connection:
        vault = VaultStore(connection)
        chosen = _choose(settings, trails, find_signs(settings, vault, trails or ()))
        ledger = LedgerReader(DirectoryStore(settings.ledger))
        size = read_sealed_size(settings)
        return _examine(settings, chosen, _Sealed(vault, ledger, size, size), said, quiet=True)


def _recover(
    settings: "Settings", trails: Sequence[str] | None, said: "Said", *, yes: bool, as_json: bool
) -> "list[Examined]":
    from pgseal.cli.output import say
    from pgseal.postgres import connect
    from pgseal.sealer.acts import read_sealed_size
    from pgseal.sealer.recover import find_signs, record
    from pgseal.sealer.seal import Sealer
    from pgseal.sealer.trails import SEALER_ROLE
    from pgseal.vault.store import VaultStore

    with closing(connect(settings.vault.dsn.reveal(), side="vault", role=SEALER_ROLE)) as connection:
        signs = find_signs(settings, VaultStore(connection), trails or ())
    chosen = _choose(settings, trails, signs)
    if chosen:
        # No sealer works beside us. What the vault holds unsigned is signed first: nothing of it may be lost, too.
        compared_size = read_sealed_size(settings)
        with closing(Sealer.open(settings, without={*(address.name for address in chosen), *signs})) as sealer:
            sealed = _Sealed(sealer.vault, sealer.ledger, sealer.result.size, compared_size)
            examined = _examine(settings, chosen, sealed, said, quiet=as_json)
            if not as_json:
                _show(examined, dry_run=False, as_json=False)
            if not yes and not typer.confirm("Record this and go on?"):
                raise ConfigError("nothing was recorded; sealing waits until it is")
            for one in examined:
                record(sealer.vault, one)
        _seal(settings, quiet=as_json)
        _erase_again(settings, [address.name for address in chosen], quiet=as_json)
        return examined
    if not as_json:
        say("nothing to recover: every trail is on the server that was sealed from, and none shows an earlier state")
    return []


class _Sealed(NamedTuple):
    vault: "VaultStore"
    ledger: "LedgerReader"
    tree_size: int
    compared_size: int


def _choose(
    settings: "Settings", trails: Sequence[str] | None, signs: Mapping[str, list[str]]
) -> "dict[TrailAddress, list[str]]":
    """Return the trails to recover, with the signs there are of what happened."""
    from pgseal.sealer.trails import trail_addresses

    known = {address.name: address for address in trail_addresses(settings)}
    for name in trails or ():
        if name not in known:
            raise ConfigError(f"there is no trail {name!r}: {', '.join(known)}")
    return {known[name]: signs.get(name, []) for name in known if name in (trails or signs)}


def _examine(
    settings: "Settings", chosen: "Mapping[TrailAddress, list[str]]", sealed: _Sealed, said: "Said", *, quiet: bool
) -> "list[Examined]":
    from pgseal.cli.output import show_steps
    from pgseal.sealer.recover import SealedSide, examine
    from pgseal.vault.source import VaultRows

    found: list[Examined] = []
    with show_steps(quiet=quiet) as show, closing(VaultRows(settings.vault.dsn.reveal(), "leaf_index")) as rows:
        side = SealedSide(sealed.vault, rows, sealed.ledger, sealed.tree_size, sealed.compared_size)
        for address, signs in chosen.items():
            found.append(
                examine(address, side, signs, said, lambda done, name=address.name: show(f"trail {name}", done, None))
            )
    return found


def _seal(settings: "Settings", *, quiet: bool) -> None:
    from pgseal.cli.output import format_count, say
    from pgseal.sealer.seal import Sealer

    with closing(Sealer.open(settings)) as sealer:
        result = sealer.seal_once()
        if sealer.lost:
            raise sealer.lost[0]
    if not quiet:
        say(("✓", "green"), f" recorded and sealed, with {format_count(result.sealed - 1, 'record')} that waited")
        say("  next: pgseal plan, to see whether capture is as it should be; then pgseal seal and pgseal verify")


def _erase_again(settings: "Settings", trails: Sequence[str], *, quiet: bool) -> None:
    """Erase what was erased before and came back with the backup; whoever may not is told how it is done."""
    from pgseal.cli.output import format_count, say, warn
    from pgseal.postgres import connect
    from pgseal.sealer.erasure import erase_again_in
    from pgseal.sealer.holds import alone_with_holds
    from pgseal.sealer.trails import SEALER_ROLE
    from pgseal.vault.store import VaultStore

    with closing(connect(settings.vault.dsn.reveal(), side="vault", role=SEALER_ROLE)) as connection:
        vault = VaultStore(connection)
        with alone_with_holds(vault):
            found = erase_again_in(settings, vault, trails)
    if found is None:
        warn(("! ", "yellow"), "what was erased before may be back in the trail, and nobody here may erase it:")
        warn("  pgseal erase --again, with an admin_dsn that is a member of pgseal_owner")
    elif found.trails and not quiet:
        count = format_count(sum(found.trails.values()), "row")
        say(("✓", "green"), f" erased again: {count}, which the backup had brought back")


def _show(examined: "Sequence[Examined]", *, dry_run: bool, as_json: bool) -> None:
    from pgseal.cli.output import format_count, print_json, printable, say

    if as_json:
        recovered = [{**one.recovery.to_json(), "unsealed": one.unsealed} for one in examined]
        print_json({"ok": True, "dry_run": dry_run, "recovered": recovered, "findings": []})
        return
    if not examined:
        say("nothing to recover: every trail is on the server that was sealed from, and none shows an earlier state")
    for one in examined:
        found = one.recovery
        say((f"trail {printable(found.trail)}", "bold"), f"   {_HAPPENED[found.kind]}")
        for sign in found.signs:
            say(f"  {sign}")
        last = f", the last is {found.trail}/{found.last_id}" if found.matching else ""
        say(f"  {format_count(found.matching, 'row')} match what was sealed{last}")
        if found.lost_count:
            leaves = ", ".join(f"{begin:,} to {end - 1:,}" for begin, end in found.lost[:_SHOWN_RANGES])
            more = f" and {len(found.lost) - _SHOWN_RANGES:,} more ranges" if len(found.lost) > _SHOWN_RANGES else ""
            records = format_count(found.lost_count, "sealed record")
            say(f"  {records} gone from the trail (leaves {leaves}{more}); vault and ledger keep them")
        if found.unconfirmed:
            count = format_count(sum(end - begin for begin, end in found.unconfirmed), "of them was", "of them were")
            say(("! ", "yellow"), f"{count} never compared with the trail: only the vault says what they hold")
        say(f"  {format_count(one.unsealed, 'row')} not sealed yet, will be as incarnation {found.incarnation}")
