"""What is wrong with servers, privileges and files: one line, the right exit code, and nothing harmed."""

import re
import socket
import threading
from contextlib import contextmanager

import pytest
from psycopg import conninfo
from tests.acceptance.shell import check_unharmed, fill
from tests.conftest import NewCluster
from tests.deployments import query

READING = (("verify",), ("history", "patients", "7"), ("search",), ("prove", "7"))
SOURCE = "SELECT count(*) FROM audit.record"
NOWHERE = "host=/nowhere dbname=x password=geheim"
KEY = "pgseal.key"


def statement_of(message: str) -> str:
    """The statement that a message says mends it."""
    found = re.search(r"(?:GRANT|ALTER ROLE) .*", message)
    assert found, message
    return found[0]


# -- servers


@pytest.mark.parametrize("side", ["SOURCE", "VAULT"])
def test_a_side_that_cannot_be_reached_is_exit_code_3(shell, deployment, side):
    environ = {f"PGSEAL_{side}_DSN": NOWHERE}
    commands = [("verify",), ("seal", "--once"), *(READING if side == "VAULT" else [("track", "patients")])]

    for command in commands:
        message = shell.refuse(*command, code=3, **environ)
        assert f"cannot reach the {side.lower()}" in message
        assert "geheim" not in message
    check_unharmed(deployment)


def test_status_shows_what_it_can_read_and_ends_with_exit_code_3(shell, deployment):
    assert shell.json("status")["ledger"]["size"] == 21
    for variable, unknown, known in (
        ("PGSEAL_SOURCE_DSN", "trail    clinic       unknown", "vault    21 records"),
        ("PGSEAL_VAULT_DSN", "vault    unknown", "ledger   21 leaves"),
    ):
        done = shell("status", code=3, **{variable: NOWHERE})
        assert unknown in done.stdout
        assert known in done.stdout
        assert "! cannot reach the " in done.stdout
        assert done.stderr == ""
        assert "geheim" not in done.stdout
    (deployment.ledger / "checkpoint").rename(shell.directory / "aside")
    done = shell("status", code=3)
    assert "ledger   unknown" in done.stdout
    assert "! cannot read 'checkpoint' of ledger" in done.stdout
    (shell.directory / "aside").rename(deployment.ledger / "checkpoint")
    check_unharmed(deployment)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dbname": "no_such_database"}, '"no_such_database" does not exist'),
        ({"user": "no_such_role"}, '"no_such_role" does not exist'),
        ("postgresql//u:geheim@h/d", "not a connection string"),
        ("env:NOT_SET", "environment variable 'NOT_SET' is not set"),
        ("file:missing.dsn", "cannot read"),
    ],
    ids=["database", "role", "malformed", "variable", "file"],
)
def test_a_wrong_connection_string_is_exit_code_2(shell, deployment, changes, expected):
    configuration = deployment.config.read_bytes()
    wrong = changes if isinstance(changes, str) else conninfo.make_conninfo(deployment.vault, **changes)

    for command in (("verify",), ("seal", "--once"), ("search",)):
        message = shell.refuse(*command, PGSEAL_VAULT_DSN=wrong)
        assert expected in message
        assert "geheim" not in message
    assert expected in shell.refuse("track", "patients", PGSEAL_SOURCE_DSN=wrong)
    assert deployment.config.read_bytes() == configuration
    check_unharmed(deployment)


@contextmanager
def serve_version(version: str):
    """A port where a server of this version answers: its greeting is all that pgseal may want of it."""

    def message(kind: bytes, content: bytes) -> bytes:
        return kind + (len(content) + 4).to_bytes(4, "big") + content

    greeting = (
        message(b"R", bytes(4))
        + b"".join(
            message(b"S", f"{name}\0{value}\0".encode())
            for name, value in (("server_version", version), ("server_encoding", "UTF8"), ("client_encoding", "UTF8"))
        )
        + message(b"Z", b"I")
    )
    asked: list[bytes] = []

    def answer() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                client.recv(10_000)
                client.sendall(greeting)
                asked.append(client.recv(10_000))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield (
            f"host=127.0.0.1 port={listener.getsockname()[1]} user=u dbname=d sslmode=disable gssencmode=disable",
            asked,
        )
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_server_older_than_14_is_refused_before_anything_is_asked_of_it(shell, vault_database):
    init = ("init", "--vault", vault_database, "--ledger", "ledger", "--origin", "clinic.example/prod")

    with serve_version("13.23") as (dsn, asked):
        message = shell.refuse(*init, "--source", dsn)

    assert "PostgreSQL 13 is too old; pgseal needs 14 or later" in message
    assert b"".join(asked).startswith(b"X")  # goodbye
    assert list(shell.directory.iterdir()) == []
    assert query(vault_database, "SELECT to_regnamespace('audit'), to_regnamespace('vault')") == [(None, None)]


# -- privileges


def test_each_missing_privilege_is_named_with_the_statement_that_grants_it(shell, new_cluster: NewCluster):
    cluster = new_cluster(16)
    source, vault = cluster.create_database("app"), cluster.create_database("Vault")
    cluster.execute('CREATE ROLE "Installer" LOGIN; CREATE ROLE app_owner; CREATE ROLE other LOGIN')
    fill(source)
    query(source, "ALTER TABLE patients OWNER TO app_owner")
    as_installer = [conninfo.make_conninfo(dsn, user="Installer") for dsn in (source, vault)]
    init = ("init", "--source", as_installer[0], "--vault", as_installer[1], "--ledger", "ledger", "--origin", "a/b")

    granted = []
    for expected in ('ALTER ROLE "Installer" CREATEROLE', "ON DATABASE app", 'ON DATABASE "Vault"'):
        message = shell.refuse(*init)
        assert expected in message
        granted.append(statement_of(message))
        cluster.execute(granted[-1])
        assert not (shell.directory / "pgseal.toml").exists()
    shell(*init)

    configuration = (shell.directory / "pgseal.toml").read_bytes()
    message = shell.refuse("track", "patients")
    assert "only the owner of public.patients" in message
    assert (shell.directory / "pgseal.toml").read_bytes() == configuration
    assert query(source, "SELECT count(*) FROM audit.tracked") == [(0,)]
    assert query(source, "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == [(0,)]
    cluster.execute(statement_of(message))
    shell("track", "patients")

    other = {"PGSEAL_VAULT_DSN": conninfo.make_conninfo(vault, user="other")}
    message = shell.refuse("seal", "--once", **other)
    assert "login 'other' may not act as pgseal_sealer" in message
    assert "permission denied for schema vault; as a superuser: GRANT pgseal_reader" in shell.refuse("search", **other)
    cluster.execute(statement_of(message))
    shell("seal", "--once", **other)
    assert "✓ nothing was changed" in shell("verify").stdout


@pytest.mark.parametrize(
    ("side", "revoked", "command"),
    [
        ("source", "SELECT ON audit.record_id_seq", ("seal", "--once")),
        ("source", "SELECT ON audit.record", ("seal", "--once")),
        ("source", "SELECT ON audit.record", ("verify",)),
        ("source", "SELECT ON audit.tracked", ("status",)),
        ("source", "SELECT ON audit.migration", ("seal", "--once")),
        ("source", "EXECUTE ON FUNCTION audit.ensure_partitions(interval)", ("seal", "--once")),
        ("vault", "USAGE ON SCHEMA vault", ("seal", "--once")),
        ("vault", "SELECT ON vault.record", ("verify",)),
        ("vault", "INSERT ON vault.record", ("seal", "--once")),
        ("vault", "UPDATE ON vault.feed", ("seal", "--once")),
        ("vault", "SELECT ON audit.record", ("seal", "--once")),
    ],
)
def test_a_right_of_the_sealer_that_was_taken_away_is_named_with_what_gives_it_back(
    shell, deployment, side, revoked, command
):
    """Not with membership in the owner: the sealer and its login stay what they are."""
    dsn = getattr(deployment, side)
    query(dsn, f"REVOKE {revoked} FROM pgseal_sealer")

    is_status = command == ("status",)
    message = "".join(shell.json("status", code=3)["warnings"]) if is_status else shell.refuse(*command)
    assert "permission denied" in message
    assert "pgseal_owner" not in message
    query(dsn, re.search(r"GRANT [A-Z].* TO pgseal_sealer", message)[0])
    check_unharmed(deployment)


def test_who_lacks_a_role_is_told_which_connection_string_it_is_about(shell, new_cluster: NewCluster):
    cluster = new_cluster(16)
    source, vault = cluster.create_database("app"), cluster.create_database("vault")
    cluster.execute("CREATE ROLE other LOGIN")
    fill(source)
    shell("init", "--source", source, "--vault", vault, "--ledger", "ledger", "--origin", "a/b")
    others = {"PGSEAL_SOURCE_DSN": conninfo.make_conninfo(source, user="other")}

    message = shell.refuse("track", "patients", **others)
    assert "GRANT pgseal_owner TO the login of admin_dsn" in message
    others = {"PGSEAL_VAULT_DSN": conninfo.make_conninfo(vault, user="other")}
    assert "GRANT pgseal_reader TO the login of the vault's dsn" in shell.refuse("search", **others)


def test_the_sealers_login_is_not_asked_to_become_an_administrator(shell, deployment):
    for variable, command, expected in (
        ("PGSEAL_VAULT_DSN", ("init",), "run it with PGSEAL_VAULT_DSN set to an administrator's login"),
        ("PGSEAL_SOURCE_DSN", ("init",), "set admin_dsn to an administrator's login"),
        ("PGSEAL_SOURCE_DSN", ("untrack", "patients"), "admin_dsn"),
    ):
        dsn = deployment.vault if "VAULT" in variable else deployment.source
        message = shell.refuse(*command, **{variable: conninfo.make_conninfo(dsn, user="pgseal_sealer")})
        assert expected in message
        assert "GRANT pgseal_owner TO pgseal_sealer" not in message
    check_unharmed(deployment)
