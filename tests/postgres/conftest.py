from collections.abc import Iterator

import psycopg
import pytest
from tests.deployments import open_trail


@pytest.fixture
def source(any_database: str) -> Iterator[psycopg.Connection]:
    """A superuser's connection to a database with the trail in it."""
    with open_trail(any_database) as connection:
        yield connection
