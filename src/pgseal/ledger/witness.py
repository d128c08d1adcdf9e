"""A witness for other people's logs: it cosigns only what continues everything it cosigned before.

Its memory is a directory, one file a log, ``<hex sha256(origin)>.json``: origin, the keys that sign for it, and the
checkpoint that was cosigned last. A log is added by the witness's operator; what was never added is unknown (404). So
a memory that is gone, or a disk that is not mounted, makes a witness refuse, never begin anew.

``Witness.add_checkpoint`` is one atomic step under a lock that holds for threads and processes alike::

    lock     of this log's file
    read     what is held
    decide   ``core.witness.decide``: nothing is changed unless the checkpoint continues what is held
    A        cosign, in memory                             nobody has seen the cosignature
    B        write a new file beside, fsync                 a crash leaves it beside; the next request overwrites it
    C        rename it into place, fsync the directory      a crash leaves the old file or the new one, whole
    reply    the cosignature

Until the reply the log knows nothing, and whatever the crash left is consistent with what it will ask next: if the new
file is there, the log learns its size from the 409 to its next request.
"""

import fcntl
import json
import os
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from pgseal.core.checkpoint import Checkpoint, check_origin, parse_checkpoint
from pgseal.core.keys import KeyType, SignerKey, VerifierKey, parse_verifier_key
from pgseal.core.note import MAX_NOTE_BYTES, cosign_note, parse_note
from pgseal.core.witness import CONFLICT, MALFORMED, UNKNOWN, Refusal, decide, find_origin
from pgseal.errors import ConfigError, FormatError, StorageError
from pgseal.ledger import files

#: Media types of the answers to add-checkpoint.
TEXT_TYPE = "text/plain; charset=utf-8"
SIZE_TYPE = "text/x.tlog.size"

_OK, _LOCKED_MODE = 200, 0o600
_VERSION = 1
_MAX_FILE_BYTES = 4 * MAX_NOTE_BYTES
_LOG_ID = re.compile(r"[0-9a-f]{64}")
_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back: the status of FORMATS.md section 2, the body and its media type."""

    status: int
    body: bytes
    media_type: str = TEXT_TYPE


@dataclass(frozen=True, slots=True)
class KnownLog:
    """A log, the keys that sign for it, and the note that was cosigned last (None: none yet)."""

    origin: str
    keys: tuple[VerifierKey, ...]
    note: bytes | None = field(default=None, repr=False)

    def read_checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint that was cosigned last."""
        return None if self.note is None else parse_checkpoint(parse_note(self.note)[0])


class WitnessStore:
    """The memory of a witness, a directory that must exist; safe for threads and processes.

    Everything raises ``StorageError`` and ``ConfigError`` for what the file system refuses or somebody damaged.
    """

    def __init__(self, directory: Path) -> None:
        """Use ``directory``; raises ``ConfigError`` if it is none."""
        self._directory = directory.absolute()
        if not self._directory.is_dir():
            raise ConfigError(f"{directory} is not a directory: make the witness with pgseal witness init")

    @property
    def directory(self) -> Path:
        """Where it is."""
        return self._directory

    def list_logs(self) -> list[KnownLog]:
        """Return all logs, by origin."""
        try:
            names = [path.name for path in self._directory.iterdir()]
        except OSError as error:
            raise files.explain_error(error, "read", self._directory) from error
        ids = sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
        logs = [self.find_log(log_id) for log_id in ids if _LOG_ID.fullmatch(log_id)]
        return sorted((log for log in logs if log is not None), key=lambda log: log.origin)

    def find_log(self, log_id: str) -> KnownLog | None:
        """Return the log whose id is ``log_id`` (see ``name_log``), None if it is unknown."""
        if not _LOG_ID.fullmatch(log_id):
            return None
        path = self._path(log_id)
        try:
            data = files.read_file(path, _MAX_FILE_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise files.explain_error(error, "read", path) from error
        try:
            log = _parse_log(data or b"")
            if name_log(log.origin) != log_id:
                raise ValueError("of another log")  # noqa: TRY301 - damage, whatever it is
            log.read_checkpoint()
        except (ValueError, KeyError, TypeError, FormatError) as error:
            raise StorageError(
                f"{path} is damaged ({error}): find out why before you put it right; a witness that forgets a "
                "checkpoint would cosign a fork"
            ) from error
        return log

    def add_key(self, origin: str, key: VerifierKey) -> bool:
        """Let ``key`` sign for the log ``origin``; durable. Returns False if it did already.

        Raises ``FormatError`` for an origin that cannot be one, ``ConfigError`` for a key that signs no logs.
        """
        check_origin(origin)
        if key.type is not KeyType.ED25519:
            raise ConfigError(f"{key.name!r} is a witness's key (type 0x04): give the key that signs the log")
        log_id = name_log(origin)
        with self.changing(log_id):
            log = self.find_log(log_id) or KnownLog(origin, ())
            if key in log.keys:
                return False
            if any((one.name, one.key_id) == (key.name, key.key_id) for one in log.keys):
                raise ConfigError(f"another key of {origin!r} has the name {key.name!r} and the id {key.key_id.hex()}")
            self.replace(replace(log, keys=(*log.keys, key)))
        return True

    @contextmanager
    def changing(self, log_id: str) -> Generator[None]:
        """Hold the lock of a log: one thread of one process at a time."""
        path = self._directory / f"{log_id}.lock"
        try:
            # Of its own, and never deleted: the file that is locked must not be the one that is replaced.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _LOCKED_MODE)
        except OSError as error:
            raise files.explain_error(error, "lock", path) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def replace(self, log: KnownLog) -> None:
        """Replace a log's file, under its lock: at once for every reader, durable when it returns."""
        path = self._path(name_log(log.origin))
        # One name, not a random one: what a crash leaves is overwritten by the next call instead of piling up.
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            # Window B.
            files.write_file(temporary, _format_log(log))
            files.sync_file(temporary)
            # Window C: if only the last step fails, the new file may stay, or go with a crash. Both are true.
            files.rename_file(temporary, path)
            files.sync_directory(self._directory)
        except OSError as error:
            raise files.explain_error(error, "write", path) from error

    def _path(self, log_id: str) -> Path:
        return self._directory / f"{log_id}{_SUFFIX}"


class Witness:
    """Answers add-checkpoint, and shows what it holds. Safe for threads, and for several processes on one store."""

    def __init__(self, store: WitnessStore, signer: SignerKey, clock: Callable[[], float]) -> None:
        """Cosign with ``signer``, whose key signs nothing else; ``clock`` gives seconds since the Unix epoch.

        Raises ``ConfigError`` if it is no witness's key.
        """
        if signer.verifier.type is not KeyType.COSIGNATURE:
            raise ConfigError(
                f"key {signer.name!r} is not a witness key (type 0x04): make one with pgseal witness init"
            )
        self._store = store
        self._signer = signer
        self._clock = clock

    @property
    def name(self) -> str:
        """What it signs as."""
        return self._signer.name

    def add_checkpoint(self, body: bytes) -> Answer:
        """Decide on a request; what is cosigned is kept, durably, when this returns. Raises ``StorageError``."""
        try:
            log_id = name_log(find_origin(body))
        except FormatError as error:
            return _refuse(Refusal(MALFORMED, str(error)))
        # Unlocked: no lock file for every origin that somebody makes up.
        if self._store.find_log(log_id) is None:
            return _refuse(Refusal(UNKNOWN, "unknown origin: its operator has to ask this witness's to add it"))
        with self._store.changing(log_id):
            log = self._store.find_log(log_id)
            if log is None:
                return _refuse(Refusal(UNKNOWN, "unknown origin"))
            decision = decide(body, log.keys, log.read_checkpoint())
            if isinstance(decision, Refusal):
                return _refuse(decision)
            # Window A.
            cosignature = cosign_note(decision.text, self._signer, int(self._clock()))
            self._store.replace(replace(log, note=decision.note + cosignature.encode()))
        return Answer(_OK, cosignature.encode())

    def read_checkpoint(self, log_id: str) -> bytes | None:
        """Return the checkpoint that is held, with our cosignature, by the hex sha256 of the origin; None without."""
        log = self._store.find_log(log_id)
        return None if log is None else log.note


def name_log(origin: str) -> str:
    """Return the lower-case hex SHA-256 of an origin: how a log is called in paths."""
    return sha256(origin.encode("utf-8")).hexdigest()


def _refuse(refusal: Refusal) -> Answer:
    if refusal.status == CONFLICT:
        return Answer(CONFLICT, f"{refusal.held_size}\n".encode(), SIZE_TYPE)
    return Answer(refusal.status, f"{refusal.reason}\n".encode("utf-8", "backslashreplace"))


def _format_log(log: KnownLog) -> bytes:
    document = {
        "v": _VERSION,
        "origin": log.origin,
        "keys": [str(key) for key in log.keys],
        "checkpoint": None if log.note is None else log.note.decode("utf-8"),
    }
    return json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8") + b"\n"


def _parse_log(data: bytes) -> KnownLog:
    document = cast("dict[str, Any]", json.loads(data))
    if not isinstance(cast("object", document), dict) or document.get("v") != _VERSION:
        raise ValueError(f"expected version {_VERSION}")
    note = document["checkpoint"]
    keys: Sequence[str] = document["keys"]
    return KnownLog(
        document["origin"], tuple(map(parse_verifier_key, keys)), None if note is None else note.encode("utf-8")
    )
