"""The slow path: what exactly is wrong with one row, judged against what was sealed.

What was sealed is the ledger's entry where it is sound; where the entry is damaged but its leaf hash is known, a row is
either right or wrong as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from pgseal.core.envelope import Envelope, format_envelope, parse_envelope
from pgseal.core.merkle import leaf_hash
from pgseal.core.record import SALT_BYTES, Part, commit_part
from pgseal.errors import (
    AlteredRecordError,
    ForgedRecordError,
    FormatError,
    MissingRecordError,
    TamperError,
    UnauthorizedErasureError,
)
from pgseal.verifier.rows import Row

_NO_ERASURE = "no erasure takes only one of a text and its salt"
_PLAIN_COLUMNS = (
    "trail",
    "incarnation",
    "id",
    "time",
    "xid",
    "source",
    "category",
    "action",
    "outcome",
    "relation",
)


class _Place(TypedDict):
    where: str
    trail: str | None
    record_id: int | None
    leaf_index: int | None


@dataclass(frozen=True, slots=True)
class Sealed:
    """What the ledger says about one leaf: its entry where that is sound, else its hash where that is known."""

    leaf_index: int
    entry: bytes | None
    hash: bytes | None

    def envelope(self) -> Envelope | None:
        """Return the envelope that was sealed, None if it cannot be had."""
        try:
            return None if self.entry is None else parse_envelope(self.entry)
        except FormatError:
            return None


def judge_rows(sealed: Sealed, rows: Sequence[Row]) -> list[TamperError]:
    """Return what is wrong with the vault's rows (one, if all is well) for one leaf."""
    if not rows:
        return [_missing(sealed)]
    errors = [judge_row(sealed, row) for row in rows]
    right = next((number for number, found in enumerate(errors) if not found), 0)
    found = errors[right]
    for number, row in enumerate(rows):
        if number != right:
            found.append(_forged(sealed, row))
    return found


def judge_row(sealed: Sealed, row: Row) -> list[TamperError]:
    """Return what is wrong with the row of one leaf; nothing if it is what was sealed or nobody can know.

    Parts that are gone with their salts are no error here: ERASE records, which stand later, may allow it
    (``find_gone``).
    """
    envelope = sealed.envelope()
    if envelope is None:
        return _judge_without_entry(sealed, row)
    place = _Place(where="vault", trail=envelope.trail, record_id=envelope.id, leaf_index=sealed.leaf_index)
    name = f"record {envelope.trail}/{envelope.id} (leaf {sealed.leaf_index})"
    errors: list[TamperError] = []
    halves = _find_halves(row)
    differing = find_differences(envelope, row)
    is_whole = not halves and not find_gone(row)
    if is_whole and not differing and form_leaf(row) != sealed.entry:  # pragma: no cover - columns say it all
        differing = ["envelope"]
    if differing:
        errors.append(AlteredRecordError(f"{name}: {describe(differing)} from what was sealed", **place))
    if halves:
        errors.append(UnauthorizedErasureError(f"{name}: {' and '.join(halves)} gone, and {_NO_ERASURE}", **place))
    return errors


def find_gone(row: Row) -> tuple[str, ...]:
    """Return the parts of a vault's row that are gone with their salts, as an erasure leaves them."""
    parts = (("actor", row.actor, row.actor_salt), ("data", row.data, row.data_salt))
    return tuple(name for name, text, salt in parts if text is None and salt is None)


def find_differences(envelope: Envelope, row: Row) -> list[str]:
    """Return the columns of ``row`` that differ from ``envelope``; a part that is erased does not count."""
    names = [name for name in _PLAIN_COLUMNS if getattr(row, name) != getattr(envelope, name)]
    parts = (
        ("actor", Part.ACTOR, row.actor, row.actor_salt, envelope.actor_commitment),
        ("data", Part.DATA, row.data, row.data_salt, envelope.data_commitment),
    )
    for name, part, text, salt, commitment in parts:
        if text is None or salt is None:
            continue
        if len(salt) != SALT_BYTES or commit_part(part, salt, text) != commitment:
            names.append(f"{name} or its salt")
    return names


def describe(names: Sequence[str]) -> str:
    """Return ``column a differs`` or ``columns a, b differ``."""
    return f"column {names[0]} differs" if len(names) == 1 else f"columns {', '.join(names)} differ"


def form_leaf(row: Row) -> bytes | None:
    """Return the leaf that ``row`` makes, None if it makes none."""
    if row.actor is None or row.actor_salt is None or row.data is None or row.data_salt is None:
        return None
    try:
        return format_envelope(
            Envelope(
                trail=row.trail or "",
                incarnation=row.incarnation or 0,
                id=row.id or 0,
                time=row.time or "",
                xid=-1 if row.xid is None else row.xid,
                source=row.source or "",
                category=row.category or "",
                action=row.action or "",
                outcome=row.outcome or "",
                relation=row.relation,
                actor_commitment=commit_part(Part.ACTOR, row.actor_salt, row.actor),
                data_commitment=commit_part(Part.DATA, row.data_salt, row.data),
            )
        )
    except FormatError:
        return None


def _judge_without_entry(sealed: Sealed, row: Row) -> list[TamperError]:
    place = _Place(where="vault", trail=row.trail, record_id=row.id, leaf_index=sealed.leaf_index)
    leaf = form_leaf(row)
    if sealed.entry is not None:
        return [
            ForgedRecordError(
                f"leaf {sealed.leaf_index} is signed and no envelope: no sealer writes that",
                where="ledger",
                leaf_index=sealed.leaf_index,
            )
        ]
    if sealed.hash is None or (leaf is not None and leaf_hash(leaf) == sealed.hash):
        return []
    if halves := _find_halves(row):
        return [
            UnauthorizedErasureError(
                f"leaf {sealed.leaf_index}: {' and '.join(halves)} gone, and {_NO_ERASURE}", **place
            )
        ]
    if find_gone(row):
        return []  # nobody can tell what the other part was
    return [
        AlteredRecordError(
            f"leaf {sealed.leaf_index}: the row differs from what was sealed; in which columns cannot be told, "
            "because the ledger's entry is damaged",
            **place,
        )
    ]


def _find_halves(row: Row) -> list[str]:
    """Return what is gone of parts of which something is left: no erasure leaves that."""
    pairs = (("actor", row.actor, row.actor_salt), ("data", row.data, row.data_salt))
    return [
        name if text is None else f"{name}_salt" for name, text, salt in pairs if (text is None) is not (salt is None)
    ]


def _missing(sealed: Sealed) -> TamperError:
    envelope = sealed.envelope()
    name = "a record" if envelope is None else f"record {envelope.trail}/{envelope.id}"
    return MissingRecordError(
        f"{name}: sealed at leaf {sealed.leaf_index}, gone from the vault",
        where="vault",
        trail=envelope and envelope.trail,
        record_id=envelope and envelope.id,
        leaf_index=sealed.leaf_index,
    )


def _forged(sealed: Sealed, row: Row) -> TamperError:
    return ForgedRecordError(
        f"record {row.trail}/{row.id} claims leaf {sealed.leaf_index}, which another row has",
        where="vault",
        trail=row.trail,
        record_id=row.id,
        leaf_index=sealed.leaf_index,
    )
