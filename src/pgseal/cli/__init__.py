"""The ``pgseal`` command: one file for each subcommand; ``app`` puts them together.

What a module imports at its top is paid for by ``pgseal --help``, so commands import what they need when they run.
"""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``pgseal`` and return its exit code, which ``pgseal.cli.failures`` explains."""
    from pgseal.cli.app import run

    return run(sys.argv[1:] if arguments is None else arguments)
