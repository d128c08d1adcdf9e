"""Hypothesis strategies for the formats of FORMATS.md, in one place.

They are written from the specification and not from the code under test, so that a mistake in one does not hide in
the other.
"""

from hashlib import sha256

from hypothesis import strategies as st

from pgseal.core.envelope import Envelope
from pgseal.core.record import DisclosedPart, ErasedPart, LinePart, RecordLine, WithheldPart

hashes = st.binary(min_size=32, max_size=32)
seeds = st.binary(min_size=32, max_size=32)

#: Text that UTF-8 can hold, in all its variety.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)

#: Names PostgreSQL allows: anything but NUL and the empty name; some bare, most not.
identifiers = st.one_of(
    st.builds(str.__add__, st.sampled_from("abz_"), st.text("abz_019", max_size=12)),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20),
    st.text('%"\\.\x01\x1f\x7f\u2028é😀ab', min_size=1, max_size=8),
)


def _quote(part: str) -> str:
    bare = part[0] in "abcdefghijklmnopqrstuvwxyz_" and set(part) <= set("abcdefghijklmnopqrstuvwxyz_0123456789")
    return part if bare else '"' + part.replace('"', '""') + '"'


relations = st.builds(lambda schema, name: f"{_quote(schema)}.{_quote(name)}", identifiers, identifiers)

#: Microseconds since the Unix epoch in years 0001 to 9999, written out as numbers on purpose.
moments = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)

times = st.datetimes().map(lambda moment: f"{moment.year:04d}-{moment:%m-%dT%H:%M:%S.%f}Z")

envelopes = st.builds(
    Envelope,
    trail=st.text("abz019_-", min_size=1, max_size=63),
    incarnation=st.integers(1, 2**53 - 1),
    id=st.integers(1, 2**63 - 1),
    time=times,
    xid=st.integers(0, 2**64 - 1),
    source=st.sampled_from(["row", "ddl", "statement", "session", "app", "catalog", "system"]),
    category=st.sampled_from(
        [
            "authentication",
            "authorization",
            "data_access",
            "data_modification",
            "configuration",
            "administration",
        ]
    ),
    action=st.builds(str.__add__, st.sampled_from("ABZ"), st.text("ABZ019_", max_size=62)),
    outcome=st.sampled_from(["success", "failure", "denied", "unknown"]),
    relation=st.none() | relations,
    actor_commitment=hashes,
    data_commitment=hashes,
)

parts: st.SearchStrategy[LinePart] = st.one_of(
    st.builds(DisclosedPart, salt=hashes, text=texts.map(str.encode)),
    st.just(WithheldPart()),
    st.builds(ErasedPart, st.integers(0, 2**53 - 1)),
)

record_lines = st.builds(RecordLine, actor=parts, data=parts, envelope=envelopes, index=st.integers(0, 2**53 - 1))

#: Names of keys and origins of logs.
origins = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"], exclude_characters="+"), min_size=1, max_size=60
)

#: Texts a note can carry: no control character but newline, one at the end.
note_texts = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.just("\n"),
    max_size=200,
).map(lambda text: text + "\n")

#: JSON values that RFC 8785 can write.
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda children: st.lists(children, max_size=5) | st.dictionaries(texts, children, max_size=5),
    max_leaves=20,
)


def leaves(count: int) -> list[bytes]:
    """Return ``count`` different leaf hashes."""
    return [sha256(b"leaf %d" % number).digest() for number in range(count)]
