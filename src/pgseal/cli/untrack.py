"""``pgseal untrack``: stop auditing tables."""

import shlex
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from pgseal.cli.invocation import load_settings
from pgseal.cli.options import AsJson, SourceName
from pgseal.errors import ConfigError

if TYPE_CHECKING:
    from pgseal.trail.capture import TableRule

EXAMPLE = "pgseal untrack public.sessions"


def untrack(
    context: typer.Context,
    tables: Annotated[list[str], typer.Argument(metavar="TABLE...", help="Tables, or 'schema.*' for all of a schema.")],
    source: SourceName = None,
    as_json: AsJson = False,
) -> None:
    """Stop auditing tables.

    What was recorded stays, and so does the record that it was stopped, and by whom.
    """
    settings = load_settings(context)
    where = settings.find_source(source)

    from pgseal.cli.output import print_json, printable, say
    from pgseal.core.record import format_relation
    from pgseal.postgres import connect, translated_errors
    from pgseal.settings import edit_tables
    from pgseal.trail.catalog import resolve_relations
    from pgseal.trail.registry import list_tracked
    from pgseal.trail.track import untrack as untrack_table

    side, dsn = f"source {where.name!r}", where.admin_dsn.reveal()
    chosen: dict[str, TableRule] = {}
    with closing(connect(dsn, side=side)) as connection, translated_errors(side):
        known = {table.relation: table.rule for table in list_tracked(connection)}
        for text in tables:
            # What is tracked may be gone or have another name by now: its own name in records always does.
            named = [text] if text in known else [format_relation(*one) for one in resolve_relations(connection, text)]
            for relation in named:
                if relation in known:
                    chosen[relation] = known[relation]
                elif not text.endswith(".*"):
                    raise ConfigError(f"{relation} is not tracked; pgseal status lists the tables that are")
    for relation in chosen:
        # First the file: the wish that a table be captured must not outlive a crash between the two.
        edit_tables(settings.path, where.name, {}, [relation])
        untrack_table(dsn, relation, side=side)
    if as_json:
        print_json({"source": where.name, "untracked": list(chosen)})
        return
    for relation, rule in chosen.items():
        say(f"  {printable(relation)}  no longer tracked; its records stay")
        if options := rule.format_options():
            say(f"    as it was:  pgseal track {printable(shlex.quote(relation))} {printable(options)}")
    if not chosen:
        say("nothing to untrack")
