"""The fast way to leaf_data gives the same bytes as the plain one."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import example, given
from tests.strategies import envelopes, moments

from pgseal.core.leaf import ACTOR_PREFIX, DATA_PREFIX, LeafBuilder, Seconds, text_template
from pgseal.core.record import MAX_LEAF_BYTES, Envelope, Part, commit_part, format_envelope, format_time
from pgseal.errors import FormatError

ENVELOPE = Envelope(
    trail="clinic",
    incarnation=3,
    id=42,
    time="2026-11-23T09:14:02.118000Z",
    xid=7431,
    source="row",
    category="data_modification",
    action="INSERT",
    outcome="success",
    relation="public.patients",
    actor_commitment=bytes(32),
    data_commitment=bytes(range(32)),
)


def _build(builder: LeafBuilder, envelope: Envelope):
    template = builder.template(
        envelope.trail,
        envelope.incarnation,
        envelope.source,
        envelope.category,
        envelope.action,
        envelope.outcome,
        envelope.relation,
    )
    return template % (
        envelope.actor_commitment.hex().encode(),
        envelope.data_commitment.hex().encode(),
        b"%d" % envelope.id,
        envelope.time.encode(),
        b"%d" % envelope.xid,
    )


@given(envelopes)
@example(replace(ENVELOPE, relation='public."%b%%d%"'))
@example(replace(ENVELOPE, relation='public."100 % \x01\x1f\\""é😀\n"'))
@example(replace(ENVELOPE, relation=None))
def test_template_gives_the_bytes_of_format_envelope(envelope: Envelope):
    builder = LeafBuilder()
    assert _build(builder, envelope) == format_envelope(envelope)
    assert _build(builder, envelope) == format_envelope(envelope)  # now from the cache


def test_templates_of_different_kinds_are_not_confused():
    builder = LeafBuilder()
    kinds = [
        replace(ENVELOPE, **change)
        for change in (
            {},
            {"trail": "vault"},
            {"incarnation": 4},
            {"source": "app"},
            {"category": "data_access"},
            {"action": "DELETE"},
            {"outcome": "denied"},
            {"relation": None},
            {"relation": "public.doctors"},
        )
    ]
    for envelope in kinds + kinds[::-1]:
        assert _build(builder, envelope) == format_envelope(envelope)


@pytest.mark.parametrize(
    "change",
    [
        {"trail": "Clinic"},
        {"trail": 'a","v":2,"x":"'},
        {"incarnation": 0},
        {"source": "rows"},
        {"category": ""},
        {"action": "%b"},
        {"outcome": "ok"},
        {"relation": "patients"},
        {"relation": 'public."' + "a" * MAX_LEAF_BYTES + '"'},
    ],
)
def test_templates_are_validated(change: dict[str, Any]):
    with pytest.raises(FormatError):
        _build(LeafBuilder(), replace(ENVELOPE, **change))


def test_memory_is_bounded_and_starting_over_changes_nothing():
    builder = LeafBuilder(max_templates=3)
    for number in range(20):
        envelope = replace(ENVELOPE, incarnation=number + 1)
        assert _build(builder, envelope) == format_envelope(envelope)
        assert len(builder._templates) <= 3
    seconds = Seconds(max_seconds=3)
    for number in range(20):
        assert f"{seconds[number]}.000007Z" == format_time(number * 1_000_000 + 7)
        assert len(seconds) <= 3


@given(moments)
def test_seconds_and_fraction_are_format_time(microseconds: int):
    second, fraction = divmod(microseconds, 1_000_000)
    assert f"{Seconds()[second]}.{fraction:06d}Z" == format_time(microseconds)


@pytest.mark.parametrize("microseconds", [-62_135_596_800_000_001, 253_402_300_800_000_000])
def test_seconds_outside_four_digit_years_are_refused(microseconds: int):
    with pytest.raises(FormatError):
        Seconds()[microseconds // 1_000_000]


@pytest.mark.parametrize("relation", ['public."100%s %(x)d %%"', "public.t", None])
def test_text_template_gives_the_same_leaf(relation: str | None):
    envelope = replace(ENVELOPE, relation=relation)
    builder = LeafBuilder()
    constants = (envelope.trail, envelope.incarnation, envelope.source, envelope.category, envelope.action)
    template = text_template(builder.template(*constants, envelope.outcome, envelope.relation))
    second, _, fraction = envelope.time[:-1].partition(".")
    parts = (
        envelope.actor_commitment.hex(),
        envelope.data_commitment.hex(),
        envelope.id,
        second,
        int(fraction),
        envelope.xid,
    )
    assert (template % parts).encode() == format_envelope(envelope)


def test_prefixes_hash_to_the_commitments():
    salt = bytes(range(32))
    assert sha256(ACTOR_PREFIX + salt + b"{}").digest() == commit_part(Part.ACTOR, salt, b"{}")
    assert sha256(DATA_PREFIX + salt + b"{}").digest() == commit_part(Part.DATA, salt, b"{}")
