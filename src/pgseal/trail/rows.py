"""Rows of a trail as they leave it: one COPY line a record, split only where the sealer needs it.

A line has the columns of ``RECORD_COLUMNS``. Everything between ``recorded_at`` and ``data`` repeats from row to row
(``head``), so what it becomes, the leaf's template and the actor part, is formed once and kept (``HeadCache``).
The bytes of ``actor`` and ``data`` formed here are what is committed to; nothing re-serializes them later.
"""

import json
from dataclasses import dataclass
from typing import LiteralString

from pgseal.copytext import NULL, escape, unescape
from pgseal.core.fields import parse_relation
from pgseal.core.leaf import LeafBuilder
from pgseal.errors import FormatError

# The data part: the three members in jsonb's own text form, or the record's own object.
DATA_TEXT: LiteralString = (
    "CASE WHEN r.data IS NOT NULL THEN r.data::text ELSE concat("
    "'{\"key\": ', coalesce(r.key::text, 'null'), ', \"new\": ', coalesce(r.new::text, 'null'), "
    "', \"old\": ', coalesce(r.old::text, 'null'), '}') END"
)
RECORD_COLUMNS: LiteralString = (
    "r.id, r.xid, r.recorded_at, r.source, r.category, r.action, r.outcome, r.relation, r.session_role, "
    "r.effective_role, r.application, host(r.address), r.pid, r.claimed, " + DATA_TEXT
)
_HEAD_COLUMNS = 11


@dataclass(frozen=True, slots=True)
class Head:
    """What the repeating part of a row becomes.

    ``columns`` are source to relation as COPY text, ``actor`` the part's bytes and ``actor_copy`` the same as COPY
    text. ``template`` makes the leaf; where no record can have these values it is None and ``problem`` says why.
    """

    columns: bytes
    actor: bytes
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
        """Return a row's id and its content as the vault has it: time to relation, actor and data as COPY fields."""
        record_id, xid, stamp, rest = line.split(b"\t", 3)
        head, _, data = rest.rpartition(b"\t")
        found = self[head]
        return int(record_id), (stamp, xid, *found.columns.split(b"\t"), found.actor_copy, data)

    def _form(self, head: bytes) -> Head:
        fields = head.split(b"\t")
        if len(fields) != _HEAD_COLUMNS:
            raise FormatError(f"expected {_HEAD_COLUMNS} columns, got {len(fields)}", source="trail row")
        source, category, action, outcome, relation, *actor_fields = (
            None if field == NULL else unescape(field).decode("utf-8") for field in fields
        )
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
        return Head(b"\t".join(fields[:5]), actor, escape(actor), template, problem)


def format_actor(
    session_role: str | None,
    effective_role: str | None,
    application: str | None,
    address: str | None,
    pid: str | None,
    claimed: str | None,
) -> str:
    """Write the actor part; members that say nothing are left out, ``claimed`` keeps jsonb's own text."""
    said: dict[str, str | int | None] = {
        "role": session_role,
        "set_role": effective_role,
        "application": application,
        "address": address,
        "pid": int(pid) if pid else None,
    }
    text = json.dumps({name: value for name, value in said.items() if value is not None}, ensure_ascii=False)
    if claimed is None:
        return text
    comma = ", " if text != "{}" else ""
    return f'{text[:-1]}{comma}"claimed": {claimed}}}'
