"""What doctor says of what source, vault, ledger and key share, and of what was changed on the vault's side."""

import os
import pwd
import struct
from pathlib import Path

import psycopg
import pytest
from tests.deployments import deploy, query

from pgseal.sealer import access
from pgseal.sealer.access import Account, find_writable, is_readable


def advise(deployment, code=1):
    found = deployment.call("doctor", expect=code)["advice"]
    assert all(one[member] for one in found for member in ("severity", "subject", "what", "why", "command"))
    return {(one["severity"], one["subject"], one["what"]): one for one in found}


def test_what_the_sides_share_is_said_and_is_no_error(new_cluster, new_database, tmp_path):
    # fsync is on, so that there is nothing else to call an error.
    source, vault = (new_cluster(16, {"fsync": "on"}, label=label) for label in ("source", "vault"))
    deployment = deploy(new_database(source), new_database(vault), tmp_path)
    for dsn in (deployment.source, deployment.vault):
        query(dsn, "CREATE ROLE chief SUPERUSER LOGIN")
    found = advise(deployment, code=0)
    assert not {one for one in found if one[0] == "error"}
    said = {(subject, what) for severity, subject, what in found if severity == "warning"}
    assert ("source clinic", "is on the same machine as the vault (this one)") in said
    assert ("source clinic", "has superusers of the same name as the vault: chief") in said
    assert (
        "source clinic",
        "is logged in to as the vault is: the same user postgres, without a password, for both",
    ) in said
    assert ("source clinic", "is on this machine, where ledger, key and state are") in said
    assert ("vault", "is on this machine, where ledger, key and state are") in said

    # Logins of their own, and no superuser that both have.
    query(deployment.vault, "ALTER ROLE chief NOSUPERUSER")
    query(deployment.vault, "CREATE ROLE keeper LOGIN SUPERUSER")
    settings = deployment.config.read_text()
    deployment.config.write_text(settings.replace(deployment.vault, deployment.vault.replace("postgres", "keeper")))
    said = {what for _, _, what in advise(deployment, code=0)}
    assert not {what for what in said if what.startswith(("has superusers", "is logged in to"))}
    deployment.config.write_text(settings)

    # One server for both.
    other = new_database(source)
    directory = tmp_path / "one"
    directory.mkdir()
    deployment = deploy(deployment.source, other, directory)
    said = {what for _, _, what in advise(deployment, code=0)}
    assert "is on the same server as the vault" in said
    assert "is on the same machine as the vault (this one)" not in said


def test_a_changed_vault_is_said_and_mended_by_the_commands(deployment):
    name = psycopg.conninfo.conninfo_to_dict(deployment.vault)["dbname"]
    before = advise(deployment)
    assert {what for severity, _, what in before if severity == "error"} == {"fsync is off"}
    role = f"reporting_{name}"
    query(
        deployment.vault,
        f"CREATE ROLE {role}; GRANT UPDATE ON vault.record TO {role}; GRANT USAGE ON SCHEMA vault TO {role};"
        "REVOKE INSERT ON vault.feed FROM pgseal_sealer;"
        "CREATE RULE hide AS ON INSERT TO vault.record DO INSTEAD NOTHING;"
        "ALTER FUNCTION vault.row_hash(text, text) PARALLEL UNSAFE; ALTER FUNCTION audit.claimed() RESET ALL;"
        f"CREATE PUBLICATION pub FOR TABLE vault.feed",
    )
    try:
        found = {key: one for key, one in advise(deployment).items() if key not in before}
        errors = " ".join(what for severity, subject, what in found if (severity, subject) == ("error", "vault"))
        for part in (
            f"table vault.record has privilege {role} UPDATE",
            "has rule CREATE RULE hide",
            f"schema vault has privilege {role} USAGE",
            "lacks privilege pgseal_sealer INSERT",
            "function vault.row_hash(text,text) was rewritten",
            "function audit.claimed() was rewritten",
        ):
            assert part in errors, (part, errors)
        assert ("warning", "vault", "publication pub has sealed records in it") in found
        for one in found.values():
            command = one["command"].removeprefix("as pgseal_owner: ")
            if command.startswith(("REVOKE", "GRANT", "DROP", "CREATE")):
                query(deployment.vault, command)
        query(deployment.vault, "DROP PUBLICATION pub")
        query(deployment.vault, "SELECT audit.note_marks()")
        assert {key for key in advise(deployment) if key not in before} == set()
    finally:
        query(deployment.vault, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_pgseals_roles_and_functions_of_the_source_are_held_against_what_was_installed(
    new_cluster, new_database, tmp_path
):
    server = new_cluster(18)
    deployment = deploy(new_database(server), new_database(server), tmp_path)
    query(
        deployment.source,
        "ALTER ROLE pgseal_reader LOGIN CREATEROLE; ALTER FUNCTION audit.claimed() SET search_path = public",
    )
    found = advise(deployment)
    commands = {what: one["command"] for (_, subject, what), one in found.items() if subject == "source clinic"}
    assert commands["role pgseal_reader may log in"] == "ALTER ROLE pgseal_reader NOLOGIN;"
    assert commands["role pgseal_reader may create roles"] == "ALTER ROLE pgseal_reader NOCREATEROLE;"
    assert commands["function audit.claimed() was rewritten"] == "pgseal apply"
    # A login that may not make the schema to compare with is told so, and everything else it is told all the same.
    query(deployment.vault, "CREATE ROLE limited LOGIN; GRANT pgseal_reader TO limited")
    settings = deployment.config.read_text()
    deployment.config.write_text(
        settings.replace(deployment.vault, deployment.vault.replace("user=postgres", "user=limited"))
    )
    assert ("note", "vault", "its schema could not be compared with what pgseal installs") in advise(deployment)


def test_who_reads_the_key_and_changes_the_ledger(deployment):
    key = deployment.directory / "pgseal.key"
    before = set(advise(deployment))
    key.chmod(0o640)
    deployment.ledger.chmod(0o757)
    found = {
        what: one
        for (_, _, what), one in advise(deployment).items()
        if (one["severity"], one["subject"], what) not in before
    }
    (read,) = (one for what, one in found.items() if what.startswith(f"{key} can be read by group "))
    assert (read["severity"], read["subject"]) == ("error", "key")
    (written,) = (one for what, one in found.items() if what == f"{deployment.ledger} can be changed by everybody")
    assert written["severity"] == "warning"
    key.chmod(0o600)
    deployment.ledger.chmod(0o755)
    deployment.config.chmod(0o644)
    plain = deployment.config.read_text()
    deployment.config.write_text(plain.replace("user=postgres", "user=postgres password=secret"))
    said = {what for severity, _, what in advise(deployment) if severity == "warning"}
    assert f"{deployment.config} can be read by everybody" in {what.replace("group root, ", "") for what in said}
    assert "secret" not in str(said)


def test_a_ledger_that_the_servers_own_user_can_change(deployment, monkeypatch):
    with psycopg.connect(deployment.source) as connection:
        account = access.find_server_account(connection.pgconn.socket, connection.info.backend_pid)
    assert account is not None
    assert account.uid == Path(f"/proc/{find_postmaster(deployment.source)}").stat().st_uid
    for path in (deployment.ledger, *deployment.ledger.rglob("*")):
        os.chown(path, account.uid, -1)
    # pytest's own directories are closed to others.
    monkeypatch.setattr(access, "_may_reach", lambda *_: True)
    said = {what for severity, _, what in advise(deployment) if severity == "warning"}
    assert f"{deployment.ledger} can be changed by {account.name}, as whom the server of source clinic runs " in {
        what.partition("(")[0] for what in said
    }


def find_postmaster(dsn):
    return int(Path(query(dsn, "SHOW data_directory")[0][0], "postmaster.pid").read_text().splitlines()[0])


@pytest.fixture
def nobody():
    return access.read_account(pwd.getpwnam("nobody").pw_uid)


def test_writable_by_mode_group_acl_and_parent(tmp_path, nobody, monkeypatch):
    # pytest's own directories are closed to others.
    monkeypatch.setattr(access, "_may_reach", lambda path, account: reach(path, account, tmp_path))
    place = tmp_path / "log"
    place.mkdir(mode=0o755)
    file = place / "checkpoint"
    file.write_text("x")
    file.chmod(0o644)
    assert find_writable(file, nobody) is None
    assert is_readable(file, nobody)
    file.chmod(0o640)
    assert not is_readable(file, nobody)
    # Its own group counts against others' rights, as the system has it.
    assert not is_readable(file, Account(nobody.uid, frozenset({file.stat().st_gid + 1})))
    assert is_readable(file, Account(nobody.uid, frozenset({file.stat().st_gid})))
    place.chmod(0o777)
    assert find_writable(file, nobody) == place
    place.chmod(0o1777)
    assert find_writable(file, nobody) is None
    place.chmod(0o755)
    write_acl(file, nobody.uid, mask=6)
    assert find_writable(file, nobody) == file
    write_acl(file, nobody.uid, mask=4)
    assert find_writable(file, nobody) is None


def write_acl(path, uid, mask):
    """What `setfacl -m u:UID:rw,m::MASK` would write."""
    none = 0xFFFFFFFF
    entries = [(0x01, 6, none), (0x02, 6, uid), (0x04, 4, none), (0x10, mask, none), (0x20, 0, none)]
    os.setxattr(
        path, "system.posix_acl_access", struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in entries)
    )


def reach(path, account, top):
    return all(access._may(one, account, 1) for one in path.parents if one.is_relative_to(top) and one != top)
