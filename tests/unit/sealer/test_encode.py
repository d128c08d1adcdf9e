"""How rows of a trail become leaves and rows of the vault, without a server."""

import json
from hashlib import sha256
from struct import pack

import pytest

from pgseal.copybinary import EPOCH_MICROSECONDS, format_field, split_fields
from pgseal.core.record import Part, commit_part, parse_envelope
from pgseal.sealer import encode
from pgseal.sealer.encode import ChunkEncoder

FACTS = (b"app", b"authentication", b"LOGIN", b"success", None)
ACTOR = (b"clerk", None, b"login", b"psql", None, b"77", b"2026-11-23 08:00:00+00", b'{"actor": "dr"}')
DATA = b'{"n": 1}'
MOMENT = 1_700_000_000_118_000 - EPOCH_MICROSECONDS


def row(record_id=7, xid=900, moment: int | None = MOMENT, data: bytes | None = DATA, facts=FACTS) -> bytes:
    numbers = [pack(">q", record_id), pack(">Q", xid), None if moment is None else pack(">q", moment)]
    fields = [*numbers, data, *facts, *ACTOR]
    return pack(">h", len(fields)) + b"".join(map(format_field, fields))


def encoded(*rows: bytes, first: int = 5, known_ids=None):
    return ChunkEncoder("clinic", 2).encode(rows, first, known_ids)


def test_a_row_becomes_a_leaf_and_a_row_of_the_vault_that_gives_it():
    chunk = encoded(row(), row(record_id=8))
    envelope = parse_envelope(chunk.leaves[0])
    assert (envelope.trail, envelope.incarnation, envelope.id, envelope.xid) == ("clinic", 2, 7, 900)
    assert (envelope.time, envelope.action) == ("2023-11-14T22:13:20.118000Z", "LOGIN")
    (block,) = chunk.blocks
    fields = split_fields(block[2 : len(block) // 2], 15, source="vault row")
    leaf_index, record_id, moment, _, actor_salt, data_salt, trail, incarnation, *constants, actor, data = fields
    assert [leaf_index, record_id, moment] == [pack(">q", number) for number in (5, 7, MOMENT)]
    assert (trail, incarnation, tuple(constants)) == (b"clinic", pack(">i", 2), FACTS)
    assert data == DATA
    assert json.loads(actor) == {
        "role": "clerk",
        "authenticated": "login",
        "application": "psql",
        "pid": 77,
        "backend_start": "2026-11-23 08:00:00+00",
        "claimed": {"actor": "dr"},
    }
    assert commit_part(Part.ACTOR, actor_salt, actor) == envelope.actor_commitment
    assert commit_part(Part.DATA, data_salt, data) == envelope.data_commitment
    assert chunk.last_id == 8


def test_salts_are_never_the_same_twice():
    chunk = encoded(*(row(record_id=number) for number in range(1, 1200)))
    salts = set()
    for block, count in zip(chunk.blocks, (512, 512, 175), strict=True):
        size = len(block) // count
        for start in range(0, len(block), size):
            fields = split_fields(block[start + 2 : start + size], 15, source="vault row")
            salts |= {fields[4], fields[5]}
    assert len(salts) == 2 * 1199


@pytest.mark.parametrize(
    ("poison", "reason"),
    [
        (row(moment=2**63 - 1), "year"),
        (row(record_id=0), "id of at least 1"),
        (row(record_id=-4), "id of at least 1"),
        (row(moment=None), "none of them NULL"),
        (row(facts=(b"app", b"nonsense", b"LOGIN", b"success", None)), "category"),
        (row(facts=(None, b"authentication", b"LOGIN", b"success", None)), "source"),
        (row(facts=(b"row", b"data_modification", b"INSERT", b"success", b"no relation")), "relation"),
    ],
)
def test_a_row_that_cannot_be_a_record_is_set_apart_and_the_others_go_on(poison, reason):
    chunk = encoded(row(record_id=1), poison, row(record_id=9))
    assert [parse_envelope(leaf).id for leaf in chunk.leaves] == [1, 9]
    (malformed,) = chunk.malformed
    assert reason in malformed.reason
    assert malformed.sha256 == sha256(poison).hexdigest()
    assert chunk.rows == 3


def test_known_and_repeated_ids_are_set_apart_when_asked_to():
    chunk = encoded(row(record_id=1), row(record_id=2), row(record_id=2), known_ids={1})
    assert [parse_envelope(leaf).id for leaf in chunk.leaves] == [2]
    assert ["taken" in one.reason for one in chunk.malformed] == [True, True]


def test_long_rows_end_a_chunk_early_so_that_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(encode, "CHUNK_BYTES", 3 << 20)
    taken = []

    def rows():
        for number in range(1, 100):
            taken.append(number)
            yield row(record_id=number, data=b'{"n": "' + b"x" * (1 << 20) + b'"}')

    chunk = ChunkEncoder("clinic", 1).encode(rows(), 0)
    assert (chunk.rows, chunk.is_full, chunk.last_id) == (3, True, 3)
    assert taken == [1, 2, 3]
    assert not encoded(row()).is_full
