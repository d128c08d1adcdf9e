"""``pgseal search``: find records."""

from contextlib import closing
from typing import Annotated

import typer

from pgseal.cli.invocation import load_settings
from pgseal.cli.options import AsJson, InUtc, parse_when
from pgseal.errors import ConfigError

EXAMPLE = "pgseal search --actor dr.okafor --table patients --since 7d"


def search(
    context: typer.Context,
    *,
    actor: Annotated[str | None, typer.Option(help="A role, or who the application said it was.")] = None,
    table: Annotated[str | None, typer.Option(help="About this table.")] = None,
    action: Annotated[str | None, typer.Option(help="INSERT, UPDATE, DELETE, TRUNCATE, LOGIN, …")] = None,
    category: Annotated[str | None, typer.Option(help="data_modification, configuration, …")] = None,
    since: Annotated[str | None, typer.Option(help="From then on: a date, a time, or 2h, 7d ago.")] = None,
    until: Annotated[str | None, typer.Option(help="Before then.")] = None,
    text: Annotated[str | None, typer.Option(help="Somewhere in a value, in upper or lower case.")] = None,
    trail: Annotated[str | None, typer.Option(metavar="NAME", help="Of this trail only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on: the 'next' of the search before.")] = None,
    utc: InUtc = False,
    as_json: AsJson = False,
) -> None:
    """Find sealed records, newest first.

    All filters given must hold; reads the vault only.
    """
    settings = load_settings(context)

    from pgseal.cli.output import print_text, say, zone_name
    from pgseal.cli.records import format_records, list_trails, read_sealed_size
    from pgseal.core.record import CATEGORIES
    from pgseal.postgres import connect
    from pgseal.vault.search import Filters, check_trail, resolve_relation
    from pgseal.vault.search import search as search_vault
    from pgseal.vault.values import format_json

    if category is not None and category not in CATEGORIES:
        raise ConfigError(f"--category: expected one of {', '.join(CATEGORIES)}, got {category!r}")
    since = None if since is None else parse_when(since, "--since", utc=utc)
    until = None if until is None else parse_when(until, "--until", utc=utc)
    with closing(connect(settings.vault.dsn.reveal(), side="vault")) as connection:
        if trail is not None:
            check_trail(connection, trail, list_trails(settings))
        relation = None if table is None else resolve_relation(connection, table)
        filters = Filters(actor, relation, action and action.upper(), category, since, until, text, trail)
        records, following = search_vault(connection, filters, limit=limit, cursor=cursor)
    if as_json:
        print_text(format_json({"records": [one.to_json() for one in records], "next": following}))
        return
    if not records:
        say("no sealed record matches")
        return
    say((f"newest first, times in {zone_name(utc=utc)}", "dim"))
    for line in format_records(records, read_sealed_size(settings), utc=utc, table=True):
        say(*line)
    if following is not None:
        say((f"there are more: the same search with --cursor {following}", "dim"))
