"""Vault rows on their way to leaves: PostgreSQL's binary COPY form, a fast path and a slow one.

The vault gives rows as ``COPY … TO STDOUT (FORMAT binary)``: each value with its length (int32 big-endian, -1 for NULL)
in front, no escapes, no time zones. ``VAULT_COLUMNS`` puts the columns of fixed width first and those that repeat from
row to row last, so that one ``unpack`` reads the former and the bytes of the latter are the key of a template cache.
Compared with text lines in table order this takes a quarter off the server's work and off the reader's.

``LeafFormer.form`` is the fast path: it forms leaves and says nothing about a batch that has anything unusual in it.
``parse_row`` is the slow one and reads every row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from struct import Struct
from struct import error as struct_error
from typing import NamedTuple

from pgseal.copybinary import EPOCH_MICROSECONDS, split_fields
from pgseal.core.erasure import ERASE
from pgseal.core.fields import format_time
from pgseal.core.heartbeat import HEARTBEAT
from pgseal.core.leaf import ACTOR_PREFIX, DATA_PREFIX, LeafBuilder, Seconds, text_template
from pgseal.core.record import SALT_BYTES
from pgseal.core.recovery import RECOVER
from pgseal.core.retention import RETENTION
from pgseal.core.rotation import KEY_ROTATE
from pgseal.errors import FormatError, StorageError

#: What ``VaultSource.copy_rows`` selects. The casts make the form certain, whatever the columns were altered to.
VAULT_COLUMNS = (
    "leaf_index::bigint, id::bigint, time::timestamptz, xid::xid8, actor_salt::bytea, data_salt::bytea, actor::text, "
    "data::text, trail::text, incarnation::integer, source::text, category::text, action::text, outcome::text, "
    "relation::text"
)

#: The action of a record that stands for a trail row which could not be sealed.
MALFORMED = "MALFORMED"

_SOURCE = "vault row"
_COUNT_BYTES = 2
_COLUMNS = 15
_CONSTANTS = 7  # trail to relation
_BIGINT_BYTES = 8
_LENGTH_BYTES = 4

# int16 number of columns, then length and value of: leaf_index, id, time, xid, actor_salt, data_salt; length of actor.
_HEAD = Struct(">hiqiqiqiQi32si32si")
_HEAD_BYTES = _HEAD.size
_MICROSECONDS = 1_000_000
_MAX_CACHED = 8192


@dataclass(frozen=True, slots=True)
class Row:
    """One record as a side shows it, every column; ``time`` is None where FORMATS.md has no form for it.

    A row of a trail has no salts and, in ``leaf_index``, nothing.
    """

    leaf_index: int | None
    trail: str | None
    incarnation: int | None
    id: int | None
    time: str | None
    xid: int | None
    source: str | None
    category: str | None
    action: str | None
    outcome: str | None
    relation: str | None
    actor: bytes | None
    actor_salt: bytes | None
    data: bytes | None
    data_salt: bytes | None


class _Template(NamedTuple):
    """What rows with the same constants become; ``times`` are those of the rows formed with it."""

    text: str
    trail: str
    times: list[int]


class LeafFormer:
    """Forms leaves from rows, keeping what repeats. One for each process."""

    def __init__(self) -> None:
        """Start with nothing kept."""
        self._builder = LeafBuilder()
        self._templates: dict[bytes, _Template] = {}
        self._seconds = Seconds()
        #: The trails, with incarnation, of all rows that were formed.
        self.trails: set[tuple[str, int]] = set()

    def form(self, rows: Sequence[bytes], begin: int) -> list[str] | None:
        """Return the leaves of ``rows`` as text, if they are at ``begin`` and the indexes after it, in order.

        None where a row is anything but ordinary: out of place, erased, what an envelope cannot hold, or a record that
        says something about others (MALFORMED, RETENTION, RECOVER, HEARTBEAT, ERASE, KEY_ROTATE).
        """
        templates, seconds = self._templates, self._seconds
        leaves: list[str] = []
        expected = begin
        for row in rows:
            try:
                (
                    _, length1, leaf_index, length2, id_, length3, time, length4, xid,
                    length5, actor_salt, length6, data_salt, actor_bytes,
                ) = _HEAD.unpack_from(row)  # fmt: skip
            except struct_error:  # shorter than a row with both salts
                return None
            if leaf_index != expected or not (
                length5 == length6 == SALT_BYTES and length1 == length2 == length3 == length4 == _BIGINT_BYTES
            ):
                return None
            actor_end = _HEAD_BYTES + actor_bytes
            data_begin = actor_end + _LENGTH_BYTES
            # A part that is NULL gives a length beyond every row, and the empty key, which no template has.
            data_end = data_begin + int.from_bytes(row[actor_end:data_begin], "big")
            key = row[data_end:]
            template = templates.get(key)
            if template is None and (template := self._learn(key)) is None:
                return None
            template.times.append(time)
            second, fraction = divmod(time + EPOCH_MICROSECONDS, _MICROSECONDS)
            try:
                moment = seconds[second]
            except FormatError:
                return None
            leaves.append(
                template.text
                % (
                    sha256(ACTOR_PREFIX + actor_salt + row[_HEAD_BYTES:actor_end]).hexdigest(),
                    sha256(DATA_PREFIX + data_salt + row[data_begin:data_end]).hexdigest(),
                    id_,
                    moment,
                    fraction,
                    xid,
                )
            )
            expected += 1
        return leaves

    def take_times(self) -> dict[str, tuple[int, int]]:
        """Return the earliest and the latest time, by trail, of the rows that were formed since this was asked last.

        In microseconds since the Unix epoch.
        """
        found: dict[str, tuple[int, int]] = {}
        for template in self._templates.values():
            if template.times:
                low, high = min(template.times) + EPOCH_MICROSECONDS, max(template.times) + EPOCH_MICROSECONDS
                template.times.clear()
                before = found.get(template.trail, (low, high))
                found[template.trail] = min(low, before[0]), max(high, before[1])
        return found

    def _learn(self, key: bytes) -> "_Template | None":
        """Return the template for rows that end in ``key``; None for a key that has none."""
        try:
            trail, incarnation, source, category, action, outcome, relation = _parse_constants(key)
            if action in {MALFORMED, RETENTION, RECOVER, HEARTBEAT, ERASE, KEY_ROTATE}:
                return None
            template = self._builder.template(
                trail or "", incarnation or 0, source or "", category or "", action or "", outcome or "", relation
            )
        except FormatError:
            return None
        if len(self._templates) >= _MAX_CACHED:
            used = {one_key: one for one_key, one in self._templates.items() if one.times}
            self._templates.clear()
            self._templates.update(used)
        learned = self._templates[key] = _Template(text_template(template), trail or "", [])
        self.trails.add((trail or "", incarnation or 0))
        return learned


def parse_row(row: bytes) -> Row:
    """Return every column of a row of binary COPY.

    Raises ``StorageError`` for a row that is not of ``VAULT_COLUMNS``: the server frames rows, nobody else can.
    """
    try:
        values = split_fields(row[_COUNT_BYTES:], _COLUMNS, source=_SOURCE)
    except FormatError as error:
        raise StorageError(f"the vault gave a row that cannot be read: {error}") from error
    leaf_index, id_, time, xid = (
        None if value is None else int.from_bytes(value, "big", signed=signed)
        for value, signed in zip(values, (True, True, True, False), strict=False)
    )
    trail, incarnation, source, category, action, outcome, relation = _texts(values[8:])
    return Row(
        leaf_index, trail, incarnation, id_, _format_time(time), xid, source, category, action, outcome, relation,
        actor=values[6], actor_salt=values[4], data=values[7], data_salt=values[5],
    )  # fmt: skip


def read_leaf_index(row: bytes) -> int | None:
    """Return the leaf index of a row of binary COPY."""
    if int.from_bytes(row[2:6], "big", signed=True) < 0:
        return None
    return int.from_bytes(row[6:14], "big", signed=True)


def _format_time(microseconds: int | None) -> str | None:
    try:
        return None if microseconds is None else format_time(microseconds + EPOCH_MICROSECONDS)
    except FormatError:
        return None


def _parse_constants(key: bytes) -> tuple[str | None, int | None, *tuple[str | None, ...]]:
    return _texts(split_fields(key, _CONSTANTS, source=_SOURCE))


def _texts(values: Sequence[bytes | None]) -> tuple[str | None, int | None, *tuple[str | None, ...]]:
    # Bytes that are no UTF-8 become lone surrogates, which no envelope has: different from whatever was sealed.
    trail, incarnation, *others = values
    return (
        None if trail is None else trail.decode("utf-8", "surrogateescape"),
        None if incarnation is None else int.from_bytes(incarnation, "big", signed=True),
        *(None if value is None else value.decode("utf-8", "surrogateescape") for value in others),
    )
