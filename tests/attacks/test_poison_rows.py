"""Attack 33: a superuser puts rows into the trail that cannot be records, so that sealing stops at them.

Sealed as MALFORMED with their hash, at once, and reported by `pgseal verify`; all other records are sealed as ever.
"""

import psycopg
import pytest
from tests.attacks.attack import Attack
from tests.attacks.conftest import run
from tests.deployments import Deployment, query

#: The oldest and the newest at hand: the suite is long.
pytestmark = pytest.mark.servers(15, 18)
STAGED = (
    Attack(
        33,
        "superuser",
        "rows that cannot be records, to stall sealing",
        "sealed as `MALFORMED`; verify: `malformed_record`",
        "with the next batch, a fraction of a second",
    ),
)

COLUMNS = "id, recorded_at, xid, pid, source, category, action, outcome, relation, session_role"
GOOD = {
    "id": "nextval('audit.record_id_seq')", "recorded_at": "now()", "xid": "pg_current_xact_id()", "pid": "1",
    "source": "'row'", "category": "'data_modification'", "action": "'INSERT'", "outcome": "'success'",
    "relation": "'public.item'", "session_role": "'x'",
}  # fmt: skip
POISON = {
    "an infinite time": {"recorded_at": "'infinity'"},
    "a time before the calendar": {"recorded_at": "'-infinity'"},
    "a time before year 1": {"recorded_at": "'0044-03-15 BC'"},
    "a time after year 9999": {"recorded_at": "'12026-01-01'"},
    "an id of zero": {"id": "0"},
    "an id below zero": {"id": "-5"},
    "an id twice": {"id": "(SELECT max(id) FROM audit.record)"},
    "an unknown source": {"source": "'nobody'"},
    "an unknown category": {"category": "''"},
    "a bad action": {"action": "'drop table'"},
    "a bad relation": {"relation": "E'public.item\\n\\x01'"},
    "a relation of a megabyte": {"relation": "'public.' || repeat('x', 1000000)"},
    "a role of a megabyte": {"session_role": "repeat('x', 1000000)"},
}


def test_a_poisonous_row_stops_nobody_else(source: psycopg.Connection, clinic: Deployment):
    # A partition for any time, which only an administrator of the trail can make.
    run(
        source,
        "CREATE TABLE audit.record_late (LIKE audit.record)",
        "ALTER TABLE audit.record_late OWNER TO pgseal_owner",
        "DO $$ BEGIN EXECUTE format('ALTER TABLE audit.record ATTACH PARTITION audit.record_late FOR VALUES FROM (%L) "
        "TO (MAXVALUE)', (SELECT max(upper_end) FROM audit.partitions())); END $$",
    )
    poisoned: dict[str, int] = {}
    for number, (poison, columns) in enumerate(POISON.items()):
        values = ", ".join({**GOOD, **columns}.values())
        run(source, f"INSERT INTO item VALUES ({3 * number + 2}, '{poison}: before')")
        inserted = source.execute(f"INSERT INTO audit.record ({COLUMNS}) VALUES ({values}) RETURNING id")  # pyright: ignore[reportArgumentType]
        poisoned[poison] = inserted.fetchall()[0][0]
        run(source, f"INSERT INTO item VALUES ({3 * number + 3}, '{poison}: after')")
        clinic.seal()
        run(source, f"INSERT INTO item VALUES ({3 * number + 4}, '{poison}: later')")
        clinic.seal()
        notes = query(clinic.vault, "SELECT data::jsonb #>> '{new,note}' FROM vault.record WHERE relation = "
                                    "'public.item' AND action = 'INSERT' AND data::jsonb ? 'new'")  # fmt: skip
        assert {f"{poison}: {when}" for when in ("before", "after", "later")} <= {note for (note,) in notes}
    malformed = query(
        clinic.vault, "SELECT (data::jsonb ->> 'id')::bigint FROM vault.record WHERE action = 'MALFORMED'"
    )
    strange = {id_ for (id_,) in malformed} | {
        poisoned[poison] for poison, columns in POISON.items() if "id" in columns
    }
    findings = clinic.call("verify", expect=1)["findings"]
    assert {one["kind"] for one in findings} <= {"malformed_record", "forged_record"}
    # What is not impossible, only odd, is sealed as what it is.
    assert {one["id"] for one in findings} == strange
    assert set(poisoned.values()) > strange
