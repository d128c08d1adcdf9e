"""The policy in pgseal.toml: planned, applied all or nothing, and what was changed behind its back found and mended."""

import itertools
import threading
import time

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo


@pytest.fixture
def clinic(shell, database, vault_database):
    """A source with four tables, initialised, with nothing tracked."""
    with psycopg.connect(database, autocommit=True) as connection:
        for name in ("patients", "visits", "sessions", "tmp_import"):
            connection.execute(
                sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, name text, ssn text)").format(sql.Identifier(name))
            )
            connection.execute(
                sql.SQL("INSERT INTO {} SELECT g, 'name ' || g, 's3cret' || g FROM generate_series(1, 9) AS g").format(
                    sql.Identifier(name)
                )
            )
    shell.json(
        "init", "--source", database, "--vault", vault_database, "--ledger", "ledger", "--origin", "clinic.example/prod"
    )
    return database


POLICY = """
[source.tables."public.*"]
except = ["public.sessions", "public.tmp_*"]
mask = { ssn = "redact" }
"""


def write_policy(shell, text):
    path = shell.directory / "pgseal.toml"
    head = path.read_text().split("[source.tables")[0].rstrip() + "\n"
    path.write_text(head + text)


def changes(shell, *arguments, code=0):
    found = shell.json("plan", *arguments, code=code)["changes"]
    return [(change["sign"], change["subject"], change["text"], change["outside"]) for change in found]


def execute(dsn, *statements):
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def read(dsn, query):
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(query).fetchall()


def test_a_pattern_is_planned_and_applied(shell, clinic):
    assert changes(shell, "--check") == []
    write_policy(shell, POLICY)
    wanted = [
        ("+", f"public.{name}", "not captured yet, matched by 'public.*'", False) for name in ("patients", "visits")
    ]
    assert changes(shell, "--check", code=1) == wanted
    assert read(clinic, "SELECT * FROM audit.tracked") == []
    applied = shell.json("apply")
    assert applied["tables"] == [
        {"relation": "public.patients", "baseline": 9},
        {"relation": "public.visits", "baseline": 9},
    ]
    assert (applied["left"], changes(shell, "--check")) == ([], [])
    assert "✓" in shell("plan").stdout

    execute(clinic, "CREATE TABLE invoices (id int PRIMARY KEY)", "UPDATE patients SET ssn = 's3cret'")
    assert changes(shell) == [("+", "public.invoices", "not captured yet, matched by 'public.*'", False)]
    shell("apply")
    shell("seal", "--once")
    shell("verify")
    assert "s3cret" not in str(read(clinic, "SELECT * FROM audit.record"))

    write_policy(shell, '\n[source.tables."public.patients"]\nexclude = ["name"]\n')
    assert changes(shell) == [
        ("~", "public.patients", "column name: recorded → left out", False),
        ("~", "public.patients", "column ssn: redact → recorded", False),
        ("-", "public.invoices", "captured, and not in the policy", False),
        ("-", "public.visits", "captured, and not in the policy", False),
    ]
    shell("apply")
    execute(clinic, "UPDATE patients SET name = 'h1dden', ssn = 'shown'", "UPDATE visits SET name = 'h1dden'")
    recorded = str(read(clinic, "SELECT * FROM audit.record"))
    assert ("h1dden" in recorded, "shown" in recorded) == (False, True)


def test_everything_made_by_hand_is_found_and_mended(shell, clinic):
    write_policy(shell, POLICY)
    shell("apply")
    role = f"reporting_{psycopg.conninfo.conninfo_to_dict(clinic)['dbname']}"
    before = read(clinic, "SELECT pg_get_functiondef('audit.set_context'::regproc)")
    partition = read(
        clinic, "SELECT relid::text FROM pg_partition_tree('audit.record') WHERE isleaf ORDER BY 1 LIMIT 1"
    )[0][0]
    execute(
        clinic,
        f"CREATE ROLE {role}",
        "ALTER TABLE patients DISABLE TRIGGER pgseal_capture_update",
        f"GRANT SELECT ON audit.record TO {role}",
        f"GRANT DELETE ON {partition} TO {role}",
        f"GRANT EXECUTE ON FUNCTION audit.record_act(text, jsonb, text, text, jsonb) TO {role}",
        "REVOKE SELECT ON audit.record FROM pgseal_sealer",
        "CREATE OR REPLACE FUNCTION audit.set_context(context jsonb) RETURNS void LANGUAGE sql AS ''",
        "CREATE RULE swallow AS ON INSERT TO audit.record DO INSTEAD NOTHING",
        "CREATE TABLE audit.notes (n int)",
    )
    found = {(subject, text) for _, subject, text, is_outside in changes(shell, "--check", code=1) if is_outside}
    assert found >= {
        ("public.patients", "trigger pgseal_capture_update is disabled"),
        ("table audit.record", f"has privilege {role} SELECT"),
        ("a partition of audit.record", f"has privilege {role} DELETE"),
        ("function audit.record_act(text,jsonb,text,text,jsonb)", f"has privilege {role} EXECUTE"),
        ("table audit.record", "lacks privilege pgseal_sealer SELECT"),
        ("function audit.set_context(jsonb)", "was rewritten"),
    }
    assert any(subject == "table audit.record" and "swallow" in text for subject, text in found)
    done = shell.json("apply")
    left = done["left"]
    assert {(change["subject"], change["text"]) for change in done["applied"] + left if change["outside"]} == found
    assert not [change for change in done["applied"] if change in left]
    assert {change["subject"] for change in left} == {"table audit.notes", "a partition of audit.record"}
    assert read(clinic, "SELECT pg_get_functiondef('audit.set_context'::regproc)") == before
    execute(clinic, "UPDATE patients SET name = 'x'")
    assert read(clinic, "SELECT count(*) FROM audit.record WHERE action = 'UPDATE'") == [(9,)]
    execute(clinic, "DROP TABLE audit.notes", f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    assert changes(shell, "--check") == []


def test_a_locked_table_stops_all_of_it_and_nobody_waits(shell, clinic):
    write_policy(shell, POLICY)
    waits: list[float] = []
    stop = threading.Event()

    def write():
        with psycopg.connect(clinic, autocommit=True) as connection:
            while not stop.is_set():
                began = time.monotonic()
                connection.execute("UPDATE visits SET name = name || '.' WHERE id = 1")
                connection.execute("UPDATE patients SET name = name || '.' WHERE id = 1")
                waits.append(time.monotonic() - began)

    with psycopg.connect(clinic) as holder:
        holder.execute("UPDATE visits SET name = 'held' WHERE id = 2")
        writer = threading.Thread(target=write)
        writer.start()
        try:
            refusal = shell.refuse("apply", "--lock-budget", "3")
        finally:
            stop.set()
            writer.join()
    assert "locked" in refusal
    assert read(clinic, "SELECT * FROM audit.tracked") == []
    # A statement that waited for the lock would have held the writer up for as long as the holder is there.
    assert max(waits) < 2.0
    shell("apply")
    assert changes(shell, "--check") == []


@pytest.mark.usefixtures("clinic")
def test_two_at_once(shell):
    write_policy(shell, POLICY)
    ends: list[str] = []

    def run():
        try:
            shell("apply")
            ends.append("")
        except AssertionError as error:
            ends.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "" in ends
    assert all("exit 2" in end and "another pgseal is at work on public.patients" in end for end in ends if end)
    assert changes(shell, "--check") == []
    shell("seal", "--once")
    shell("verify")


def test_what_cannot_be_is_refused_whole(shell, clinic):
    for policy, message in (
        ('\n[source.tables."audited.*"]\n', "matches no table"),
        ('\n[source.tables."public.nowhere"]\n', "does not exist"),
        (
            '\n[source.tables."public.*"]\nexclude = ["nowhere"]\n',
            "no table that 'public.*' matches has a column 'nowhere'",
        ),
        ('\n[source.tables."public.patients"]\nexclude = ["nowhere"]\n', "no column 'nowhere'"),
        ('\n[source.tables."public.patients"]\nmask = { id = "hash" }\n', "part of the key"),
    ):
        write_policy(shell, policy)
        assert message in shell.refuse("apply")
        assert message in shell.refuse("plan")
    assert read(clinic, "SELECT * FROM audit.tracked") == []


def test_each_missing_right_is_named_with_the_statement_that_grants_it(shell, clinic):
    """Of many tables in one line, and none of them is tracked; of plan, which has to make a schema."""
    database = psycopg.conninfo.conninfo_to_dict(clinic)["dbname"]
    roles = [f"{name}_{database}"[:63] for name in ("admin", "one", "other")]
    execute(
        clinic,
        f"CREATE ROLE {roles[0]} LOGIN IN ROLE pgseal_owner, pgseal_sealer",
        *(f"CREATE ROLE {role}" for role in roles[1:]),
        f"ALTER TABLE patients OWNER TO {roles[0]}",
        f"ALTER TABLE visits OWNER TO {roles[1]}",
        f"ALTER TABLE sessions OWNER TO {roles[2]}",
        f"ALTER TABLE tmp_import OWNER TO {roles[2]}",
    )
    try:
        path = shell.directory / "pgseal.toml"
        path.write_text(
            path.read_text().replace(f'dsn = "{clinic}"', f'dsn = "{make_conninfo(clinic, user=roles[0])}"')
        )
        expected = (
            "only the owner of public.sessions, public.tmp_import, public.visits may attach triggers, "
            f"'{roles[0]}' is not; connect as '{roles[1]}' or '{roles[2]}' (admin_dsn), or: "
            f"GRANT {roles[1]}, {roles[2]} TO {roles[0]}\n"
        )
        before = path.read_text()
        assert expected in shell.refuse("track", "public.*")
        assert path.read_text() == before
        write_policy(shell, '\n[source.tables."public.*"]\n')
        for command in ("plan", "apply"):
            refusal = shell.refuse(command)
            assert expected in refusal
        assert read(clinic, "SELECT * FROM audit.tracked") == []
        execute(clinic, refusal.partition(", or: ")[2])
        refusal = shell.refuse("plan")
        assert f"as the database's owner: GRANT CREATE ON DATABASE {database} TO {roles[0]}" in refusal
        execute(clinic, refusal.partition("owner: ")[2])
        assert len(changes(shell)) == 4
        shell("apply")
        assert changes(shell, "--check") == []
    finally:
        execute(
            clinic,
            *(f"ALTER TABLE {name} OWNER TO CURRENT_USER" for name in ("patients", "visits", "sessions", "tmp_import")),
            *(f"DROP OWNED BY {role}" for role in roles),
            *(f"DROP ROLE {role}" for role in roles),
        )


def test_the_sql_does_what_apply_does(shell, clinic):
    write_policy(shell, POLICY)
    script = shell("plan", "--sql").stdout
    with psycopg.connect(clinic, autocommit=True) as connection:
        connection.execute(script)
    assert [text for _, _, text, _ in changes(shell)] == ["the rows that stood before are not recorded"] * 2
    execute(clinic, "UPDATE patients SET name = 'x' WHERE id = 1")
    shell("apply")
    assert changes(shell, "--check") == []
    assert read(clinic, "SELECT action, count(*) FROM audit.record WHERE relation = 'public.patients' "
                        "AND source = 'row' GROUP BY 1 ORDER BY 1") == [("SNAPSHOT", 9), ("UPDATE", 1)]  # fmt: skip
    assert shell("plan", "--sql").stdout == ""


def test_an_altered_table_is_tracked_again_under_its_policy(shell, clinic):
    shell("track", "patients", "--mask", "ssn=redact", "--require-actor", "off")
    assert "already tracked" in shell.refuse("track", "patients")
    execute(clinic, "ALTER TABLE patients ADD more int DEFAULT 7")
    assert "for a new baseline: pgseal apply" in str(shell.json("status")["warnings"])
    assert shell.json("track", "patients")["tables"] == [
        {"relation": "public.patients", "exclude": [], "mask": {"ssn": "redact"}, "where": None, "baseline": 9}
    ]
    assert changes(shell, "--check") == []


def test_a_renamed_table_keeps_its_policy_in_the_file(shell, clinic):
    shell("track", "patients", "--mask", "ssn=redact", "--exclude", "name", "--require-actor", "off")
    execute(clinic, "ALTER TABLE patients RENAME TO people")
    assert "pgseal track public.people" in str(shell.json("status")["warnings"])
    shell("track", "people")
    text = (shell.directory / "pgseal.toml").read_text()
    assert ("public.people" in text, "public.patients" in text) == (True, False)
    assert changes(shell, "--check") == []
    shell("apply")
    execute(clinic, "UPDATE people SET ssn = 's3cret', name = 's3cret' WHERE id = 1")
    assert "s3cret" not in str(read(clinic, "SELECT * FROM audit.record"))


def test_the_order_in_which_columns_are_hidden_is_none_of_the_tables(shell, clinic):
    """The registry keeps masks as jsonb, whose members have an order of their own."""
    columns = ("email", "ssn", "pin")
    orders = list(itertools.permutations(columns))
    execute(clinic, *(f"CREATE TABLE t{n} (id int PRIMARY KEY, email text, ssn text, b bytea, pin text, aaa text)"
                      for n, _ in enumerate(orders)))  # fmt: skip
    policy = ""
    for n, order in enumerate(orders):
        masks = ", ".join(f'{column} = "redact"' for column in order)
        excluded = '"b", "aaa"' if n % 2 else '"aaa", "b"'
        policy += f'\n[source.tables."public.t{n}"]\nexclude = [{excluded}]\nmask = {{ {masks} }}\n'
    write_policy(shell, policy)
    applied = shell.json("apply")
    assert (len(applied["tables"]), applied["left"]) == (6, [])
    assert changes(shell, "--check") == []
    execute(clinic, "ALTER TABLE t1 RENAME ssn TO a", "ALTER TABLE t1 RENAME a TO ssn")
    assert changes(shell, "--check") == []
