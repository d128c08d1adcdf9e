"""The witnesses of a log: asked about every signed checkpoint, all at once, and waited for as long as the deadline.

The sealer calls ``cosign`` between signing a checkpoint and publishing it, and ``tend`` when it has nothing to seal.
Each witness is asked in a thread of its own, by one request at a time. What answers within the deadline is in the
published checkpoint. What comes later is taken by the next call: a checkpoint that is still the newest is published
again with it, and an older one may then meet the policy all the same.

A witness that was late is not waited for until it was quick again, so it costs one deadline and not one for every
checkpoint. One that fails is left alone for 1, 2, 4 … 30 seconds. Nothing that a witness does keeps records from being
sealed, with two exceptions, which are evidence against *us*:

- ``RollbackError``: it has cosigned more than was ever signed here. Source, vault, ledger and state were set back
  together, or somebody else signs with the key. (It shows the checkpoint, or it just says so; a witness that lies can
  stop the sealer, and is then to be taken out of the configuration.)
- ``ForkError``: it refuses (422), and shows a checkpoint with our signature that this ledger does not continue.

Everything else, such as a wrong signature or an impossible time, makes its answer worthless, and ``pgseal status``
says so.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Thread

from pgseal.core.checkpoint import Checkpoint
from pgseal.core.cosignature import Cosignature, WitnessPolicy, check_time, take_cosignature
from pgseal.core.encoding import parse_decimal
from pgseal.core.merkle import check_consistency
from pgseal.core.note import add_signatures, parse_note
from pgseal.core.rotation import LogKeys
from pgseal.core.witness import CONFLICT, UNPROVED, AddCheckpoint, format_request
from pgseal.errors import (
    ForkError,
    FormatError,
    PgsealError,
    ProofError,
    RollbackError,
    SignatureError,
    TamperError,
    UnavailableError,
)
from pgseal.ledger.prove import prove_consistency
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import LedgerStore
from pgseal.ledger.witness_client import Response, WitnessClient
from pgseal.settings import Settings, WitnessAddress

_ATTEMPTS = 3
_OK = 200
_SILENCE_SECONDS = 10.0
_GIVE_UP_SECONDS = 30.0
_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 1.0, 30.0
_SHOWN_REASON = 120


@dataclass(slots=True)
class _Round:
    """One signed checkpoint and who has cosigned it: the lines as they came, and those of before the sealer started."""

    checkpoint: Checkpoint
    note: bytes
    lines: dict[str, str] = field(default_factory=dict[str, str])
    earlier: dict[str, str] = field(default_factory=dict[str, str])

    def all_lines(self) -> dict[str, str]:
        return self.earlier | self.lines

    def cosigned_note(self) -> bytes:
        return add_signatures(self.note, self.all_lines().values())


@dataclass(slots=True)
class _Member:
    """One witness: what it holds, as far as we know, and the question it is being asked."""

    address: WitnessAddress
    client: WitnessClient
    size: int = 0
    question: "Future[tuple[Cosignature, float]] | None" = None
    asked: _Round | None = None
    asked_at: float = 0.0
    was_late: bool = False
    pause_seconds: float = 0.0
    retry_at: float = 0.0
    problem: str | None = None


class _ConflictError(UnavailableError):
    """It holds another size than we thought, one that we have signed since."""

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size


class Witnesses:
    """All witnesses of one log. Not safe for concurrent use; without any, everything here does nothing."""

    def __init__(
        self,
        settings: Settings,
        keys: LogKeys,
        store: LedgerStore,
        publish_witnessed: Callable[[bytes, int], None],
    ) -> None:
        """Ask the witnesses of ``settings`` about checkpoints of the log with ``keys``, with proofs from ``store``.

        ``publish_witnessed`` is called with the newest checkpoint that meets the policy, and its size.
        """
        self._policy: WitnessPolicy | None = settings.find_witness_policy()
        self._deadline = settings.witness_deadline
        self._keys = keys
        self._store = store
        self._publish_witnessed = publish_witnessed
        self._members = [
            _Member(address, WitnessClient(address.url, _SILENCE_SECONDS)) for address in settings.witnesses
        ]
        self._rounds: list[_Round] = []
        self._witnessed: tuple[int, int] = (-1, 0)
        self._is_closed = False

    def close(self) -> None:
        """Let go of the connections; what is still being asked is not waited for."""
        self._is_closed = True
        for member in self._members:
            if member.question is None or member.question.done():
                member.client.close()
            else:
                member.client.abort()

    def describe(self) -> dict[str, str | None]:
        """Return what is wrong with each witness, None if nothing is."""
        return {member.address.name: member.problem for member in self._members}

    def cosign(self, note: bytes, checkpoint: Checkpoint, published: bytes | None = None) -> bytes:
        """Return ``note`` with the cosignatures that come within the deadline.

        ``note`` was just signed, or it is what was signed before a crash: asking twice does no harm. ``published`` is
        what the ledger showed when the sealer started; cosignatures on the same text are kept.

        Raises ``RollbackError`` and ``ForkError``.
        """
        if not self._members:
            return note
        newest = _Round(checkpoint, note)
        self._rounds.append(newest)
        if published is not None:
            self._take_up(published)
        self._take_answers()
        asked = [member for member in self._members if self._ask(member, newest) and not member.was_late]
        wait([member.question for member in asked if member.question], timeout=self._deadline)
        for member in asked:
            if member.question is not None and not member.question.done():
                member.was_late, member.problem = True, f"no answer within {self._deadline:g} s"
        self._take_answers()
        return newest.cosigned_note()

    def _take_up(self, published: bytes) -> None:
        newest = self._rounds[-1]
        text, _ = parse_note(newest.note)
        start = f"{text}\n".encode()
        for member in self._members:
            with suppress(FormatError, SignatureError):
                if published.startswith(start):
                    found = take_cosignature(newest.note, published.removeprefix(start), member.address.key)
                    newest.earlier[member.address.name] = found.line
                    member.size = newest.checkpoint.size

    def tend(self) -> bytes | None:
        """Take late answers and ask again who is due, without waiting; the newest note, if it gained a cosignature.

        Raises as ``cosign``.
        """
        if not self._rounds:
            return None
        newest = self._rounds[-1]
        before = len(newest.lines)
        self._take_answers()
        for member in self._members:
            self._ask(member, newest)
        return newest.cosigned_note() if len(newest.lines) > before else None

    def note_published(self) -> None:
        """Publish the newest checkpoint that meets the policy, once the newest of all is published."""
        if self._policy is None:
            return
        for one in reversed(self._rounds):
            count = len(one.all_lines())
            if self._policy.is_met(one.all_lines()):
                if (one.checkpoint.size, count) > self._witnessed:
                    self._publish_witnessed(one.cosigned_note(), one.checkpoint.size)
                    self._witnessed = one.checkpoint.size, count
                break
        # Kept are the newest, and those that somebody is still being asked about and that are news.
        asked = [member.asked for member in self._members]
        self._rounds = [
            one
            for one in self._rounds
            if one is self._rounds[-1] or (one in asked and one.checkpoint.size > self._witnessed[0])
        ]

    def _ask(self, member: _Member, one: _Round) -> bool:
        """Begin to ask a witness unless it is being asked, was asked, or is left alone; return whether it was begun."""
        now = time.monotonic()
        if member.question is not None:
            if now - member.asked_at > _GIVE_UP_SECONDS:
                member.client.abort()
            return False
        if member.address.name in one.lines or now < member.retry_at:
            return False
        member.asked, member.asked_at = one, now
        member.question = question = Future[tuple[Cosignature, float]]()
        size, keys = member.size, self._keys

        def work() -> None:
            try:
                found = _Question(member.address, member.client, self._store, keys, one).ask(size)
                question.set_result((found, time.monotonic()))
            except BaseException as error:  # noqa: BLE001 - whoever takes the answer is told
                question.set_exception(error)
            if self._is_closed:
                member.client.close()

        # A daemon: a witness that never answers must not keep the sealer from ending.
        Thread(target=work, name=f"witness-{member.address.name}", daemon=True).start()
        return True

    def _take_answers(self) -> None:
        for member in self._members:
            if member.question is None or not member.question.done():
                continue
            question, one = member.question, member.asked
            member.question = member.asked = None
            assert one is not None  # noqa: S101 - set together
            try:
                found, answered_at = question.result()
            except _ConflictError as error:
                member.size = error.size
                if error.size > self._rounds[-1].checkpoint.size:
                    raise RollbackError(str(error), where="state") from error
            except (RollbackError, ForkError):
                raise
            except (PgsealError, OSError) as error:
                self._leave_alone(member, str(error))
            else:
                one.lines[member.address.name] = found.line
                member.size = one.checkpoint.size
                member.was_late = answered_at - member.asked_at > self._deadline
                member.pause_seconds, member.problem = 0.0, None

    def _leave_alone(self, member: _Member, problem: str) -> None:
        member.problem = problem
        member.pause_seconds = min(max(2 * member.pause_seconds, _FIRST_PAUSE_SECONDS), _MAX_PAUSE_SECONDS)
        member.retry_at = time.monotonic() + member.pause_seconds


@dataclass(frozen=True, slots=True)
class _Question:
    """One witness asked about one checkpoint, in a thread."""

    address: WitnessAddress
    client: WitnessClient
    store: LedgerStore
    keys: LogKeys
    round: _Round

    def ask(self, old_size: int) -> Cosignature:
        """Return its cosignature; ``old_size`` is what it is believed to hold.

        Raises ``_ConflictError`` if it holds more than it was asked about, ``ForkError``, and ``PgsealError`` for
        every other answer.
        """
        checkpoint = self.round.checkpoint
        reader = LedgerReader(self.store)
        for _ in range(_ATTEMPTS):
            is_growth = 0 < old_size < checkpoint.size
            proof = prove_consistency(reader, old_size, checkpoint.size) if is_growth else []
            began = time.time()
            response = self.client.add_checkpoint(
                format_request(AddCheckpoint(old_size, tuple(proof), self.round.note))
            )
            if response.status == _OK:
                found = take_cosignature(self.round.note, response.body, self.address.key, source="its answer")
                check_time(found.timestamp, began, time.time())
                return found
            if response.status == UNPROVED:
                self._look_for_fork(reader)
            if response.status != CONFLICT:
                raise UnavailableError(f"it refuses with status {response.status}: {_read_reason(response)}")
            held_size = parse_decimal(response.body.decode("ascii", "replace").removesuffix("\n"), source="its answer")
            if held_size > checkpoint.size:
                raise _ConflictError(self._describe_ahead(held_size), held_size)
            if held_size == old_size:
                break
            old_size = held_size
        raise UnavailableError(f"it refuses with status {CONFLICT} whatever size it is asked from")

    def _describe_ahead(self, held_size: int) -> str:
        ours = self.round.checkpoint
        shown = "it does not show that checkpoint"
        with suppress(PgsealError):
            held = self._read_held()
            if held is not None and held.size > ours.size:
                shown = f"it shows one of size {held.size} that is signed with this log's key"
        return (
            f"witness {self.address.name!r} has cosigned size {held_size} of {ours.origin!r}, only size {ours.size} is "
            f"signed here ({shown}): everything was set back to an earlier state, or another sealer uses the key; put "
            "the newer state back"
        )

    def _look_for_fork(self, reader: LedgerReader) -> None:
        """Raise ``ForkError`` if the witness shows a checkpoint of ours that this ledger does not continue."""
        ours = self.round.checkpoint
        try:
            held = self._read_held()
            if held is None or not 0 < held.size <= ours.size:
                return
            is_same = held.size == ours.size
            proof = [] if is_same else prove_consistency(reader, held.size, ours.size)
            check_consistency(proof, held.size, ours.size, held.root, ours.root)
        except ProofError as error:
            raise ForkError(
                f"witness {self.address.name!r} has cosigned another history, signed with this log's key: {error}; "
                "find out who signs beside this sealer, or which file of the ledger was changed",
                where="ledger",
            ) from error
        except (TamperError, FormatError, UnavailableError):
            return

    def _read_held(self) -> Checkpoint | None:
        """Return the checkpoint that the witness shows, if it is signed with the log's own key."""
        note = self.client.read_checkpoint(self.round.checkpoint.origin)
        if note is None:
            return None
        return self.keys.open(note, origin=self.round.checkpoint.origin).checkpoint


def _read_reason(response: Response) -> str:
    words = response.body[:_SHOWN_REASON].decode("utf-8", "replace").split()
    return " ".join("".join(character if character.isprintable() else "�" for character in word) for word in words)
