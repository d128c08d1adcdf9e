"""``pgseal demo``: the whole story on an embedded PostgreSQL."""

import io
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgseal.cli.failures import FOUND, INTERRUPTED
from pgseal.cli.options import AsJson
from pgseal.errors import ConfigError

if TYPE_CHECKING:
    from pgseal.demo import Outcome

EXAMPLE = "pgseal demo --keep"


def demo(
    directory: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="With --keep: where.")] = None,
    *,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Use the Synthea CSV files there instead of a made-up clinic.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave servers and configuration behind, to go on.")] = False,
    as_json: AsJson = False,
) -> int:
    """See the whole story in a minute, on servers of its own.

    Captures, seals, verifies and attacks a small clinic. Needs no root, no network and nothing installed but
    pgseal[embedded]; leaves nothing behind.
    """
    if directory is not None and not keep:
        raise ConfigError(f"{str(directory)!r}: a directory goes with --keep; for data of your own: --data DIR")

    from pgseal.cli.output import print_json, printable, say
    from pgseal.demo import Home, Narrator, Options, tell

    def tell_people(*parts: str | tuple[str, str]) -> None:
        say(*(printable(part) if isinstance(part, str) else (printable(part[0]), part[1]) for part in parts))

    with _own_environment(), _ended_by_signals():
        options = Options(data=data, keep=keep, directory=directory, program=_find_program())
        home = Home(options)
        verdict, document = tell(
            options, Narrator(None if as_json else tell_people), Commands(home.path, quiet=as_json), home
        )
    if as_json:
        print_json(document)
    else:
        tell_people(str(verdict))
    return 0 if verdict.ok else FOUND


class Commands:
    """Runs commands in this process, as the command line would: the demo's ``Pgseal``."""

    def __init__(self, home: Path, *, quiet: bool) -> None:
        """Run them on ``pgseal.toml`` in ``home``."""
        self._config = home / "pgseal.toml"
        self._quiet = quiet

    def run(self, arguments: Sequence[str], *, show: bool = False) -> "Outcome":
        """Run one command; with ``show`` where everybody sees it, unless all is quiet."""
        from pgseal.cli.app import run
        from pgseal.demo import Outcome

        output, errors = io.StringIO(), io.StringIO()
        shown = show and not self._quiet
        with nullcontext() if shown else redirect_stdout(output), redirect_stderr(errors):
            code = run(["--config", str(self._config), *arguments])
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        return Outcome(code, output.getvalue(), errors.getvalue())

    def read(self, *arguments: str) -> Any:
        """Run a command that has to succeed, with ``--json``, and return its document."""
        from pgseal.demo import require_success

        return require_success(arguments, self.run([*arguments, "--json"])).document


def _find_program() -> str:
    """Return what a person has to type to call this program, from anywhere."""
    own = Path(sys.argv[0]).absolute()
    return "pgseal" if shutil.which("pgseal") == str(own) or not own.exists() else shlex.quote(str(own))


@contextmanager
def _own_environment() -> Generator[None]:
    """Hide PGSEAL_* and libpq's variables: the demo's configuration is its own."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PG")}
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextmanager
def _ended_by_signals() -> Generator[None]:
    """Let SIGTERM and SIGHUP end the demo as Ctrl-C does, so that no server is left behind."""

    def end(number: int, frame: FrameType | None) -> None:
        """End with the exit code of a program that the signal has killed."""
        del frame
        raise SystemExit(128 + number)

    # What is ignored stays ignored: nohup.
    numbers = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) != signal.SIG_IGN]
    before = [signal.signal(number, end) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
