"""Rows of a trail as they leave it, split only where the sealer needs it.

Rows that are sealed leave it in binary COPY with the columns of ``SEALED_COLUMNS``; rows that are compared with what
was sealed, as COPY text lines with the columns of ``RECORD_COLUMNS``. Source to claimed repeat from row to row
(``head``), so what they become, the leaf's template and the actor part, is formed once and kept (``HeadCache``).
The bytes of ``actor`` and ``data`` formed here are what is committed to; nothing re-serializes them later.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from pgseal.copybinary import split_fields
from pgseal.copytext import NULL, escape, unescape
from pgseal.core.erasure import ERASED
from pgseal.core.fields import parse_relation
from pgseal.core.leaf import LeafBuilder
from pgseal.errors import FormatError

# The data part: the three members in jsonb's own text form, then those of the record's own object; or only that.
DATA_TEXT: LiteralString = (
    "CASE WHEN r.data IS NOT NULL AND r.new IS NULL AND r.old IS NULL THEN r.data::text ELSE concat("
    "'{\"key\": ', coalesce(r.key::text, 'null'), ', \"new\": ', coalesce(r.new::text, 'null'), "
    "', \"old\": ', coalesce(r.old::text, 'null'), coalesce(', ' || substr(r.data::text, 2), '}')) END"
)
_HEAD: LiteralString = (
    "r.source::text, r.category::text, r.action::text, r.outcome::text, r.relation::text, r.session_role::text, "
    "r.effective_role::text, r.authenticated_role::text, r.application::text, host(r.address), r.pid::text, "
    "r.backend_start::text, r.claimed::text"
)
_HEAD_COLUMNS = 13
_FACTS = 5  # source to relation
RECORD_COLUMNS: LiteralString = "r.id, r.xid, r.recorded_at, " + _HEAD + ", " + DATA_TEXT
#: The casts make the form certain, whatever the columns were altered to.
SEALED_COLUMNS: LiteralString = (
    "r.id::bigint, r.xid::xid8, r.recorded_at::timestamptz, (" + DATA_TEXT + ")::text, " + _HEAD
)
SEALED_COUNT = 4 + _HEAD_COLUMNS


def read_id(row: bytes) -> int:
    """Return the id of a row of ``SEALED_COLUMNS``."""
    return int.from_bytes(row[6:14], "big", signed=True)


@dataclass(frozen=True, slots=True)
class Head:
    """What the repeating part of a row becomes.

    ``values`` are source to relation, ``actor`` the part's bytes; ``columns`` and ``actor_copy`` the same as COPY text.
    ``template`` makes the leaf; where no record can have these values it is None and ``problem`` says why.
    """

    values: Sequence[str | None]
    actor: bytes
    columns: bytes
    actor_copy: bytes
    template: bytes | None
    problem: str = ""


class HeadCache(dict[bytes, Head]):
    """Forms heads and keeps them; bounded. For one trail and incarnation: ``heads[head]`` is what ``head`` becomes."""

    def __init__(self, trail: str, incarnation: int, *, max_heads: int = 8192) -> None:
        """Keep at most ``max_heads``; beyond that start over."""
        super().__init__()
        self._trail = trail
        self._incarnation = incarnation
        self._max_heads = max_heads
        self._leaves = LeafBuilder()

    def __missing__(self, head: bytes) -> Head:
        """Form a head that is asked for the first time."""
        found = self._form(head)
        if len(self) >= self._max_heads:
            self.clear()
        self[head] = found
        return found

    def parse_content(self, line: bytes) -> tuple[int, tuple[bytes, ...]]:
        """Return a row's id and its content as the vault has it: time to relation, actor and data as COPY fields.

        Raises ``FormatError`` for a line that has other columns.
        """
        try:
            record_id, xid, stamp, rest = line.split(b"\t", 3)
            number = int(record_id)
        except ValueError as error:
            raise FormatError(f"expected an id and what follows, got {line[:40]!r}", source="trail row") from error
        head, _, data = rest.rpartition(b"\t")
        found = self[head]
        return number, (stamp, xid, *found.columns.split(b"\t"), found.actor_copy, data)

    def _split(self, head: bytes) -> list[bytes | None]:
        return [None if field == NULL else unescape(field) for field in head.split(b"\t")]

    def _form(self, head: bytes) -> Head:
        try:
            values = [None if value is None else value.decode("utf-8") for value in self._split(head)]
        except UnicodeDecodeError as error:
            raise FormatError("not UTF-8", source="trail row") from error
        if len(values) != _HEAD_COLUMNS:
            raise FormatError(f"expected {_HEAD_COLUMNS} columns, got {len(values)}", source="trail row")
        source, category, action, outcome, relation, *actor_fields = values
        actor = format_actor(*actor_fields).encode()
        template, problem = None, ""
        try:
            if relation is not None:
                parse_relation(relation, source="relation")
            template = self._leaves.template(
                self._trail,
                self._incarnation,
                source or "",
                category or "",
                action or "",
                outcome or "",
                relation,
            )
        except FormatError as error:
            problem = str(error)
        if actor == ERASED:
            template, problem = None, "actor: it is marked as erased, and was never sealed"
        facts = values[:_FACTS]
        columns = b"\t".join(NULL if value is None else escape(value.encode()) for value in facts)
        return Head(facts, actor, columns, escape(actor), template, problem)


class BinaryHeadCache(HeadCache):
    """The same for heads in binary COPY."""

    def _split(self, head: bytes) -> list[bytes | None]:
        return split_fields(head, _HEAD_COLUMNS, source="trail row")


# An integer; the column can be altered to hold something else, which is recorded as it is.
_PID = re.compile(r"-?[0-9]{1,10}", re.ASCII)
_ACTOR = ("role", "set_role", "authenticated", "application", "address", "pid", "backend_start")


def format_actor(*fields: str | None) -> str:
    """Write the actor part from its columns, ``_ACTOR`` and the claim; members that say nothing are left out.

    The claim keeps jsonb's own text. A part that was erased (``trail.erasure``) is ``ERASED``.
    """
    *facts, claimed = fields
    if facts[0] == "":
        return ERASED.decode()
    said = {
        name: int(value) if name == "pid" and _PID.fullmatch(value) else value
        for name, value in zip(_ACTOR, facts, strict=True)
        if value is not None
    }
    text = json.dumps(said, ensure_ascii=False)
    if claimed is None:
        return text
    comma = ", " if said else ""
    return f'{text[:-1]}{comma}"claimed": {claimed}}}'
