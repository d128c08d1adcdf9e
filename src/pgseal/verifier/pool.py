"""Ranges of leaves over worker processes: few tasks in flight, results in order.

Workers are spawned, not forked: a fork would share the parent's connections and threads. Each has its own
``RangeChecker``, ledger and vault connection.
"""

import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from pgseal.errors import StorageError
from pgseal.verifier.leaves import Log, RangeChecker, RangeResult, RangeTask

#: Below this many ranges starting processes takes longer than it saves.
MIN_PARALLEL_RANGES = 4
_IN_FLIGHT = 2  # tasks for each worker: one that runs, one that waits

_checker: RangeChecker | None = None


def count_processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_ranges(log: Log, tasks: Iterable[RangeTask], workers: int) -> Iterator[RangeResult]:
    """Yield the results of ``tasks`` in their order; raises what a check raises.

    One worker works in this process.
    """
    if workers <= 1:
        checker = RangeChecker(log)
        for task in tasks:
            yield checker.check(task)
        return
    executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start, initargs=(log,))
    running: deque[Future[RangeResult]] = deque()
    try:
        for task in tasks:
            running.append(executor.submit(_check, task))
            if len(running) >= workers * _IN_FLIGHT:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    except BrokenProcessPool as error:
        raise StorageError("a verifying process was killed (out of memory?): nothing was found, try again") from error
    finally:
        executor.shutdown(cancel_futures=True)


def _start(log: Log) -> None:
    global _checker  # noqa: PLW0603 - one for each process, made before its first task
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and ends the workers
    _checker = RangeChecker(log)


def _check(task: RangeTask) -> RangeResult:
    if _checker is None:  # pragma: no cover - the initializer ran
        raise RuntimeError("worker was not started")
    return _checker.check(task)
