"""Signing keys in files, mode 0600."""

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from pgseal.errors import ConfigError

if TYPE_CHECKING:
    from pgseal.core.keys import SignerKey


def write_new_key(path: Path, signer: "SignerKey") -> None:
    """Write a key to a file that is not there yet, durably; raises ``ConfigError``."""
    from pgseal.core.keys import format_signer_key

    # Complete before it has its name, and never over another: a torn or a replaced key would end what it signs.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(format_signer_key(signer) + "\n")
            file.flush()
            os.fsync(descriptor)
        path.hardlink_to(temporary)
    except OSError as error:
        raise ConfigError(f"cannot make the key {str(path)!r} ({(error.strerror or 'failed').lower()})") from error
    finally:
        temporary.unlink(missing_ok=True)
