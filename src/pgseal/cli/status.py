"""``pgseal status``: sizes, lag, last checkpoint, coverage, warnings."""

from typing import TYPE_CHECKING, Any

import typer

from pgseal.cli.failures import UNABLE
from pgseal.cli.invocation import load_settings
from pgseal.cli.options import AsJson

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EXAMPLE = "pgseal status"


def status(context: typer.Context, as_json: AsJson = False) -> int:
    """Show what is sealed, what waits, and what to mend.

    Ends with exit code 3 if something could not be read; what could be is shown all the same.
    """
    settings = load_settings(context)

    from pgseal.sealer.status import collect_status

    document = collect_status(settings)
    if as_json:
        from pgseal.cli.output import print_json

        print_json(document)
    else:
        _show(document)
    return UNABLE if any(part is None for part in _read_parts(document)) else 0


def _read_parts(document: "Mapping[str, Any]") -> "Iterator[object]":
    """Yield what every side has to answer; None: it could not be reached or read."""
    yield document["ledger"]["size"]
    yield document["vault"]["records"]
    yield None if document["unread"] else ()
    for trail in document["trails"]:
        yield trail["records"]
        yield trail["unsealed"]


def _show(document: "Mapping[str, Any]") -> None:
    """Print the members DESIGN.md promises; what is None could not be read, and a warning says why."""
    from pgseal.cli.output import format_count, format_duration, printable, say

    ledger, vault = document["ledger"], document["vault"]
    age = ledger.get("checkpoint_age_s")
    last = "no checkpoint yet" if age is None else f"last checkpoint {format_duration(age)} ago"
    say((printable(document["origin"]), "bold"), f"   sealed {_count(ledger.get('size'), 'record')}, {last}")
    for trail in document["trails"]:
        oldest = trail.get("oldest_open_transaction_s")
        waiting = trail.get("unsealed")
        say(
            f"  trail    {printable(trail['name']):<12} {_count(trail.get('records'), 'record')}",
            "" if waiting is None else f"   {waiting:,} waiting",
            "" if oldest is None else f"   oldest open transaction {format_duration(oldest)}",
        )
    say(f"  vault    {_count(vault.get('records'), 'record')}")
    root = ledger.get("root")
    witnesses = document["witnesses"]
    witnessed = f"   {witnesses['cosigned']} of {witnesses['configured']} witnesses" if witnesses else ""
    shown_root = f"   root {root[:8]}…" if root else ""
    say(f"  ledger   {_count(ledger.get('size'), 'leaf', 'leaves')}{shown_root}{witnessed}")
    if document["key"] and document["key"]["old_vkey"]:
        say("  key      being rotated: two keys sign   pgseal key show")
    tables = document["tables"]
    shown = ", ".join(printable(_name(table)) for table in tables[:4]) + (", …" if len(tables) > 4 else "")  # noqa: PLR2004
    tracked = "unknown" if document["unread"] and not tables else f"{format_count(len(tables))} tracked"
    unread = (
        f"; those of {', '.join(map(printable, document['unread']))} unknown" if document["unread"] and tables else ""
    )
    say(f"  tables   {tracked}{f'   {shown}' if shown else ''}{unread}")
    for table in tables:
        if table.get("where"):
            say(f"           {printable(_name(table))}: only rows where {printable(table['where'])}")
    if nameless := document["unattributed"]["last_hour"]:
        say(f"           {format_count(nameless, 'change')} without an actor in the last hour")
    for warning in document["warnings"]:
        say(("! ", "yellow"), printable(warning))


def _count(number: int | None, noun: str, plural: str = "") -> str:
    from pgseal.cli.output import format_count

    return "unknown" if number is None else format_count(number, noun, plural)


def _name(table: Any) -> str:
    return table if isinstance(table, str) else str(table.get("relation") or table.get("name"))
