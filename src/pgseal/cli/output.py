"""What commands print: aligned, quiet, coloured only on a terminal, and safe to look at.

What comes from a database is somebody else's text: control characters, which could move the cursor or hide what stands
before them, are shown as escapes.
"""

import errno
import json
import re
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.text import Text

#: Called with (done, total).
Progress = Callable[[int, int], None]
#: Called with (step, done, total if known).
Steps = Callable[[str, int, int | None], None]

# C0 and C1 controls, and what turns the direction of text around or is not seen.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the command end as every other whose reader is gone."""
        raise BrokenPipeError(errno.EPIPE, "the reader is gone")


def console(*, stderr: bool = False) -> Console:
    """Return where people read: colour on a terminal unless NO_COLOR, plain and unwrapped elsewhere."""
    return _console_of(sys.stderr if stderr else sys.stdout)


@lru_cache(maxsize=4)
def _console_of(stream: TextIO) -> Console:
    return _Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True)


def say(*parts: str | tuple[str, str], end: str = "\n") -> None:
    """Print one line made of plain texts and (text, style) pairs."""
    _print(console(), *parts, end=end)


def warn(*parts: str | tuple[str, str]) -> None:
    """Print one line on stderr, led by an exclamation mark."""
    _print(console(stderr=True), ("! ", "yellow"), *parts)


def _print(target: Console, *parts: str | tuple[str, str], end: str = "\n") -> None:
    target.print(Text.assemble(*parts), end=end)


def print_json(document: object) -> None:
    """Print one JSON document."""
    print_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")))


def print_text(text: str) -> None:
    """Print one line exactly as it is, for programs."""
    sys.stdout.write(text + "\n")


def printable(text: str, limit: int | None = None) -> str:
    """Return ``text`` with nothing in it that a terminal would obey, cut to ``limit`` characters."""
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    return _UNSAFE.sub(lambda match: _ESCAPES.get(match[0], f"\\u{ord(match[0]):04x}"), text)


def format_count(number: int, noun: str = "", plural: str = "") -> str:
    """Return ``18,204 records``."""
    words = f"{number:,}"
    return f"{words} {noun if number == 1 else plural or noun + 's'}" if noun else words


def format_duration(seconds: float) -> str:
    """Return a duration in the unit a person would use: ``41 ms``, ``0.6 s``, ``3 min``, ``2 h``, ``5 days``."""
    if seconds < 0.1:  # noqa: PLR2004 - units, here and below
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    for unit, name, until in ((1, "s", 2 * _MINUTE), (_MINUTE, "min", 2 * _HOUR), (_HOUR, "h", 2 * _DAY)):
        if seconds < until:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / _DAY:.0f} days"


def reader_zone(*, utc: bool) -> tzinfo | None:
    """Return UTC if asked for, else None, which ``astimezone`` takes for the reader's own."""
    return UTC if utc else None


def parse_moment(time: str) -> datetime:
    """Return the moment that a record's time (always UTC) states."""
    return datetime.fromisoformat(time)


def format_moment(time: str | None, *, utc: bool) -> str:
    """Return a record's time in the reader's zone, to the millisecond; None: what the vault has is no time."""
    if time is None:
        return "(impossible time)"
    try:
        moment = parse_moment(time).astimezone(reader_zone(utc=utc))
    except (ValueError, OverflowError):
        return time
    return moment.isoformat(" ", timespec="milliseconds")[:23]


def zone_name(*, utc: bool) -> str:
    """Return the name of the reader's zone: ``UTC``, or ``CET (UTC+01:00)``."""
    if utc:
        return "UTC"
    now = datetime.now().astimezone()
    offset, name = now.strftime("%z"), now.tzname() or ""
    if name == "UTC":
        return name
    shown = f"UTC{offset[:3]}:{offset[3:5]}"
    return f"{name} ({shown})" if name.isalpha() else shown


@contextmanager
def show_progress(label: str, *, quiet: bool) -> Generator[Progress]:
    """Show a bar on stderr if a person is watching; yields what is called with (done, total; 0 if unknown)."""
    with show_steps(quiet=quiet) as show:
        yield lambda done, total: show(label, done, total or None)


@contextmanager
def show_steps(*, quiet: bool) -> Generator[Steps]:
    """Show a bar for each step on stderr if a person is watching; yields what is called with (step, done, total)."""
    if quiet or not sys.stderr.isatty():
        yield lambda _step, _done, _total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:

        def show(step: str, done: int, total: int | None) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(escape(printable(step)), total=None)
            bar.update(tasks[step], completed=done, total=total)

        yield show
