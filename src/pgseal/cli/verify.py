"""``pgseal verify``: trails, vault and ledger of this configuration against each other and the signature."""

import typer

from pgseal.cli.invocation import load_settings
from pgseal.cli.options import AsJson, InUtc

EXAMPLE = "pgseal verify"


def verify(context: typer.Context, utc: InUtc = False, as_json: AsJson = False) -> int:
    """Check that nothing was changed, removed or added behind pgseal's back. Exit code 1 if something was."""
    load_settings(context)
    return 3
