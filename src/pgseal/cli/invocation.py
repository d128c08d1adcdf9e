"""What a command was called with, beside its own options."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer

if TYPE_CHECKING:
    from pgseal.settings import Settings


@dataclass(frozen=True, slots=True)
class Invocation:
    """The options before the command; ``config`` is None unless ``--config`` was given."""

    config: Path | None
    debug: bool

    @property
    def path(self) -> Path:
        """Where the configuration is, or is to be."""
        from pgseal import settings

        return settings.find_path() if self.config is None else self.config


def find_invocation(context: typer.Context) -> Invocation:
    """Return what the command of ``context`` was called with."""
    return cast("Invocation", context.obj)


def load_settings(context: typer.Context) -> "Settings":
    """Return the configuration of this invocation; raises ``ConfigError``."""
    from pgseal import settings

    return settings.load(find_invocation(context).path)
