"""The sealer's own memory, in a directory outside vault and ledger.

- ``checkpoint``: the newest one it signed. Whoever restores vault or ledger to an older state does not restore this,
  and so the sealer notices.
- ``published``: the newest one it has published.
- ``feeds``: how far each trail was read, as it kept that in the vault the last time. If the vault says the same, nobody
  else wrote it; if not, there was a crash in between, or it has to be looked at.
- ``finding``: why it stopped, if it found something changed.
- ``witnesses``: what is wrong with each witness, for ``pgseal status``.

One process at a time holds the directory.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from pgseal.core.canonical import parse_json
from pgseal.errors import ConfigError, ConflictError, ForkError, FormatError, UnavailableError

_CHECKPOINT = "checkpoint"
_PUBLISHED = "published"
_FEEDS = "feeds"
_FINDING = "finding"
_WITNESSES = "witnesses"
_LOCK = "sealer.lock"
# Far more than is ever written.
_MAX_BYTES = 4 << 20
_MAX_DEPTH = 8


class SealerState:
    """The state directory, locked as long as the object is open."""

    def __init__(self, directory: Path) -> None:
        """Make ``directory`` (0700) if need be and lock it.

        Raises:
            ConflictError: another sealer holds it.
            ConfigError: it cannot be made or written.
        """
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"state directory {directory}: {error.strerror}; give the sealer a directory of its own"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            os.close(self._lock)
            raise ConflictError(
                f"another sealer works with {directory}{f' (process {holder})' if holder else ''}; "
                "there can be one at a time, stop it first",
            ) from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        self._feeds = _read_feeds(directory)
        self._witnesses: dict[str, str | None] = {}

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._lock)

    def read_checkpoint(self) -> bytes | None:
        """Return the signed checkpoint that was kept last, not verified; None if there never was one."""
        return _read(self._directory / _CHECKPOINT)

    def note_published(self, note: bytes) -> None:
        """Remember that ``note`` is published. Not fsynced: after a crash an older memory is as true."""
        self._write(_PUBLISHED, note)

    def note_feed(self, trail: str, state: Sequence[object]) -> None:
        """Remember how far ``trail`` is read, as the vault keeps it. Not fsynced, for the same reason."""
        self._feeds[trail] = list(state)
        self._write(_FEEDS, json.dumps(self._feeds).encode())

    def remembers_feed(self, trail: str, state: Sequence[object]) -> bool:
        """Return whether ``state`` is what was remembered last of ``trail``."""
        return self._feeds.get(trail) == list(state)

    def note_witnesses(self, problems: Mapping[str, str | None]) -> None:
        """Remember what is wrong with each witness, where that has changed. Not fsynced: it is for people."""
        if self._witnesses != problems:
            self._write(_WITNESSES, json.dumps(problems, ensure_ascii=False).encode())
            self._witnesses = dict(problems)

    def note_finding(self, finding: Mapping[str, object]) -> None:
        """Remember why sealing stops; durable when it returns."""
        self._write(_FINDING, json.dumps(finding, ensure_ascii=False).encode(), durable=True)

    def clear_finding(self) -> None:
        """Forget it, because every side was found as it should be."""
        try:
            (self._directory / _FINDING).unlink(missing_ok=True)
        except OSError as error:
            raise UnavailableError(f"cannot write to {self._directory} ({error.strerror})") from error

    def replace_checkpoint(self, expected: bytes | None, note: bytes) -> None:
        """Compare and swap: keep ``note`` if what is kept is ``expected``. Durable and atomic when it returns.

        Raises:
            ForkError: something else is kept: someone signs beside us.
            UnavailableError: it cannot be written.
        """
        if self.read_checkpoint() != expected:
            raise ForkError(
                "the kept checkpoint was changed by someone else; are two sealers using one key?", where="state"
            )
        self._write(_CHECKPOINT, note, durable=True)

    def _write(self, name: str, data: bytes, *, durable: bool = False) -> None:
        """Replace a file at once; raises ``UnavailableError``."""
        temporary = self._directory / f".{name}.{secrets.token_hex(4)}"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(self._directory / name)
            if durable:
                descriptor = os.open(self._directory, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise UnavailableError(f"cannot write {name!r} to {self._directory} ({error.strerror})") from error


def read_published(directory: Path) -> bytes | None:
    """Return the newest checkpoint that a sealer knows to be published, without locking; None if there is none.

    A ledger that shows an older one was set back. (The checkpoint kept for signing may be newer for a moment, and for
    longer if the sealer is killed before it publishes.)
    """
    return _read(directory / _PUBLISHED)


def read_kept(directory: Path) -> bytes | None:
    """Return the newest checkpoint that a sealer signed, without locking; None if there is none."""
    return _read(directory / _CHECKPOINT)


def read_feed_memory(directory: Path, trail: str) -> list[Any] | None:
    """Return what was remembered last of how far ``trail`` is read, without locking; None if nothing is."""
    return _read_feeds(directory).get(trail)


def _read_feeds(directory: Path) -> dict[str, list[Any]]:
    with suppress(UnavailableError):
        return _parse_object(_read(directory / _FEEDS)) or {}  # only compared
    return {}


def read_finding(directory: Path) -> dict[str, Any] | None:
    """Return why the last sealer stopped, without locking; None if it found nothing or has gone on since.

    Raises ``UnavailableError`` if it cannot be read.
    """
    content = _read(directory / _FINDING)
    if content is None:
        return None
    return _parse_object(content) or {"detail": f"{directory / _FINDING} is damaged"}


def read_witnesses(directory: Path) -> dict[str, Any]:
    """Return what the sealer found wrong with each witness the last time, without locking; empty if it did not say."""
    return _parse_object(_read(directory / _WITNESSES)) or {}  # shown to people


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnavailableError(f"cannot read {path} ({error.strerror})") from error
    if len(data) > _MAX_BYTES:
        raise UnavailableError(f"cannot read {path} (more than {_MAX_BYTES} bytes, which pgseal never writes there)")
    return data


def _parse_object(data: bytes | None) -> dict[str, Any] | None:
    """Return the JSON object in a file of ours; None if it is none, or damaged."""
    with suppress(FormatError):
        value = parse_json(data or b"", source="state", max_bytes=_MAX_BYTES, max_depth=_MAX_DEPTH)
        return cast("dict[str, Any]", value) if isinstance(value, dict) else None
    return None
