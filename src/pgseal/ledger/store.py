"""The store protocol: what a ledger needs from the place it lives in; and ``DirectoryStore``, such a place.

A path is relative, its elements joined by ``/``, as in FORMATS.md section 2: ``checkpoint``, ``tile/0/x001/234.p/7``.
Elements are lower-case letters, digits, ``.``, ``_`` and ``-`` and start with a letter or digit, so no path leads out
of the store; another one is the caller's mistake, ``ValueError``.

There are two kinds of object. *Immutable* ones (tiles, entry bundles) are written once with ``write_new``; if a crash
cuts that short, what is left is above the signed size, nobody reads it, and the same path is written again.
*Replaceable* ones (``checkpoint``, ``witnessed``) change with ``replace``, old or new and nothing between.
"""

import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pgseal.core.envelope import MAX_LEAF_BYTES
from pgseal.core.tiles import TILE_WIDTH
from pgseal.errors import ConfigError, FormatError, StorageError, UnavailableError
from pgseal.ledger import files

#: Path of the newest signed checkpoint.
CHECKPOINT = "checkpoint"
#: Path of the newest checkpoint that meets the witness policy.
WITNESSED = "witnessed"
#: Bytes of the largest object there can be: a full bundle of the longest entries.
MAX_OBJECT_BYTES = TILE_WIDTH * (2 + MAX_LEAF_BYTES)

_ELEMENT = r"[a-z0-9][a-z0-9._-]*"
_PATH = re.compile(rf"{_ELEMENT}(?:/{_ELEMENT})*")
_THREADS = 4  # fsync waits for the disk, and the disk serves many at once: 7 ms each alone, 0.2 ms in company


class MissingObjectError(StorageError):
    """An object that the ledger should hold is not there, or something else than a file is.

    ``path`` names it below the ledger's root. Unlike other storage errors this is an answer: whoever knows that the
    object must exist (the verifier, by the signed size) may make a finding of it.
    """

    def __init__(self, message: str, *, path: str) -> None:
        """Keep the object's path."""
        super().__init__(message)
        self.path = path


class LedgerStore(Protocol):
    """Where a ledger lives. Strongly consistent: what a call has written, every later call of anyone reads.

    One writer at a time, which the sealer's lock sees to; its calls do not overlap. Readers are many, at the same time,
    in any thread or process. An implementation retries what is usual for its kind (a throttled request, an
    interrupted call) and raises only when it gives up; callers that wait and try again repeat the whole call.

    Every method raises ``UnavailableError`` when the place cannot be reached, is full or fails, and ``ConfigError``
    when it will not let us (permissions, something foreign in the way). An error leaves replaceable objects old or
    new, and immutable ones in any state; calling again with the same arguments is always right.
    """

    def read(self, path: str) -> bytes:
        """Return an object's bytes.

        Raises ``MissingObjectError`` where there is none, ``FormatError`` for one over ``MAX_OBJECT_BYTES``.
        """
        ...

    def exists(self, path: str) -> bool:
        """Return whether there is an object at ``path``."""
        ...

    def list_names(self, directory: str) -> list[str]:
        """Return the names directly below ``directory``, sorted, objects and directories; none if it is not there."""
        ...

    def write_new(self, objects: Mapping[str, bytes]) -> None:
        """Write immutable objects, all durable when it returns, names included.

        Not atomic: after an error or a crash any of them may be there, absent, or torn. An object that already exists
        is such a leftover and is written anew; that nothing else is overwritten is the caller's duty
        (``LedgerWriter``). Concurrent within; the order among the objects is not defined.
        """
        ...

    def replace(self, path: str, data: bytes) -> None:
        """Write a replaceable object: atomic for readers and in a crash, durable when it returns."""
        ...

    def delete(self, paths: Iterable[str]) -> None:
        """Remove objects; those not there are passed over. Need not be durable: what comes back is harmless."""
        ...


class DirectoryStore:
    """A ledger in a directory of a POSIX file system, one file an object.

    The directory must exist (``adopt.prepare_directory`` makes it): a disk that is not mounted must not be mistaken
    for an empty ledger. Nothing outside it is created or changed, through symbolic links neither. A reader needs no
    write permission. Safe to pickle: the copy opens the same directory.
    """

    def __init__(self, path: Path | str) -> None:
        """Use the directory ``path``; raises ``ConfigError`` if it is none."""
        self._root = Path(path).absolute()
        # Directories whose own name is known to be durable. One that exists proves nothing: the process that made it
        # may have been killed before it could fsync, and the machine may yet crash.
        self._durable = {self._root}
        self._threads: ThreadPoolExecutor | None = None
        if not self._root.is_dir():
            what = "is not a directory" if self._root.exists() else "does not exist"
            raise ConfigError(f"ledger {str(self._root)!r} {what}: run pgseal init, or mount the disk it is on")

    def __reduce__(self) -> tuple[type["DirectoryStore"], tuple[Path]]:
        return DirectoryStore, (self._root,)

    def __repr__(self) -> str:
        return f"DirectoryStore({str(self._root)!r})"

    @property
    def path(self) -> Path:
        """The directory."""
        return self._root

    def close(self) -> None:
        """Let go of the threads that ``write_new`` started; the store stays usable."""
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None

    def read(self, path: str) -> bytes:
        """Return a file's bytes; see ``LedgerStore``."""
        target = self._locate(path)
        try:
            data = files.read_file(target, MAX_OBJECT_BYTES)
        except OSError as error:
            raise self._explain_read(error, path, target) from error
        if data is None:
            raise FormatError(f"expected at most {MAX_OBJECT_BYTES} bytes", source=path)
        return data

    def exists(self, path: str) -> bool:
        """Return whether there is a regular file; see ``LedgerStore``."""
        target = self._locate(path)
        return target.is_file() and not target.is_symlink()

    def list_names(self, directory: str) -> list[str]:
        """Return the names in a directory, hidden ones left out; see ``LedgerStore``."""
        target = self._locate(directory)
        try:
            return sorted(found.name for found in target.iterdir() if not found.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise files.explain_error(error, "read", target) from error

    def write_new(self, objects: Mapping[str, bytes]) -> None:
        """Write files, fsynced with their directories, in parallel; see ``LedgerStore``."""
        targets = {self._locate(path): data for path, data in objects.items()}
        directories = {target.parent for target in targets}
        with self._changing():
            made = self._make_directories(directories)
            # One after the other: the directory lets one make a file at a time, and the rest would only spin.
            for target, data in targets.items():
                files.write_file(target, data)
            self._run(files.sync_file, [(target,) for target in targets])
            self._sync(directories, made)

    def replace(self, path: str, data: bytes) -> None:
        """Write a temporary file beside it, fsync, rename, fsync the directory; see ``LedgerStore``."""
        target = self._locate(path)
        # One name, not a random one: what a crash leaves is overwritten by the next call instead of piling up.
        temporary = target.with_name(f".{target.name}.tmp")
        with self._changing():
            made = self._make_directories({target.parent})
            files.write_file(temporary, data)
            files.sync_file(temporary)
            files.rename_file(temporary, target)
            # A crash here may bring the old object back, whole: nothing said yet that it was replaced.
            self._sync({target.parent}, made)

    def delete(self, paths: Iterable[str]) -> None:
        """Unlink files, and their directory once it is empty; see ``LedgerStore``."""
        targets = [self._locate(path) for path in paths]
        with self._changing():
            for target in targets:
                files.delete_file(target)
            for directory in {target.parent for target in targets} - {self._root}:
                self._durable.discard(directory)
                files.delete_directory(directory)

    def _locate(self, path: str) -> Path:
        if not _PATH.fullmatch(path):
            raise ValueError(f"not a path in a ledger: {path!r}")
        return self._root / path

    @contextmanager
    def _changing(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            # Whatever was known about directories may be what failed.
            self._durable = {self._root}
            raise files.explain_error(error, "write", self._root) from error

    def _make_directories(self, directories: Iterable[Path]) -> list[Path]:
        # Returns the directories, made or found, whose names are not known to be durable.
        fresh: list[Path] = []
        for directory in sorted(directories):
            missing: list[Path] = []
            while directory not in self._durable and directory not in fresh:
                missing.append(directory)
                directory = directory.parent  # noqa: PLW2901 - climbs until known ground
            for path in reversed(missing):
                files.make_directory(path)
                fresh.append(path)
        return fresh

    def _sync(self, directories: set[Path], made: list[Path]) -> None:
        parents = {directory.parent for directory in made}
        self._run(files.sync_directory, [(directory,) for directory in directories | parents])
        self._durable.update(made)

    def _run(self, function: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> None:
        if len(calls) == 1:
            function(*calls[0])
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="ledger")
        futures = [self._threads.submit(function, *arguments) for arguments in calls]
        # All of them end before an error is raised: a repeated call must not meet a straggler of this one.
        wait(futures)
        for future in futures:
            future.result()

    def _explain_read(self, error: OSError, path: str, target: Path) -> Exception:
        if error.errno not in files.ABSENT:
            return files.explain_error(error, "read", target)
        if not self._root.is_dir():
            return UnavailableError(f"ledger {str(self._root)!r} is gone: check that its disk is mounted")
        reason = "what stands there is not a file" if target.exists() or target.is_symlink() else "it is missing"
        return MissingObjectError(f"cannot read {path!r} of ledger {str(self._root)!r}: {reason}", path=path)
