"""What is asked of a pack on the command line, by who makes one and by who verifies one."""

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from pgseal.cli.options import parse_time_option
from pgseal.errors import ConfigError, FormatError

if TYPE_CHECKING:
    from pgseal.core.pack_filter import Filter


@dataclass(frozen=True, slots=True)
class Question:
    """The options of a filter as they were written; ``utc``: times without a zone are UTC."""

    since: str | None
    until: str | None
    table: str | None
    action: str | None
    category: str | None
    outcome: str | None
    actor: str | None
    utc: bool

    @property
    def is_asked(self) -> bool:
        """Whether there is any."""
        return any(value is not None for value in astuple(self)[:-1])

    def to_filter(self, table: str | None = None) -> "Filter":
        """Return the filter, for ``table`` where that is known by its full name.

        Raises ``ConfigError`` naming the option that is wrong.
        """
        from pgseal.core.pack_filter import Filter

        try:
            return Filter(
                since=parse_time_option(self.since, "--since", utc=self.utc),
                until=parse_time_option(self.until, "--until", utc=self.utc),
                table=self.table if table is None else table,
                action=self.action and self.action.upper(),
                category=self.category,
                outcome=self.outcome,
                actor=self.actor,
            )
        except FormatError as error:
            raise ConfigError(f"--{error}") from error
