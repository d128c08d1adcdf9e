"""Changes that name no actor are counted in status."""

import psycopg


def test_changes_without_an_actor_are_counted(shell, deployment):
    with psycopg.connect(deployment.source) as connection:
        connection.execute("""SELECT audit.set_context('{"actor": "alice"}')""")
        connection.execute("UPDATE patients SET name = 'x' WHERE id < 4")
    with psycopg.connect(deployment.source) as connection:
        connection.execute("""SELECT audit.set_context('{"actor": {"id": "u-1"}}')""")
        connection.execute("UPDATE patients SET name = 'y' WHERE id < 4")
    with psycopg.connect(deployment.source) as connection:
        connection.execute("""SELECT audit.set_context('{"actor": "", "request": "7"}')""")
        connection.execute("UPDATE patients SET name = 'z' WHERE id < 3")
    deployment.call("seal", "--once")
    # The deployment's own waiting change, and the two of nobody.
    assert shell.json("status")["unattributed"] == {"last_hour": 3}
    assert "3 changes without an actor in the last hour" in shell("status").stdout
