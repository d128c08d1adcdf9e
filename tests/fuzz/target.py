"""What is fuzzed: a parser, what it may raise, where mutation begins. Two engines run it: hypothesis and atheris."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pgseal.errors import FormatError


@dataclass(frozen=True)
class Target:
    """One parser of untrusted bytes.

    ``parse`` takes any bytes and returns, or raises one of ``errors``; whatever else it raises was found by fuzzing.
    ``seeds`` are made by our own writers, and accepted; where there is more than one way through, one each.
    """

    name: str
    parse: Callable[[bytes], object]
    seeds: Sequence[bytes]
    errors: tuple[type[Exception], ...] = (FormatError,)

    def run(self, data: bytes) -> None:
        """Parse ``data``; raises what the parser must not raise."""
        try:
            self.parse(data)
        except self.errors as error:
            message = str(error)
        else:
            return
        assert "\n" not in message, f"an error of more than one line: {message}"


def from_text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """Return a parser of bytes for one of text: bytes that are no UTF-8 arrive as arguments and variables do."""
    return lambda data: parse(data.decode("utf-8", "surrogateescape"))


def from_database(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """Return a parser of bytes for one of a database's text, which can be any but NUL."""
    return lambda data: parse(data.decode("utf-8", "replace").replace("\0", ""))
