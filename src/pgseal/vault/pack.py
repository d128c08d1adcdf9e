"""Makes evidence packs from vault and ledger (FORMATS.md section 4); no source is asked.

The ledger's entries are what the pack is made of; of the vault it takes texts and salts, each compared with the
commitment in its entry. The entries have to lead to the signed root before the pack is finished, so what is in it is
what was sealed, or there is no pack.

What the question does not ask for is withheld: parts of records that do not match are nobody's business. Disclosed in
any case are the data of pgseal's own HEARTBEAT, ERASE, RETENTION and KEY_ROTATE records, which the answer rests on, and
the actor part of KEY_ROTATE records, which the key rests on. All of these are in every pack, whatever its range.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from pgseal.core.checkpoint import open_checkpoint
from pgseal.core.envelope import Envelope
from pgseal.core.erasure import ERASE
from pgseal.core.heartbeat import HEARTBEAT
from pgseal.core.keys import VerifierKey, format_verifier_key
from pgseal.core.merkle import CompactRange, check_inclusion, leaf_hash, leaf_hashes, root_with_right
from pgseal.core.pack import (
    CHECKPOINT,
    PACK_JSON,
    PROOFS,
    RANGE_PROOF,
    README,
    RECORDS,
    PackInfo,
    ProofLine,
    format_info,
    format_proof_line,
    format_range_proof,
)
from pgseal.core.pack_answer import Answer, Judge
from pgseal.core.pack_bounds import is_act
from pgseal.core.pack_erasure import Allowance, find_allowance
from pgseal.core.pack_filter import Filter
from pgseal.core.pack_zip import Output, ZipWriter
from pgseal.core.ranges import LeafRanges
from pgseal.core.record import (
    MAX_LINE_BYTES,
    DisclosedPart,
    ErasedPart,
    LinePart,
    RecordLine,
    WithheldPart,
    check_record_line,
    format_leaf_line,
    parse_envelope,
)
from pgseal.core.retention import RETENTION
from pgseal.core.rotation import KEY_ROTATE
from pgseal.errors import (
    ConfigError,
    MissingRecordError,
    ProofError,
    UnauthorizedErasureError,
)
from pgseal.ledger.prove import prove_inclusion, prove_range
from pgseal.ledger.reader import LedgerReader
from pgseal.vault.pack_range import choose_range
from pgseal.vault.pack_readme import format_readme
from pgseal.vault.pack_rows import PackRows, Parts

#: Called with the number of leaves that were packed, and of those there are.
Progress = Callable[[int, int], None]

_VAULT = "vault"
_ENTRY = "entry of the ledger"
_ALWAYS = (HEARTBEAT, ERASE, RETENTION, KEY_ROTATE)


@dataclass(frozen=True, slots=True)
class Order:
    """What a pack is to be made of: the question, leaves if they are to be others, and parts nobody is to see.

    ``created`` is the time of making, as envelopes write times; ``tool`` says what makes it.
    """

    wanted: Filter
    begin: int | None
    end: int | None
    withhold: frozenset[str]
    created: str
    tool: str


@dataclass(frozen=True, slots=True)
class Made:
    """A pack that was made: its leaves, the size of the log, its bytes, and what its verifier will say."""

    begin: int
    end: int
    tree_size: int
    bytes: int
    answer: Answer


def make_pack(
    output: Output, order: Order, reader: LedgerReader, rows: PackRows, key: VerifierKey, progress: Progress
) -> Made:
    """Write a pack into the empty file ``output``; it is none until this returns.

    Raises ``ConfigError`` for leaves that there are not, a ``TamperError`` where vault and ledger do not agree or a
    check fails, ``FormatError`` for what does not fit into a pack, and what reader and rows raise.
    """
    return _Maker(output, order, reader, rows, key).make(progress)


class _Maker:
    """The state of one pack in the making."""

    def __init__(self, output: Output, order: Order, reader: LedgerReader, rows: PackRows, key: VerifierKey) -> None:
        self._order = order
        self._reader = reader
        self._rows = rows
        self._key = key
        self._note = reader.checkpoint_note()
        self._checkpoint = open_checkpoint(self._note, [key], origin=key.name).checkpoint
        self._begin, self._end = choose_range(
            rows, order.wanted, self._checkpoint.size, begin=order.begin, end=order.end
        )
        self._judge = Judge(order.wanted, self._begin)
        # Before the records are read: a connection does one thing at a time.
        self._allowances = list(self._iter_allowances())
        self._rotations = list(self._iter_rotations())
        self._outside: dict[int, ProofLine] = {}
        created = order.created
        date, time = (int(created[0:4]), int(created[5:7]), int(created[8:10])), map(int, created[11:19].split(":"))
        self._zip = ZipWriter(output, date, (next(time), next(time), next(time)))

    def make(self, progress: Progress) -> Made:
        begin, end, size = self._begin, self._end, self._checkpoint.size
        info = PackInfo(
            self._checkpoint.origin, format_verifier_key(self._key), begin, end,
            self._order.wanted.to_json(), self._order.created, self._order.tool,
        )  # fmt: skip
        proof = prove_range(self._reader, begin, end, size)
        self._zip.add(PACK_JSON, [format_info(info)])
        self._zip.add(CHECKPOINT, [self._note])
        self._zip.add(RANGE_PROOF, [format_range_proof(proof)])
        with closing(self._iter_records(proof, progress)) as records:
            self._zip.add(RECORDS, records)
        for record, entry in self._rotations:
            self._refer(record, entry)
        self._zip.add(PROOFS, (format_proof_line(self._outside[index]) + b"\n" for index in sorted(self._outside)))
        self._zip.add(README, [format_readme(info, self._checkpoint)])
        answer, errors = self._judge.finish(size)
        if errors:
            raise errors[0]
        return Made(begin, end, size, self._zip.finish(), answer)

    def _iter_records(self, proof: Sequence[bytes], progress: Progress) -> Generator[bytes]:
        begin, end, checkpoint = self._begin, self._end, self._checkpoint
        tree = CompactRange(begin, proof[: begin.bit_count()])
        index = begin
        with closing(self._rows.iter_parts(begin, end)) as parts:
            for entries in self._reader.read_entries(begin, end, checkpoint.size):
                yield b"".join(self._format_lines(index, entries, parts))
                tree.extend(leaf_hashes(entries))
                index += len(entries)
                progress(index - begin, end - begin)
        if root_with_right(tree, proof[begin.bit_count() :], checkpoint.size) != checkpoint.root:
            raise ProofError(
                f"the entries of leaves {begin} to {end - 1} do not lead to the signed root", where="ledger"
            )

    def _format_lines(self, begin: int, entries: Iterable[bytes], parts: Iterator[Parts]) -> Iterator[bytes]:
        for index, entry in enumerate(entries, begin):
            envelope = parse_envelope(entry, source=_ENTRY)
            found = next(parts, None)
            if found is None or found[0] != index:
                raise MissingRecordError(
                    f"record {envelope.trail}/{envelope.id}: sealed at leaf {index}, gone from the vault",
                    where=_VAULT, trail=envelope.trail, record_id=envelope.id, leaf_index=index,
                )  # fmt: skip
            record = self._build(envelope, found)
            for error in self._judge.take(record):
                raise error
            line = format_leaf_line(record, entry)
            if len(line) > MAX_LINE_BYTES:
                raise ConfigError(
                    f"record {envelope.trail}/{envelope.id} is too large for a pack ({len(line):,} bytes): "
                    "leave it out by the range, or --withhold data"
                )
            yield line + b"\n"

    def _build(self, envelope: Envelope, parts: Parts) -> RecordLine:
        """Return the line of a record with as much of it as the order discloses."""
        index, actor_salt, actor_text, data_salt, data_text = parts
        actor = self._read_part(envelope, index, "actor", actor_salt, actor_text)
        data = self._read_part(envelope, index, "data", data_salt, data_text)
        whole = RecordLine(actor, data, envelope, index)
        check_record_line(whole, where=_VAULT)
        wanted, withhold = self._order.wanted, self._order.withhold
        is_match = wanted.matches_envelope(envelope) and wanted.matches_actor(actor)
        if (
            isinstance(actor, DisclosedPart)
            and not is_act(envelope, KEY_ROTATE)
            and ("actor" in withhold or not (is_match or wanted.actor is not None))
        ):
            actor = WithheldPart()
        if isinstance(data, DisclosedPart) and (
            ("data" in withhold or not is_match) and not is_act(envelope, *_ALWAYS)
        ):
            data = WithheldPart()
        return RecordLine(actor, data, envelope, index)

    def _read_part(self, envelope: Envelope, index: int, name: str, salt: bytes | None, text: bytes | None) -> LinePart:
        if salt is not None and text is not None:
            return DisclosedPart(salt, text)
        for allowance, record, entry in self._allowances:
            if (
                record.index > index
                and name in allowance.parts
                and allowance.leaves.covers(LeafRanges([(index, index + 1)]))
            ):
                self._refer(record, entry)
                return ErasedPart(record.index)
        raise UnauthorizedErasureError(
            f"{name} of record {envelope.trail}/{envelope.id} (leaf {index}) is gone, and no sealed ERASE allows it",
            where=_VAULT, trail=envelope.trail, record_id=envelope.id, leaf_index=index,
        )  # fmt: skip

    def _iter_allowances(self) -> Iterator[tuple[Allowance, RecordLine, bytes]]:
        """Yield what sealed ERASE records allow, each with its record and leaf_data."""
        for index, _, _, salt, text in self._rows.iter_acts(ERASE, self._checkpoint.size):
            entry = self._reader.leaf(index, self._checkpoint.size)
            if salt is None or text is None:
                continue  # allows nothing; what it was to allow is found as such
            envelope = parse_envelope(entry, source=_ENTRY)
            record = RecordLine(WithheldPart(), DisclosedPart(salt, text), envelope, index)
            check_record_line(record, where=_VAULT)
            allowance = find_allowance(record)
            if allowance is not None:
                yield allowance, record, entry

    def _iter_rotations(self) -> Iterator[tuple[RecordLine, bytes]]:
        """Yield the sealed KEY_ROTATE records that are whole, each with its leaf_data."""
        for index, actor_salt, actor_text, data_salt, data_text in self._rows.iter_acts(
            KEY_ROTATE, self._checkpoint.size
        ):
            entry = self._reader.leaf(index, self._checkpoint.size)
            if actor_salt is None or actor_text is None or data_salt is None or data_text is None:
                continue  # says nothing without either
            record = RecordLine(
                DisclosedPart(actor_salt, actor_text),
                DisclosedPart(data_salt, data_text),
                parse_envelope(entry, source=_ENTRY),
                index,
            )
            check_record_line(record, where=_VAULT)
            yield record, entry

    def _refer(self, record: RecordLine, entry: bytes) -> None:
        """Have a record outside the range in the pack, with its inclusion proof."""
        index, checkpoint = record.index, self._checkpoint
        if self._begin <= index < self._end or index in self._outside:
            return
        hashes = tuple(prove_inclusion(self._reader, index, checkpoint.size))
        check_inclusion(hashes, index, leaf_hash(entry), checkpoint.size, checkpoint.root)
        self._outside[index] = ProofLine(record, entry, hashes)
        self._judge.add_outside(record)
