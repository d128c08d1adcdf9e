"""The sealer: feeds of all trails → vault → ledger → signed checkpoint. The only writer of vault and ledger.

The order of durable steps for each chunk of records. A crash between any two leaves a state that ``Sealer.open``
carries on from; the letters name the windows.

    A   vault commit: records with leaf indexes and salts, and how far the feed has come, together
    B   entries and tiles of the new size, fsynced
    C   sign, and compare-and-swap the signed checkpoint into the sealer's own state
    W   ask the witnesses, and wait for them until the deadline
    D   publish: replace the ledger's checkpoint, with the cosignatures that came
    E   replace the ledger's `witnessed`, if this checkpoint (or a late one) meets the policy

    crash before A  nothing happened; the chunk is read again
    A–B, B–C        the vault is ahead of the signed size: its rows are compared with the trails' and appended
                    (files of B are written again, the same bytes), then signed
    C–W, W–D        the stored checkpoint is shown to the witnesses, who may have cosigned it already, and published;
                    a size is never signed twice
    D–E             the next start asks the witnesses once more, and writes what they answer
"""

import json
import time
from collections.abc import Callable, Container, Generator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, replace
from datetime import UTC, datetime
from threading import Event
from typing import TypeAlias

import psycopg

from pgseal.core.checkpoint import Checkpoint, format_checkpoint
from pgseal.core.encoding import format_base64
from pgseal.core.merkle import EMPTY_ROOT
from pgseal.errors import (
    ConfigError,
    ForgedRecordError,
    RollbackError,
    TamperError,
    UnavailableError,
    describe_finding,
)
from pgseal.ledger.adopt import check_empty_or_ledger, prepare_directory
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import DirectoryStore, MissingObjectError
from pgseal.ledger.writer import LedgerWriter
from pgseal.postgres import connect, read_version, translated_errors
from pgseal.sealer.ahead import read_ahead
from pgseal.sealer.encode import EncodedChunk, MalformedRow
from pgseal.sealer.heartbeat import Heartbeat
from pgseal.sealer.incarnation import encode_new
from pgseal.sealer.keys import SigningKeys
from pgseal.sealer.startup import check_feed, check_last_rows, check_vault_size, read_pending
from pgseal.sealer.state import SealerState
from pgseal.sealer.trails import (
    SEALER_ROLE,
    VAULT_TRAIL,
    LostTrail,
    OpenTrail,
    TrailAddress,
    TrailLostError,
    losing,
    open_trail,
    read_state,
    to_row,
    trail_addresses,
)
from pgseal.sealer.witnesses import Witnesses
from pgseal.settings import Settings
from pgseal.trail.feed import FeedState
from pgseal.trail.rows import read_id
from pgseal.vault.store import VaultStore

#: Records in one vault transaction: what a crash makes the sealer do again, and what it holds in memory.
CHUNK_ROWS = 8_192
_IDENTITY = "record_identity_uq"

Progress = Callable[[int], None]
Report = Callable[[str], None]
#: What was read and encoded, and how far the feed has come with it.
_Chunk: TypeAlias = tuple[EncodedChunk, FeedState]


@dataclass(frozen=True, slots=True)
class SealResult:
    """What ``seal --once`` reports: the log's checkpoint and how many records were sealed by the call."""

    origin: str
    size: int
    root: bytes
    sealed: int

    def to_json(self) -> dict[str, object]:
        """Return the document of DESIGN.md's command line."""
        return {"origin": self.origin, "size": self.size, "root": format_base64(self.root), "sealed": self.sealed}


class Sealer:
    """One sealer at work. ``open`` checks and recovers; afterwards ``seal_once`` as often as wanted."""

    def __init__(
        self, settings: Settings, stack: ExitStack, vault: VaultStore, state: SealerState, report: Report
    ) -> None:
        """Use ``Sealer.open``."""
        self._stack = stack
        self._vault = vault
        self._state = state
        self._origin = settings.origin
        self._keys = SigningKeys(settings, vault)
        self._checkpoint = Checkpoint(settings.origin, 0, EMPTY_ROOT)
        self._note: bytes | None = None
        self._reported_size = 0
        self._trails: dict[str, OpenTrail] = {}
        self._lost: dict[str, LostTrail] = {}
        self._report = report
        self._reader: LedgerReader
        self._ledger: LedgerWriter
        self._witnesses: Witnesses
        self._heartbeat: Heartbeat

    @classmethod
    def open(cls, settings: Settings, report: Report = lambda _: None, *, without: Container[str] = ()) -> "Sealer":
        """Lock, check every side against the last checkpoint, and finish what a crash left undone.

        A source that cannot be reached is left for later, unless the vault holds rows of it that are not signed yet.
        ``report`` gets one line when a source is lost and one when it is back. The trails ``without`` are left out, for
        ``pgseal recover``: rows of them that the vault holds are signed, though the trail may no longer have them.

        Raises:
            ConflictError: another sealer is at work.
            TamperError: a side was changed or set back; nothing was sealed.
            ConfigError, StorageError: a side cannot be used or reached.
        """
        stack = ExitStack()
        try:
            state = stack.enter_context(closing(SealerState(settings.state)))
            connection = stack.enter_context(
                closing(connect(settings.vault.dsn.reveal(), side="vault", role=SEALER_ROLE))
            )
            with translated_errors("vault", role=SEALER_ROLE):
                version = read_version(connection, "vault", side="vault")
            if version == 0:
                raise ConfigError("vault: nothing is installed there; run pgseal init")  # noqa: TRY301
            vault = VaultStore(connection)
            vault.lock()
            sealer = cls(settings, stack, vault, state, report)
            stack.callback(sealer._close_trails)
            stack.callback(sealer._keys.close)
            with sealer._noting_findings():
                sealer._recover(settings, without)
        except BaseException:
            stack.close()
            raise
        return sealer

    def close(self) -> None:
        """Let go of connections and locks."""
        self._stack.close()

    def _close_trails(self) -> None:
        for trail in self._trails.values():
            trail.connection.close()

    @property
    def lost(self) -> list[UnavailableError]:
        """Why sources could not be read the last time, one error for each of them."""
        return [lost.error for lost in self._lost.values()]

    @property
    def result(self) -> SealResult:
        """The newest checkpoint."""
        return SealResult(self._origin, self._checkpoint.size, self._checkpoint.root, 0)

    def has_new_key(self) -> bool:
        """Return whether another key is to sign from now on: close this sealer and open one that knows it."""
        return self._keys.has_changed()

    @property
    def vault(self) -> VaultStore:
        """The vault, which nobody else may write to."""
        return self._vault

    @property
    def ledger(self) -> LedgerReader:
        """The ledger, up to ``result.size``."""
        return self._reader

    def _recover(self, settings: Settings, without: Container[str]) -> None:
        if self._state.read_checkpoint() is None:
            prepare_directory(settings.ledger, settings.origin)
        else:
            # A ledger that is gone must not be replaced by an empty one: its disk may not be mounted.
            check_empty_or_ledger(settings.ledger, settings.origin)
        store = DirectoryStore(settings.ledger)
        self._reader = LedgerReader(store)
        self._witnesses = Witnesses(settings, self._keys.log, store, self._publish_witnessed)
        self._stack.callback(self._witnesses.close)
        self._read_signed(self._reader)
        self._reported_size = self._checkpoint.size
        self._ledger = LedgerWriter.open(store, self._checkpoint.size, self._checkpoint.root)
        count = check_vault_size(self._vault, self._checkpoint.size)
        for address in trail_addresses(settings):
            if address.name not in without:
                self._open_trail(address)
        # Before anything is signed above this size.
        self._keys.record_rotation(self._checkpoint.size)
        if self._note is None:
            self._sign()
        else:
            # Windows C–W to D–E: what is kept may not be published yet. The same bytes, never a second signature.
            self._publish(self._note, self._read_published())
        # Windows A–B and B–C: the vault is ahead.
        pending = read_pending(self._vault, self._trails, self._lost, self._checkpoint.size, count, unchecked=without)
        for leaves in pending:
            self._ledger.append(leaves)
        if self._ledger.size > self._checkpoint.size:
            self._sign()
        self._heartbeat = Heartbeat(self._vault, self._reader, self._checkpoint.size)
        self._forget_finding()

    @contextmanager
    def _noting_findings(self) -> Generator[None, None, None]:
        """Leave a finding that ends sealing in the state directory, for ``pgseal status``."""
        try:
            yield
        except TamperError as error:
            found = {**describe_finding(error), "time": datetime.now(UTC).isoformat()}
            if isinstance(error, RollbackError) and error.sign is not None:
                found["sign"] = error.sign  # gone before long: for pgseal recover
            with suppress(UnavailableError):  # the finding is what matters, and it is on its way
                self._state.note_finding(found)
            raise

    def _forget_finding(self) -> None:
        """Drop the last finding, once every side has passed its checks: one that is lost has not."""
        if not self._lost:
            self._state.clear_finding()

    def _read_signed(self, ledger: LedgerReader) -> None:
        self._note = self._state.read_checkpoint()
        if self._note is not None:
            self._checkpoint = self._keys.open_kept(self._note)
            return
        try:
            ledger.checkpoint_note()
        except MissingObjectError:
            pass
        else:
            raise RollbackError(
                "the ledger has a checkpoint but the sealer's state directory does not: its memory is lost; "
                "put the state directory back",
                where="state",
            )
        if self._vault.count() > 0:
            raise RollbackError(
                "the vault holds records but no checkpoint was ever kept: state and ledger were lost or replaced; "
                "put them back, or use an empty vault",
                where="state",
            )

    def _open_trail(self, address: TrailAddress) -> None:
        """Connect a trail and check it, or note that it is lost."""
        try:
            trail = open_trail(address, self._vault)
        except UnavailableError as error:
            if address.name == VAULT_TRAIL:
                raise
            self._lose(address, error)
            return
        try:
            check_last_rows(self._vault, self._reader, trail, self._checkpoint.size)
            kept = astuple(to_row(trail.state))
            if not self._state.remembers_feed(trail.name, kept):
                check_feed(self._vault, trail)
                self._state.note_feed(trail.name, kept)
        except BaseException:
            trail.connection.close()
            raise
        self._trails[address.name] = trail
        if self._lost.pop(address.name, None):
            self._report(f"{address.side} is back")

    def _lose(self, address: TrailAddress, error: UnavailableError) -> None:
        trail, lost = self._trails.pop(address.name, None), self._lost.get(address.name)
        if trail is not None:
            trail.connection.close()
        if lost is None:
            lost = self._lost[address.name] = LostTrail(address, error)
        else:
            lost.fail(error)
        self._report(f"{error}; nothing is lost, retrying in {lost.pause_seconds:.0f} s")

    def seal_once(self, progress: Progress | None = None, stop: Event | None = None) -> SealResult:
        """Seal all that is committed now; raises as ``open`` does. ``progress`` is told records sealed so far.

        What can be reached is sealed; ``lost`` says afterwards what could not. Once ``stop`` is set it ends with the
        chunk at hand, and the sealer can only be closed.
        """
        with self._noting_findings():
            self._reopen_lost()
            result = self._seal_all(progress, stop)
            late = self._witnesses.tend()
            if late is not None:
                self._ledger.publish(late, self._checkpoint.size)
            self._note_witnesses()
            return result

    def _reopen_lost(self) -> None:
        due = [lost for lost in self._lost.values() if time.monotonic() >= lost.retry_at]
        for lost in due:
            self._open_trail(lost.address)
        if due:
            self._forget_finding()

    def _seal_all(self, progress: Progress | None, stop: Event | None) -> SealResult:
        for trail in self._in_turn():
            if stop is not None and stop.is_set():
                # Not another trail either: a chunk may be kept in the vault that the ledger does not have yet.
                break
            with self._losing(trail), closing(self._seal_trail(trail)) as chunks:
                for _ in chunks:
                    if progress is not None:
                        progress(self._checkpoint.size - self._reported_size)
                    if stop is not None and stop.is_set():
                        break
        # The first time, with what a crash had left unsigned and ``open`` has sealed.
        sealed, self._reported_size = self._checkpoint.size - self._reported_size, self._checkpoint.size
        return SealResult(self._origin, self._checkpoint.size, self._checkpoint.root, sealed)

    def beat(self) -> None:
        """Seal all that is committed now, then a heartbeat, with nothing in between; raises as ``open`` does."""
        with self._noting_findings():
            self._reopen_lost()
            self._seal_all(None, None)
            for trail in list(self._trails.values()):
                with self._losing(trail):
                    self._seal_to_the_end(trail)
                    if trail.name != VAULT_TRAIL:
                        self._heartbeat.note_clock(trail.name, trail.feed.read_clock(), time.time())
            states = {trail.name: trail.state for trail in self._trails.values()}
            states |= {name: read_state(self._vault, name) for name in self._lost}
            self._heartbeat.record(self._heartbeat.describe(states, self._checkpoint.size))
            self._seal_to_the_end(self._trails[VAULT_TRAIL])

    def _seal_to_the_end(self, trail: OpenTrail) -> None:
        """Seal a batch of a trail, be it empty, so that its floors are fresh."""
        for _ in self._seal_trail(trail, empty=True):
            pass

    @contextmanager
    def _losing(self, trail: OpenTrail) -> Generator[None, None, None]:
        """Leave a source that cannot be read now for later."""
        try:
            yield
        except TrailLostError as error:
            self._lose(trail.address, error)

    def _in_turn(self) -> list[OpenTrail]:
        """Return the trails in sealing order; the vault's own comes first, too, if it says why another begins anew."""
        trails = list(self._trails.values())
        if any(trail.state.begins_incarnation for trail in trails):
            trails.insert(0, self._trails[VAULT_TRAIL])
        return trails

    def _seal_trail(self, trail: OpenTrail, *, empty: bool = False) -> Generator[int, None, None]:
        if trail.state.pending is not None:
            # A crash broke this batch off; what was committed after its snapshot belongs to the next one.
            yield from self._seal_batch(trail, trail.state)
        with losing(trail):
            begun = trail.feed.begin(trail.state, empty=empty)
        if begun is not None:
            yield from self._seal_batch(trail, begun)

    def _seal_batch(self, trail: OpenTrail, begun: FeedState) -> Generator[int, None, None]:
        """Seal what is left of a batch; yields the number of records sealed, chunk by chunk."""
        known_ids: set[int] | None = None
        while begun.pending is not None:
            if begun.begins_incarnation:
                keeping = self._keep_chunks(
                    encode_new(self._vault, trail, begun, self._ledger.size, known_ids, self._read_entry)
                )
            else:
                encoded = _encode_chunks(trail, begun, self._ledger.size, known_ids)
                keeping = read_ahead(self._keep_chunks(read_ahead(encoded)))
            try:
                with closing(keeping) as kept:
                    for chunk, after in kept:
                        # Window A–B.
                        begun = trail.state = after
                        if chunk.leaves:
                            self._ledger.append(chunk.leaves)
                            # Window B–C.
                            self._sign()
                        yield len(chunk.leaves)
            except psycopg.errors.UniqueViolation as error:
                if known_ids is not None or error.diag.constraint_name != _IDENTITY:
                    raise ForgedRecordError(
                        f"the vault has a row where leaf {self._ledger.size} or one after it is to be kept, and no "
                        "sealer wrote it; pgseal verify names it", where="vault",
                    ) from error  # fmt: skip
                # Someone with superuser rights inserted an id that is taken. Once more, with those ids set apart.
                ids = _read_ids(trail, begun)
                known_ids = self._vault.find_known_ids(trail.name, begun.incarnation, ids)
            else:
                known_ids = None

    def _keep_chunks(self, chunks: Generator[_Chunk, None, None]) -> Generator[_Chunk, None, None]:
        """Keep each chunk in the vault, durably, before it is yielded."""
        with closing(chunks):
            for chunk, after in chunks:
                with self._vault.transaction():
                    with self._vault.copy_in() as copy:
                        for block in chunk.blocks:
                            copy.write(block)
                    for row in chunk.malformed:
                        self._record_malformed(after, row)
                    kept = to_row(after)
                    self._vault.write_feed(kept)
                self._state.note_feed(after.trail, astuple(kept))
                yield chunk, after

    def _record_malformed(self, begun: FeedState, row: MalformedRow) -> None:
        data = {"trail": begun.trail, "incarnation": begun.incarnation, **asdict(row)}
        self._vault.connection.execute(
            "SELECT audit.record_act('MALFORMED', %s::jsonb, 'administration')",
            [json.dumps(data)],
        )

    def _sign(self) -> None:
        checkpoint = Checkpoint(self._origin, self._ledger.size, self._ledger.root())
        note = self._keys.sign(format_checkpoint(checkpoint), checkpoint.size)
        self._state.replace_checkpoint(self._note, note)
        self._note, self._checkpoint = note, checkpoint
        # Window C–W.
        self._publish(note)

    def _publish(self, note: bytes, published: bytes | None = None) -> None:
        cosigned = self._witnesses.cosign(note, self._checkpoint, published)
        # Window W–D.
        self._ledger.publish(cosigned, self._checkpoint.size)
        self._state.note_published(note)
        # Window D–E.
        self._note_witnesses()

    def _read_entry(self, leaf_index: int) -> bytes:
        return self._reader.leaf(leaf_index, self._checkpoint.size)

    def _read_published(self) -> bytes | None:
        try:
            return self._reader.checkpoint_note()
        except MissingObjectError:
            return None

    def _publish_witnessed(self, note: bytes, tree_size: int) -> None:
        self._ledger.publish_witnessed(note, tree_size)

    def _note_witnesses(self) -> None:
        self._witnesses.note_published()
        self._state.note_witnesses(self._witnesses.describe())


def _encode_chunks(
    trail: OpenTrail, begun: FeedState, leaf_index: int, known_ids: set[int] | None
) -> Generator[_Chunk, None, None]:
    """Read and encode chunk after chunk; yields each with the state after it. With ``known_ids`` only the first."""
    while begun.pending is not None:
        with losing(trail), closing(trail.feed.read_chunk(begun, CHUNK_ROWS)) as rows:
            chunk = trail.encoder.encode(rows, leaf_index, known_ids)
        begun = replace(begun, position=max(begun.position, chunk.last_id))
        if chunk.rows < CHUNK_ROWS and not chunk.is_full:
            begun = trail.feed.finish(begun)
        leaf_index += len(chunk.leaves)
        yield chunk, begun
        if known_ids is not None:
            return


def _read_ids(trail: OpenTrail, begun: FeedState) -> list[int]:
    with losing(trail), closing(trail.feed.read_chunk(begun, CHUNK_ROWS)) as rows:
        return [read_id(row) for row in rows]
