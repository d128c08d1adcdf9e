"""`pgseal erase`: what is recorded about a data subject is gone from trail and vault, and everything still verifies."""

import pytest
from tests.deployments import Deployment, deploy, query

pytestmark = pytest.mark.servers(15, 18)
WHY = ("--reason", "request 2026-17", "--approved-by", "j.doe", "--yes")


@pytest.fixture
def deployment(any_database, vault_database, tmp_path) -> Deployment:
    query(any_database, "CREATE TABLE patients (id int PRIMARY KEY, name text)")
    deployment = deploy(any_database, vault_database, tmp_path)
    deployment.track("patients")
    query(any_database, "INSERT INTO patients SELECT i, 'patient number ' || i FROM generate_series(1, 20) AS i")
    query(any_database, "UPDATE patients SET name = 'Rosalind Zebediah' WHERE id = 7")
    query(any_database, "UPDATE patients SET id = 107 WHERE id = 7")
    query(any_database, "SELECT audit.record_event('PATIENT_VIEWED', '{\"resource\": \"patients/107\", \"note\": \"Zebediah\"}')")
    deployment.seal()
    return deployment


def test_x(deployment):
    deployment.check_verified()
    document = deployment.call("erase", "--table", "patients", "--key", "107", *WHY)
    print(document)
    deployment.check_verified()
    deployment.seal()
    assert query(deployment.source, "SELECT * FROM audit.record WHERE record::text LIKE '%Zebediah%'") == []
    assert query(deployment.vault, "SELECT * FROM vault.record WHERE record::text LIKE '%Zebediah%'") == []
