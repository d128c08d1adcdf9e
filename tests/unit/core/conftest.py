"""Where published vectors are found: in ``tests/vectors``, or beside the repository in ``../shared/vectors``."""

from collections.abc import Callable
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[3]
_PLACES = (_ROOT.parent / "shared" / "vectors", _ROOT / "tests" / "vectors")


@pytest.fixture(scope="session")
def vector() -> Callable[[str], bytes]:
    """Return a function that reads a vector by name, or skips the test if it is nowhere."""

    def read(name: str) -> bytes:
        for place in _PLACES:
            if (place / name).exists():
                return (place / name).read_bytes()
        pytest.skip(f"vector {name} is neither in ../shared/vectors nor in tests/vectors")

    return read
