"""What an auditor asks of a pack: which records, by envelope and by actor (FORMATS.md section 4).

The envelope is always there, so everything but ``actor`` can be decided for every leaf. Where something cannot be told
(a record about no relation under a table filter, an actor part that says nothing readable), the record counts as one
that may match: an answer must not get complete by what it does not know.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pgseal.core.actors import names_of_actor
from pgseal.core.canonical import parse_json
from pgseal.core.envelope import CATEGORIES, OUTCOMES, Envelope
from pgseal.core.fields import parse_relation, parse_time
from pgseal.core.record import MAX_LINE_BYTES, DisclosedPart, LinePart
from pgseal.errors import FormatError

_MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Filter:
    """Everything that is given must hold.

    ``since`` and ``until`` are times as envelopes write them, ``until`` exclusive; ``table`` is a relation as envelopes
    write it; ``actor`` a role or a claimed actor, in full.
    """

    since: str | None = None
    until: str | None = None
    table: str | None = None
    action: str | None = None
    category: str | None = None
    outcome: str | None = None
    actor: str | None = None

    def __post_init__(self) -> None:
        """Raise ``FormatError`` for a value that no envelope could have, or for times out of order."""
        for name, time in (("since", self.since), ("until", self.until)):
            if time is not None:
                parse_time(time, source=name)
        if self.table is not None:
            parse_relation(self.table, source="table")
        for name, value, choices in (
            ("category", self.category, CATEGORIES),
            ("outcome", self.outcome, OUTCOMES),
        ):
            if value is not None and value not in choices:
                raise FormatError(f"expected one of {', '.join(choices)}, got {value!r}", source=name)
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise FormatError(f"expected a time after {self.since}, got {self.until}", source="until")

    @property
    def is_by_time(self) -> bool:
        """Whether it has a time in it."""
        return self.since is not None or self.until is not None

    def to_json(self) -> Mapping[str, str]:
        """Return what is given."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def matches_envelope(self, envelope: Envelope) -> bool:
        """Return whether a record with this envelope matches, as far as an envelope tells."""
        # Times have one length and rise as texts do (FORMATS.md section 1).
        return (
            (self.since is None or envelope.time >= self.since)
            and (self.until is None or envelope.time < self.until)
            and (self.table is None or envelope.relation is None or envelope.relation == self.table)
            and (self.action is None or envelope.action == self.action)
            and (self.category is None or envelope.category == self.category)
            and (self.outcome is None or envelope.outcome == self.outcome)
        )

    def matches_actor(self, actor: LinePart) -> bool:
        """Return whether a record by this actor matches; true where that cannot be told."""
        if self.actor is None or not isinstance(actor, DisclosedPart):
            return True
        try:
            who = parse_json(actor.text, source="actor", max_bytes=MAX_LINE_BYTES, max_depth=_MAX_DEPTH)
        except FormatError:
            return True
        return not isinstance(who, dict) or self.actor in names_of_actor(who)
