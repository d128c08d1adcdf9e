"""``pgseal key``: the key that signs the log."""

import sys
from typing import Annotated

import typer

from pgseal.cli.invocation import load_settings

app = typer.Typer(help="The key that signs the log.", rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def group() -> None:
    """Hold the commands about the key."""


@app.command(epilog="Example: pgseal key show > clinic.vkey")
def show(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print the verifier key, one line: what others verify this log with."""
    verifier = load_settings(context).read_verifier()
    if as_json:
        from pgseal.cli.output import print_json

        print_json({"origin": verifier.name, "vkey": str(verifier)})
    else:
        sys.stdout.write(f"{verifier}\n")
