"""What ``pgseal doctor`` says, one thing at a time."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Advice:
    """One finding: how bad, about what, what is so, why it matters, what mends it."""

    severity: Severity
    subject: str
    what: str
    why: str
    command: str
