"""The commands of ``pgseal`` as the demo calls them; whoever starts the demo hands them in."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pgseal.errors import PgsealError

_FAILURE = re.compile(r"pgseal: ([a-z_]+) in the ([a-z]+): (.*)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one command ended, and what it printed."""

    code: int
    output: str
    errors: str

    @property
    def document(self) -> Any:
        """What ``--json`` printed."""
        return json.loads(self.output)

    @property
    def tampering(self) -> tuple[str, str, str] | None:
        """Kind, side and words of the tampering that a command refused to work with; None if it ended otherwise."""
        match = _FAILURE.search(self.errors)
        return (match[1], match[2], match[3]) if match and self.code == 1 else None


class Pgseal(Protocol):
    """Runs commands of ``pgseal`` on the demo's configuration."""

    def run(self, arguments: Sequence[str], *, show: bool = False) -> Outcome:
        """Run one command; with ``show`` it prints where the demo prints, and the outcome has the code only."""
        ...

    def read(self, *arguments: str) -> Any:
        """Run a command that has to succeed, with ``--json``, and return its document."""
        ...


def require_success(arguments: Sequence[str], outcome: Outcome) -> Outcome:
    """Return ``outcome``; raises ``PgsealError`` if the command failed."""
    if outcome.code:
        reason = outcome.errors.strip().removeprefix("pgseal: ") or f"exit code {outcome.code}"
        raise PgsealError(f"pgseal {arguments[0]} failed in the demo: {reason}")
    return outcome
