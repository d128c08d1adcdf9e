"""Every durable step of a process, counted, so that a test can strike at each of them in turn.

Nobody lists the steps: whatever makes, writes, syncs, renames, links or deletes a file is one, and whatever a database
is to keep. The scenario runs in a forked child, which is struck *before* the chosen step: after one is before the next.
Then it dies, by SIGKILL, or the step fails: a file operation with what the system would say (an fsync or a write that
fails cannot be had from a sound disk, so the call itself raises; test_full_disk.py fills real ones), a database's
because its session is really terminated.
"""

import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgseal.errors import PgsealError

FILE_CALLS = ("open", "write", "fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir")
#: What is kept without a transaction of ours around it.
STATEMENTS = ("audit.record_act", "audit.record_heartbeat", "audit.ensure_partitions", "pg_logical_emit_message")
UNABLE = 3
#: Exit codes of a child that was not struck down.
DONE, REFUSED, SURPRISED = 0, 1, 2


_open, _write, _close = os.open, os.write, os.close


def note_unseen(path: Path, line: str) -> None:
    """Append a line to a test's own notes, which is no step."""
    descriptor = _open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    _write(descriptor, f"{line}\n".encode())
    _close(descriptor)


class Steps:
    """Counts; at the step `at` it strikes."""

    def __init__(self, at: int, error: int | None) -> None:
        self.at, self.error, self.names = at, error, list[str]()
        self._lock, self._own = threading.Lock(), threading.local()

    def _is_struck(self, name: str) -> bool:
        with self._lock:
            self.names.append(name)
            is_struck = len(self.names) == self.at
        if is_struck and self.error is None:
            os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait()
        return is_struck

    def meet_file(self, name: str, path: object) -> None:
        if self._is_struck(f"{name} {path}"):
            assert self.error is not None
            raise OSError(self.error, os.strerror(self.error), path if isinstance(path, str | Path) else None)

    def meet_server(self, name: str, connection: psycopg.Connection[Any]) -> None:
        if not getattr(self._own, "busy", False) and self._is_struck(name):
            self._own.busy = True
            with psycopg.connect(connection.info.dsn, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 10000)", [connection.info.backend_pid])
            self._own.busy = False


@contextmanager
def counting(at: int = 0, error: int | None = None) -> Iterator[Steps]:
    """Count the steps of this process; at the one numbered `at` die, or have it fail with the errno `error`."""
    steps = Steps(at, error)
    with pytest.MonkeyPatch.context() as patch:
        for name in FILE_CALLS:
            patch.setattr(os, name, _wrap(steps, name, getattr(os, name)))
        patch.setattr(Path, "open", _wrap_path(steps, Path.open))
        execute, transaction = psycopg.Connection.execute, psycopg.Connection.transaction

        def call(self: psycopg.Connection[Any], query: Any, *arguments: Any, **more: Any) -> Any:
            text = query if isinstance(query, str) else query.as_string(self)
            if (name := next((one for one in STATEMENTS if one in text), None)) is not None:
                steps.meet_server(name, self)
            return execute(self, query, *arguments, **more)

        @contextmanager
        def commit(self: psycopg.Connection[Any], *arguments: Any, **more: Any) -> Iterator[Any]:
            with transaction(self, *arguments, **more) as found:
                yield found
                if not more.get("force_rollback"):
                    steps.meet_server("commit", self)

        patch.setattr(psycopg.Connection, "execute", call)
        patch.setattr(psycopg.Connection, "transaction", commit)
        yield steps


def _wrap(steps: Steps, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(path: Any, *arguments: Any, **more: Any) -> Any:
        if name != "open" or (arguments and arguments[0] & os.O_CREAT):
            steps.meet_file(name, path)
        return original(path, *arguments, **more)

    return call


def _wrap_path(steps: Steps, original: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Path, mode: str = "r", *arguments: Any, **more: Any) -> Any:
        if set(mode) & set("wxa"):
            steps.meet_file("open", self)
        return original(self, mode, *arguments, **more)

    return call


def list_steps(scenario: Callable[[], object], directory: Path) -> list[str]:
    """Run a scenario undisturbed, in a child; the steps it takes."""
    listing = directory / "steps"
    status = _fork(scenario, 0, None, listing)
    assert status == DONE, f"undisturbed, it ended with {status}"
    return listing.read_text().splitlines()


def strike(scenario: Callable[[], object], at: int, error: int | None = None) -> int:
    """Run a scenario in a child that is struck before step `at`.

    Returns its exit code, negative for a signal; one of its own errors, and no other, may end it.
    """
    return _fork(scenario, at, error, None)


def _fork(scenario: Callable[[], object], at: int, error: int | None, listing: Path | None) -> int:
    child = os.fork()
    if child == 0:
        code, names = SURPRISED, list[str]()
        try:
            with counting(at, error) as steps:
                try:
                    scenario()
                    code = DONE
                except PgsealError:
                    code = REFUSED
                names = list(steps.names)
            if listing is not None:
                listing.write_text("\n".join(names))
        except BaseException:  # noqa: BLE001 - nothing may return into pytest
            traceback.print_exc(file=sys.__stderr__)
            code = SURPRISED
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
