"""A command that is killed at one call of a function, in a forked child."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import pytest


class Step(NamedTuple):
    """Which call, of those that the command makes, of which function of which owner."""

    owner: Any
    name: str
    due: int


def kill_at(step: Step, when: str, command: Callable[[], object]) -> None:
    """Run ``command``, which dies by SIGKILL ``before`` or ``after`` a step; a context manager also ``within``."""
    child = os.fork()
    if not child:
        try:
            with suppress(SystemExit), _breaking(step, when):
                command()
        except BaseException:  # noqa: BLE001 - nothing may leave the child
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"{step} was not reached"


@contextmanager
def _breaking(step: Step, when: str) -> Iterator[None]:
    original, count = getattr(step.owner, step.name), 0

    def die_if(now: str) -> None:
        if count == step.due and when == now:
            os.kill(os.getpid(), signal.SIGKILL)

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        die_if("before")
        result = original(*arguments, **named)
        die_if("after")
        return result

    @contextmanager
    def dropping(*arguments: Any) -> Iterator[None]:
        nonlocal count
        count += 1
        die_if("before")
        with original(*arguments):
            yield
            die_if("within")
        die_if("after")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step.owner, step.name, dropping if step.name == "dropping" else call)
        yield
