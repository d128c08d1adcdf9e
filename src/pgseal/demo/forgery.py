"""Attacks on the ledger: its files, its checkpoint, its key."""

import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain

from pgseal.core.checkpoint import Checkpoint, format_checkpoint, parse_checkpoint
from pgseal.core.envelope import format_envelope, parse_envelope
from pgseal.core.keys import SEED_BYTES, generate_signer
from pgseal.core.merkle import EMPTY_ROOT
from pgseal.core.note import parse_note, sign_note
from pgseal.core.record import Part, commit_part
from pgseal.core.tiles import TILE_WIDTH, entries_path, tile_at
from pgseal.demo.scene import Scene, Sighting, restored_file
from pgseal.ledger.adopt import prepare_directory
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import CHECKPOINT, DirectoryStore
from pgseal.ledger.writer import LedgerWriter
from pgseal.postgres import Connection


def read_checkpoint(scene: Scene) -> Checkpoint:
    """Return the published checkpoint."""
    return parse_checkpoint(parse_note((scene.ledger / CHECKPOINT).read_bytes())[0])


def flip_bit(scene: Scene) -> Sighting | None:
    """Flip one bit inside the entry of the record."""
    size, index = read_checkpoint(scene).size, scene.crime.index
    leaf = LedgerReader(DirectoryStore(scene.ledger)).leaf(index, size)
    tile = tile_at(0, index // TILE_WIDTH, size)
    path = scene.ledger / entries_path(tile.index, tile.width)
    with restored_file(path) as content:
        damaged = bytearray(content)
        damaged[content.index(leaf) + len(leaf) // 2] ^= 1
        path.write_bytes(damaged)
        found = scene.verify()
    exact = [one for one in found if (one["kind"], one["where"]) == ("proof", "ledger")]
    if len(found) != 1 or len(exact) != 1 or not exact[0]["detail"].endswith(f"changed at leaf {index}"):
        return None
    return Sighting("proof", f"ledger, leaf {index}")


def put_back_checkpoint(scene: Scene) -> Sighting | None:
    """Publish a checkpoint from before, which is signed as it should be."""
    path = scene.ledger / CHECKPOINT
    with restored_file(path):
        path.write_bytes(scene.old_checkpoint)
        return scene.find_checkpoint("rollback")


def replace_key(scene: Scene) -> Sighting | None:
    """Sign what is published with a key of the same name."""
    signer = generate_signer(scene.settings.origin, secrets.token_bytes(SEED_BYTES))
    path = scene.ledger / CHECKPOINT
    with restored_file(path) as note:
        path.write_bytes(sign_note(parse_note(note)[0], signer))
        return scene.find_checkpoint("signature")


@contextmanager
def forged_ledger(scene: Scene, vault: Connection) -> Generator[None]:
    """Put a ledger that fits the vault's present row of the record in the place of the real one, signed."""
    size, index = read_checkpoint(scene).size, scene.crime.index
    leaves = list(chain.from_iterable(LedgerReader(DirectoryStore(scene.ledger)).read_entries(0, size, size)))
    row = vault.execute("SELECT data, data_salt FROM vault.record WHERE leaf_index = %s", [index]).fetchone()
    if row is not None:
        commitment = commit_part(Part.DATA, bytes(row[1]), str(row[0]).encode())
        leaves[index] = format_envelope(replace(parse_envelope(leaves[index]), data_commitment=commitment))
    real, forged = scene.ledger.with_name("ledger.real"), scene.ledger.with_name("ledger.forged")
    try:
        prepare_directory(forged, scene.settings.origin)
        writer = LedgerWriter.open(DirectoryStore(forged), 0, EMPTY_ROOT)
        writer.append(leaves)
        checkpoint = Checkpoint(scene.settings.origin, size, writer.root())
        writer.publish(sign_note(format_checkpoint(checkpoint), scene.settings.read_signer()), size)
        scene.ledger.rename(real)
        forged.rename(scene.ledger)
        yield
    finally:
        if real.exists():
            shutil.rmtree(scene.ledger)
            real.rename(scene.ledger)
        shutil.rmtree(forged, ignore_errors=True)
