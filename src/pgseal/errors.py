"""Every error pgseal raises, in one tree; imports nothing.

Three answers must never be confused, so they are three branches:

- ``TamperError``: the check was made and failed. The verifier turns it into a finding (exit code 1).
- ``StorageError``: the check could not be made. Never a finding (exit code 3).
- ``ConfigError``, ``CaptureError``: what was given cannot be used (exit code 2).

``FormatError`` is for whoever parses: a caller that knows where the bytes come from makes one of these of it. What is
left at the end are stored bytes that nobody could read (exit code 3).

A message is one line: what failed, on what, expected before got, and the way out at the end.
"""


class PgsealError(Exception):
    """Root of everything pgseal raises on purpose."""


class ConfigError(PgsealError):
    """Wrong usage, configuration, privilege or environment; the message says what mends it."""


class FormatError(PgsealError):
    """Bytes that do not follow FORMATS.md.

    ``source`` names what was parsed (a file, a column, "checkpoint"); ``offset`` is the byte offset of the
    first offending byte, or None where no single byte is at fault.
    """

    def __init__(self, message: str, *, source: str = "", offset: int | None = None) -> None:
        """Keep where the bytes came from beside what is wrong with them."""
        where = source if offset is None else f"{source or 'input'} at byte {offset}"
        super().__init__(f"{where}: {message}" if where else message)
        self.source = source
        self.offset = offset


class CaptureError(PgsealError):
    """A table cannot be captured as asked."""


class StorageError(PgsealError):
    """A trail, vault or ledger could not be read or written: unable to check, not a finding."""


class ConflictError(StorageError):
    """Someone else holds or has changed what was to be written."""


class UnavailableError(StorageError):
    """The other side cannot be reached now; worth trying again."""


class SealError(PgsealError):
    """Sealing stopped; nothing sealed is lost."""


class FatalSealError(SealError):
    """Sealing stopped and must not go on by itself."""


class TamperError(PgsealError):
    """Evidence that something was changed, removed, forged or rolled back.

    The finding's ``kind`` is the class name without ``Error`` in snake case. ``where`` says which side shows
    it (trail, vault, ledger, checkpoint, pack); ``trail`` and ``record_id`` name the record, ``leaf_index``
    its leaf, where there is one.
    """

    def __init__(
        self,
        detail: str,
        *,
        where: str = "",
        trail: str | None = None,
        record_id: int | None = None,
        leaf_index: int | None = None,
    ) -> None:
        """Keep what a finding names."""
        super().__init__(detail)
        self.detail = detail
        self.where = where
        self.trail = trail
        self.record_id = record_id
        self.leaf_index = leaf_index


def kind_of(error: type[TamperError]) -> str:
    """Return the kind of an error class: ``MissingRecordError`` is ``missing_record``."""
    name = error.__name__.removesuffix("Error")
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def describe_finding(error: TamperError) -> dict[str, str | int | None]:
    """Return what ``error`` says as the members of a finding: kind, where, detail, trail, id and index."""
    return {
        "kind": kind_of(type(error)),
        "where": error.where,
        "detail": error.detail,
        "trail": error.trail,
        "id": error.record_id,
        "index": error.leaf_index,
    }


class ProofError(TamperError):
    """A Merkle proof or a recomputed hash does not lead to the signed root."""


class SignatureError(TamperError):
    """A signed note has no valid signature of the expected key."""


class RollbackError(TamperError):
    """A side shows an earlier state than one that was already trusted.

    ``sign`` is what the server itself says that speaks for a restore, and not only what is missing; None without.
    """

    sign: str | None = None


class ForkError(TamperError):
    """Two different histories for the same leaves."""


class MissingRecordError(TamperError):
    """A sealed record is gone."""


class AlteredRecordError(TamperError):
    """A sealed record no longer has its sealed content."""


class ForgedRecordError(TamperError):
    """A record claims a place in sealed history that it never had."""


class MalformedRecordError(TamperError):
    """A row of a trail that cannot be a record; sealed as ``MALFORMED``."""


class TimeBoundError(TamperError):
    """A HEARTBEAT says of a trail's times what its leaves contradict."""


class UnauthorizedErasureError(TamperError):
    """A part of a record is gone, and no sealed record allows it."""


class ErasedContentError(TamperError):
    """Content that a sealed ERASE record says was destroyed is there, again or still."""
