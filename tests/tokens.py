"""A token without hardware: Debian's SoftHSM, in a directory of the test's own."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.conftest import miss

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
LABEL, PIN_NAME = "pgseal test", "TOKEN_PIN"
PIN = "90817263"


@dataclass(frozen=True)
class SoftToken:
    """An initialised token; programs started from now on find it by ``SOFTHSM2_CONF``, and its PIN in ``TOKEN_PIN``."""

    directory: Path

    def uri(self, label: str, pin_source: str = f"env:{PIN_NAME}", **more: str) -> str:
        path = "".join(f";{name}={value}" for name, value in more.items())
        return (
            f"pkcs11:token={LABEL.replace(' ', '%20')};object={label}{path}"
            f"?module-path={MODULE}&pin-source={pin_source}"
        )

    @property
    def _away(self) -> Path:
        return self.directory.with_name("unplugged")

    def unplug(self) -> None:
        self.directory.rename(self._away)

    def plug_in(self) -> None:
        self._away.rename(self.directory)

    def import_key(self, label: str, pem: bytes, id_: str) -> None:
        """Put a private key (PKCS#8) into the token, as its owner would with the token's own tools."""
        path = self.directory.with_name(f"{label}.pem")
        path.write_bytes(pem)
        run("--import", str(path), "--token", LABEL, "--label", label, "--id", id_, "--pin", PIN)


def run(*arguments: str) -> None:
    done = subprocess.run(["softhsm2-util", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def make_token(directory: Path, patch: pytest.MonkeyPatch) -> SoftToken:
    """Make a token in `directory`."""
    if shutil.which("softhsm2-util") is None or not MODULE.exists():
        miss("there is no SoftHSM: as root, apt-get install softhsm2")
    if find_spec("pkcs11") is None:
        miss("there is no python-pkcs11: make setup installs it")
    tokens = directory / "tokens"
    tokens.mkdir()
    configuration = directory / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    patch.setenv("SOFTHSM2_CONF", os.fspath(configuration))
    patch.setenv(PIN_NAME, PIN)
    run("--init-token", "--free", "--label", LABEL, "--so-pin", "11223344", "--pin", PIN)
    return SoftToken(tokens)
