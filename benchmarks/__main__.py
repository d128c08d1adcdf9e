"""Runs the benchmarks and writes build/bench.json, a list of {"name", "value", "unit"}.

python -m benchmarks [machine] [capture] [seal] [latency] [pack] [growth] [--rounds N] [--rows N] [--growth N]
"""

import argparse
import json
import platform
from pathlib import Path

from benchmarks import capture, growth, machine, packs, sealing
from benchmarks.common import Figure

GROUPS = {
    "machine": machine.run,
    "capture": capture.run,
    "seal": sealing.run_seal_and_verify,
    "latency": sealing.run_latency,
    "pack": packs.run,
    "growth": growth.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], help="which to run; all by default")
    parser.add_argument("--rounds", type=int, default=5, help="times that each thing is measured; medians are reported")
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the table in the bulk benchmarks")
    parser.add_argument("--growth", type=int, default=10_000_000, help="records of the large deployment; 0: no growth")
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"))
    arguments = parser.parse_args()
    figures: list[Figure] = []
    for name in arguments.groups or GROUPS:
        for figure in GROUPS[name](arguments):
            print(f"{figure.name:<48} {figure.value:>14,.3f} {figure.unit}", flush=True)
            figures.append(figure)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps([figure.to_json() for figure in figures], indent=1) + "\n")
    print(f"written to {arguments.output} ({platform.machine()}, Python {platform.python_version()})")


if __name__ == "__main__":  # worker processes import this module
    main()
