"""A small sealed log in memory: ledger files, vault rows and trail rows, made with core alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

from pgseal.copytext import escape
from pgseal.core.checkpoint import Checkpoint, format_checkpoint
from pgseal.core.fields import parse_time
from pgseal.core.keys import SignerKey
from pgseal.core.merkle import EMPTY_ROOT, leaf_hashes, tree_root
from pgseal.core.note import sign_note
from pgseal.core.tiles import TILE_WIDTH, Tile, entries_path, format_entries, format_tile, parent_hash, tile_path
from pgseal.errors import TamperError
from pgseal.ledger.store import MissingObjectError
from pgseal.verifier import Report, Verifier
from pgseal.verifier.compare import form_leaf
from pgseal.verifier.rows import Row

ORIGIN = "clinic.example/prod"
SIGNER = SignerKey(ORIGIN, b"k" * 32)
OTHER_SIGNER = SignerKey(ORIGIN, b"o" * 32)
INFINITY = 2**63 - 1


class MemoryFiles:
    """A ledger as a dictionary."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def read(self, path: str) -> bytes:
        try:
            return self.files[path]
        except KeyError:
            raise MissingObjectError(f"ledger has no {path}", path=path) from None

    def exists(self, path: str) -> bool:
        return path in self.files


class MemoryVault:
    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)

    def copy_rows(self, begin: int, end: int) -> Iterator[bytes]:
        return self._copy([row for row in self.rows if row.leaf_index is not None and begin <= row.leaf_index < end])

    def copy_outside(self, tree_size: int) -> Iterator[bytes]:
        return self._copy([row for row in self.rows if row.leaf_index is None or not 0 <= row.leaf_index < tree_size])

    def count_leaves(self, trail: str, incarnation: int, begin: int, end: int, leaving_out: Sequence[int]) -> int:
        return len(set(self.copy_leaf_indexes(trail, incarnation, begin, end)) - set(leaving_out))

    def copy_times(
        self, trail: str, begin: int, end: int, earliest: int | None, latest: int | None
    ) -> Iterator[tuple[int, int]]:
        for row in sorted(self.rows, key=lambda row: row.leaf_index or 0):
            if row.trail != trail or row.leaf_index is None or row.time is None or not begin <= row.leaf_index < end:
                continue
            moment = parse_time(row.time)
            if (earliest is not None and moment < earliest) or (latest is not None and moment > latest):
                yield row.leaf_index, moment

    def copy_leaf_indexes(self, trail: str, incarnation: int, begin: int, end: int) -> Iterator[int]:
        mine = [row for row in self.rows if (row.trail, row.incarnation) == (trail, incarnation)]
        yield from sorted(
            row.leaf_index for row in mine if row.leaf_index is not None and begin <= row.leaf_index < end
        )

    def copy_trail(self, trail: str, incarnation: int, ids: tuple[int, int] | None = None) -> Iterator[bytes]:
        mine = [row for row in self.rows if (row.trail, row.incarnation) == (trail, incarnation)]
        if ids is not None:
            mine = [row for row in mine if row.id is not None and ids[0] <= row.id <= ids[1]]
        for row in sorted(mine, key=lambda row: INFINITY if row.id is None else row.id):
            yield text(row.leaf_index) + b"\t" + format_line(row)

    def _copy(self, rows: list[Row]) -> Iterator[bytes]:
        header = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
        for row in sorted(rows, key=lambda row: INFINITY if row.leaf_index is None else row.leaf_index):
            yield header + format_row(row)
            header = b""
        yield header + b"\xff\xff"


@dataclass
class MemoryTrail:
    rows: list[Row]
    name: str = "clinic"
    incarnation: int = 1
    unsealed: set[int | None] = field(default_factory=set)
    damage: TamperError | None = None
    base_id: int = 0

    def check_feed(self) -> None:
        if self.damage is not None:
            raise self.damage

    def copy_rows(self) -> Iterator[bytes]:
        for row in sorted(self.rows, key=lambda row: INFINITY if row.id is None else row.id):
            yield (b"f\t" if row.id in self.unsealed else b"t\t") + format_line(row)


class MemoryKept:
    def __init__(self, note: bytes | None = None) -> None:
        self.note = note

    def load(self, origin: str) -> bytes | None:
        assert origin == ORIGIN
        return self.note

    def store(self, origin: str, note: bytes) -> None:
        assert origin == ORIGIN
        self.note = note


def text(value: int | str | None) -> bytes:
    return rb"\N" if value is None else escape(str(value).encode("utf-8", "surrogateescape"))


def format_line(row: Row) -> bytes:
    """The columns id to data as COPY text."""
    time = b"infinity" if row.time is None else f"{row.time[:10]} {row.time[11:-1].rstrip('0').rstrip('.')}+00".encode()
    return b"\t".join(
        [
            text(row.id), time, *map(text, (row.xid, row.source, row.category, row.action, row.outcome, row.relation)),
            *(rb"\N" if part is None else escape(part) for part in (row.actor, row.data)),
        ]
    )  # fmt: skip


def format_row(row: Row) -> bytes:
    """One row of binary COPY of VAULT_COLUMNS."""
    time = INFINITY if row.time is None else parse_time(row.time) - 946_684_800_000_000
    numbers = [
        None if value is None else value.to_bytes(8, "big", signed=value < 2**63)
        for value in (row.leaf_index, row.id, time, row.xid)
    ]
    constants = [row.source, row.category, row.action, row.outcome, row.relation]
    values = [
        *numbers,
        row.actor_salt,
        row.data_salt,
        row.actor,
        row.data,
        None if row.trail is None else row.trail.encode(),
        None if row.incarnation is None else row.incarnation.to_bytes(4, "big", signed=True),
        *(None if value is None else value.encode() for value in constants),
    ]
    framed = [b"\xff\xff\xff\xff" if value is None else len(value).to_bytes(4, "big") + value for value in values]
    return len(values).to_bytes(2, "big") + b"".join(framed)


def make_row(index: int, **columns: object) -> Row:
    row = Row(
        index, "clinic", 1, index + 1, f"2026-11-23T09:14:{index % 60:02d}.{index * 137 % 1000:03d}000Z",
        700 + index // 3,
        "row", "data_modification", ("INSERT", "UPDATE", "DELETE")[index % 3], "success", 'public."100% pa%s"',
        actor=b'{"role": "app_rw", "pid": %d}' % index, actor_salt=sha256(b"a%d" % index).digest(),
        data=b'{"key": {"id": %d}, "new": {"name": "O\\\\Kafor\\n\\t"}, "old": null}' % index,
        data_salt=sha256(b"d%d" % index).digest(),
    )  # fmt: skip
    return replace(row, **columns)


def build_files(entries: Sequence[bytes]) -> tuple[dict[str, bytes], bytes]:
    """Every file of a ledger but its checkpoint, and the root."""
    files: dict[str, bytes] = {}
    hashes = leaf_hashes(entries)
    root = tree_root(hashes) if hashes else EMPTY_ROOT
    for index in range(-(-len(entries) // TILE_WIDTH)):
        bundle = entries[index * TILE_WIDTH : (index + 1) * TILE_WIDTH]
        files[entries_path(index, len(bundle))] = format_entries(bundle)
    level = 0
    while hashes:
        tiles = [hashes[start : start + TILE_WIDTH] for start in range(0, len(hashes), TILE_WIDTH)]
        files |= {tile_path(Tile(level, index, len(tile))): format_tile(tile) for index, tile in enumerate(tiles)}
        hashes = [parent_hash(tile) for tile in tiles if len(tile) == TILE_WIDTH]
        level += 1
    return files, root


def sign(size: int, root: bytes, signer: SignerKey = SIGNER, origin: str = ORIGIN) -> bytes:
    return sign_note(format_checkpoint(Checkpoint(origin, size, root)), signer)


@dataclass
class Sample:
    """A sealed log that a test may damage."""

    files: dict[str, bytes]
    root: bytes
    rows: list[Row]
    trail: MemoryTrail
    kept: MemoryKept = field(default_factory=MemoryKept)

    def copy(self) -> "Sample":
        trail = replace(self.trail, rows=list(self.trail.rows), unsealed=set(self.trail.unsealed))
        return Sample(dict(self.files), self.root, list(self.rows), trail, MemoryKept(self.kept.note))

    def verify(self, sealer_note: bytes | None = None, **options: object) -> Report:
        verifier = Verifier(ORIGIN, SIGNER.verifier, MemoryFiles(self.files), self.kept, workers=1, **options)
        verifier.check_checkpoint(sealer_note)
        verifier.check_leaves(MemoryVault(self.rows))
        verifier.check_trail(self.trail)
        return verifier.finish()


def make_sample(size: int) -> Sample:
    """A log of ``size`` records of one trail; three more rows of the trail are not sealed yet."""
    rows = [make_row(index) for index in range(size)]
    files, root = build_files([form_leaf(row) or b"" for row in rows])
    files["checkpoint"] = sign(size, root)
    waiting = [make_row(index) for index in range(size, size + 3)]
    return Sample(files, root, rows, MemoryTrail([*rows, *waiting], unsealed={row.id for row in waiting}))
