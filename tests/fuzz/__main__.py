"""Run atheris, a coverage-guided fuzzer, on every target, or on those that are named: python -m tests.fuzz [NAME...].

FUZZ_SECONDS (60) is how long each runs, FUZZ_JOBS (all processors) how many run at a time. Begins with the seeds of
the targets; an input that breaks a parser is kept in build/fuzz/, and shown.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.targets import TARGETS

ARTIFACTS = Path("build/fuzz")
SECONDS = int(os.environ.get("FUZZ_SECONDS", "60"))
JOBS = int(os.environ.get("FUZZ_JOBS", "0")) or os.cpu_count() or 1


def fuzz(name: str) -> bool:
    """Run one target in a process of its own; whether it was sound."""
    with tempfile.TemporaryDirectory(prefix="pgseal-corpus-") as corpus:
        for number, seed in enumerate(TARGETS[name].seeds):
            Path(corpus, str(number)).write_bytes(seed)
        done = subprocess.run(
            [
                sys.executable, "-m", "tests.fuzz.guided", name, corpus, f"-max_total_time={SECONDS}",
                f"-artifact_prefix={ARTIFACTS}/{name}-", "-print_final_stats=1", "-rss_limit_mb=3000", "-timeout=20",
                f"-max_len={max(4096, *(2 * len(seed) for seed in TARGETS[name].seeds))}",
            ],
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )  # fmt: skip
        inputs = len(list(Path(corpus).iterdir()))
    runs = [line.split()[-1] for line in done.stderr.splitlines() if line.startswith("stat::number_of_executed_units")]
    covered = [line.split("cov: ")[1].split()[0] for line in done.stderr.splitlines() if "cov: " in line]
    outcome = "ok" if done.returncode == 0 else "FAILED"
    numbers = f"{runs[-1] if runs else '?':>10} runs {covered[-1] if covered else '?':>6} edges {inputs:>6} inputs"
    print(f"{name:20} {outcome:6} {numbers}{done.stderr[-6000:] if done.returncode else ''}", flush=True)
    return done.returncode == 0


def main(names: list[str]) -> int:
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: there is no atheris here: run make fuzz", file=sys.stderr)
        return 2
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        print(f"fuzz: no target {unknown[0]!r}; there are: {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    names = names or list(TARGETS)
    with ThreadPoolExecutor(JOBS) as pool:
        broken = [name for name, is_sound in zip(names, pool.map(fuzz, names), strict=True) if not is_sound]
    print(f"fuzz: {len(names)} targets, {SECONDS} s each; broken: {', '.join(broken) or 'none'}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
