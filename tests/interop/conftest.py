"""Implementations that nobody here wrote: Go's module log, and a log and witness in Python."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import which

import pytest

HERE = Path(__file__).parent
GOPATH = Path("/usr/share/gocode")
#: Where scripts/setup.sh puts the packages of requirements/interop.txt.
PACKAGES = Path(sys.prefix, "interop")

Run = Callable[..., str]


class RefusedError(Exception):
    """The other implementation says no."""


@pytest.fixture(scope="session")
def go_log(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the program in tests/interop/log: what it prints; ``RefusedError`` with its complaint."""
    if which("go") is None or not (GOPATH / "src/golang.org/x/mod/sumdb/tlog").exists():
        pytest.skip("no Go with golang.org/x/mod on this machine: make interop installs them, as root on Debian")
    directory = tmp_path_factory.mktemp("go")
    program = directory / "log"
    environment = os.environ | {
        "GO111MODULE": "off", "GOPATH": str(GOPATH), "GOFLAGS": "", "GOCACHE": str(directory / "cache"),
    }  # fmt: skip
    subprocess.run(["go", "build", "-o", program, "."], cwd=HERE / "log", env=environment, check=True, timeout=600)
    return lambda *arguments: run([program, *arguments])


@pytest.fixture(scope="session")
def other_python() -> Run:
    """Run python with aics_tlog and aics_witness: what it prints; ``RefusedError`` with its complaint."""
    if not (PACKAGES / "aics_witness").exists():
        pytest.skip("no aics-witness beside this python: make interop installs it")
    return lambda *arguments: run([sys.executable, *arguments])


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(PACKAGES), "PYTHONWARNINGS": ""}


def run(command: list[object]) -> str:
    done = subprocess.run(
        [str(word) for word in command], env=environment(), capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        raise RefusedError(done.stderr)
    return done.stdout
