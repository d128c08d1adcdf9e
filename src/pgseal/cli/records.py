"""How records look to a person: who, when, what; every value safe to print."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from pgseal.cli.output import format_moment, printable
from pgseal.vault.values import Number, format_json

if TYPE_CHECKING:
    from pgseal.settings import Settings
    from pgseal.vault.records import Record

_VALUE_WIDTH = 60
_STYLES = {"DELETE": "red", "TRUNCATE": "red", "INSERT": "green", "SNAPSHOT": "green"}
Line = list[str | tuple[str, str]]


def describe_actor(record: "Record") -> str:
    """Return who: the claimed actor with the role it used, or the role (with its application) alone."""
    if record.actor is None:
        return "(erased)"
    who = record.who
    role = _name(who.get("set_role") or who.get("role"))
    claimed = find_claimed_actor(who)
    if claimed is not None:
        return f"{_name(claimed)} ({role})"
    application = who.get("application")
    return f"{role} ({_name(application)})" if application else role


def find_claimed_actor(who: Mapping[str, Any]) -> object:
    """Return who the application says acts; None if it did not say."""
    claimed = who.get("claimed")
    return cast("Mapping[str, object]", claimed).get("actor") if isinstance(claimed, dict) else None


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


def _has_no_actor(record: "Record") -> bool:
    """Return whether somebody changed a row without saying who; a baseline is nobody's change."""
    if record.actor is None or record.source != "row" or record.action == "SNAPSHOT":
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
    elif record.source == "row":
        if record.action == "UPDATE":
            old, new = record.old or {}, record.new or {}
            width = max((len(printable(column, 40)) for column in record.changed), default=0)
            for column in record.changed:
                name = f"{printable(column, 40):<{width}}"
                before, after = (_value(image.get(column)) for image in (old, new))
                yield [f"    {name}  ", (before, "red"), " → ", (after, "green")]
    elif record.what:
        yield [f"    {printable(format_json(record.what), 2 * _VALUE_WIDTH)}"]


def _value(value: object) -> str:
    if value is None:
        return "null"
    if value == "":
        return '""'
    if isinstance(value, str | Number):
        return printable(value, _VALUE_WIDTH)
    return printable(format_json(value), _VALUE_WIDTH)


def _name(value: object) -> str:
    return value if isinstance(value, str) else format_json(value)
