"""Which directory may become a ledger: none yet, an empty one, or one that holds the same log already.

Asked by ``pgseal init`` before it changes anything, because a directory taken by mistake would be written into for
years.
"""

from pathlib import Path

from pgseal.core.checkpoint import Checkpoint, parse_checkpoint
from pgseal.core.note import parse_note
from pgseal.errors import ConfigError
from pgseal.ledger import files
from pgseal.ledger.store import CHECKPOINT, WITNESSED, DirectoryStore, MissingObjectError

_TILES = "tile"
_LEDGER_NAMES = frozenset({CHECKPOINT, WITNESSED, _TILES, f".{CHECKPOINT}.tmp", f".{WITNESSED}.tmp"})
#: What a file system or a repeated trial leaves in a directory that is empty for all purposes.
_EMPTY_NAMES = frozenset({"lost+found", ".writable"})
_SHOWN = 3


def check_empty_or_ledger(path: Path | str, origin: str) -> Checkpoint | None:
    """Return the checkpoint, not verified, of the ledger of ``origin`` at ``path``; None if there is nothing yet.

    Raises ``ConfigError`` if ``path`` is not a directory, cannot be read, holds another log or other files;
    ``MissingObjectError`` if it holds a log's files without the checkpoint, ``FormatError`` if that is damaged. Changes
    nothing.
    """
    path = Path(path).absolute()
    try:
        names = {found.name for found in path.iterdir()} - _EMPTY_NAMES
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise ConfigError(f"ledger {str(path)!r} is not a directory: choose another path") from None
    except OSError as error:
        raise files.explain_error(error, "read", path) from error
    if not names:
        return None
    if foreign := sorted(names - _LEDGER_NAMES):
        shown = ", ".join(foreign[:_SHOWN]) + (", …" if len(foreign) > _SHOWN else "")
        raise ConfigError(f"ledger directory {str(path)!r} is not empty, it holds {shown}: choose an empty directory")
    if CHECKPOINT not in names:
        # Of a ledger in use this is damage; of a directory just chosen, `pgseal init` makes a wrong choice of it.
        raise MissingObjectError(
            f"ledger directory {str(path)!r} holds parts of a log without its checkpoint: put the checkpoint back",
            path=CHECKPOINT,
        )
    source = str(path / CHECKPOINT)
    text, _ = parse_note(DirectoryStore(path).read(CHECKPOINT), source=source)
    checkpoint = parse_checkpoint(text, source=source)
    if checkpoint.origin != origin:
        raise ConfigError(
            f"ledger directory {str(path)!r} holds the log of another origin: expected {origin!r}, "
            f"got {checkpoint.origin!r}; choose another directory, or use that origin"
        )
    return checkpoint


def prepare_directory(path: Path | str, origin: str) -> Checkpoint | None:
    """Make the ledger's directory, parents too, unless it may be adopted as it is, and make sure of writing there.

    Returns and raises as ``check_empty_or_ledger``; ``ConfigError`` too if it is not writable, ``UnavailableError`` if
    the disk is full. Safe to repeat.
    """
    path = Path(path).absolute()
    checkpoint = check_empty_or_ledger(path, origin)
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    probe = path / ".writable"
    try:
        for directory in reversed(missing):
            files.make_directory(directory)
            files.sync_directory(directory.parent)
        # Asking for permissions answers wrongly for root, on read-only disks and over a network: try it.
        files.write_file(probe, b"pgseal\n")
        files.delete_file(probe)
    except OSError as error:
        raise files.explain_error(error, "write", path) from error
    return checkpoint
