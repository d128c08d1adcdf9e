"""``pgseal history``: every version of one row."""

from contextlib import closing
from typing import Annotated

import typer

from pgseal.cli.invocation import load_settings
from pgseal.cli.options import AsJson, InUtc, parse_record_name
from pgseal.errors import ConfigError

EXAMPLE = "pgseal history patients 593aaa05-d864-1df7-5b96-155fbdb19f28"


def history(
    context: typer.Context,
    table: Annotated[str | None, typer.Argument(metavar="TABLE")] = None,
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="A value; a JSON object for composite keys.")] = None,
    record: Annotated[
        str | None, typer.Option("--id", metavar="[TRAIL/]ID", help="The row that this record is about.")
    ] = None,
    trail: Annotated[str | None, typer.Option("--trail", metavar="NAME", help="Of this trail only.")] = None,
    utc: InUtc = False,
    as_json: AsJson = False,
) -> None:
    """Show every version of one row: who, when, what.

    Oldest first; reads the vault only.
    """
    if record is None and (table is None or key is None):
        raise ConfigError("expected a table and a key, or --id; see pgseal history --help")
    if record is not None and table is not None:
        raise ConfigError("expected either a table and a key, or --id, not both")
    settings = load_settings(context)

    from pgseal.cli.output import format_count, print_text, printable, say, zone_name
    from pgseal.cli.records import format_records, read_sealed_size
    from pgseal.postgres import connect
    from pgseal.vault.history import find_history
    from pgseal.vault.search import find_record, resolve_relation
    from pgseal.vault.values import format_json

    with closing(connect(settings.vault.dsn.reveal(), side="vault")) as connection:
        if record is not None:
            one = find_record(connection, *parse_record_name(record))
            if one.relation is None or one.key is None:
                records, relation, shown = [one], one.relation or one.trail, f"record {one.id}"
            else:
                relation, shown = one.relation, format_json(one.key)
                records = find_history(connection, relation, shown, trail=trail or one.trail)
        else:
            relation, shown = resolve_relation(connection, table or ""), key or ""
            records = find_history(connection, relation, shown, trail=trail)
    if as_json:
        print_text(format_json([one.to_json() for one in records]))
        return
    if not records:
        say(f"{printable(relation)} {printable(shown)}: no sealed record of such a row")
        return
    count = format_count(len(records), "record")
    say((f"{printable(relation)} {printable(shown)}", "bold"), f"   {count}, times in {zone_name(utc=utc)}")
    for line in format_records(records, read_sealed_size(settings), utc=utc, table=False):
        say(*line)
