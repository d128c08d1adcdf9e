"""Attack 26: any role keeps a transaction open, so that the records of others are not sealed, and changes them.

Without effect: a batch is the difference of two snapshots, and what is open delays its own records only.
"""

from contextlib import closing

import psycopg
import pytest
from tests.attacks.attack import Attack
from tests.attacks.conftest import run
from tests.deployments import Deployment

#: The oldest and the newest at hand: the suite is long.
pytestmark = pytest.mark.servers(15, 18)
STAGED = (
    Attack(
        26,
        "any role",
        "hold a transaction open, also elsewhere, also prepared, so that others are not sealed",
        "without effect: others are sealed on time",
        "nothing is left to be caught",
    ),
)

WAYS = ("writing", "prepared", "in another database", "reading an old snapshot", "holding a lock")


@pytest.mark.parametrize("way", WAYS)
def test_others_are_sealed_on_time(source, clinic: Deployment, new_database, any_cluster, way):
    dsn = new_database(any_cluster) if way == "in another database" else source.info.dsn
    with closing(psycopg.connect(dsn)) as holder:
        if way == "prepared":
            holder.execute("INSERT INTO item VALUES (50, 'mine')")
            holder.execute("PREPARE TRANSACTION 'kept'")
        elif way == "reading an old snapshot":
            holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            holder.execute("SELECT pg_current_xact_id()")
        elif way == "holding a lock":
            holder.execute("LOCK TABLE visit IN ACCESS EXCLUSIVE MODE")
            holder.execute("SELECT pg_current_xact_id()")
        else:
            holder.execute("SELECT pg_current_xact_id()")
            if way == "writing":
                holder.execute("INSERT INTO item VALUES (50, 'mine')")
        for number in range(2, 5):
            run(source, f"INSERT INTO item VALUES ({number}, 'theirs')")
            assert clinic.seal().sealed == 1
        # What is sealed cannot be changed any more, however long somebody waits.
        run(source, 'UPDATE audit.record SET new = \'{"id": 2, "note": "forged"}\' WHERE key = \'{"id": 2}\'')
        findings = clinic.call("verify", expect=1)["findings"]
        assert [one["kind"] for one in findings] == ["altered_record"]
        run(source, 'UPDATE audit.record SET new = \'{"id": 2, "note": "theirs"}\' WHERE key = \'{"id": 2}\'')
        holder.rollback()
        if way == "prepared":
            run(source, "COMMIT PREPARED 'kept'")
    clinic.seal()
    clinic.check_sealed()
    clinic.check_verified()
