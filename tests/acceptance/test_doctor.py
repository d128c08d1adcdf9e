"""What doctor says on real servers, and that its commands mend it."""

import psycopg


def find(shell, code=0):
    return {(advice["severity"], advice["what"]): advice for advice in shell.json("doctor", code=code)["advice"]}


def execute(dsn, *statements):
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def test_advice_and_its_commands(shell, deployment):
    name = psycopg.conninfo.conninfo_to_dict(deployment.source)["dbname"]
    role = f"helper_{name}"
    # The test servers run without fsync, which is the one error there should be.
    before = find(shell, code=1)
    assert {what for severity, what in before if severity == "error"} == {"fsync is off"}
    subjects = {one["subject"] for one in shell.json("doctor", code=1)["advice"] if one["what"] == "fsync is off"}
    assert len(subjects) == 2
    assert "vault" in subjects
    assert ("warning", "is on the same server as the vault") not in before
    assert not any("masked" in what for _, what in before)
    execute(
        deployment.source,
        f"CREATE ROLE {role} LOGIN IN ROLE pgseal_owner",
        f"ALTER ROLE {role} SET session_replication_role = replica",
        'UPDATE audit.tracked SET mask = \'{"name": "redact"}\'',
        "SET log_statement = 'all'",
        f"ALTER DATABASE {name} SET log_statement = 'mod'",
        "CREATE TABLE copied (id int)",
        "CREATE FUNCTION silence() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN SET session_replication_role = origin; RETURN new; END $$",
        "CREATE TRIGGER quiet BEFORE INSERT ON copied FOR EACH ROW EXECUTE FUNCTION silence()",
        f"CREATE SUBSCRIPTION {name} CONNECTION 'dbname=none' PUBLICATION none WITH (connect = false)",
    )
    assert not any("apply workers" in what for _, what in find(shell, code=1))
    execute(deployment.source, "ALTER TABLE copied ENABLE REPLICA TRIGGER quiet")
    try:
        found = find(shell, code=1)
        for severity, what in (
            ("error", f"role {role} works with session_replication_role=replica"),
            ("warning", f"{role} may act as pgseal_owner"),
            ("error", "trigger quiet of public.copied changes session_replication_role in apply workers"),
        ):
            assert (severity, what) in found
        (log,) = (advice["command"] for (_, what), advice in found.items() if "log_statement = mod" in what)
        assert "ALTER SYSTEM SET log_statement = 'ddl';" in log
        assert "ALTER SYSTEM SET log_min_error_statement = panic;" in log
        commands = [found[key]["command"] for key in found.keys() - before.keys()]
        for command in commands:
            statement = command.removeprefix("if that is not meant: ").removeprefix(
                "take it out of public.silence(), or "
            )
            if statement.startswith(("ALTER ROLE", "REVOKE", "ALTER TABLE")):
                execute(deployment.source, statement)
        execute(deployment.source, f"ALTER DATABASE {name} RESET log_statement")
        after = find(shell, code=1)
        assert ("error", f"role {role} works with session_replication_role=replica") not in after
        assert ("warning", f"{role} may act as pgseal_owner") not in after
        assert not any("apply workers" in what for _, what in after)
    finally:
        execute(
            deployment.source,
            f"ALTER SUBSCRIPTION {name} SET (slot_name = NONE)",
            f"DROP SUBSCRIPTION {name}",
            f"DROP ROLE {role}",
        )
    assert "→" in shell("doctor", code=1).stdout


def test_a_side_that_is_away_is_said_and_the_rest_examined(shell, deployment):
    del deployment
    done = shell("doctor", code=1, PGSEAL_VAULT_DSN="host=127.0.0.1 port=1 dbname=x")
    assert "cannot be examined" in done.stdout
    assert "fsync is off" in done.stdout
