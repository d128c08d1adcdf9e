"""Rows that servers give, in both formats of COPY: whoever owns a server can make them anything."""

from dataclasses import replace

from tests.fuzz.target import Target
from tests.unit.verifier.samples import format_line, format_row, make_row, text

from pgseal.copybinary import HEADER, TRAILER, format_field, iter_rows, split_fields
from pgseal.copytext import escape, format_time, unescape
from pgseal.core.leaf import LeafBuilder
from pgseal.errors import AlteredRecordError, FormatError, StorageError
from pgseal.sealer.startup import _parse as parse_sealed_line
from pgseal.trail.rows import BinaryHeadCache, HeadCache
from pgseal.vault.pack_rows import _parse_parts
from pgseal.vault.rows import parse_row as parse_vault_line
from pgseal.verifier.rows import LeafFormer, parse_row, read_leaf_index
from pgseal.verifier.trails import _parse_id, parse_line

ROWS = [make_row(0), make_row(7, relation=None, actor=None, actor_salt=None), make_row(3, time=None, xid=2**64 - 1)]
BINARY = [format_row(row) for row in ROWS]
_HEAD = (
    *("row", "data_modification", "INSERT", "success", "public.t", "app", "app", "app", "psql", "::1", "77"),
    *("2026-11-23 09:14:02.118+00", '{"actor": "dr. o"}'),
)
HEAD = b"\t".join(escape(value.encode()) for value in _HEAD)
BINARY_HEAD = b"".join(format_field(value.encode()) for value in _HEAD)
PARTS = b"\0\5" + b"".join(map(format_field, (bytes(8), bytes(32), bytes(32), b"{}", b'{"new": 1}')))
TRAIL_LINE = b"7\t700\t2026-11-23 09:14:02.118+00\t" + HEAD + b"\t" + escape(b'{"new": {"a": "\\t"}}')


def _vault_line() -> bytes:
    row = replace(ROWS[0], data=b"a\tb\\")
    id_, time, xid, *constants, actor, data = format_line(row).split(b"\t")
    assert row.actor_salt
    assert row.data_salt
    salts = [escape(b"\\x" + salt.hex().encode()) for salt in (row.actor_salt, row.data_salt)]
    return b"\t".join([b"0", b"clinic", text(1), id_, time, xid, *constants, actor, salts[0], data, salts[1]])


def _form(data: bytes) -> None:
    LeafFormer().form([data], 0)
    read_leaf_index(data)


TARGETS = [
    Target("copy_field", unescape, [escape(bytes(range(256)))]),
    Target("copy_time", format_time, [b"2026-11-23 09:14:02.118+00", b"2026-11-23 09:14:02+00"]),
    Target(
        "copy_fields", lambda data: split_fields(data, 3, source="x"), [format_field(b"a") * 2 + format_field(None)]
    ),
    Target("copy_rows", lambda data: list(iter_rows([data])), [HEADER + BINARY[0], HEADER + TRAILER], (StorageError,)),
    Target("vault_line", lambda data: parse_vault_line(data, LeafBuilder()), [_vault_line()]),
    Target("sealed_line", lambda data: parse_sealed_line(data, LeafBuilder()), [_vault_line()], (AlteredRecordError,)),
    Target("vault_row", parse_row, BINARY, (StorageError,)),
    Target("vault_leaf", _form, BINARY, ()),
    Target("vault_parts", _parse_parts, [PARTS], (StorageError, FormatError)),
    Target(
        "trail_line", lambda data: parse_line(data, "clinic", 1), [format_line(row) for row in ROWS], (StorageError,)
    ),
    Target("trail_id", lambda data: _parse_id(data, "x"), [b"7\t", b"\\N\t"], (StorageError,)),
    Target("trail_content", lambda data: HeadCache("clinic", 1).parse_content(data), [TRAIL_LINE]),
    Target("trail_head", lambda data: BinaryHeadCache("clinic", 1)[data], [BINARY_HEAD]),
]
