"""Where published vectors are found: in ``../shared/vectors``, beside the repository."""

from collections.abc import Callable
from pathlib import Path

import pytest

_VECTORS = Path(__file__).resolve().parents[4] / "shared" / "vectors"


@pytest.fixture(scope="session")
def vector() -> Callable[[str], bytes]:
    """Return a function that reads a vector by name, or skips the test if it is nowhere."""

    def read(name: str) -> bytes:
        if not (_VECTORS / name).exists():
            pytest.skip(f"vector {name} is not in ../shared/vectors, beside the repository")
        return (_VECTORS / name).read_bytes()

    return read
