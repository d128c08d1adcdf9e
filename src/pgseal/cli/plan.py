"""``pgseal plan``: what differs between the policy and the database."""

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgseal.cli.failures import FOUND
from pgseal.cli.invocation import load_settings
from pgseal.cli.options import AsJson, SourceName

if TYPE_CHECKING:
    from pgseal.settings import Source
    from pgseal.trail.plan import Plan

EXAMPLE = "pgseal plan --check"


def plan(
    context: typer.Context,
    *,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if anything differs, for CI.")] = False,
    as_sql: Annotated[
        bool,
        typer.Option(
            "--sql",
            help="Print what apply would run, BEGIN and COMMIT included, for those whose DDL goes through migrations.",
        ),
    ] = False,
    source: SourceName = None,
    as_json: AsJson = False,
) -> int:
    """Show what apply would change, and what was changed outside pgseal.

    Changes nothing.
    """
    settings = load_settings(context)
    where = settings.find_source(source)
    found = read_source_plan(where)
    if as_sql:
        print_script(where, found)
    elif as_json:
        from pgseal.cli.output import print_json

        print_json({"source": where.name, **describe_plan(found)})
    else:
        show_plan(found)
        if found.changes:
            from pgseal.cli.output import format_count, say

            following = "next: pgseal apply" if found.steps or found.repairs else "pgseal apply mends none of it"
            if found.refusals:
                following = "pgseal apply does none of it until pgseal.toml is changed"
            say(f"{format_count(len(found.changes), 'difference')}.  {following}")
    return FOUND if check and found.changes else 0


def read_source_plan(source: "Source") -> "Plan":
    """Compare a source's policy with its database."""
    from pgseal.postgres import connect, translated_errors
    from pgseal.trail.plan import read_plan
    from pgseal.trail.policy import Entry, to_rule

    entries = {name: Entry(to_rule(policy, name), policy.exceptions) for name, policy in source.tables.items()}
    side = f"source {source.name!r}"
    with closing(connect(source.admin_dsn.reveal(), side=side)) as connection, translated_errors(side):
        return read_plan(connection, entries, side=side)


def describe_plan(found: "Plan") -> dict[str, Any]:
    """Return a plan as ``--json`` shows it."""
    return {
        "changes": [
            {"sign": change.sign, "subject": change.subject, "text": change.text, "outside": change.is_foreign}
            | ({"by_hand": change.by_hand} if change.by_hand else {})
            for change in found.changes
        ],
        "skipped": [{"relation": relation, "reason": reason} for relation, reason in found.skipped],
    }


def show_plan(found: "Plan") -> None:
    """Print the differences, a line each."""
    from pgseal.cli.output import printable, say

    width = max((len(printable(change.subject)) for change in found.changes), default=0)
    colors = {"+": "green", "-": "red", "~": "yellow"}
    for change in found.changes:
        outside = "   (changed outside pgseal)" if change.is_foreign else ""
        say(
            f"  {printable(change.subject):<{width}}  ",
            (change.sign, colors[change.sign]),
            f" {printable(change.text)}{outside}",
        )
        if change.by_hand:
            say(f"  {'':<{width}}    by hand: {printable(change.by_hand)}")
    for relation, reason in found.skipped:
        say(f"  {printable(relation):<{width}}    skip: {printable(reason)}")
    if not found.changes:
        say(("✓", "green"), " the database is as the policy wants it")


def print_script(source: "Source", found: "Plan") -> None:
    """Print the SQL that would mend the differences, in one transaction."""
    import sys

    from pgseal.postgres import connect, translated_errors
    from pgseal.trail.apply import format_script

    found.check_can_be_applied()
    side = f"source {source.name!r}"
    with closing(connect(source.admin_dsn.reveal(), side=side)) as connection, translated_errors(side):
        lines: Sequence[str] = format_script(connection, found.steps, found.repairs)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
