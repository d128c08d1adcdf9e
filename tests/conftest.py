"""Fixtures that every test may use: PostgreSQL clusters, fresh databases, the shared data.

========================  =========  =============================================================================
fixture                   scope      gives
========================  =========  =============================================================================
`cluster15`               session    Debian's PostgreSQL 15, with pgaudit
`cluster16`, `cluster18`  session    the embedded ones
`any_cluster`             session    each of these in turn, and any other major that is installed (mark `servers`)
`contrib_cluster`         session    15, 16 and 18 in turn, with contrib modules: skipped where these are missing
`cluster`                 session    one cluster, for tests to which the version does not matter
`vault_cluster`           session    another cluster, so that source and vault are on two servers
`new_cluster`             function   makes clusters for one test alone: new_cluster(16, {"fsync": "on"}, listen=True)
`database`                function   DSN of a fresh database in `cluster`
`any_database`            function   DSN of a fresh database in `any_cluster`
`vault_database`          function   DSN of a fresh database in `vault_cluster`
`new_database`            function   makes more of them: new_database(cluster18, template="filled")
`shared`                  session    the directory of vectors and data beside the repository
========================  =========  =============================================================================

More majors are found in the bin directories that PGSEAL_POSTGRES names, separated by colons.

Clusters start when first asked for. What is missing skips the test; with CI=true in the environment it is an error.
Roles belong to a whole cluster: a test that changes roles wants a `new_cluster`.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path

import hypothesis
import pytest
from tests.clusters import Cluster, find_binaries, find_contrib, make_cluster, temporary_database

REQUIRED_MAJORS = (15, 16, 18)
IN_CI = os.environ.get("CI") == "true"
NewCluster = Callable[..., Cluster]
NewDatabase = Callable[..., str]

# A loaded machine is slow without being wrong.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile(
    "fuzz", deadline=None, max_examples=int(os.environ.get("FUZZ_EXAMPLES", "20000")), print_blob=True
)
hypothesis.settings.load_profile("default")


def miss(reason: str) -> None:
    """Skip for want of something, but never in CI: tests must not vanish silently."""
    if IN_CI:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def start_cluster(major: int, label: str = "") -> Iterator[Cluster]:
    if major not in find_binaries():
        miss(f"no PostgreSQL {major} on this machine: make test installs it (15 as root on Debian 12)")
    with make_cluster(major, label=label) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def cluster15() -> Iterator[Cluster]:
    yield from start_cluster(15)


@pytest.fixture(scope="session")
def cluster16() -> Iterator[Cluster]:
    yield from start_cluster(16)


@pytest.fixture(scope="session")
def cluster18() -> Iterator[Cluster]:
    yield from start_cluster(18)


@pytest.fixture(scope="session")
def other_clusters() -> Iterator[dict[int, Cluster]]:
    """Majors beyond the required ones, if somebody has them."""
    started: dict[int, Cluster] = {}
    yield started
    for cluster in started.values():
        cluster.destroy()


@pytest.fixture(scope="session")
def any_cluster(request: pytest.FixtureRequest) -> Cluster:
    major: int = request.param
    if major in REQUIRED_MAJORS:
        cluster: Cluster = request.getfixturevalue(f"cluster{major}")
        return cluster
    others: dict[int, Cluster] = request.getfixturevalue("other_clusters")
    if major not in others:
        others[major] = make_cluster(major)
    return others[major].start()


@pytest.fixture(scope="session")
def cluster(cluster16: Cluster) -> Cluster:
    return cluster16


@pytest.fixture(scope="session")
def vault_cluster() -> Iterator[Cluster]:
    yield from start_cluster(18, label="vault")


@pytest.fixture(scope="session", params=REQUIRED_MAJORS, ids=lambda major: f"pg{major}")
def contrib_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    binaries = find_contrib(request.param)
    if binaries is None:
        pytest.skip(f"no PostgreSQL {request.param} with contrib modules on this machine")
    if binaries == find_binaries()[request.param]:
        yield request.getfixturevalue(f"cluster{request.param}")
        return
    cluster = Cluster(binaries, label="contrib")
    yield cluster.start()
    cluster.destroy()


@pytest.fixture
def new_cluster() -> Iterator[NewCluster]:
    made: list[Cluster] = []

    def make(
        major: int = 16, settings: Mapping[str, str | int] | None = None, *, listen: bool = False, label: str = "own"
    ) -> Cluster:
        """A started cluster that lives as long as the test."""
        if major not in find_binaries():
            miss(f"no PostgreSQL {major} on this machine")
        made.append(make_cluster(major, settings, listen=listen, label=label))
        return made[-1].start()

    yield make
    for cluster in made:
        cluster.destroy()


numbers = count(1)


@pytest.fixture
def new_database(request: pytest.FixtureRequest) -> Iterator[NewDatabase]:
    made: list[Iterator[str]] = []
    stem = re.sub(r"\W+", "_", request.node.name.removeprefix("test_")).lower()[:40]

    def make(cluster: Cluster, *, template: str | None = None) -> str:
        """A fresh database in a cluster, dropped after the test; the superuser's DSN."""
        cluster.start()  # an earlier test may have failed between stop and start
        context = temporary_database(cluster, f"t{next(numbers)}_{stem}", template=template)
        made.append(context)
        return context.__enter__()

    yield make
    for context in made:
        context.__exit__(None, None, None)


@pytest.fixture
def database(new_database: NewDatabase, cluster: Cluster) -> str:
    return new_database(cluster)


@pytest.fixture
def any_database(new_database: NewDatabase, any_cluster: Cluster) -> str:
    return new_database(any_cluster)


@pytest.fixture
def vault_database(new_database: NewDatabase, vault_cluster: Cluster) -> str:
    return new_database(vault_cluster)


@pytest.fixture(scope="session")
def shared() -> Path:
    directory = Path(__file__).resolve().parents[2] / "shared"
    if not directory.is_dir():
        miss("no directory `shared` beside the repository: it holds the published vectors and the sample data")
    return directory


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what takes `any_cluster` once on every major: the required ones whether they are here or not."""
    if "any_cluster" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("servers")
        majors = sorted(mark.args if mark else {*REQUIRED_MAJORS, *find_binaries()})
        metafunc.parametrize(
            "any_cluster", majors, indirect=True, ids=[f"pg{major}" for major in majors], scope="session"
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server, and what lies in tests/acceptance, so that both can be left out."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & {
            "cluster15",
            "cluster16",
            "cluster18",
            "any_cluster",
            "contrib_cluster",
            "vault_cluster",
            "new_cluster",
        }:
            item.add_marker("postgres")
        if "acceptance" in item.path.parts:
            item.add_marker("acceptance")
