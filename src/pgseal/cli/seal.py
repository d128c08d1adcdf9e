"""``pgseal seal``: move what was captured into vault and ledger."""

import signal
import sys
from contextlib import closing
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from pgseal.cli.invocation import load_settings
from pgseal.cli.options import AsJson
from pgseal.errors import ConfigError

if TYPE_CHECKING:
    from pgseal.settings import Settings

EXAMPLE = "pgseal seal --once"


def seal(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Seal what is committed now, print the checkpoint.")] = False,
    as_json: AsJson = False,
) -> None:
    """Seal what was captured: vault, ledger, signature.

    Runs until stopped; kill it whenever you like, nothing is lost.
    """
    if as_json and not once:
        raise ConfigError("--json goes with --once; pgseal status --json says how far sealing has come")
    settings = load_settings(context)
    if once:
        _seal_once(settings, as_json=as_json)
    else:
        _run(settings)


def _seal_once(settings: "Settings", *, as_json: bool) -> None:
    from pgseal.cli.output import format_count, print_json, printable, say, show_progress
    from pgseal.core.encoding import format_base64
    from pgseal.sealer.seal import Sealer
    from pgseal.sealer.watch import PartitionWatch

    with show_progress("sealing", quiet=as_json) as progress, closing(Sealer.open(settings)) as sealer:
        result = sealer.seal_once(lambda sealed: progress(sealed, 0))
    if as_json:
        print_json(result.to_json())
    else:
        say(("✓", "green"), f" {format_count(result.sealed, 'record')} sealed")
        say(f"  {printable(result.origin)}   size {result.size:,}   root {format_base64(result.root)}")
    PartitionWatch(settings).tell(lambda line: sys.stderr.write(f"pgseal: {printable(line)}\n"))
    if sealer.lost:
        raise sealer.lost[0]  # what could be reached is sealed and shown; what could not is the outcome


def _run(settings: "Settings") -> None:
    from pgseal.cli.output import printable, say
    from pgseal.sealer.loop import run

    stop = Event()

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        """Let the step at hand finish; a second signal does not wait."""
        del frame
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask_to_stop)

    def report(message: str) -> None:
        """Say in one line what keeps sealing from going on."""
        sys.stderr.write(f"pgseal: {printable(message)}\n")
        sys.stderr.flush()

    say(f"sealing {printable(settings.origin)}; stop with Ctrl-C")
    sys.stdout.flush()
    run(settings, stop, report)
    say("stopped; what waits is sealed next time")
