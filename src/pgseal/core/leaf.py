"""The fast way from a database row to ``leaf_data``: one bytes template per kind of record, one ``%`` per record.

Sealer and verifier form hundreds of thousands of leaves a second. Nearly all of an envelope is constant for a table
and an action, so ``LeafBuilder`` validates and encodes that once and keeps it as a template with five gaps::

    template = builder.template("clinic", 1, "row", "data_modification", "UPDATE", "success", "public.patients")
    leaf_data = template % (actor_hex, data_hex, id_digits, time_text, xid_digits)

The gaps stand in RFC 8785 member order and are all ``bytes``: two commitments in lower-case hex, ``id`` in digits,
``time`` as ``LeafBuilder.time`` or ``format_time`` writes it, ``xid`` in digits. They are NOT validated here; the
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
_GAP_BYTES = 64 + 64 + 19 + 27 + 20  # the longest actor, data, id, time and xid


class LeafBuilder:
    """Makes and keeps leaf templates; bounded, so that hostile relation names cannot fill memory.

    Not safe for concurrent use: give each thread its own.
    """

    def __init__(self, *, max_templates: int = 4096) -> None:
        """Keep at most ``max_templates`` templates; beyond that start over, which costs time and nothing else."""
        self._max_templates = max_templates
        self._templates: dict[tuple[str, int, str, str, str, str, str | None], bytes] = {}
        self._seconds: dict[int, bytes] = {}

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

    def time(self, microseconds: int) -> bytes:
        """Return ``format_time`` of microseconds since the epoch, as bytes, remembering each second's text.

        Raises ``FormatError`` outside years 0001 to 9999.
        """
        second, fraction = divmod(microseconds, _MICROSECONDS)
        template = self._seconds.get(second)
        if template is None:
            template = format_time(second * _MICROSECONDS)[:-7].encode("ascii") + b"%06dZ"
            if len(self._seconds) >= self._max_templates:
                self._seconds.clear()
            self._seconds[second] = template
        return template % fraction


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
