"""``pgseal prove``: the inclusion proof of one record, which stands on its own."""

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pgseal.cli.invocation import load_settings
from pgseal.cli.options import AsJson, parse_record_name
from pgseal.errors import AlteredRecordError, ConfigError, FormatError

if TYPE_CHECKING:
    from pgseal.core.record import DisclosedPart, Envelope, RecordLine
    from pgseal.settings import Settings
    from pgseal.vault.records import Record

EXAMPLE = "pgseal prove clinic/9077 -o record.tlog-proof"


def prove(
    context: typer.Context,
    record: Annotated[str, typer.Argument(metavar="[TRAIL/]ID[@INCARNATION]")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write there instead of to stdout.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Prove that one record is in the log.

    The proof is a C2SP tlog-proof, which anybody with the verifier key can check offline. It holds the record's
    content: hand it to those who may see that.
    """
    name = parse_record_name(record)
    settings = load_settings(context)

    from pgseal.postgres import connect
    from pgseal.vault.search import find_record

    with closing(connect(settings.vault.dsn.reveal(), side="vault")) as connection:
        found = find_record(connection, *name)
    proof, size = make_proof(settings, found)
    if output is not None:
        try:
            output.write_bytes(proof)
        except OSError as error:
            raise ConfigError(f"cannot write {str(output)!r} ({(error.strerror or 'failed').lower()})") from error
    if as_json:
        from pgseal.cli.output import print_json

        document = {"trail": found.trail, "id": found.id, "index": found.leaf_index, "size": size}
        print_json({**document, "proof": proof.decode("utf-8")})
    elif output is None:
        sys.stdout.write(proof.decode("utf-8"))
    else:
        from pgseal.cli.output import say

        say(("✓", "green"), f" {found.trail}/{found.id} is leaf {found.leaf_index:,} of {size:,}; proof in {output}")
        say(f"  whoever checks it needs the verifier key of {settings.origin}:  pgseal key show")


def make_proof(settings: "Settings", record: "Record") -> tuple[bytes, int]:
    """Return the ``.tlog-proof`` of a record, checked as its reader will check it, and the size of the tree.

    Raises ``ConfigError`` if the record is not below a published checkpoint yet or has been erased, and a
    ``TamperError`` if vault and ledger do not agree about it.
    """
    from pgseal.core.checkpoint import open_checkpoint
    from pgseal.core.proof import InclusionProof, check_proof_file, format_proof_file
    from pgseal.core.record import format_record_line
    from pgseal.ledger.prove import prove_inclusion
    from pgseal.ledger.reader import LedgerReader
    from pgseal.ledger.store import DirectoryStore

    reader = LedgerReader(DirectoryStore(settings.ledger))
    key = settings.read_verifier()
    note = reader.checkpoint_note()
    size = open_checkpoint(note, [key], origin=settings.origin).checkpoint.size
    if record.leaf_index >= size:
        raise ConfigError(
            f"record {record.trail}/{record.id} is not below a published checkpoint yet; run pgseal seal --once"
        )
    try:
        line = format_record_line(_build_line(record))
    except FormatError as error:
        raise AlteredRecordError(
            f"record {record.trail}/{record.id} in the vault cannot be a record ({error})",
            where="vault", trail=record.trail, record_id=record.id, leaf_index=record.leaf_index,
        ) from error  # fmt: skip
    hashes = prove_inclusion(reader, record.leaf_index, size)
    proof = format_proof_file(InclusionProof(line, record.leaf_index, tuple(hashes), note))
    check_proof_file(proof, [key])
    return proof, size


def _build_line(record: "Record") -> "RecordLine":
    from pgseal.core.record import DisclosedPart, RecordLine

    parts = (record.actor, record.actor_salt), (record.data, record.data_salt)
    actor, data = (
        None if text is None or salt is None else DisclosedPart(bytes(salt), text.encode()) for text, salt in parts
    )
    if actor is None or data is None:
        raise ConfigError(f"record {record.trail}/{record.id} has been erased: its content can no longer be proved")
    return RecordLine(actor, data, _build_envelope(record, actor, data), record.leaf_index)


def _build_envelope(record: "Record", actor: "DisclosedPart", data: "DisclosedPart") -> "Envelope":
    from pgseal.core.record import Envelope, Part, commit_part

    return Envelope(
        trail=record.trail,
        incarnation=record.incarnation,
        id=record.id,
        time=record.time or "",  # none where it is no time of a calendar
        xid=int(record.xid),
        source=record.source,
        category=record.category,
        action=record.action,
        outcome=record.outcome,
        relation=record.relation,
        actor_commitment=commit_part(Part.ACTOR, actor.salt, actor.text),
        data_commitment=commit_part(Part.DATA, data.salt, data.text),
    )
