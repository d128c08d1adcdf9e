"""``pgseal untrack``: stop auditing tables."""

import shlex
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from pgseal.cli.invocation import load_settings
from pgseal.cli.options import AsJson, SourceName
from pgseal.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

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

    from pgseal.cli.output import print_json
    from pgseal.core.record import format_relation
    from pgseal.postgres import connect, translated_errors
    from pgseal.settings import edit_tables
    from pgseal.trail.catalog import resolve_relations
    from pgseal.trail.policy import matching_pattern
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
    _report(settings.path.name, {one: (rule, matching_pattern(where.tables, one)) for one, rule in chosen.items()})


def _report(file: str, chosen: "Mapping[str, tuple[TableRule, str | None]]") -> None:
    """Say what is no longer tracked, with the rule it had and the pattern of ``file`` that matches it."""
    from pgseal.cli.output import printable, say

    for relation, (rule, pattern) in chosen.items():
        say(f"  {printable(relation)}  no longer tracked; its records stay")
        if options := rule.format_options():
            say(f"    as it was:  pgseal track {printable(shlex.quote(relation))} {printable(options)}")
        if pattern is not None:
            say(
                f"    {printable(repr(pattern))} matches it: add it to its except in {printable(file)}, "
                "or plan will propose it again"
            )
    if not chosen:
        say("nothing to untrack")
