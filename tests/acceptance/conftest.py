import pytest
from tests.acceptance.shell import Shell


@pytest.fixture
def shell(tmp_path):
    return Shell(tmp_path)
