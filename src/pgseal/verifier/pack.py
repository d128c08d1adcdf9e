"""``check_pack``: an evidence pack against the key and the question that an auditor brings (FORMATS.md section 4).

In this order, and nothing before it is established what it rests on:

1. the container is a pack's (``pgseal.core.pack_zip``);
2. the checkpoint is signed with the auditor's key, or with one that this key passed the log to, by KEY_ROTATE records
   in the pack (``pgseal.core.rotation``); size and root are the checkpoint's, never ``pack.json``'s;
3. every record of ``proofs.jsonl`` has an inclusion proof, and is what was sealed;
4. ``records.jsonl`` has every leaf of [begin, end) in order, each disclosed part is what was sealed, and all together
   with ``range-proof`` lead to the root;
5. what is erased is allowed by one of those records, and no record contradicts a HEARTBEAT or, by a KEY_ROTATE, the
   signature;
6. only then the question: which records match, and is that all of them (``pgseal.core.pack_answer``).

Reads a file once, in flat memory. Needs no network, no database and no configuration.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pgseal.core.checkpoint import Checkpoint, OpenedCheckpoint
from pgseal.core.erasure import ERASE
from pgseal.core.keys import KeyType, VerifierKey
from pgseal.core.merkle import check_inclusion, check_range, leaf_hash
from pgseal.core.pack import (
    CHECKPOINT,
    PACK_JSON,
    PROOFS,
    RANGE_PROOF,
    README,
    RECORDS,
    PackInfo,
    iter_lines,
    parse_info,
    parse_proof_line,
    parse_range_proof,
)
from pgseal.core.pack_answer import COMPLETE, Answer, Judge
from pgseal.core.pack_bounds import is_act
from pgseal.core.pack_filter import Filter
from pgseal.core.record import DisclosedPart, RecordLine, check_record_line, parse_leaf_line
from pgseal.core.retention import RETENTION
from pgseal.core.rotation import KEY_ROTATE, LogKeys, RecordedRotation, read_rotation
from pgseal.errors import (
    AlteredRecordError,
    ConfigError,
    ForgedRecordError,
    FormatError,
    MissingRecordError,
    ProofError,
    SignatureError,
    TamperError,
)
from pgseal.verifier.pack_file import Input, PackFile
from pgseal.verifier.report import Finding, FindingLog

#: Called with the number of leaves that were read, and of those there are.
Progress = Callable[[int, int], None]

_PACK = "pack"
_FORMAT = "format"
_NOT_OK = "not ok"
_STEP = 1000
_MARK = b'"action":"%b"' % KEY_ROTATE.encode()


@dataclass(frozen=True, slots=True)
class PackReport:
    """The outcome of a check that could be made.

    ``answer`` is None if the check did not come as far as that. ``info`` is what the pack claims to be.
    """

    checkpoint: Checkpoint | None
    info: PackInfo | None
    wanted: Filter
    checked: int
    answer: Answer | None
    findings: tuple[Finding, ...]
    total_findings: int

    @property
    def ok(self) -> bool:
        """Whether everything in the pack is what was sealed; says nothing about what is not in it."""
        return not self.total_findings and self.answer is not None

    @property
    def is_complete(self) -> bool:
        """Whether the pack is also the whole answer to what was asked."""
        return self.ok and self.answer is not None and self.answer.verdict == COMPLETE

    @property
    def verdict(self) -> str:
        """``complete``, ``complete for these leaves only``, ``incomplete`` or ``not ok``."""
        return self.answer.verdict if self.ok and self.answer is not None else _NOT_OK

    def to_json(self) -> dict[str, Any]:
        """Return the document of ``pgseal verify PACK --json``."""
        answer = self.answer
        return {
            "ok": self.ok,
            "complete": self.is_complete,
            "verdict": self.verdict,
            "reasons": list(answer.reasons) if answer and self.ok else [],
            "origin": self.checkpoint.origin if self.checkpoint else None,
            "size": self.checkpoint.size if self.checkpoint else None,
            "begin": self.info.begin if self.info else None,
            "end": self.info.end if self.info else None,
            "filter": self.wanted.to_json(),
            "matching": answer.matching if answer else None,
            "withheld": answer.withheld if answer else None,
            "erased": answer.erased if answer else None,
            "checked": {"pack": self.checked},
            "findings": [asdict(finding) for finding in self.findings],
            "total_findings": self.total_findings,
        }


def check_pack(
    file: Input,
    key: VerifierKey,
    wanted: Filter,
    *,
    progress: Progress = lambda _done, _total: None,
) -> PackReport:
    """Return what a pack comes to under the log's ``key``, for the question ``wanted``.

    Raises ``ConfigError`` for a key that is a witness's, and what ``file`` raises.
    """
    if key.type is not KeyType.ED25519:
        raise ConfigError(
            f"key {key.name!r} is a witness's: give the verifier key of the log, which pgseal key show prints"
        )
    check = _Check(file, key, wanted, progress)
    check.run()
    return check.report()


class _Check:
    """The state of one check."""

    def __init__(self, file: Input, key: VerifierKey, wanted: Filter, progress: Progress) -> None:
        self._file = file
        self._keys = LogKeys(key)
        self._rotations: list[RecordedRotation] = []
        self._wanted = wanted
        self._progress = progress
        self._findings = FindingLog()
        self._contradictions = FindingLog()  # findings once it is proved that the leaves are the log's
        self._checkpoint: Checkpoint | None = None
        self._info: PackInfo | None = None
        self._checked = 0
        self._answer: Answer | None = None

    def report(self) -> PackReport:
        return PackReport(
            checkpoint=self._checkpoint,
            info=self._info,
            wanted=self._wanted,
            checked=self._checked,
            answer=self._answer,
            findings=tuple(self._findings.listed),
            total_findings=self._findings.total,
        )

    def run(self) -> None:
        """Go as far as there is something sound to go on."""
        try:
            self._run()
        except TamperError as error:
            self._findings.add(error)
        except FormatError as error:
            # A pack is evidence: one that is not as it is written down is no evidence.
            self._findings.extend([Finding(_FORMAT, _PACK, str(error))], 1)

    def _run(self) -> None:
        pack = PackFile(self._file)
        info = self._info = parse_info(pack.read(PACK_JSON))
        pack.read(README)  # its checksum, too
        note = pack.read(CHECKPOINT)
        opened = self._open(note, pack)
        checkpoint = self._checkpoint = opened.checkpoint
        if info.origin != checkpoint.origin:
            raise FormatError(f"expected origin {checkpoint.origin!r}, got {info.origin!r}", source=PACK_JSON)
        if info.end > checkpoint.size:
            raise ProofError(
                f"leaves [{info.begin}, {info.end}) of a log that has {checkpoint.size}, as its checkpoint says",
                where=_PACK,
            )
        range_proof = parse_range_proof(pack.read(RANGE_PROOF))
        outside = self._read_outside(pack, info, checkpoint)
        judge = Judge(self._wanted, info.begin, outside)
        leaves = self._iter_leaf_hashes(pack, info, judge)
        try:
            check_range(leaves, range_proof, info.begin, info.end, checkpoint.size, checkpoint.root)
        except ProofError as error:
            error.where = _PACK
            raise
        self._findings.extend(self._contradictions.listed, self._contradictions.total)
        answer, errors = judge.finish(checkpoint.size)
        for error in errors:
            self._findings.add(error)
        self._check_references(outside, judge)
        # All that this pack says of the log's keys is known now: does the signature still do?
        self._keys.learn(self._rotations)
        self._keys.open(note, source=_PACK)
        self._answer = answer

    def _open(self, note: bytes, pack: PackFile) -> OpenedCheckpoint:
        origin = self._keys.newest.name
        try:
            return self._keys.open(note, origin=origin, source=_PACK)
        except SignatureError:
            # Signed with another key: did ours pass the log to it? What is learnt here ahead is proved like every other
            # line, or the check fails.
            self._keys.learn(self._find_rotations(pack))
            return self._keys.open(note, origin=origin, source=_PACK)

    def _find_rotations(self, pack: PackFile) -> Iterator[RecordedRotation]:
        for line in iter_lines(pack.stream(PROOFS), source=PROOFS):
            if _MARK in line:
                yield from _read_rotation(parse_proof_line(line).record)
        for line in iter_lines(pack.stream(RECORDS), source=RECORDS):
            if _MARK in line:
                yield from _read_rotation(parse_leaf_line(line, source=RECORDS)[0])

    def _read_outside(self, pack: PackFile, info: PackInfo, checkpoint: Checkpoint) -> list[RecordLine]:
        """Return the records of ``proofs.jsonl``, each proved."""
        records: dict[int, RecordLine] = {}
        for number, line in enumerate(iter_lines(pack.stream(PROOFS), source=PROOFS)):
            source = f"{PROOFS}, line {number + 1}"
            proved = parse_proof_line(line, source=source)
            record = proved.record
            if info.begin <= record.index < info.end or record.index in records:
                raise FormatError(f"leaf {record.index} stands in this pack already", source=source)
            try:
                check_inclusion(
                    proved.hashes, record.index, leaf_hash(proved.leaf_data), checkpoint.size, checkpoint.root
                )
            except ProofError as error:
                error.where = _PACK
                raise
            self._check_parts(record)
            self._rotations += _read_rotation(record)
            records[record.index] = record
        return list(records.values())

    def _iter_leaf_hashes(self, pack: PackFile, info: PackInfo, judge: Judge) -> Iterator[bytes]:
        expected, total = info.begin, info.end - info.begin
        for line in iter_lines(pack.stream(RECORDS), source=RECORDS):
            record, leaf_data = _parse_line(line, expected - info.begin)
            if record.index != expected:
                raise _out_of_place(record, expected, info)
            if expected == info.end:
                raise ForgedRecordError(
                    f"a line for leaf {record.index}, beyond the range [{info.begin}, {info.end})",
                    where=_PACK, leaf_index=record.index,
                )  # fmt: skip
            self._check_parts(record)
            if record.envelope.action == KEY_ROTATE:
                self._rotations += _read_rotation(record)
            for error in judge.take(record):
                self._contradictions.add(error)
            expected += 1
            self._checked = expected - info.begin
            if not self._checked % _STEP:
                self._progress(self._checked, total)
            yield leaf_hash(leaf_data)
        if expected != info.end:
            raise MissingRecordError(
                f"leaves {expected} to {info.end - 1} are missing", where=_PACK, leaf_index=expected
            )
        self._progress(total, total)

    def _check_parts(self, record: RecordLine) -> None:
        try:
            check_record_line(record)
        except AlteredRecordError as error:
            self._findings.add(error)

    def _check_references(self, outside: list[RecordLine], judge: Judge) -> None:
        referred = judge.references()
        for record in outside:
            if record.index not in referred and not is_act(record.envelope, ERASE, RETENTION, KEY_ROTATE):
                raise FormatError(f"leaf {record.index} is outside the range and nothing refers to it", source=PROOFS)


def _read_rotation(record: RecordLine) -> list[RecordedRotation]:
    """Return the rotation that a line tells of, if it is one that both its keys endorse, and disclosed."""
    if not is_act(record.envelope, KEY_ROTATE):
        return []
    if not isinstance(record.data, DisclosedPart) or not isinstance(record.actor, DisclosedPart):
        return []
    try:
        return [read_rotation(record.data.text, record.actor.text, record.index)]
    except (FormatError, SignatureError):
        return []  # anybody may have written it: it says nothing about keys


def _parse_line(line: bytes, number: int) -> tuple[RecordLine, bytes]:
    try:
        return parse_leaf_line(line, source=RECORDS)
    except FormatError:
        # Which line it is costs too much to be written down for each.
        return parse_leaf_line(line, source=f"{RECORDS}, line {number + 1}")


def _out_of_place(record: RecordLine, expected: int, info: PackInfo) -> TamperError:
    envelope = record.envelope
    if expected < record.index < info.end:
        return MissingRecordError(
            f"leaf {expected} is missing: leaf {record.index} stands in its place", where=_PACK, leaf_index=expected
        )
    return ForgedRecordError(
        f"leaf {record.index} stands where leaf {expected} has to stand" if expected < info.end
        else f"leaf {record.index} stands beyond the range [{info.begin}, {info.end})",
        where=_PACK,
        trail=envelope.trail,
        record_id=envelope.id,
        leaf_index=record.index,
    )  # fmt: skip
