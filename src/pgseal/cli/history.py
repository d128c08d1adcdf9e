"""``pgseal history``: every version of one row."""

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from pgseal.cli.invocation import load_settings
from pgseal.cli.options import AsJson, InUtc, parse_record_name
from pgseal.errors import ConfigError

if TYPE_CHECKING:
    from pgseal.settings import Settings
    from pgseal.vault.lineage import Row

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

    Oldest first, also under other keys that the row had; rows that had the same key at different times are told apart.
    With --id, that row only. Reads the vault only.
    """
    if record is None and (table is None or key is None):
        raise ConfigError("expected a table and a key, or --id; see pgseal history --help")
    if record is not None and table is not None:
        raise ConfigError("expected either a table and a key, or --id, not both")
    settings = load_settings(context)

    from pgseal.cli.output import print_text
    from pgseal.cli.records import list_trails
    from pgseal.postgres import connect
    from pgseal.vault.history import find_history, find_key_columns, find_row, merge_rows
    from pgseal.vault.search import check_trail, find_record, resolve_relation
    from pgseal.vault.values import format_json

    columns: list[str] = []
    with closing(connect(settings.vault.dsn.reveal(), side="vault")) as connection:
        if trail is not None:
            check_trail(connection, trail, list_trails(settings))
        if record is not None:
            one = find_record(connection, *parse_record_name(record))
            rows = [find_row(connection, one)]
            relation = one.relation or one.trail
            shown = f"record {one.id}" if one.key is None else format_json(one.key)
        else:
            relation, shown = resolve_relation(connection, table or ""), key or ""
            rows = find_history(connection, relation, shown, trail=trail)
            columns = [] if rows else find_key_columns(connection, relation)
    if as_json:
        # Where all is about one row, there is nothing to tell apart.
        which = len(rows) > 1
        print_text(
            format_json([one.to_json() | ({"rows": numbers} if which else {}) for one, numbers in merge_rows(rows)])
        )
    else:
        _show(settings, f"{relation} {shown}", rows, columns, utc=utc)


def _show(settings: "Settings", title: str, rows: "list[Row]", columns: list[str], *, utc: bool) -> None:
    """Show rows one after the other; ``columns`` of the key, if there are none."""
    from pgseal.cli.output import format_count, printable, say, zone_name
    from pgseal.cli.records import format_records, read_sealed_size

    if not rows:
        key = printable(", ".join(columns))
        say(f"{printable(title)}: no sealed record of such a row; its table has the key ({key})")
        return
    count = format_count(len({one.leaf_index for row in rows for one in row}), "record")
    of = f" of {format_count(len(rows), 'row')} that had this key at some time" if len(rows) > 1 else ""
    say((printable(title), "bold"), f"   {count}{of}, times in {zone_name(utc=utc)}")
    sealed_size = read_sealed_size(settings)
    for number, row in enumerate(rows, start=1):
        if len(rows) > 1:
            say((f"row {number}", "bold"))
        for line in format_records(row, sealed_size, utc=utc, table=False):
            say(*line)
