"""``pgseal key``: the key that signs the log."""

import sys
from typing import Annotated

import typer

from pgseal.cli.invocation import load_settings

app = typer.Typer(help="The key that signs the log.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def group(context: typer.Context) -> None:
    """Hold the commands about the key; alone, say which there are."""
    if context.invoked_subcommand is None:
        sys.stdout.write(f"{context.get_help()}\n")


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
