"""How the demo talks: short plain sentences, commands as a person would type them, attacks in aligned lines."""

import shlex
from collections.abc import Sequence
from typing import Protocol

_TITLE_WIDTH = 40


class Say(Protocol):
    """Prints one line made of plain texts and (text, style) pairs; what is not safe to print is escaped."""

    def __call__(self, *parts: str | tuple[str, str]) -> None:
        """Print the line."""
        ...


class Narrator:
    """Tells the story to ``say``; to nobody if that is None."""

    def __init__(self, say: Say | None) -> None:
        """Tell it to ``say``."""
        self._say: Say = say or _keep_quiet
        self._number = 0

    def chapter(self, title: str, *sentences: str) -> None:
        """Begin a new part of the story."""
        self._number += 1
        self._say("")
        self._say((f"{self._number}  {title}", "bold"))
        for sentence in sentences:
            self._say("   ", (sentence, ""))

    def command(self, arguments: Sequence[str]) -> None:
        """Show the command that is run next."""
        self._say(("$ ", "dim"), ("pgseal " + " ".join(map(_quote, arguments)), "cyan"))

    def done(self, text: str) -> None:
        """Say what has been done."""
        self._say(("✓", "green"), f" {text}")

    def note(self, text: str) -> None:
        """Say what is left out."""
        self._say(("!", "yellow"), f" {text}")

    def failed(self, text: str) -> None:
        """Say what should not have happened."""
        self._say(("✗", "red"), f" {text}")

    def attacker(self, name: str) -> None:
        """Say who attacks next."""
        self._say((f"  {name}", "dim"))

    def attack(self, title: str, kind: str | None, what: str) -> None:
        """Say what an attacker did and what was reported; ``kind`` is None if nothing was."""
        if kind is None:
            self._say(("  ✗", "red"), f" {title:<{_TITLE_WIDTH}} ", ("not caught", "red"))
        else:
            self._say(("  ✓", "green"), f" {title:<{_TITLE_WIDTH}} ", (f"{kind:<21}", "bold"), f" {what}")

    def line(self, *parts: str | tuple[str, str]) -> None:
        """Say one line as it is."""
        self._say(*parts)


def _keep_quiet(*parts: str | tuple[str, str]) -> None:
    del parts


def _quote(argument: str) -> str:
    return argument if argument.isprintable() and " " not in argument and "*" not in argument else shlex.quote(argument)
