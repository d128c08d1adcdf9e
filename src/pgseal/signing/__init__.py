"""What signs a log: keys in this process, or keys in a token that never leave it (PKCS#11)."""

from pgseal.signing.ring import (
    MAX_KEYS,
    format_ring,
    is_token_uri,
    make_token_key,
    read_signer,
    read_verifier,
    split_ring,
)

__all__ = [
    "MAX_KEYS",
    "format_ring",
    "is_token_uri",
    "make_token_key",
    "read_signer",
    "read_verifier",
    "split_ring",
]
