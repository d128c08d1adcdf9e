"""``pgseal pack``: evidence for somebody who has neither our database nor a reason to trust us."""

from collections.abc import Generator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from pgseal.cli.invocation import load_settings
from pgseal.cli.options import Action, Actor, AsJson, Category, InUtc, Outcome, Since, Table, Until
from pgseal.cli.question import Question
from pgseal.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from pgseal.core.pack_filter import Filter
    from pgseal.vault.pack import Made

EXAMPLE = "pgseal pack --since 2026-11-01 --until 2026-12-01 --table public.patients -o november.zip"

_VERIFY = "pgseal verify"


class Part(StrEnum):
    """The two parts of a record."""

    ACTOR = "actor"
    DATA = "data"


def pack(
    context: typer.Context,
    *,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The pack to write.")],
    since: Since = None,
    until: Until = None,
    table: Table = None,
    action: Action = None,
    category: Category = None,
    outcome: Outcome = None,
    actor: Actor = None,
    begin: Annotated[int | None, typer.Option(min=0, metavar="N", help="From this leaf instead.")] = None,
    end: Annotated[int | None, typer.Option(min=1, metavar="N", help="Before this leaf instead.")] = None,
    withhold: Annotated[
        list[Part] | None, typer.Option(help="Leave this part out, also of records that match.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    utc: InUtc = False,
    as_json: AsJson = False,
) -> None:
    """Write the records that answer a question into a file that proves them.

    Whoever has the verifier key checks it offline, with pgseal verify PACK. The pack has every record of a stretch of
    the log, so that it shows that none is left out; of those that do not match, it has only what the log itself says.
    """
    wanted_options = Question(since, until, table, action, category, outcome, actor, utc=utc)
    settings = load_settings(context)

    from pgseal import __version__
    from pgseal.cli.output import print_json, show_progress
    from pgseal.ledger.reader import LedgerReader
    from pgseal.ledger.store import DirectoryStore
    from pgseal.postgres import connect
    from pgseal.vault.pack import Order, make_pack
    from pgseal.vault.pack_rows import PackRows
    from pgseal.vault.search import resolve_relation

    if output.exists() and not force:
        raise ConfigError(f"{str(output)!r} is there already: give another name, or --force")
    key = settings.read_verifier()
    with closing(connect(settings.vault.dsn.reveal(), side="vault")) as connection:
        wanted = wanted_options.to_filter(None if table is None else resolve_relation(connection, table))
        withheld = frozenset(part.value for part in withhold or ())
        created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        order = Order(wanted, begin, end, withheld, created, f"pgseal {__version__}")
        reader = LedgerReader(DirectoryStore(settings.ledger))
        with _replacing(output) as file, show_progress(output.name, quiet=as_json) as progress:
            made = make_pack(file, order, reader, PackRows(connection), key, progress)
    if as_json:
        print_json(_to_json(made, output, wanted))
    else:
        _show(made, output, wanted)


@contextmanager
def _replacing(path: Path) -> Generator[IO[bytes]]:
    """Give a temporary file that takes the place of ``path`` if all goes well, and is gone otherwise.

    Raises ``StorageError`` for what the file system refuses.
    """
    import os
    import tempfile
    from contextlib import suppress

    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        temporary = None
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise StorageError(f"cannot write {str(path)!r} ({(error.strerror or 'failed').lower()})") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink()


def _to_json(made: "Made", output: Path, wanted: "Filter") -> dict[str, object]:
    answer = made.answer
    return {
        "file": str(output),
        "bytes": made.bytes,
        "size": made.tree_size,
        "begin": made.begin,
        "end": made.end,
        "records": made.end - made.begin,
        "filter": wanted.to_json(),
        "matching": answer.matching,
        "withheld": answer.withheld,
        "erased": answer.erased,
        "complete": not answer.reasons,
        "verdict": answer.verdict,
        "reasons": list(answer.reasons),
    }


def _show(made: "Made", output: Path, wanted: "Filter") -> None:
    from pgseal.cli.output import format_count, printable, say

    answer = made.answer
    records = format_count(made.end - made.begin, "record")
    say(("✓ ", "green"), f"{printable(str(output))}: {records}, {answer.matching:,} match, {made.bytes:,} bytes")
    for reason in answer.reasons:
        say(("! ", "yellow"), reason)
    if not answer.reasons:
        say("  its verifier will find the answer complete")
    elif wanted.until is not None and "after is later" in " ".join(answer.reasons):
        say("  a HEARTBEAT is sealed once a minute: make the pack again a minute after the time it ends with")
    options = "".join(f" --{name} '{value}'" for name, value in wanted.to_json().items())
    say(f"  to check it:  {_VERIFY} {printable(str(output))} --vkey KEY{printable(options)}")
    say("  KEY is what pgseal key show prints; send it by another way than the pack")
