"""Options that several commands have."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple, TypeAlias

import typer

from pgseal.errors import ConfigError

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
InUtc: TypeAlias = Annotated[bool, typer.Option("--utc", help="Times in UTC instead of your own zone.")]
Table: TypeAlias = Annotated[str | None, typer.Option(help="About this table, as schema.name.")]
Action: TypeAlias = Annotated[str | None, typer.Option(help="INSERT, UPDATE, DELETE, TRUNCATE, LOGIN, …")]
Category: TypeAlias = Annotated[str | None, typer.Option(help="data_modification, configuration, …")]
Outcome: TypeAlias = Annotated[str | None, typer.Option(help="success, failure, denied or unknown.")]
Actor: TypeAlias = Annotated[str | None, typer.Option(help="A role, or who the application said it was.")]
Since: TypeAlias = Annotated[str | None, typer.Option(help="From then on: a date, a time, or 2h, 7d ago.")]
Until: TypeAlias = Annotated[str | None, typer.Option(help="Before then.")]
SourceName: TypeAlias = Annotated[
    str | None, typer.Option("--source", metavar="NAME", help="Which source, if several.")
]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_when(text: str, option: str, *, utc: bool) -> str:
    """Return a moment as PostgreSQL reads it.

    ``text`` is an ISO date or time (in the reader's zone unless it names one), or how long ago: ``2h``.

    Raises ``ConfigError`` naming ``option``.
    """
    ago = re.fullmatch(r"([0-9]{1,6})([smhdw])", text)
    try:
        if ago:
            moment = datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        else:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC) if utc else moment.astimezone()
        return moment.astimezone(UTC).isoformat()
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"{option}: expected a date, a time or how long ago (2026-11-23, '2026-11-23 09:14', 2h, 7d), got {text!r}"
        ) from error


def parse_time_option(text: str | None, option: str, *, utc: bool) -> str | None:
    """Return a moment as records write it, None for None; raises ``ConfigError`` as ``parse_when``."""
    if text is None:
        return None
    moment = datetime.fromisoformat(parse_when(text, option, utc=utc))
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(len("2026-11-23T09:00:00.000000Z"), "0")


class RecordName(NamedTuple):
    """A record: of which trail (None: whichever has it), and of which incarnation of it (None: the newest)."""

    trail: str | None
    id: int
    incarnation: int | None


def parse_record_name(text: str) -> RecordName:
    """Return what ``[TRAIL/]ID[@INCARNATION]`` names; raises ``ConfigError``."""
    match = re.fullmatch(r"(?:([a-z0-9_-]{1,63})/)?#?([1-9][0-9]{0,18})(?:@([1-9][0-9]{0,8}))?", text)
    if match is None or int(match[2]) >= 1 << 63:
        raise ConfigError(f"expected a record as [TRAIL/]ID, such as clinic/9077, got {text!r}")
    return RecordName(match[1], int(match[2]), int(match[3]) if match[3] else None)
