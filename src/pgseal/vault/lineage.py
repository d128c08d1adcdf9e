"""Follows the rows of one table and trail through all their versions, from key to key."""

from collections import defaultdict
from collections.abc import Sequence

from pgseal.vault.chain import Links, place_of
from pgseal.vault.records import Record
from pgseal.vault.row_records import RowReader

Row = list[Record]


class Lineages:
    """The rows of one table in one trail. Reads what happened at the keys that they had, and at no others."""

    def __init__(self, reader: RowReader) -> None:
        """Read from ``reader``."""
        self._reader = reader
        self._endings: list[Record] | None = None
        self._own: dict[str, list[Record]] = {}
        self._arrivals: defaultdict[str, dict[int, Record]] = defaultdict(dict)
        self._scanned: set[str] = set()
        self._links: dict[str, Links] = {}

    def find_rows(self, keys: Sequence[str]) -> list[Row]:
        """Return every row that ever had one of ``keys`` (as ``format_key`` writes them), each oldest record first."""
        records = [record for key in keys for record in self._read(key)]
        for record in records:
            if record.changes_key:
                self._note_arrival(record)
        gaps = {key: self._link(key).gaps for key in keys}
        if any(gaps.values()):
            self._scan([key for key in keys if gaps[key]], [gap for key in keys for gap in gaps[key]])
        arrivals = [record for key in keys for record in self._arrivals[key].values()]
        return self._collect([*records, *arrivals])

    def find_row(self, record: Record) -> Row:
        """Return the row that ``record``, which has a key, is about."""
        (record,) = self._reader.complete([record])
        if record.changes_key:
            self._note_arrival(record)
        return self._collect([record])[0]

    def _collect(self, records: Sequence[Record]) -> list[Row]:
        """Return the rows that ``records`` are about, by their first records."""
        rows: list[Row] = []
        seen: set[int] = set()
        for record in sorted(records, key=place_of):
            if record.leaf_index not in seen:
                row = self._walk(record)
                seen.update(one.leaf_index for one in row)
                rows.append(row)
        return sorted(rows, key=lambda row: place_of(row[0]))

    def _walk(self, record: Record) -> Row:
        earlier, later = [record], [record]
        met = {record.leaf_index}
        # A chain that closes upon itself ends where it began.
        while (before := self._find_before(earlier[-1])) is not None and before.leaf_index not in met:
            earlier.append(before)
            met.add(before.leaf_index)
        while (after := self._find_after(later[-1])) is not None and after.leaf_index not in met:
            later.append(after)
            met.add(after.leaf_index)
        return [*reversed(earlier), *later[1:]]

    def _find_before(self, record: Record) -> Record | None:
        key = record.key_before
        if key is None:
            return None
        self._explain(key, record)
        return self._link(key).before.get(record.leaf_index)

    def _find_after(self, record: Record) -> Record | None:
        key = record.key_after
        if key is None:
            return None
        if record.changes_key:
            self._note_arrival(record)
        after = self._link(key).after.get(record.leaf_index)
        if after is not None:
            self._explain(key, after)
        return self._link(key).after.get(record.leaf_index)

    def _explain(self, key: str, record: Record) -> None:
        """See to it that ``record`` follows an UPDATE that gave its row ``key``, if there is one."""
        links = self._link(key)
        if record.leaf_index in links.unexplained and key not in self._scanned:
            self._scan([key], links.gaps)

    def _scan(self, keys: Sequence[str], gaps: Sequence[tuple[int, int]]) -> None:
        self._scanned.update(keys)
        for arrival in self._reader.read_arrivals(keys, gaps):
            self._note_arrival(arrival)

    def _note_arrival(self, record: Record) -> None:
        key = record.key_after
        if key is not None and record.leaf_index not in self._arrivals[key]:
            self._arrivals[key][record.leaf_index] = record
            self._links.pop(key, None)

    def _link(self, key: str) -> Links:
        if key not in self._links:
            if self._endings is None:
                self._endings = self._reader.read_endings()
            self._links[key] = Links(key, [*self._read(key), *self._arrivals[key].values(), *self._endings])
        return self._links[key]

    def _read(self, key: str) -> list[Record]:
        if key not in self._own:
            self._own[key] = self._reader.read(key)
        return self._own[key]
