import pytest
from tests.acceptance.shell import Shell, fill, update
from tests.deployments import deploy


@pytest.fixture
def shell(tmp_path):
    return Shell(tmp_path)


@pytest.fixture
def deployment(database, vault_database, tmp_path):
    """Twenty rows tracked and sealed, and a change that waits."""
    fill(database)
    deployment = deploy(database, vault_database, tmp_path)
    deployment.track("patients")
    deployment.call("seal", "--once")
    update(deployment)
    return deployment
