"""``pgseal verify PACK``: an evidence pack, with nothing but the key and the question of whoever looks at it."""

from pathlib import Path
from typing import TYPE_CHECKING

from pgseal.cli.failures import FOUND, UNABLE
from pgseal.cli.question import Question
from pgseal.errors import ConfigError, FormatError, StorageError

if TYPE_CHECKING:
    from pgseal.core.keys import VerifierKey
    from pgseal.verifier.pack import PackReport


def verify_pack(
    path: Path, vkey: str | None, question: Question, *, as_json: bool, require_complete: bool = False
) -> int:
    """Print what a pack comes to and return the exit code.

    Raises ``StorageError`` without a key: a pack that only agrees with itself says nothing.
    """
    from pgseal.cli.output import print_json, show_progress
    from pgseal.verifier.pack import check_pack

    wanted = question.to_filter()
    if vkey is None:
        raise StorageError(
            "cannot check a pack without the verifier key of its log: give it with --vkey, and have it from the log's "
            "owner (pgseal key show) by another way than the pack"
        )
    key = _parse_key(vkey)
    try:
        with path.open("rb") as file, show_progress(path.name, quiet=as_json) as progress:
            report = check_pack(file, key, wanted, progress=progress)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {str(path)!r}") from error
    except OSError as error:
        raise StorageError(f"cannot read {str(path)!r} ({(error.strerror or 'failed').lower()})") from error
    if as_json:
        print_json(report.to_json())
    else:
        _show(report, path)
    if not report.ok:
        return FOUND
    return UNABLE if require_complete and not report.is_complete else 0


def _parse_key(text: str) -> "VerifierKey":
    from pgseal.core.keys import parse_verifier_key

    try:
        return parse_verifier_key(text.strip(), source="--vkey")
    except FormatError as error:
        raise ConfigError(f"{error}; it looks like NAME+33d7b496+AeHT…, as pgseal key show prints it") from error


def _show(report: "PackReport", path: Path) -> None:
    from pgseal.cli.output import format_count, printable, say
    from pgseal.cli.verify import show_findings

    if report.checkpoint is not None and report.info is not None:
        say(f"pack     {printable(path.name)}, of {printable(report.checkpoint.origin)}")
        begin, end, size = report.info.begin, report.info.end, report.checkpoint.size
        say(f"leaves   {begin:,} to {end - 1:,} of {size:,}, each as it was sealed" if report.ok else
            f"leaves   {begin:,} to {end - 1:,} of {size:,}")  # fmt: skip
    answer = report.answer
    if not report.ok or answer is None:
        show_findings(report)
        return
    erased = f", {format_count(answer.erased)} of them with erased parts, as sealed" if answer.erased else ""
    say(f"records  {format_count(report.checked, 'record')}, {answer.matching:,} match{erased}")
    say(("✓ ", "green"), "nothing in this pack was changed, removed, added or reordered")
    if report.is_complete:
        say(("✓ ", "green"), "complete: these are all the records that match")
    for reason in answer.reasons:
        say(("! ", "yellow"), reason)
