import pytest
from tests.unit.verifier.samples import Sample, make_sample

SIZE = 600  # two full bundles and a partial one


@pytest.fixture(scope="session")
def clean_sample() -> Sample:
    return make_sample(SIZE)


@pytest.fixture
def sample(clean_sample: Sample) -> Sample:
    return clean_sample.copy()
