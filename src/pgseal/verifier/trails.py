"""A trail's rows against the vault's, merged in the order of id.

Rows that are equal byte for byte, nearly all, cost a slice and a comparison. The rest is taken by id, all rows of one
id together, and judged by what was sealed: where the vault's own row was found damaged, the ledger's entry decides
whether the trail's row is right, so that damage on one side is not blamed on the other.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pgseal.copytext import NULL, format_time, unescape
from pgseal.core.encoding import shorten
from pgseal.core.erasure import ERASED, PARTS, Erased
from pgseal.core.ranges import LeafRanges
from pgseal.errors import (
    AlteredRecordError,
    ErasedContentError,
    ForgedRecordError,
    FormatError,
    MalformedRecordError,
    MissingRecordError,
    RollbackError,
    StorageError,
    UnauthorizedErasureError,
)
from pgseal.verifier.compare import describe
from pgseal.verifier.report import FindingLog
from pgseal.verifier.rows import Row
from pgseal.verifier.sources import TrailSource, VaultSource

_COLUMNS = ("id", "time", "xid", "source", "category", "action", "outcome", "relation", "actor", "data")
_NO_ID = 2**63  # sorts where PostgreSQL sorts NULL
_PROGRESS_ROWS = 16_384
_UNSEALED = ord("f")
_MAX_CLAIMS = 64


@dataclass(frozen=True, slots=True)
class Known:
    """What the earlier steps found out about a trail.

    ``malformed`` gives the leaf of the MALFORMED record by the id of the row it stands for; ``damaged`` the leaf by the
    id of each sealed record whose row in the vault has a finding. ``damaged_leaves`` are such leaves of whatever trail,
    each with whether the ledger says which record it is. ``find_differences`` names the columns in which a trail's row
    differs from the entry of a damaged leaf. ``retained`` are leaves that may be gone from the trail. ``lost`` are
    leaves that are gone as a RECOVER record says; other rows may have their ids now. ``erased`` are the parts that
    ERASE records say are gone.
    """

    tree_size: int
    malformed: Mapping[int, int]
    damaged: Mapping[int, int]
    damaged_leaves: Mapping[int, bool]
    find_differences: Callable[[int, Row], list[str]]
    retained: LeafRanges = field(default_factory=LeafRanges)
    lost: LeafRanges = field(default_factory=LeafRanges)
    erased: Erased = field(default_factory=Erased)


@dataclass(frozen=True, slots=True)
class Line:
    """One row: ``mark`` is its first column (sealed, or the leaf index), ``body`` the other columns."""

    mark: bytes
    body: bytes


class TrailCheck:
    """Compares a trail with the vault."""

    def __init__(self, trail: TrailSource, vault: VaultSource, known: Known, findings: FindingLog) -> None:
        """Compare ``trail`` with ``vault``, adding to ``findings``."""
        self._trail = trail
        self._vault = vault
        self._known = known
        self._findings = findings
        self._seen_malformed: set[int] = set()
        self._seen_damaged: set[int] = set()
        self._has_forgotten = False
        self._passed: tuple[int, int] | None = None  # id and leaf of the last row that equals its record
        #: Rows compared with a sealed record, and rows not sealed yet.
        self.checked = 0
        self.waiting = 0
        #: Records that are gone from the trail, and may be.
        self.retained = 0

    def run(self, progress: Callable[[int], None]) -> None:
        """Compare everything; raises ``StorageError`` where a source cannot answer or its rows are out of order."""
        # The trail first: every row that its answer calls sealed is then in the vault's answer.
        rows = Side(self._trail.copy_rows(), f"trail {self._trail.name}")
        records = Side(self._copy_records(), "vault")
        while rows.line is not None or records.line is not None:
            self._skip_retained(rows, records)
            self._skip_equal(rows, records, progress)
            id_ = min(rows.id, records.id)
            if rows.line is not None or records.line is not None:
                self._judge(id_, rows.take(id_), records.take(id_))
        for id_, leaf_index in self._known.malformed.items():
            if id_ not in self._seen_malformed:
                self._report_malformed(id_, leaf_index, "gone from the trail since")
        for id_, leaf_index in self._known.damaged.items():
            if id_ not in self._seen_damaged:
                self._report_missing(id_, leaf_index)
        progress(self.checked)

    def _copy_records(self) -> Iterator[bytes]:
        """Yield the vault's rows that the trail must have."""
        lost = self._known.lost
        lines = self._vault.copy_trail(self._trail.name, self._trail.incarnation)
        if not lost.ranges:
            return lines
        return (line for line in lines if line.startswith(NULL) or int(line[: line.index(b"\t")]) not in lost)

    def _skip_retained(self, rows: "Side", records: "Side") -> None:
        """Go on while records are gone from the trail that may be."""
        retained, damaged = self._known.retained, self._known.damaged_leaves
        first, last = rows.id, -_NO_ID - 1
        while records.line is not None and last < records.id < first:
            leaf, _, body = records.line.partition(b"\t")
            if leaf == NULL or int(leaf) not in retained or int(leaf) in damaged:
                break
            last = records.passed(body)
            self._passed = (last, int(leaf))
            self.retained += 1
            records.next()

    def _skip_equal(self, rows: "Side", records: "Side", progress: Callable[[int], None]) -> None:
        """Go on while rows and records are equal, sealed and sound."""
        size, damaged = self._known.tree_size, self._known.damaged_leaves
        row, record = rows.line, records.line
        previous, last_leaf = None, b""
        while row is not None and record is not None:
            tab = record.index(b"\t")
            body = record[tab + 1 :]
            if row[2:] != body or body == previous or row[0] == _UNSEALED:
                break
            leaf_index = record[:tab]
            if leaf_index == NULL or not 0 <= int(leaf_index) < size or (damaged and int(leaf_index) in damaged):
                break
            previous, last_leaf = body, leaf_index
            self.checked += 1
            if not self.checked % _PROGRESS_ROWS:
                progress(self.checked)
            row, record = rows.next(), records.next()
        if previous is not None:
            rows.passed(previous)
            self._passed = (records.passed(previous), int(last_leaf))

    def _judge(self, id_: int, rows: Sequence[Line], records: Sequence[Line]) -> None:
        known = self._known
        leaves = {int(record.mark): record for record in records if record.mark != NULL}
        sound = [leaf for leaf in leaves if 0 <= leaf < known.tree_size and leaf not in known.damaged_leaves]
        pending = [leaf for leaf in leaves if leaf >= known.tree_size]
        if self._passed is not None and self._passed[0] == id_:
            # More of what was already found equal.
            self._judge_others(id_, self._passed[1], len(rows))
            self._report_resealed(id_, self._passed[1], [leaf for leaf in sound if leaf != self._passed[1]])
        elif not sound and id_ in known.damaged:
            self._seen_damaged.add(id_)
            self._judge_by_entry(id_, known.damaged[id_], rows)
        elif sound or pending:
            leaf_index = (sound or pending)[0]
            self._judge_by_record(id_, leaf_index, rows, leaves[leaf_index])
            self._report_resealed(id_, leaf_index, sound[1:])
        elif all(known.damaged_leaves.get(leaf, True) for leaf in leaves):
            # The leaves that the vault's rows of this id claim, if there are any, belong to other records.
            for row in rows:
                self._judge_unsealed(id_, row)

    def _judge_by_record(self, id_: int, leaf_index: int, rows: Sequence[Line], record: Line) -> None:
        is_sealed = leaf_index < self._known.tree_size
        if not rows:
            if is_sealed:
                self._report_missing(id_, leaf_index)
            return
        self.checked += is_sealed
        self.waiting += not is_sealed
        right = next((row for row in rows if row.body == record.body), None)
        if right is None:
            right = rows[0]
            names = _differing_columns(right.body, record.body)
            if is_sealed:
                self._report_differences(id_, leaf_index, names, right, record)
            else:
                self._findings.add(
                    AlteredRecordError(
                        f"record {self._trail.name}/{id_}, about to be sealed: {describe(names)} from the trail",
                        where="vault",
                        trail=self._trail.name,
                        record_id=id_,
                        leaf_index=leaf_index,
                    )
                )
        elif is_sealed and right.mark == b"f":
            self._report_forgotten(id_, leaf_index)
        self._judge_others(id_, leaf_index, len(rows) - 1)

    def _judge_by_entry(self, id_: int, leaf_index: int, rows: Sequence[Line]) -> None:
        if not rows:
            self._report_missing(id_, leaf_index)
            return
        self.checked += 1
        found = [self._known.find_differences(leaf_index, self._parse(row)) for row in rows]
        right = next((number for number, names in enumerate(found) if not names), 0)
        if found[right]:
            self._report_altered(id_, leaf_index, found[right])
        self._judge_others(id_, leaf_index, len(rows) - 1)

    def _judge_others(self, id_: int, leaf_index: int, count: int) -> None:
        """Judge ``count`` rows that have the id of a sealed record, and are not it."""
        if count and id_ in self._known.malformed:
            self._judge_malformed(id_)
            count -= 1
        self._report_repeated(id_, leaf_index, count)

    def _judge_malformed(self, id_: int) -> None:
        self._seen_malformed.add(id_)
        self._report_malformed(id_, self._known.malformed[id_], "not sealed as it stands")

    def _judge_unsealed(self, id_: int, row: Line) -> None:
        if id_ in self._known.malformed:
            self._judge_malformed(id_)
        elif row.mark == b"t":
            self._findings.add(
                ForgedRecordError(
                    f"record {self._trail.name}/{_name(id_)}: never sealed, though its transaction was",
                    where="trail",
                    trail=self._trail.name,
                    record_id=None if id_ == _NO_ID else id_,
                )
            )
        else:
            self.waiting += 1

    def _report_missing(self, id_: int, leaf_index: int) -> None:
        if leaf_index in self._known.retained:
            self.retained += 1
            return
        self._findings.add(
            MissingRecordError(
                f"record {self._trail.name}/{id_}: sealed at leaf {leaf_index}, gone from the trail",
                where="trail",
                trail=self._trail.name,
                record_id=id_,
                leaf_index=leaf_index,
            )
        )

    def _report_differences(self, id_: int, leaf_index: int, names: Sequence[str], row: Line, record: Line) -> None:
        """Tell what was changed in a trail's row from what was erased on one of the sides."""
        altered: list[str] = []
        name = f"record {self._trail.name}/{id_} (leaf {leaf_index})"
        ours, sealed = (dict(zip(_COLUMNS, line.body.split(b"\t"), strict=True)) for line in (row, record))
        for column in names:
            if column not in PARTS or ERASED not in {ours[column], sealed[column]}:
                altered.append(column)
            elif sealed[column] == ERASED:
                self._findings.add(
                    ErasedContentError(
                        f"{name}: {column} was destroyed, as a sealed ERASE record says, and the trail has it: "
                        "a backup brought it back, or pgseal erase was interrupted; pgseal erase --again",
                        where="trail",
                        trail=self._trail.name,
                        record_id=id_,
                        leaf_index=leaf_index,
                    )
                )
            elif not self._known.erased.allows(leaf_index, column):
                self._findings.add(
                    UnauthorizedErasureError(
                        f"{name}: {column} gone, and no sealed ERASE allows it",
                        where="trail",
                        trail=self._trail.name,
                        record_id=id_,
                        leaf_index=leaf_index,
                    )
                )
        if altered:
            self._report_altered(id_, leaf_index, altered)

    def _report_altered(self, id_: int, leaf_index: int, names: Sequence[str]) -> None:
        self._findings.add(
            AlteredRecordError(
                f"record {self._trail.name}/{id_} (leaf {leaf_index}): {describe(names)} from what was sealed",
                where="trail",
                trail=self._trail.name,
                record_id=id_,
                leaf_index=leaf_index,
            )
        )

    def _report_forgotten(self, id_: int, leaf_index: int) -> None:
        # One finding says it: whoever set the feed back did so for all that came after.
        if self._has_forgotten:
            return
        self._has_forgotten = True
        self._findings.add(
            RollbackError(
                f"the vault no longer knows that record {self._trail.name}/{id_}, leaf {leaf_index}, was sealed: "
                "its note of how far the trail is sealed (vault.feed) was set back or removed",
                where="vault",
                trail=self._trail.name,
                record_id=id_,
                leaf_index=leaf_index,
            )
        )

    def _report_repeated(self, id_: int, leaf_index: int, count: int) -> None:
        for _ in range(count):
            self._findings.add(
                ForgedRecordError(
                    f"record {self._trail.name}/{id_}: another row has the id of sealed leaf {leaf_index}",
                    where="trail",
                    trail=self._trail.name,
                    record_id=id_,
                    leaf_index=leaf_index,
                )
            )

    def _report_resealed(self, id_: int, leaf_index: int, leaves: Sequence[int]) -> None:
        for leaf in leaves:
            self._findings.add(
                ForgedRecordError(
                    f"record {self._trail.name}/{id_}: sealed at leaf {leaf_index} and once more at leaf {leaf}",
                    where="vault",
                    trail=self._trail.name,
                    record_id=id_,
                    leaf_index=leaf,
                )
            )

    def _report_malformed(self, id_: int, leaf_index: int, what: str) -> None:
        self._findings.add(
            MalformedRecordError(
                f"row {self._trail.name}/{id_} cannot be a record: sealed as MALFORMED at leaf {leaf_index}, {what}",
                where="trail",
                trail=self._trail.name,
                record_id=id_,
                leaf_index=leaf_index,
            )
        )

    def _parse(self, line: Line) -> Row:
        return parse_line(line.body, self._trail.name, self._trail.incarnation)


class Side:
    """Lines of one side, with the id of the current one and what has been passed."""

    def __init__(self, lines: Iterator[bytes], name: str) -> None:
        self._lines = lines
        self._name = name
        self._last = -_NO_ID - 1
        #: The current line, None at the end.
        self.line: bytes | None = next(lines, None)

    @property
    def id(self) -> int:
        """The id of the current line; beyond every id at the end."""
        return _NO_ID + 1 if self.line is None else _parse_id(self.line.partition(b"\t")[2], self._name)

    def next(self) -> bytes | None:
        """Go to the next line and return it."""
        self.line = next(self._lines, None)
        return self.line

    def passed(self, body: bytes) -> int:
        """Note the last line passed with ``next``; return its id."""
        id_ = _parse_id(body, self._name)
        self._check_order(id_)
        return id_

    def take(self, id_: int) -> list[Line]:
        """Return the lines of one id, at most ``_MAX_CLAIMS`` of them, and go behind them."""
        taken: list[Line] = []
        while self.line is not None and self.id == id_:
            if len(taken) < _MAX_CLAIMS:
                mark, _, body = self.line.partition(b"\t")
                taken.append(Line(mark, body))
            self.next()
        if taken:
            self._check_order(id_)
        return taken

    def _check_order(self, id_: int) -> None:
        if id_ < self._last:
            raise StorageError(
                f"{self._name} gives its rows out of order (id {id_} after {self._last}): is an index damaged? REINDEX"
            )
        self._last = id_


def parse_line(body: bytes, trail: str, incarnation: int) -> Row:
    """Return the columns id to data of a COPY line as a row; raises ``StorageError`` if it has other columns."""
    try:
        fields = [None if field == NULL else unescape(field) for field in body.split(b"\t")]
    except FormatError as error:
        raise StorageError(f"trail {trail} gave a row that cannot be read: {error}") from error
    if len(fields) != len(_COLUMNS):
        raise StorageError(f"trail {trail} gave a row that cannot be read: {len(fields)} columns")
    id_, time, xid, *texts, actor, data = fields
    try:
        record_id, transaction = (None if number is None else int(number) for number in (id_, xid))
    except ValueError as error:
        raise StorageError(f"trail {trail} gave a row that cannot be read: its id or xid is no number") from error
    source, category, action, outcome, relation = (
        None if text is None else text.decode("utf-8", "surrogateescape") for text in texts
    )
    return Row(
        None, trail, incarnation, record_id, _format_time(time), transaction,
        source, category, action, outcome, relation,
        actor=actor, actor_salt=None, data=data, data_salt=None,
    )  # fmt: skip


def _parse_id(body: bytes, name: str) -> int:
    text = body.partition(b"\t")[0]
    if text == NULL:
        return _NO_ID
    try:
        return int(text)
    except ValueError as error:
        raise StorageError(f"{name} gave a row that cannot be read: id {shorten(text)}") from error


def _format_time(field: bytes | None) -> str | None:
    try:
        return None if field is None else format_time(field).decode()
    except FormatError:
        return None


def _differing_columns(ours: bytes, sealed: bytes) -> list[str]:
    left, right = ours.split(b"\t"), sealed.split(b"\t")
    if len(left) != len(right) or len(left) != len(_COLUMNS):
        raise StorageError(
            f"rows of trail and vault have {len(left)} and {len(right)} columns: their sources do not fit"
        )
    return [name for name, a, b in zip(_COLUMNS, left, right, strict=True) if a != b]


def _name(id_: int) -> str:
    return "(without id)" if id_ == _NO_ID else str(id_)
