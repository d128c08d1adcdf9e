"""Whether schema ``audit`` is still what pgseal made (postgres/expected.py).

The migrations make it, and the capture functions of the tracked tables.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pgseal.postgres import Connection, load_migrations
from pgseal.postgres.expected import Difference, compare_schema
from pgseal.trail.capture import TableRule, format_capture, generated_names
from pgseal.trail.catalog import Table, read_relation
from pgseal.trail.registry import Made

SCHEMA = "audit"


def read_differences(
    connection: Connection, made: Sequence[Made], altered: Sequence[str], *, side: str
) -> list[Difference]:
    """Compare schema ``audit`` with what this pgseal would install.

    Args:
        connection: autocommit connection of a role that may install the schema.
        made: what the registry says was made.
        altered: the relations of tracked tables that are not what their capture was made for: their functions cannot be
            made again and are not compared.
        side: words for errors.

    Raises:
        ConfigError: the role may not create a schema.
    """
    current = [
        (replace(read_relation(connection, one.relation), mode=one.mode), one.rule, one.layout)
        for one in made
        if one.relation not in altered
    ]
    skipped = {name for relation in altered for name in generated_names(relation)}
    return compare_schema(
        connection,
        SCHEMA,
        _expected_statements(current),
        side=side,
        is_skipped=lambda subject: any(name in subject for name in skipped),
    )


def _expected_statements(current: Sequence[tuple[Table, TableRule, str]]) -> Iterator[str]:
    for migration in load_migrations("pgseal.trail"):
        yield migration.statements
    yield "SET LOCAL ROLE pgseal_owner"
    for table, rule, layout in current:
        for statement in format_capture(table, rule, layout):
            yield statement.as_string()
    yield "RESET ROLE"
