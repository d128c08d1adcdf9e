"""How records look to a person: who, when, what; every value safe to print.

Of a row that came or went all columns are shown, of one that was changed those that were. NULL stands for itself: a
text that says so stands in quotes, as do the empty one and all that could be read in two ways.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pgseal.cli.output import format_count, format_moment, printable
from pgseal.core.actors import find_claimed_actor
from pgseal.vault.moves import Move
from pgseal.vault.values import Number, format_json

if TYPE_CHECKING:
    from pgseal.settings import Settings
    from pgseal.vault.records import Record

_VALUE_WIDTH = 60
_NAME_WIDTH = 40
_LINE_WIDTH = 96
_MOST_LINES = 8
_GAP = "  "
# Nothing, a word that stands for a value, blanks at an end or several together, quotes, our own arrow.
_LOOKS_ELSE = re.compile(r"\A\s*\Z|\A(null|true|false)\Z|\A\s|\s\Z|\s\s|\"|→", re.IGNORECASE)
_STYLES = {
    "DELETE": "red",
    "TRUNCATE": "red",
    "TRUNCATE_PARTITION": "red",
    "DETACH": "red",
    "INSERT": "green",
    "SNAPSHOT": "green",
    "ATTACH": "green",
}
Line = list[str | tuple[str, str]]


def describe_actor(record: "Record") -> str:
    """Return who: the claimed actor with the role it used, or the role (with its application) alone.

    A role that the session gave itself stands with the one that logged in.
    """
    if record.actor is None:
        return "(erased)"
    who = record.who
    role = _name(who.get("set_role") or who.get("role"))
    if who.get("authenticated") not in {None, who.get("role")}:
        role = f"{role}, logged in as {_name(who['authenticated'])}"
    claimed = find_claimed_actor(who)
    if claimed is not None:
        return f"{_name(claimed)} ({role})"
    application = who.get("application")
    return f"{role} ({_name(application)})" if application else role


def format_records(records: "list[Record]", sealed_size: int | None, *, utc: bool, table: bool) -> Iterator[Line]:
    """Yield the lines of records, aligned; ``table``: say which relation each is about.

    ``sealed_size`` is the size of the published checkpoint, None if the ledger cannot be read here.
    """
    actors = [printable(describe_actor(record), 32) for record in records]
    relations = [printable(record.relation or "", 40) if table else "" for record in records]
    action_width = max((len(record.action) for record in records), default=0)
    actor_width = max(map(len, actors), default=0)
    relation_width = max(map(len, relations), default=0)
    id_width = max((len(str(record.id)) for record in records), default=0)
    trails = {record.trail for record in records}
    for record, actor, relation in zip(records, actors, relations, strict=True):
        name = f"#{record.id:<{id_width}}"
        if len(trails) > 1:
            name = f"{record.trail}/{name}"
        line: Line = [
            (format_moment(record.time, utc=utc), "dim"),
            "  ",
            (f"{printable(record.action):<{action_width}}", _STYLES.get(record.action, "")),
            f"  {relation:<{relation_width}}" if table else "",
            f"  {actor:<{actor_width}}  {name}  ",
            _seal_mark(record, sealed_size),
        ]
        if record.lost:
            line.append(("   lost in a restore", "yellow"))
        if _has_no_actor(record):
            line.append(("   no actor set", "yellow"))
        yield line
        yield from _format_details(record)


def read_sealed_size(settings: "Settings") -> int | None:
    """Return the size the published checkpoint states, unverified; None if the ledger is not within reach."""
    from pgseal.core.checkpoint import parse_checkpoint
    from pgseal.core.note import parse_note
    from pgseal.errors import PgsealError
    from pgseal.ledger.reader import LedgerReader
    from pgseal.ledger.store import DirectoryStore

    try:
        text, _ = parse_note(LedgerReader(DirectoryStore(settings.ledger)).checkpoint_note())
        return parse_checkpoint(text).size
    except PgsealError:
        return None


def list_trails(settings: "Settings") -> list[str]:
    """Return the names of the trails of a configuration."""
    from pgseal.settings.model import VAULT_TRAIL

    return [*(source.name for source in settings.sources), VAULT_TRAIL]


def _has_no_actor(record: "Record") -> bool:
    """Return whether somebody changed a row without saying who; what pgseal found there is nobody's change."""
    if record.actor is None or record.source != "row" or record.action in {"SNAPSHOT", "ATTACH", "DETACH"}:
        return False
    return find_claimed_actor(record.who) is None


def _seal_mark(record: "Record", sealed_size: int | None) -> str | tuple[str, str]:
    if sealed_size is None:
        return ("in the vault", "dim")
    if record.leaf_index < sealed_size:
        return ("✓ sealed", "green")
    return ("sealing…", "dim")


def _format_details(record: "Record") -> Iterator[Line]:
    if record.data is None:
        yield ["    content erased; the seal remains"]
    elif isinstance(record, Move):
        yield ["    ", " → ".join(printable(partition) for partition in record.partitions)]
        yield from _format_changes(record)
    elif record.action == "UPDATE" and record.source == "row":
        yield from _format_changes(record)
        if not record.changed:
            yield [("    no column changed", "dim")]
    elif (image := record.new or record.old) is not None:
        yield from _format_image(image)
    elif said := {name: value for name, value in record.what.items() if value is not None}:
        yield [f"    {printable(format_json(said), 2 * _VALUE_WIDTH)}"]


def _format_changes(record: "Record") -> Iterator[Line]:
    """Yield a line for each column that an UPDATE or a move changed."""
    old, new = record.old or {}, record.new or {}
    names = [_text(column, _NAME_WIDTH) for column in record.changed]
    width = max(map(len, names), default=0)
    for column, name in zip(record.changed, names, strict=True):
        before, after = (_value(image.get(column)) for image in (old, new))
        yield [f"    {name:<{width}}  ", (before, "red"), " → ", (after, "green")]


def _format_image(image: Mapping[str, Any]) -> Iterator[Line]:
    """Yield lines with the columns of a row and their values, as many on a line as fit."""
    pairs = [f"{_text(column, _NAME_WIDTH)} {_value(value)}" for column, value in image.items()]
    lines = 0
    while pairs:
        count = 1
        while count < len(pairs) and len(_GAP.join(pairs[: count + 1])) <= _LINE_WIDTH:
            count += 1
        yield [f"    {_GAP.join(pairs[:count])}"]
        pairs, lines = pairs[count:], lines + 1
        if pairs and lines == _MOST_LINES:
            yield [(f"    … and {format_count(len(pairs), 'more column')}: --json has them all", "dim")]
            return


def _value(value: object) -> str:
    """Return a value of a row: ``NULL``, and no text looks like it."""
    if value is None:
        return "NULL"
    if isinstance(value, Number):
        return printable(value, _VALUE_WIDTH)
    if isinstance(value, str):
        return _text(value, _VALUE_WIDTH)
    return printable(format_json(value), _VALUE_WIDTH)


def _text(text: str, limit: int) -> str:
    """Return a text, cut to ``limit``; in quotes if it could be taken for something else, or for more than one."""
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    if _LOOKS_ELSE.search(text):
        short = json.dumps(short, ensure_ascii=False)
    return printable(short)


def _name(value: object) -> str:
    return value if isinstance(value, str) else format_json(value)
