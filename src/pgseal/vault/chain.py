"""Which record of a row follows which. Pure: records in, links out.

A record goes from one version of a row to the next: INSERT and SNAPSHOT from nothing, DELETE to nothing, UPDATE and
MOVE (``moves``) from ``old`` to ``new``. Two records follow each other where the version after the one is the version
before the other, at the same key. ``Links`` finds these pairs among everything that happened at one key:

- In order of ``id`` (FORMATS.md section 2), a record takes up the oldest version that is equal to the one it starts
  from and that no other has taken up.
- Within a transaction it may have to wait for that: a trigger that changes the row again can be captured before the
  statement that fired it. Several orders may fit; then it is the one that the rule above gives.
- What is equal to nothing, or would only follow itself, takes up the version that stood there before it in order of
  ``id``: somebody changed the row, or the table, while it was not captured.
- A SNAPSHOT goes on with the row that has its key, whatever it looks like: the table was tracked anew.
- A TRUNCATE ends every row that is there; TRUNCATE_PARTITION and DETACH those of the partition they name.
"""

from collections.abc import Iterable

from pgseal.vault.records import Record

#: The actions that end rows without naming them.
ENDINGS = ("TRUNCATE", "TRUNCATE_PARTITION", "DETACH")
_NEVER = 2**63 - 1


def place_of(record: Record) -> tuple[int, int]:
    """Return where a record stands in its trail."""
    return record.incarnation, record.id


class Links:
    """How the records at one key of one trail follow each other.

    ``before`` and ``after`` give the neighbour of a record, by its leaf index, as far as it is at this key.
    ``unexplained`` holds the leaf indexes of records that start from a version no given record has left, ``gaps`` the
    spans of leaf indexes in which a row may have been given this key by a record that was not given.
    """

    def __init__(self, key: str, records: Iterable[Record]) -> None:
        """Link ``records``: all that start from or lead to ``key`` (as ``format_key`` gives it), and ``ENDINGS``."""
        self.before: dict[int, Record] = {}
        self.after: dict[int, Record] = {}
        self.unexplained: set[int] = set()
        self.gaps: list[tuple[int, int]] = []
        self._key = key
        self._left: dict[int, Record] = {}  # versions that nothing has taken up
        self._waiting: dict[int, tuple[Record, int]] = {}  # with the gap that it starts from
        self._absent_since: int | None = 0  # None while a row has the key
        for record in sorted(records, key=place_of):
            self._add(record)
        self._settle()
        self._note_gap(_NEVER)

    def _add(self, record: Record) -> None:
        if any(_transaction(one) != _transaction(record) for one, _ in self._waiting.values()):
            self._settle()
        if record.action in ENDINGS:
            self._settle()
            self._note_gap(record.leaf_index)
            for ended in [one for one in self._left.values() if _ends(record, one)]:
                self.after[ended.leaf_index] = record
                del self._left[ended.leaf_index]
        elif record.key_before == self._key:
            self._take_up(record)
        if record.key_after == self._key:
            self._leave(record)
        self._note_presence(record)

    def _take_up(self, record: Record) -> None:
        former = record.old
        # The newest incarnation first: a server that was restored may have left the same version twice.
        equal = [one for one in self._left.values() if former is not None and one.new == former]
        if equal:
            self._link(min(equal, key=lambda one: (-one.incarnation, one.id)), record)
        elif record.action != "SNAPSHOT":
            self._waiting[record.leaf_index] = (record, min(self._left, default=self._absent_since or 0))
        elif self._left:
            self._link(max(self._left.values(), key=place_of), record)

    def _leave(self, record: Record) -> None:
        for one, _ in self._waiting.values():
            if one.old == record.new and not self._leads(one, record):
                del self._waiting[one.leaf_index]
                self._link(record, one)
                return
        self._left[record.leaf_index] = record

    def _settle(self) -> None:
        """Let what waits in vain take up what stood there before it."""
        for record, since in self._waiting.values():
            self.unexplained.add(record.leaf_index)
            self.gaps.append((since, record.leaf_index))
            earlier = [one for one in self._left.values() if place_of(one) < place_of(record)]
            earlier = [one for one in earlier if not self._leads(record, one)]
            if earlier:
                self._link(max(earlier, key=place_of), record)
                self._note_presence(record)
        self._waiting.clear()

    def _note_presence(self, record: Record) -> None:
        if self._left:
            self._absent_since = None
        elif self._absent_since is None:
            self._absent_since = record.leaf_index

    def _note_gap(self, until: int) -> None:
        if self._absent_since is not None:
            self.gaps.append((self._absent_since, until))

    def _link(self, former: Record, record: Record) -> None:
        self.before[record.leaf_index] = former
        self.after[former.leaf_index] = record
        self._left.pop(former.leaf_index, None)

    def _leads(self, first: Record, last: Record) -> bool:
        """Return whether ``last`` follows, at any distance, ``first``, or is it."""
        step: Record | None = first
        while step is not None and step.leaf_index != last.leaf_index:
            step = self.after.get(step.leaf_index)
        return step is not None


def _ends(ending: Record, version: Record) -> bool:
    return ending.action == "TRUNCATE" or (ending.part is not None and version.part == ending.part)


def _transaction(record: Record) -> tuple[int, str]:
    return record.incarnation, record.xid
