"""What the verifier asks of the outside: a ledger's files, a vault, trails, and a memory of its own.

All of it is untrusted but the memory. Whatever cannot be reached or read for lack of rights raises ``StorageError``
(or ``ConfigError``) and ends the verification: that is no finding. Everything an attacker could have put there instead
must come through as it is and is judged here.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol


class LedgerFiles(Protocol):
    """The reading half of ``pgseal.ledger.store.LedgerStore``. Picklable: worker processes read, too."""

    def read(self, path: str) -> bytes:
        """Return a file's bytes.

        Raises ``MissingObjectError`` where there is none, ``FormatError`` for one that is too large to be right.
        """
        ...


class VaultSource(Protocol):
    """The vault's records. Picklable: a copy in a worker process opens a connection of its own, once.

    Rows at or above the ledger's size may come and go while a verification runs; those below never change. No method
    may leave rows out: ``row_security`` is off, so that a policy is an error and not a filter.
    """

    def copy_rows(self, begin: int, end: int) -> Iterator[bytes]:
        """Yield the rows with begin <= leaf_index < end, in that order.

        Each as the CopyData messages of ``COPY (SELECT <rows.VAULT_COLUMNS> FROM vault.record WHERE … ORDER BY
        leaf_index) TO STDOUT (FORMAT binary)``, header and trailer included.
        """
        ...

    def copy_outside(self, tree_size: int) -> Iterator[bytes]:
        """Yield every other row, in the same form and order: leaf_index < 0, >= tree_size, or NULL (last)."""
        ...

    def count_leaves(self, trail: str, incarnation: int, begin: int, end: int, leaving_out: Sequence[int]) -> int:
        """Return how many rows of one incarnation of a trail have begin <= leaf_index < end, some left out."""
        ...

    def copy_times(
        self, trail: str, begin: int, end: int, earliest: int | None, latest: int | None
    ) -> Iterator[tuple[int, int]]:
        """Yield leaf index and time of a trail's rows with begin <= leaf_index < end outside of what is expected.

        That is, earlier than ``earliest`` or later than ``latest``, in microseconds since the Unix epoch; rising.
        """
        ...

    def copy_leaf_indexes(self, trail: str, incarnation: int, begin: int, end: int) -> Iterator[int]:
        """Yield the leaf indexes of these rows, rising."""
        ...

    def copy_trail(self, trail: str, incarnation: int, ids: tuple[int, int] | None = None) -> Iterator[bytes]:
        """Yield a trail's rows of ``incarnation`` and those before, by id, as COPY text lines without the newline.

        Of several with one id those of the earlier incarnation first. With ``ids`` only from the first to the second.

        Columns: leaf_index, id, time, xid, source, category, action, outcome, relation, actor, data; under TimeZone
        UTC and DateStyle ISO. A part that is gone reads ``core.erasure.ERASED``. The query is not sent
        before the first row is asked for.
        """
        ...


class TrailSource(Protocol):
    """A trail at one incarnation: the rows that are in the source now, whenever they were sealed."""

    @property
    def name(self) -> str:
        """The trail's name in envelopes."""
        ...

    @property
    def incarnation(self) -> int:
        """The incarnation that new rows belong to."""
        ...

    @property
    def base_id(self) -> int:
        """The last id whose row may have another server's xid, as the vault notes it; 0 if none has."""
        ...

    def check_feed(self) -> None:
        """Check that what the vault notes of how far this trail was read agrees with the rows there are.

        Raises ``TamperError`` if it does not: records may wait, then, that would never be sealed.
        """
        ...

    def copy_rows(self) -> Iterator[bytes]:
        """Yield the rows in the order of id, as COPY text lines without the newline.

        Columns: sealed (t, f, or u where it is not known), id, time, xid, source, category, action, outcome, relation,
        actor, data, each byte for byte as the sealer wrote it to the vault, or ``core.erasure.ERASED``. ``sealed`` says
        that the snapshot the vault keeps for this trail sees the row, so that the vault must have it. That snapshot is
        read before the rows are, and the rows when the first one is asked for: the verifier asks for it after it has
        read the checkpoint and before it asks the vault.
        """
        ...


class KeptCheckpoint(Protocol):
    """The verifier's own memory: the last checkpoint it trusted, by origin; kept where no other part can write."""

    def load(self, origin: str) -> bytes | None:
        """Return the signed note kept for ``origin``, None the first time."""
        ...

    def store(self, origin: str, note: bytes) -> None:
        """Keep a signed note: atomic, and durable when it returns."""
        ...
