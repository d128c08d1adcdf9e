"""From an exception to the one line and the exit code that a person, or a script, gets.

0 clean · 1 tampering or drift found · 2 usage or configuration · 3 unable to check. The three branches of
``pgseal.errors`` are the three codes. Bytes that have no form (``FormatError``) are a finding where ``pgseal verify``
judges them; to every other command they are something it could not read. What is not ours at all is a bug, and unable
to check, too.
"""

import re
from typing import Any

from pgseal.errors import CaptureError, ConfigError, FormatError, PgsealError, TamperError, kind_of

FOUND, USAGE, UNABLE = 1, 2, 3
INTERRUPTED = 130
_LOOK = "pgseal verify looks at everything"


def describe_failure(error: Exception) -> tuple[str, int]:
    """Return the message, one line without control characters, and the exit code."""
    message, code = _describe(error)
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "�", " ".join(message.split())), code


def _describe(error: Exception) -> tuple[str, int]:
    if isinstance(error, TamperError):
        where = f" in the {error.where}" if error.where else ""
        return f"{kind_of(type(error))}{where}: {error}; {_LOOK}", FOUND
    if isinstance(error, ConfigError | CaptureError):
        return str(error), USAGE
    if isinstance(error, PgsealError):
        return (f"{error}; {_LOOK}" if _is_damage(error) and "pgseal verify" not in str(error) else str(error)), UNABLE
    usage: Any = getattr(error, "format_message", None)  # click's exceptions, which typer brings along
    if usage is not None:
        return _describe_usage(usage(), error), USAGE
    if isinstance(error, UnicodeEncodeError):
        return "an argument is not UTF-8; write it in the encoding of your terminal", USAGE
    return _describe_foreign(error), UNABLE


def _is_damage(error: PgsealError) -> bool:
    """Return whether what is stored is damaged or gone: how much of it, the command that met it does not know."""
    from pgseal.ledger.store import MissingObjectError

    return isinstance(error, FormatError | MissingObjectError)


def _describe_foreign(error: Exception) -> str:
    if isinstance(error, OSError):
        name = f" {error.filename!r}" if error.filename else ""
        return f"the operating system refuses{name} ({error.strerror or type(error).__name__})"
    first_line = (str(error).strip().splitlines() or [""])[0]
    if type(error).__module__.partition(".")[0] == "psycopg":
        return f"the server refuses: {first_line}"
    return (
        f"unexpected error ({type(error).__name__}{': ' if first_line else ''}{first_line}); "
        "please report it with what --debug shows"
    )


def _describe_usage(message: str, error: Exception) -> str:
    context: Any = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "pgseal"
    return f"{message[:1].lower()}{message[1:].rstrip('.')}; see {path} --help"
