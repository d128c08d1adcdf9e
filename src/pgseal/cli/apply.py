"""``pgseal apply``: make the database as the policy wants it."""

from typing import Annotated

import typer

from pgseal.cli.invocation import load_settings
from pgseal.cli.options import AsJson, SourceName
from pgseal.cli.plan import describe_plan, print_script, read_source_plan, show_plan

EXAMPLE = "pgseal apply"


def apply(
    context: typer.Context,
    *,
    seconds: Annotated[
        float, typer.Option("--lock-budget", metavar="SECONDS", min=0, max=3600, help="For how long to try for locks.")
    ] = 30.0,
    as_sql: Annotated[bool, typer.Option("--sql", help="Print the SQL instead of running it.")] = False,
    source: SourceName = None,
    as_json: AsJson = False,
) -> None:
    """Make the database as the policy wants it: all of it, or nothing.

    Takes all locks first, without ever waiting for one, so that the application does not queue up behind it.
    """
    settings = load_settings(context)
    where = settings.find_source(source)

    from pgseal.cli.output import format_count, print_json, say, show_steps
    from pgseal.trail.apply import apply_steps

    found = read_source_plan(where)
    if as_sql:
        print_script(where, found)
        return
    if not as_json:
        show_plan(found)
    found.check_can_be_applied()
    with show_steps(quiet=as_json) as progress:
        tracked = apply_steps(
            where.admin_dsn.reveal(),
            found.steps,
            repairs=found.repairs,
            side=f"source {where.name!r}",
            seconds=seconds,
            progress=lambda relation, done, total: progress(f"{relation}: recording the rows", done, total),
        )
    left = read_source_plan(where)
    if as_json:
        wanted, remaining = (describe_plan(plan)["changes"] for plan in (found, left))
        print_json({
            "source": where.name,
            "applied": [change for change in wanted if change not in remaining],
            "tables": [{"relation": table.relation, "baseline": table.rows} for table in tracked],
            "left": remaining,
        })  # fmt: skip
        return
    if found.steps or found.repairs:
        rows = sum(table.rows for table in tracked)
        say(("✓", "green"), f" applied in one transaction, {format_count(rows, 'row')} recorded as they stand")
    if left.changes:
        say("to be mended by hand:")
        show_plan(left)
