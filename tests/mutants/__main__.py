"""Take every check against an attack away, one at a time: its test must fail. python -m tests.mutants [ATTACK...]

Each runs on a copy of src, which is thrown away. MUTANT_JOBS (1) is how many run at a time.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.mutant import Mutant
from tests.mutants.table import MUTANTS

ROOT = Path(__file__).resolve().parents[2]
JOBS = int(os.environ.get("MUTANT_JOBS", "1"))
#: pytest's exit code for tests that ran and failed; others say that something else went wrong.
FAILED = 1


def kill(mutant: Mutant) -> bool:
    """Run a mutant's test; whether it failed, as it should."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pgseal-mutant-") as directory:
        shutil.copytree(ROOT / "src/pgseal", Path(directory, "pgseal"))
        try:
            mutant.apply(Path(directory, "pgseal"))
        except ValueError as error:
            print(f"{mutant.attack:2} GONE      {mutant.place}: {error}", flush=True)
            return False
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:randomly", "-p", "no:cacheprovider", "--tb=line",
             f"tests/attacks/{mutant.test}"],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": directory, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
    is_killed = done.returncode == FAILED
    word = "killed" if is_killed else "SURVIVED" if done.returncode == 0 else f"exit {done.returncode}"
    reason = next(iter(re.findall(r"^(?:FAILED|ERROR) .*? - (.*)", done.stdout, re.MULTILINE)), "")
    places = " and ".join(one.place for one in mutant.all)
    seconds = f"{time.monotonic() - begin:4.0f} s"
    print(f"{mutant.attack:2} {word:9} {seconds}  {mutant.test} without {places}  {reason[:90]}", flush=True)
    return is_killed


def main(words: list[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not words or str(mutant.attack) in words]
    with ThreadPoolExecutor(JOBS) as pool:
        survivors = [mutant for mutant, is_killed in zip(chosen, pool.map(kill, chosen), strict=True) if not is_killed]
    print(f"mutants: {len(chosen)} checks taken away, {len(survivors)} not missed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
