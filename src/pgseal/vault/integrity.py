"""Whether schema ``vault`` is still what pgseal made (postgres/expected.py)."""

from pgseal.postgres import Connection, load_migrations
from pgseal.postgres.expected import Difference, compare_schema


def read_differences(connection: Connection, *, side: str) -> list[Difference]:
    """Compare schema ``vault`` with what this pgseal would install.

    Raises ``ConfigError`` if the role may not create a schema.
    """
    statements = (migration.statements for migration in load_migrations("pgseal.vault"))
    return compare_schema(connection, "vault", statements, side=side)
