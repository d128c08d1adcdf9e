"""What `pgseal init` refuses: it looks at everything first, and leaves nothing behind where it says no."""

from pathlib import Path

import pytest
from psycopg import conninfo
from tests.acceptance.shell import Shell, check_unharmed
from tests.deployments import query

from pgseal.core.keys import SignerKey, format_signer_key

NOWHERE = "host=/nowhere dbname=x"


def files_of(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def other(tmp_path_factory) -> Shell:
    return Shell(tmp_path_factory.mktemp("other"))


# -- one database under two names


def test_one_database_under_two_names_is_refused(shell, deployment, database):
    before = files_of(shell.directory)
    elsewhere = conninfo.make_conninfo(database, application_name="x", connect_timeout="5")  # another way to write it

    for dsn in (database, elsewhere):
        message = shell.refuse("init", "--source", dsn, "--name", "again")
        assert "is source 'clinic' already" in message
    assert files_of(shell.directory) == before
    check_unharmed(deployment)


@pytest.mark.usefixtures("deployment")
def test_another_database_of_the_same_server_is_another_source(shell, cluster, new_database):
    query(second := new_database(cluster), "CREATE TABLE bills (id int PRIMARY KEY)")

    shell("init", "--source", second, "--name", "bills")
    shell("track", "bills", "--source", "bills")
    shell("seal", "--once")
    assert {trail["name"] for trail in shell.json("status")["trails"]} == {"clinic", "bills", "vault"}
    assert shell.json("verify")["ok"]


def test_a_source_that_cannot_be_asked_is_named_and_no_reason_to_fail(shell, deployment, cluster, new_database):
    second = new_database(cluster)
    configuration = deployment.config.read_text()
    deployment.config.write_text(configuration.replace(deployment.source, NOWHERE))

    done = shell("init", "--source", second, "--name", "bills")
    assert "source 'clinic' could not be asked" in done.stderr
    deployment.config.write_text(deployment.config.read_text().replace(NOWHERE, deployment.source))
    check_unharmed(deployment)


# -- a vault, a state directory or a ledger of another log


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "holds 21 sealed records of a log that is not this one"),
        (("--state", "{state}"), "the key of the log"),
        (("--state", "{state}", "--key", "{copy}"), "the memory of another log"),
        (("--ledger", "{ledger}", "--origin", "clinic.example/test"), "no memory of it"),
    ],
    ids=["vault", "state", "state and key", "ledger"],
)
def test_what_belongs_to_another_log_is_refused_before_anything_is_written(
    other, deployment, cluster, new_database, options, expected
):
    query(fresh := new_database(cluster), "CREATE TABLE patients (id int PRIMARY KEY)")
    places = {
        "state": deployment.directory / "state",
        "ledger": deployment.ledger,
        "copy": make_key(other.directory / "copy.key"),
    }
    init = ["--source", fresh, "--vault", deployment.vault, "--ledger", "ledger", "--origin", "b.example"]
    before = files_of(other.directory), files_of(deployment.directory)

    assert expected in other.refuse("init", *init, *(option.format(**places) for option in options))
    assert (files_of(other.directory), files_of(deployment.directory)) == before
    assert not (other.directory / "ledger").exists()
    assert not (other.directory / ".pgseal").exists()
    assert query(fresh, "SELECT to_regnamespace('audit')") == [(None,)]
    check_unharmed(deployment)


def make_key(path: Path) -> Path:
    path.write_text(format_signer_key(SignerKey("b.example", bytes(32))))
    return path


def test_a_configuration_that_was_lost_is_written_again(shell, deployment):
    deployment.config.unlink()

    shell(
        *("init", "--source", deployment.source, "--vault", deployment.vault, "--ledger", "ledger"),
        *("--origin", "clinic.example/test", "--name", "clinic", "--state", "state"),
    )
    check_unharmed(deployment)
