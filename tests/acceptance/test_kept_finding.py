"""Why the sealer stopped is still said when nobody reads its log any more: `pgseal status` remembers it."""

import pytest
from tests.acceptance.shell import check_unharmed
from tests.deployments import TRAIL, query

NOWHERE = "host=/nowhere dbname=x"
STOPPED = "sealing stopped"


def warnings(shell, code: int = 0, **environ: str) -> list[str]:
    shown = shell("status", code=code, **environ).stdout
    found = [one for one in shell.json("status").get("warnings") if STOPPED in one]
    assert (f"! {STOPPED}" in shown) == bool(found)
    return found


@pytest.fixture
def tampered(deployment):
    """The last sealed row of the trail is changed; the note that mends it is in the database."""
    query(deployment.source, "CREATE TABLE aside AS SELECT * FROM audit.record ORDER BY id LIMIT 1")
    query(deployment.source, "UPDATE audit.record SET outcome = 'failure' WHERE id = (SELECT id FROM aside)")
    return deployment


def mend(deployment) -> None:
    query(deployment.source, "UPDATE audit.record SET outcome = 'success' WHERE id = (SELECT id FROM aside)")


def test_a_finding_that_stopped_the_sealer_is_shown_until_a_start_passes_its_checks(shell, tampered):
    assert warnings(shell) == []
    message = shell.refuse("seal", "--once", code=1)

    [warning] = warnings(shell)
    assert "rollback" in warning
    assert f"record {TRAIL}/" in warning
    assert "pgseal verify" in warning
    assert message.split(": ")[1].split(" ")[0] in warning
    assert len(warnings(shell)) == 1  # asking does not remove it

    mend(tampered)
    check_unharmed(tampered)
    assert warnings(shell) == []


def test_a_start_that_could_not_look_at_a_source_forgets_nothing(shell, tampered):
    shell.refuse("seal", "--once", code=1)
    shell("seal", "--once", code=3, PGSEAL_SOURCE_DSN=NOWHERE)

    assert len(warnings(shell)) == 1
    mend(tampered)
    check_unharmed(tampered)
    assert warnings(shell) == []


def test_a_note_that_cannot_be_read_is_no_reason_to_fail(shell, deployment):
    (deployment.directory / "state" / "finding").write_bytes(b"\xff{")

    [warning] = warnings(shell)
    assert "damaged" in warning
