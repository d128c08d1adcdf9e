"""``LedgerWriter`` grows a ledger and publishes its checkpoint: the only code that changes one.

The order of durable steps, which the sealer drives::

    append          entries and tiles of the new size, all durable      nobody reads them yet
    root, sign      (the sealer) keep the signed checkpoint             from here on the new size is promised
    publish         replace `checkpoint`                                readers see the new size
                    delete partial tiles that a full one has replaced   readers of an older checkpoint use the full one

Files at or below the signed size never change. ``append`` keeps that by construction: each path it writes names a tile
that reaches beyond the size it grows from. What could break it is another writer on the same ledger, so before a byte
is written the published checkpoint must still be the one this writer knows. Files above the signed size are leftovers
of a crash, maybe torn, and are overwritten.
"""

import re
from collections.abc import Iterable, Sequence

from pgseal.core.checkpoint import Checkpoint, parse_checkpoint
from pgseal.core.note import parse_note
from pgseal.core.tiles import (
    TILE_HEIGHT,
    Tile,
    entries_path,
    parse_entries_path,
    parse_tile_path,
    tile_path,
)
from pgseal.errors import ForkError, RollbackError
from pgseal.ledger.edge import RightEdge, read_edge
from pgseal.ledger.store import CHECKPOINT, WITNESSED, LedgerStore, MissingObjectError

_PARTIAL_NAME = re.compile(r"[0-9]{3}\.p")
_GROUP = 1000  # tiles in one directory
_SWEPT_GROUPS = 2


class LedgerWriter:
    """The single writer of a ledger; not safe for concurrent use.

    After an error from ``append`` or ``publish`` the writer stands where it stood before: the same call may be
    repeated, or the writer opened again.
    """

    def __init__(self, store: LedgerStore, edge: RightEdge, published: Checkpoint | None) -> None:
        """Use ``LedgerWriter.open``, which checks what it is given."""
        self._store = store
        self._edge = edge
        self._published = published
        # What `checkpoint` may hold: two while it is uncertain whether a replacement that failed took effect.
        self._acceptable = {published}
        # Roots by size, of sizes that may be published.
        self._roots = {edge.size: edge.root()}
        # Full tiles that took the place of partial ones.
        self._replaced: list[Tile] = []
        self._may_have_leftovers = True

    @classmethod
    def open(cls, store: LedgerStore, tree_size: int, root: bytes) -> "LedgerWriter":
        """Take up the ledger at the signed ``tree_size`` and ``root`` (0 and ``EMPTY_ROOT`` for a new one).

        Raises ``ProofError`` naming the file if the right edge, recomputed from entries, does not lead to ``root``;
        ``RollbackError`` if the ledger has published a larger size than the one given, ``ForkError`` if the same size
        with another root; ``FormatError`` and ``StorageError`` for what cannot be read. Changes nothing.
        """
        published = _read_checkpoint(store)
        if published is not None and published.size > tree_size:
            raise RollbackError(
                f"the ledger has published size {published.size}, but only size {tree_size} is remembered as signed: "
                "the sealer's state is older than the ledger, put the newer state back",
                where="ledger",
            )
        if published is not None and published.size == tree_size and published.root != root:
            raise ForkError(
                f"the ledger's checkpoint of size {tree_size} has root {published.root.hex()}, signed was {root.hex()}",
                where="ledger",
            )
        return cls(store, read_edge(store, tree_size, root), published)

    @property
    def size(self) -> int:
        """Leaves in the ledger, published or not."""
        return self._edge.size

    def root(self) -> bytes:
        """Return the root at ``size``; what is to be signed and published."""
        if self.size not in self._roots:
            self._roots[self.size] = self._edge.root()
        return self._roots[self.size]

    def append(self, leaves: Sequence[bytes]) -> None:
        """Append ``leaves`` (leaf_data, at most 65,535 bytes each): entries and tiles are durable when it returns.

        Takes memory for about twice the leaves: give a long run in parts. Raises ``FormatError`` for a leaf that is too
        long, ``ForkError`` or ``RollbackError`` if someone else has changed the checkpoint, and what the store raises.
        """
        if not leaves:
            return
        edge, files = self._edge.grow(leaves)
        self._check_published()
        # Until `write_new` returns, and even then until `edge` is signed, nothing refers to these files. A crash leaves
        # some of them, the next append at this size writes them again.
        try:
            self._store.write_new(files)
        except BaseException:
            self._may_have_leftovers = True
            raise
        self._replaced.extend(
            Tile(tile.level, tile.index)
            for tile in self._edge.partial_tiles()
            if edge.size >> TILE_HEIGHT * (tile.level + 1) > tile.index
        )
        self._edge = edge

    def publish(self, note: bytes, tree_size: int) -> None:
        """Replace the ledger's checkpoint by ``note``, signed over ``root()`` at ``tree_size``, then tidy up.

        The same note, or one with more signatures, may be published again. Raises ``ForkError`` for another root,
        ``RollbackError`` for a size below the published one, ``FormatError`` if it is no checkpoint, what the store
        raises, and ``ValueError`` if ``root()`` was never asked for at ``tree_size``: nobody can have signed it.
        """
        checkpoint = _parse_checkpoint(note, CHECKPOINT)
        if checkpoint.size != tree_size:
            raise ValueError(f"expected a checkpoint of size {tree_size}, got one of size {checkpoint.size}")
        if self._published is not None and tree_size < self._published.size:
            raise RollbackError(
                f"cannot publish size {tree_size}: size {self._published.size} is published already", where="ledger"
            )
        if tree_size not in self._roots:
            raise ValueError(f"no root was ever taken at size {tree_size}; the ledger has {self.size} leaves")
        if checkpoint.root != self._roots[tree_size]:
            raise ForkError(
                f"checkpoint of size {tree_size}: expected the ledger's root {self._roots[tree_size].hex()}, "
                f"got {checkpoint.root.hex()}",
                where="ledger",
            )
        self._check_published()
        # A crash, or an error, in here leaves the old checkpoint or the new one; both are true and signed.
        self._acceptable = {self._published, checkpoint}
        self._store.replace(CHECKPOINT, note)
        self._published = checkpoint
        self._acceptable = {checkpoint}
        self._roots = {size: root for size, root in self._roots.items() if size >= tree_size}
        # A crash from here on leaves partial tiles that no published checkpoint needs: the first publish after
        # `open` looks for them.
        self._delete_replaced(tree_size)

    def publish_witnessed(self, note: bytes, tree_size: int) -> None:
        """Replace ``witnessed`` by a checkpoint of ``tree_size``, at most the published one, with its cosignatures.

        After ``publish``, so that whoever reads ``witnessed`` before ``checkpoint`` never finds it ahead. Raises what
        the store raises, and ``ValueError`` for a size that is not published.
        """
        if self._published is None or tree_size > self._published.size:
            raise ValueError(f"size {tree_size} is not published")
        # A crash, or an error, in here leaves the old one or the new one, both cosigned.
        self._store.replace(WITNESSED, note)

    def _check_published(self) -> None:
        found = _read_checkpoint(self._store)
        if found in self._acceptable:
            return
        if found is None:
            raise MissingObjectError(
                "the ledger's checkpoint is gone: check that the ledger's disk is mounted, or put the file back",
                path=CHECKPOINT,
            )
        expected = f"size {self._published.size}" if self._published else "none"
        message = f"the ledger's checkpoint was changed by someone else: expected {expected}, got size {found.size}"
        if self._published is not None and found.size < self._published.size:
            raise RollbackError(message, where="ledger")
        raise ForkError(f"{message}: files up to that size must not change, stop the other sealer", where="ledger")

    def _delete_replaced(self, tree_size: int) -> None:
        if self._may_have_leftovers:
            self._store.delete(_find_leftovers(self._store, tree_size))
            self._may_have_leftovers = False
        # A tile that became full above `tree_size` keeps its partial ones until that size is published too.
        waiting = [tile for tile in self._replaced if (tile.index + 1) << TILE_HEIGHT * (tile.level + 1) > tree_size]
        done = [path for tile in self._replaced if tile not in waiting for path in _paths(tile)]
        self._store.delete(path for full in done for path in _find_partials(self._store, full))
        self._replaced = waiting


def _paths(tile: Tile) -> list[str]:
    # A level-0 tile has its bundle beside it.
    return [tile_path(tile)] if tile.level else [tile_path(tile), entries_path(tile.index)]


def _find_partials(store: LedgerStore, full: str) -> Iterable[str]:
    names = store.list_names(f"{full}.p")
    if names and store.exists(full):  # without the full one, which somebody removed, the partial ones are all there is
        yield from (f"{full}.p/{name}" for name in names)


def _find_leftovers(store: LedgerStore, tree_size: int) -> Iterable[str]:
    """Yield partial tiles and bundles whose full one belongs to the log of ``tree_size``.

    Looks where a crash can have left any, the last thousand to two thousand full tiles of each level; older ones
    cost space and nothing else.
    """
    level = 0
    while count := tree_size >> TILE_HEIGHT * (level + 1):
        newest = (count - 1) // _GROUP * _GROUP
        for start in range(newest, max(newest - _SWEPT_GROUPS * _GROUP, -1), -_GROUP):
            for path in _paths(Tile(level, start)):
                directory = path.rpartition("/")[0]
                for name in filter(_PARTIAL_NAME.fullmatch, store.list_names(directory)):
                    full = f"{directory}/{name.removesuffix('.p')}"
                    if _index(full) < count:
                        yield from _find_partials(store, full)
        level += 1


def _index(path: str) -> int:
    return parse_entries_path(path)[0] if path.startswith("tile/entries/") else parse_tile_path(path).index


def _read_checkpoint(store: LedgerStore) -> Checkpoint | None:
    try:
        note = store.read(CHECKPOINT)
    except MissingObjectError:
        return None
    return _parse_checkpoint(note, f"{CHECKPOINT} of the ledger")


def _parse_checkpoint(note: bytes, source: str) -> Checkpoint:
    # Not verified: whoever can write the ledger can stop its sealer anyway, and all that is drawn from it is "stop".
    text, _ = parse_note(note, source=source)
    return parse_checkpoint(text, source=source)
