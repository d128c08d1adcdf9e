"""The fast way from a database row to ``leaf_data``: one bytes template per kind of record, one ``%`` per record.

Sealer and verifier form hundreds of thousands of leaves a second. Nearly all of an envelope is constant for a table
and an action, so ``LeafBuilder`` validates and encodes that once and keeps it as a template with five gaps::

    template = builder.template("clinic", 1, "row", "data_modification", "UPDATE", "success", "public.patients")
    leaf_data = template % (actor_hex, data_hex, id_digits, time_text, xid_digits)

The gaps stand in RFC 8785 member order and are all ``bytes``: two commitments in lower-case hex, ``id`` in digits,
``time`` as ``format_time`` writes it, ``xid`` in digits. They are NOT validated here; the
caller has them from its own hashing and from typed columns (bigint, xid8). For values within those bounds the result
is, byte for byte, ``format_envelope`` of the same record.
"""

from pgseal.core.canonical import encode_canonical
from pgseal.core.envelope import MAX_LEAF_BYTES, VERSION, check_constants
from pgseal.core.fields import format_time
from pgseal.core.record import Part
from pgseal.errors import FormatError

#: Prefixes for hashing commitments in a tight loop: ``sha256(ACTOR_PREFIX + salt + text).hexdigest()``.
ACTOR_PREFIX = Part.ACTOR.value
DATA_PREFIX = Part.DATA.value

_MICROSECONDS = 1_000_000
_SECOND_CHARACTERS = 19
_GAP_BYTES = 64 + 64 + 19 + 27 + 20  # the longest actor, data, id, time and xid


class LeafBuilder:
    """Makes and keeps leaf templates; bounded, so that hostile relation names cannot fill memory.

    Not safe for concurrent use: give each thread its own.
    """

    def __init__(self, *, max_templates: int = 4096) -> None:
        """Keep at most ``max_templates`` templates; beyond that start over, which costs time and nothing else."""
        self._max_templates = max_templates
        self._templates: dict[tuple[str, int, str, str, str, str, str | None], bytes] = {}

    def template(
        self,
        trail: str,
        incarnation: int,
        source: str,
        category: str,
        action: str,
        outcome: str,
        relation: str | None,
    ) -> bytes:
        """Return the template for records that share these members.

        Use as ``template % (actor_hex, data_hex, id, time, xid)``. Raises ``FormatError`` as ``format_envelope`` does.
        """
        key = (trail, incarnation, source, category, action, outcome, relation)
        template = self._templates.get(key)
        if template is None:
            template = _format_template(*key)
            if len(self._templates) >= self._max_templates:
                self._templates.clear()
            self._templates[key] = template
        return template


class Seconds(dict[int, str]):
    """The texts of seconds since the epoch, ``YYYY-MM-DDTHH:MM:SS``, formed when first asked for; bounded."""

    def __init__(self, *, max_seconds: int = 4096) -> None:
        """Keep at most ``max_seconds``; beyond that start over."""
        super().__init__()
        self._max_seconds = max_seconds

    def __missing__(self, second: int) -> str:
        """Form the text of a second; raises ``FormatError`` outside years 0001 to 9999."""
        text = format_time(second * _MICROSECONDS)[:_SECOND_CHARACTERS]
        if len(self) >= self._max_seconds:
            self.clear()
        self[second] = text
        return text


def text_template(template: bytes) -> str:
    """Return a template of ``LeafBuilder`` as text that takes numbers, for the tightest loops.

    ``template % (actor_hex, data_hex, id, second, microsecond, xid)``, encoded as UTF-8, is the leaf; ``second`` is a
    text of ``Seconds``.
    """
    # Canonical JSON holds no control character, so NUL can stand for a gap while whatever percent signs a relation's
    # name has are escaped again.
    text = (template % (b"\x00", b"\x00", b"\x00", b"\x00", b"\x00")).decode().replace("%", "%%")
    actor, data, id_, time, xid, end = text.split("\x00")
    return f"{actor}%s{data}%s{id_}%d{time}%s.%06dZ{xid}%d{end}"


def _format_template(
    trail: str,
    incarnation: int,
    source: str,
    category: str,
    action: str,
    outcome: str,
    relation: str | None,
) -> bytes:
    check_constants(trail, incarnation, source, category, action, outcome, relation)
    # Only the relation can hold anything but plain ASCII words; a % in it must survive the % operator.
    quoted = encode_canonical(relation).replace(b"%", b"%%").decode("utf-8")
    template = (
        f'{{"action":"{action}","category":"{category}","commitments":{{"actor":"%b","data":"%b"}},"id":"%b",'
        f'"incarnation":{incarnation:d},"outcome":"{outcome}","relation":{quoted},"source":"{source}",'
        f'"time":"%b","trail":"{trail}","v":{VERSION},"xid":"%b"}}'
    ).encode()
    longest = len(template % (b"", b"", b"", b"", b"")) + _GAP_BYTES
    if longest > MAX_LEAF_BYTES:
        raise FormatError(f"expected at most {MAX_LEAF_BYTES} bytes, got up to {longest}", source="envelope")
    return template
