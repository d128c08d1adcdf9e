"""What each file of attacks says of itself, for docs/reference/attacks.md."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """One attack of the red-team table.

    ``who`` has the rights it takes, ``caught`` says by what it is found or why it is without effect, ``soon`` when.
    """

    number: int
    who: str
    what: str
    caught: str
    soon: str
