"""The statements of docs/reference/sql-api.md, run on a real server; its tables compared with the catalog."""

import re
from contextlib import closing

import psycopg
import pytest
from tests.docs.markdown import ROOT, blocks

from pgseal.postgres import connect, install_schema
from pgseal.trail.capture import TableRule
from pgseal.trail.track import track

PAGE = ROOT / "docs" / "reference" / "sql-api.md"


@pytest.fixture
def source(database):
    """DSN of a database with a trail and the tracked table of the examples."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE patients (id integer PRIMARY KEY, city text)")
        connection.execute("INSERT INTO patients VALUES (1, 'Bath')")
    with closing(connect(database, side="source")) as connection:
        install_schema(connection, "audit", "pgseal.trail", side="source")
    track(database, "public", "patients", TableRule(), side="source")
    return database


def read_described(section: str) -> set[str]:
    """The names in the first column of a section's table."""
    text = PAGE.read_text(encoding="utf-8")
    body = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)
    assert body is not None
    return set(re.findall(r"^\| `(\w+)` \|", body[1], re.MULTILINE))


def test_statements_run_and_columns_are_described(source):
    with psycopg.connect(source, autocommit=True) as connection:
        for block in blocks(PAGE, "sql"):
            connection.execute(block.text)
        rows = connection.execute(
            "SELECT action, source, category, outcome, claimed->>'actor' FROM audit.record "
            "WHERE action <> 'SNAPSHOT' ORDER BY id"
        ).fetchall()
        columns = {
            row[0]
            for row in connection.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = 'audit.record'::regclass AND attnum > 0"
            )
        }
    assert rows == [
        ("TRACK", "system", "configuration", "success", None),
        ("UPDATE", "row", "data_modification", "success", "dr.okafor"),
        ("REPORT_PRINTED", "app", "administration", "success", None),
        ("LOGIN", "app", "authentication", "denied", None),
    ]
    assert read_described("audit.record") == columns
