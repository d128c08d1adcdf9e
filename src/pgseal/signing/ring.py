"""A key as it is given: one line, or two while it is rotated, the new one first.

A line is a signer key (``PRIVATE+KEY+…``), the URI of a key in a token (``pkcs11:…``), or, where nothing is to be
sealed, a verifier key.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pgseal.core.keys import Signer, VerifierKey, parse_signer_key, parse_verifier_key
from pgseal.errors import ConfigError, FormatError
from pgseal.signing.uri import SCHEME, TokenUri, parse_token_uri

if TYPE_CHECKING:
    from pgseal.signing.token import Token

#: The key, and the one that it replaces.
MAX_KEYS = 2


def split_ring(text: str, *, source: str) -> tuple[str, ...]:
    """Return the lines of a key, the newest first; raises ``FormatError``, which quotes nothing."""
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not 1 <= len(lines) <= MAX_KEYS or len(set(lines)) != len(lines):
        raise FormatError(
            f"expected one key, or two different ones while it is rotated, each in a line of its own, got {len(lines)}",
            source=source,
        )
    return lines


def format_ring(lines: Sequence[str]) -> str:
    """Return the text of which ``split_ring`` makes ``lines``."""
    return "".join(f"{line}\n" for line in lines)


def is_token_uri(line: str) -> bool:
    """Tell the URI of a key in a token from a key."""
    return line.startswith(SCHEME)


def read_signer(line: str, origin: str, *, source: str, base: Path, environ: Mapping[str, str]) -> Signer:
    """Return what a line names, to sign for ``origin``.

    A token is asked for the PIN's name in ``environ``, or a file relative to ``base``. Raises ``FormatError``,
    ``ConfigError``, and ``UnavailableError`` if the token cannot be reached.
    """
    if is_token_uri(line):
        return _open_token(parse_token_uri(line, source=source), base, environ).open_signer(origin)
    return parse_signer_key(line, source=source)


def read_verifier(line: str, origin: str, *, source: str, base: Path, environ: Mapping[str, str]) -> VerifierKey:
    """Return the public half of what a line names; for that it may be a verifier key. Raises as ``read_signer``."""
    if is_token_uri(line):
        return _open_token(parse_token_uri(line, source=source), base, environ).read_verifier(origin)
    if line.startswith("PRIVATE+"):
        return parse_signer_key(line, source=source).verifier
    return parse_verifier_key(line, source=source)


def make_token_key(line: str, origin: str, *, source: str, base: Path, environ: Mapping[str, str]) -> VerifierKey:
    """Make the key that a ``pkcs11:`` URI names, in its token, and return its public half.

    Raises as ``read_signer``, and ``ConfigError`` if there is one already.
    """
    return _open_token(parse_token_uri(line, source=source), base, environ).make_key(origin)


def _open_token(uri: TokenUri, base: Path, environ: Mapping[str, str]) -> "Token":
    try:
        from pgseal.signing.token import Token  # noqa: PLC0415 - the library is an extra
    except ImportError as error:
        raise ConfigError("a key in a token needs the extra 'pkcs11': pip install 'pgseal[pkcs11]'") from error
    return Token(uri, base, environ)
