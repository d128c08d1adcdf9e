"""Application events: what an application may not pretend to have done."""

import psycopg
import pytest
from tests.deployments import query

from pgseal.postgres import connect, install_schema

#: What pgseal writes itself: changes of rows, and its own acts.
RESERVED = [
    "INSERT",
    "UPDATE",
    "DELETE",
    "TRUNCATE",
    "SNAPSHOT",
    "TRACK",
    "UNTRACK",
    "HEARTBEAT",
    "ERASE",
    "RETENTION",
    "RECOVER",
    "MALFORMED",
    "CLOCK",
    "KEY_ROTATE",
    "REPAIR",
]


@pytest.fixture
def trail(database) -> str:
    with connect(database, side="source") as connection:
        install_schema(connection, "audit", "pgseal.trail", side="source")
    return database


@pytest.mark.parametrize("action", RESERVED)
def test_an_event_cannot_be_called_what_pgseal_calls_its_own_records(trail, action):
    with pytest.raises(psycopg.errors.ReservedName, match=f"'{action}' is an action of pgseal's own") as error:
        query(trail, "SELECT audit.record_event(%s)", action)
    assert "choose another name" in str(error.value.diag.message_hint)
    assert query(trail, "SELECT count(*) FROM audit.record") == [(0,)]


@pytest.mark.parametrize("action", ["LOGIN", "DELETED", "APP_DELETE", "GRANT"])
def test_other_names_are_free(trail, action):
    query(trail, "SELECT audit.record_event(%s)", action)
    assert query(trail, "SELECT source, action FROM audit.record") == [("app", action)]
