"""``README.txt`` of an evidence pack: what it is and how to verify it, with pgseal or by hand."""

from pgseal.core.checkpoint import Checkpoint
from pgseal.core.pack import PackInfo

_TEXT = """\
This is an evidence pack: records {first:,} to {last:,} of the log {origin}, which had {size:,} when it was made
({created}, by {tool}). It was made for this question:

  {question}

WITH PGSEAL, offline, with nothing but this file:

  pip install pgseal
  pgseal verify PACK --vkey KEY {options}

KEY is the verifier key of the log. Have it from the log's owner by another way than this pack: a pack that agrees with
a key that came along says nothing. Ask your own question: what counts is your filter, not the one above.

BY HAND. All hashes are SHA-256; || joins bytes; base64 is standard with padding.

1. `checkpoint` is a signed note: text up to the last empty line (its newline included), then signature lines
   "- name base64" (with a long dash). The text has three lines: origin, size n, base64 of the root hash. The base64 of
   a signature line is a key id (4 bytes) and an Ed25519 signature of the text. The KEY is name+hex+base64 of the byte 1
   and the public key (32 bytes). Only if the signature is valid go on, with n and root from here and nowhere else.
2. Each line of `records.jsonl` is JSON: {{"actor":..,"data":..,"envelope":{{..}},"index":i}}. The bytes of the envelope
   as they stand there are a leaf. Its leaf hash is SHA-256(0x00 || envelope). `index` counts from `begin` to `end` - 1
   of pack.json without a gap.
3. A part that has a salt is disclosed: SHA-256(0x02 || "A" || salt || text) in hex must be commitments.actor of the
   envelope, with "D" for commitments.data. A part can also be withheld, or erased: {{"erased":i}} names the ERASE or
   RETENTION record that allows it, which is in records.jsonl or, with an inclusion proof (RFC 6962), in proofs.jsonl.
4. Walk the Merkle tree over [0, n): a range of more than one leaf splits at the largest power of two smaller than its
   length; SHA-256(0x01 || left || right) joins the two. Inside [begin, end) use the leaf hashes; a range wholly outside
   is the next line of `range-proof`, left to right. All must be used, and the result must be the root.
5. These are then all leaves from begin to end, unchanged and in order. Whether a question about a time is answered in
   full: the first line must be a HEARTBEAT of trail "vault" all of whose `high` are before the time asked for (or leaf
   0), and one HEARTBEAT must have all `low` at or after its end.
6. A withheld part of a record that matches, or may match, means that the answer has a hole.

docs/reference/verify-by-hand.md of pgseal has this as a program of fifty lines.
"""


def format_readme(info: PackInfo, checkpoint: Checkpoint) -> bytes:
    """Return the text for one pack."""
    given = {name: str(value) for name, value in info.filter.items()}
    return _TEXT.format(
        first=info.begin,
        last=info.end - 1,
        origin=checkpoint.origin,
        size=checkpoint.size,
        created=info.created,
        tool=info.tool,
        question=", ".join(f"{name} {value}" for name, value in given.items()) or "all of these records",
        options=" ".join(f"--{name} {_quote(value)}" for name, value in given.items()),
    ).encode()


def _quote(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"
