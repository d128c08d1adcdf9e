"""Attack 33: a superuser puts rows into the trail that cannot be records, so that sealing stops at them.

Sealed as MALFORMED with their hash, at once, and reported by `pgseal verify`; all other records are sealed as ever.
"""

import psycopg
import pytest
from tests.attacks.attack import Attack
from tests.attacks.conftest import run
from tests.deployments import Deployment, query

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


@pytest.mark.servers(15, 18)
@pytest.mark.parametrize("poison", POISON)
def test_a_poisonous_row_stops_nobody_else(source: psycopg.Connection, clinic: Deployment, poison: str):
    # A partition for any time, which only an administrator of the trail can make.
    run(
        source,
        "CREATE TABLE audit.record_late (LIKE audit.record)",
        "ALTER TABLE audit.record_late OWNER TO pgseal_owner",
        "DO $$ BEGIN EXECUTE format('ALTER TABLE audit.record ATTACH PARTITION audit.record_late FOR VALUES FROM (%L) "
        "TO (MAXVALUE)', (SELECT max(upper_end) FROM audit.partitions())); END $$",
    )
    values = ", ".join({**GOOD, **POISON[poison]}.values())
    run(source, "INSERT INTO item VALUES (2, 'before')")
    run(source, f"INSERT INTO audit.record ({COLUMNS}) VALUES ({values})")
    run(source, "INSERT INTO item VALUES (3, 'after')")
    clinic.seal()
    notes = query(clinic.vault, "SELECT data::jsonb #>> '{new,note}' FROM vault.record WHERE relation = 'public.item' "
                                "AND action = 'INSERT' AND data::jsonb ? 'new' ORDER BY leaf_index")  # fmt: skip
    assert {"before", "after"} <= {note for (note,) in notes}
    run(source, "INSERT INTO item VALUES (4, 'later')")
    clinic.seal()
    malformed = query(clinic.vault, "SELECT data::jsonb ->> 'id' FROM vault.record WHERE action = 'MALFORMED'")
    if malformed or "id" in POISON[poison]:
        findings = clinic.call("verify", expect=1)["findings"]
        assert {one["kind"] for one in findings} <= {"malformed_record", "forged_record"}
        assert findings
    else:
        # Not impossible, only odd: sealed as what it is.
        clinic.check_sealed()
        clinic.check_verified()
