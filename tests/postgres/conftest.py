from collections.abc import Iterator

import psycopg
import pytest
from tests.clusters import Cluster
from tests.conftest import NewDatabase
from tests.deployments import make_trail_template


@pytest.fixture
def source(new_database: NewDatabase, any_cluster: Cluster) -> Iterator[psycopg.Connection]:
    """A superuser's connection to a database with the trail in it."""
    dsn = new_database(any_cluster, template=make_trail_template(any_cluster))
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection
