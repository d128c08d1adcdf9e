"""Attacks 1, 2, 3, 5 and 6: a source's superuser changes, removes, adds and re-numbers sealed rows of the trail."""

import pytest
from tests.attacks.attack import Attack
from tests.attacks.conftest import at_work
from tests.deployments import TRAIL, Deployment, deploy, query

_WHO, _SOON = "source superuser", "at the next `pgseal verify`; the newest rows also when the sealer next starts"
STAGED = (
    Attack(1, _WHO, "change any column of a sealed row", "verify: `altered_record`", _SOON),
    Attack(2, _WHO, "delete a sealed row", "verify: `missing_record`", _SOON),
    Attack(3, _WHO, "delete the newest sealed rows", "verify: `missing_record` for each; the sealer stops", _SOON),
    Attack(5, _WHO, "insert a row with an old time, id or xid", "verify: `forged_record`", _SOON),
    Attack(6, _WHO, "swap the contents of two rows; re-number", "verify: `altered_record`, `missing_record`", _SOON),
)

#: A value that each column can have and has not.
OTHER = {
    "id": "id + 1000000",
    "recorded_at": "recorded_at - interval '1 microsecond'",
    "xid": "'3'",
    "pid": "pid + 1",
    "source": "'app'",
    "category": "'configuration'",
    "action": "'DELETE'",
    "outcome": "'denied'",
    "relation": "'public.other'",
    "key": """'{"id": 99}'""",
    "old": """'{"note": "z"}'""",
    "new": """'{"id": 5, "note": "z"}'""",
    "data": "'{}'",
    "session_role": "'mallory'",
    "effective_role": "'mallory'",
    "authenticated_role": "'mallory'",
    "backend_start": "'2001-01-01'",
    "application": "'other'",
    "address": "'192.0.2.1'",
    "claimed": """'{"actor": "mallory"}'""",
}


@pytest.fixture
def deployment(database: str, vault_database: str, tmp_path) -> Deployment:
    query(database, "CREATE TABLE item (id int PRIMARY KEY, note text)")
    deployment = deploy(database, vault_database, tmp_path)
    deployment.track("item")
    for number in range(1, 9):
        query(database, "INSERT INTO item VALUES (%s, 'x')", number)
    query(database, "UPDATE item SET note = 'y' WHERE id < 4")
    deployment.seal()
    return deployment


def find(deployment: Deployment) -> list[tuple[str, str, int | None]]:
    findings = deployment.call("verify", expect=1)["findings"]
    assert {one["trail"] for one in findings} == {TRAIL}
    return sorted((one["kind"], one["where"], one["id"]) for one in findings)


def test_every_column_is_bound(deployment):
    columns = [
        row[0]
        for row in query(
            deployment.source,
            "SELECT attname FROM pg_attribute WHERE attrelid = 'audit.record'::regclass AND attnum > 0",
        )
    ]
    assert sorted(columns) == sorted(OTHER)
    [[record_id]] = query(
        deployment.source, "SELECT id FROM audit.record WHERE action = 'UPDATE' AND key = '{\"id\": 2}'"
    )
    for column, value in OTHER.items():
        with at_work(deployment, deployment.source, "audit.record") as connection:
            changed = connection.execute(f"UPDATE audit.record SET {column} = {value} WHERE id = {record_id}")
            assert changed.rowcount == 1
            found = find(deployment)
            if column == "id":
                assert ("missing_record", "trail", record_id) in found
            elif column == "data":
                assert found == [("altered_record", "trail", record_id)], column  # it would stand for key, new and old
            else:
                assert found == [("altered_record", "trail", record_id)], column


def test_a_deleted_row_is_missed(deployment):
    record_id = deployment.trail_ids()[4]
    with at_work(deployment, deployment.source, "audit.record") as connection:
        connection.execute("DELETE FROM audit.record WHERE id = %s", [record_id])
        assert find(deployment) == [("missing_record", "trail", record_id)]


def test_the_newest_rows_are_missed_and_stop_the_sealer(deployment):
    newest = deployment.trail_ids()[-3:]
    with at_work(deployment, deployment.source, "audit.record") as connection:
        connection.execute("DELETE FROM audit.record WHERE id = ANY(%s)", [newest])
        assert find(deployment) == [("missing_record", "trail", record_id) for record_id in newest]
        size = deployment.checkpoint().size
        query(deployment.source, "INSERT INTO public.item VALUES (100, 'new')")
        deployment.call("seal", "--once", expect=1)
        assert deployment.checkpoint().size == size
        query(deployment.source, "DELETE FROM audit.record WHERE id > %s", newest[-1])


@pytest.mark.parametrize("old", ["time", "id", "xid"])
def test_a_row_that_pretends_to_be_old_is_forged(deployment, old):
    ids = deployment.trail_ids()
    free = next(number for number in range(ids[-1], 0, -1) if number not in ids)
    values = {"id": str(free), "recorded_at": "recorded_at - interval '1 minute'", "xid": "xid"}
    with at_work(deployment, deployment.source, "audit.record"):
        if old == "time":
            values["id"] = "nextval('audit.record_id_seq')"
        elif old == "xid":
            values = {"id": "nextval('audit.record_id_seq')", "recorded_at": "now()", "xid": "'5'"}
        rest = ", ".join(column for column in OTHER if column not in values)
        query(
            deployment.source,
            f"INSERT INTO audit.record ({', '.join(values)}, {rest}) "
            f"SELECT {', '.join(values.values())}, {rest} FROM audit.record WHERE id = {ids[-1]}",
        )
        [forged] = [number for number in deployment.trail_ids() if number not in ids]
        assert find(deployment) == [("forged_record", "trail", forged)]
        assert deployment.seal().sealed == 0, (
            "a row that was never sealed in its transaction's turn is not sealed later"
        )


def test_a_second_row_with_a_sealed_id_is_forged(deployment):
    record_id = deployment.trail_ids()[4]
    rest = ", ".join(column for column in OTHER if column not in {"id", "recorded_at"})
    with at_work(deployment, deployment.source, "audit.record") as connection:
        connection.execute(
            f"INSERT INTO audit.record (id, recorded_at, {rest}) "
            f"SELECT id, recorded_at + interval '1 second', {rest} FROM audit.record WHERE id = {record_id}"
        )
        assert find(deployment) == [("forged_record", "trail", record_id)]


def test_swapped_rows_are_both_found(deployment):
    first, second = deployment.trail_ids()[3:5]
    with at_work(deployment, deployment.source, "audit.record") as connection:
        connection.execute(
            "UPDATE audit.record AS r SET (key, old, new) = (SELECT o.key, o.old, o.new FROM public.aside AS o "
            "WHERE o.id = %(a)s + %(b)s - r.id) WHERE r.id IN (%(a)s, %(b)s)",
            {"a": first, "b": second},
        )
        assert find(deployment) == [("altered_record", "trail", first), ("altered_record", "trail", second)]


def test_renumbered_rows_are_missed(deployment):
    last = deployment.trail_ids()[-1]
    with at_work(deployment, deployment.source, "audit.record") as connection:
        connection.execute("UPDATE audit.record SET id = id + 1 WHERE id = %s", [last])
        assert ("missing_record", "trail", last) in find(deployment)
