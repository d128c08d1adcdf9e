"""`pgseal search` and what it refuses."""


def test_a_trail_that_is_not_there_is_a_mistake(deployment):
    for command in (["search"], ["history", "patients", "7"], ["history", "--id", "nosuch/7"]):
        trail = ["--trail", "nosuch"] if "--id" not in command else []
        with deployment.start(*command, *trail) as process:
            output, errors = process.communicate()
        assert process.returncode == 2, output + errors
        assert "nosuch" in errors
        assert "clinic" in errors


def test_a_configured_trail_without_records_is_none(deployment):
    deployment.seal()
    assert len(deployment.call("search", "--trail", "clinic", "--limit", "1000")["records"]) > 20
    assert deployment.call("search", "--trail", "vault")["records"] == []
