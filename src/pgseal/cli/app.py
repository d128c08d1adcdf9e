"""Puts the commands together, and turns every way a command can end into an exit code and at most one line."""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pgseal import __version__
from pgseal.cli import (
    apply,
    demo,
    doctor,
    erase,
    history,
    hold,
    init,
    key,
    pack,
    plan,
    prove,
    recover,
    retain,
    seal,
    search,
    status,
    track,
    untrack,
    verify,
    witness,
)
from pgseal.cli.failures import INTERRUPTED, describe_failure
from pgseal.cli.invocation import Invocation

_BROKEN_PIPE = 141
_WELCOME = """\
pgseal: sealed audit trails for Postgres: who did what, provably.

  pgseal init --source DSN --vault DSN --ledger DIR --origin NAME
                                  install both sides, make the key, write pgseal.toml
  pgseal track TABLE...           start auditing tables
  pgseal seal                     seal what happens, until stopped
  pgseal history TABLE KEY        who changed this row, when, and what
  pgseal verify                   was anything changed behind pgseal's back?

All commands: pgseal --help.
"""

app = typer.Typer(
    name="pgseal",
    help="Sealed audit trails for Postgres: who did what, provably.",
    add_completion=False,
    rich_markup_mode=None,  # plain help: short, and quick to show
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        sys.stdout.write(f"pgseal {__version__}\n")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The configuration (default: PGSEAL_CONFIG, or ./pgseal.toml).")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options that concern every command; without a command, say where to begin."""
    del version
    if context.invoked_subcommand is None:
        sys.stdout.write(_WELCOME)
    context.obj = Invocation(config, debug=debug)


# In the order a newcomer needs them.
for command, example in (
    (init.init, init.EXAMPLE),
    (track.track, track.EXAMPLE),
    (untrack.untrack, untrack.EXAMPLE),
    (plan.plan, plan.EXAMPLE),
    (apply.apply, apply.EXAMPLE),
    (seal.seal, seal.EXAMPLE),
    (verify.verify, verify.EXAMPLE),
    (status.status, status.EXAMPLE),
    (doctor.doctor, doctor.EXAMPLE),
    (history.history, history.EXAMPLE),
    (search.search, search.EXAMPLE),
    (prove.prove, prove.EXAMPLE),
    (pack.pack, pack.EXAMPLE),
    (retain.retain, retain.EXAMPLE),
    (erase.erase, erase.EXAMPLE),
    (recover.recover, recover.EXAMPLE),
    (demo.demo, demo.EXAMPLE),
):
    app.command(epilog=f"Example: {example}")(command)
app.add_typer(hold.app, name="hold")
app.add_typer(key.app, name="key")
app.add_typer(witness.app, name="witness")


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # a terminal without UTF-8 is no reason to fail
    try:
        code = _run_command(arguments)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last one who can tell a person in one line
        if "--debug" in arguments:
            traceback.print_exc()
        message, code = describe_failure(error)
        sys.stderr.write(f"pgseal: {message}\n")
        return code
    if code == INTERRUPTED:
        sys.stderr.write("pgseal: interrupted\n")
    return code


def _run_command(arguments: Sequence[str]) -> int:
    try:
        for argument in arguments:
            argument.encode()  # file names may hold what is not UTF-8; nothing we take may
        code = app(args=_hoist(arguments), prog_name="pgseal", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        return _end_without_reader()
    except SystemExit as error:
        # typer makes one of a broken pipe.
        if isinstance(error.__context__, BrokenPipeError):
            return _end_without_reader()
        raise
    return code if isinstance(code, int) else 0


def _end_without_reader() -> int:
    # Whoever read our output has seen enough; the interpreter's own flush at exit must not complain either.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _BROKEN_PIPE


def _hoist(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with ``--config`` and ``--debug`` first: people write them after the command, too."""
    first: list[str] = []
    rest: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--":
            rest += [argument, *remaining]
        elif argument == "--debug" or argument.startswith("--config="):
            first.append(argument)
        elif argument == "--config":
            first += [argument, *([value] if (value := next(remaining, None)) is not None else [])]
        else:
            rest.append(argument)
    return first + rest
