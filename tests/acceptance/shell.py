"""The installed command as a person runs it: in a directory of its own, its exit code and every line looked at."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from tests.conftest import miss
from tests.deployments import PGSEAL, Deployment, query


class Shell:
    """Runs pgseal in a directory of its own."""

    def __init__(self, directory: Path, prefix: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self._prefix = prefix

    def __call__(self, *arguments: str, code: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PGSEAL_")}
        done = subprocess.run(
            [*self._prefix, PGSEAL, *arguments],
            cwd=self.directory,
            env={**clean, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *arguments: str, code: int = 0):
        return json.loads(self(*arguments, "--json", code=code).stdout)

    def refuse(self, *arguments: str, code: int = 2, **environ: str) -> str:
        done = self(*arguments, code=code, **environ)
        assert done.stderr.startswith("pgseal: ")
        assert done.stderr.count("\n") == 1, done.stderr
        assert "unexpected error" not in done.stderr
        return done.stderr

    def without_privileges(self) -> "Shell":
        """The same, for whom the permissions of files count: root as tests may be, they do not count for it."""
        if os.geteuid() != 0:
            return self
        if shutil.which("setpriv") is None:
            miss("the tests run as root, and there is no setpriv to give that up")
        return Shell(self.directory, ("setpriv", "--bounding-set=-all", "--inh-caps=-all"))


def fill(dsn: str) -> None:
    query(dsn, "CREATE TABLE patients (id int PRIMARY KEY, name text)")
    query(dsn, "INSERT INTO patients SELECT g, 'name ' || g FROM generate_series(1, 20) AS g")


def update(deployment: Deployment) -> None:
    query(deployment.source, "UPDATE patients SET name = name || '.' WHERE id = 7")


def check_unharmed(deployment: Deployment) -> None:
    """What waits is sealed, and everything agrees."""
    deployment.call("seal", "--once")
    deployment.check_sealed()
    deployment.check_verified()
