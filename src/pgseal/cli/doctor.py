"""``pgseal doctor``: what is misconfigured, and the command that mends it."""

from dataclasses import asdict

import typer

from pgseal.cli.failures import FOUND
from pgseal.cli.invocation import load_settings
from pgseal.cli.options import AsJson

EXAMPLE = "pgseal doctor"


def doctor(context: typer.Context, as_json: AsJson = False) -> int:
    """Say what is misconfigured, why it matters, and the command that mends it.

    Changes nothing. Ends with exit code 1 if there is an error among the advice.
    """
    settings = load_settings(context)

    from pgseal.cli.output import format_count, print_json, printable, say
    from pgseal.sealer.doctor import examine

    found = examine(settings)
    if as_json:
        print_json({"advice": [asdict(advice) for advice in found]})
    else:
        styles = {"error": "red", "warning": "yellow", "note": "dim"}
        for advice in found:
            say(
                (f"{advice.severity:<8} ", styles[advice.severity]),
                (printable(advice.subject), "bold"),
                f": {printable(advice.what)}",
            )
            say(f"         {printable(advice.why)}")
            say(f"         → {printable(advice.command)}")
        worst = [advice for advice in found if advice.severity != "note"]
        say(format_count(len(worst), "thing") + " to mend" if worst else "nothing to mend")
    return FOUND if any(advice.severity == "error" for advice in found) else 0
