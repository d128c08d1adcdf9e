"""A log on aics_tlog that is witnessed by way of aics_witness: python other_log.py vkey | submit URL WITNESS_VKEY.

The packages are others'; this calls them. Run with their directory on PYTHONPATH.
"""

import sys

from aics_tlog import (
    Checkpoint,
    MerkleTree,
    format_vkey,
    parse_note,
    parse_vkey,
    sign_checkpoint,
    verify_checkpoint,
    vkey_from_ed25519,
)
from aics_witness.feeder import WitnessClient, merge_cosignatures
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ORIGIN = "example.org/other-log"
KEY = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
VKEY = vkey_from_ed25519(ORIGIN, KEY.public_key())
SIZES = (1, 300, 300, 700)


def submit(url: str, witness: str) -> None:
    tree = MerkleTree([b"entry %d" % number for number in range(max(SIZES))])
    with WitnessClient(url, witness) as client:
        for size in SIZES:
            note = sign_checkpoint(Checkpoint(ORIGIN, size, tree.root(size)), KEY, ORIGIN)
            lines = client.submit(note.to_bytes(), tree.consistency_proof)
            cosigned = merge_cosignatures(note.to_bytes(), lines)
            assert verify_checkpoint(parse_note(cosigned), VKEY, [parse_vkey(witness)], quorum=1).ok
    sys.stdout.write(cosigned.decode())


if __name__ == "__main__":
    if sys.argv[1] == "vkey":
        print(format_vkey(VKEY))  # noqa: T201
    else:
        submit(*sys.argv[2:])
