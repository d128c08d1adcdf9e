"""Attack 28: a superuser puts something between the records and the sealer, so that some never get there.

Caught before anything more is sealed: the sealer stops with a finding, `pgseal verify` reports it with exit code 1, and
`pgseal status` and `pgseal plan --check` name what it is.
"""

from contextlib import closing

import psycopg
import pytest
from tests.attacks.attack import Attack
from tests.attacks.conftest import read_plan, read_warnings, run
from tests.deployments import TRAIL, Deployment

from pgseal.errors import AlteredRecordError
from pgseal.sealer.seal import Sealer

#: The oldest and the newest at hand: the suite is long.
pytestmark = pytest.mark.servers(15, 18)
STAGED = (
    Attack(
        28,
        "superuser",
        "a row security policy, view, rule or trigger that hides rows from the sealer",
        "the sealer and verify: `altered_record`",
        "at the sealer's next look, a fraction of a second",
    ),
)

PARTITION = "(SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'audit.record'::regclass ORDER BY 1 LIMIT 1)"


def on_partition(statement: str) -> str:
    return f"DO $$ BEGIN EXECUTE format('{statement}', {PARTITION}); END $$"


SWALLOW = (
    "CREATE FUNCTION public.swallow() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN IF NEW.new ->> 'note' = 'secret' THEN RETURN NULL; END IF; RETURN NEW; END $$"
)
ATTACKS = {
    "a view in its place": (
        "audit.record is a view",
        "ALTER TABLE audit.record RENAME TO real_record",
        "CREATE VIEW audit.record AS SELECT * FROM audit.real_record WHERE new ->> 'note' IS DISTINCT FROM 'secret'",
        "ALTER VIEW audit.record OWNER TO pgseal_owner",
        "GRANT SELECT ON audit.record TO pgseal_sealer",
    ),
    "a policy": (
        "audit.record has row security",
        "ALTER TABLE audit.record ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY mine ON audit.record USING (new ->> 'note' IS DISTINCT FROM 'secret')",
    ),
    "a policy on a partition": (
        "has row security",
        on_partition("ALTER TABLE %s ENABLE ROW LEVEL SECURITY"),
    ),
    "a rule": (
        "audit.record has rule mine",
        "CREATE RULE mine AS ON INSERT TO audit.record WHERE new.new ->> 'note' = 'secret' DO INSTEAD NOTHING",
    ),
    "a trigger": (
        "audit.record has trigger mine",
        SWALLOW,
        "CREATE TRIGGER mine BEFORE INSERT ON audit.record FOR EACH ROW EXECUTE FUNCTION public.swallow()",
    ),
    "a trigger on a partition": (
        "has trigger mine",
        SWALLOW,
        on_partition("CREATE TRIGGER mine BEFORE INSERT ON %s FOR EACH ROW EXECUTE FUNCTION public.swallow()"),
    ),
    "a table that forgets": ("loses its rows in a crash", on_partition("ALTER TABLE %s SET UNLOGGED")),
    "another owner": (
        "audit.record does not belong to pgseal_owner",
        "ALTER TABLE audit.record OWNER TO postgres",
        "GRANT SELECT, INSERT ON audit.record TO pgseal_owner",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_hides_records_is_found(source: psycopg.Connection, clinic: Deployment, attack: str):
    words, *statements = ATTACKS[attack]
    run(source, *statements, "INSERT INTO item VALUES (2, 'secret')")
    size = clinic.checkpoint().size

    assert words in read_warnings_in_spite(clinic)
    assert read_plan(clinic)
    with pytest.raises(AlteredRecordError, match=words):
        clinic.seal()
    assert clinic.checkpoint().size == size
    findings = clinic.call("verify", expect=1)["findings"]
    assert ("altered_record", "trail", TRAIL) in {(one["kind"], one["where"], one["trail"]) for one in findings}


def read_warnings_in_spite(deployment: Deployment) -> str:
    """The warnings, also where a side cannot be read for what was done to it."""
    try:
        return read_warnings(deployment)
    except AssertionError as error:  # exit code 3
        return str(error)


def test_it_is_found_while_the_sealer_runs(source: psycopg.Connection, clinic: Deployment):
    with closing(Sealer.open(clinic.settings)) as sealer:
        run(source, *ATTACKS["a view in its place"][1:], "INSERT INTO item VALUES (2, 'secret')")
        with pytest.raises(AlteredRecordError, match="is a view"):
            sealer.seal_once()


def test_a_trail_in_a_publication_is_named(source: psycopg.Connection, clinic: Deployment):
    """Published, the records leave the database by another way; only a superuser can do that. Seen by `doctor`."""
    published = ("TABLE audit.record", "TABLES IN SCHEMA audit", "ALL TABLES")
    run(source, *(f"CREATE PUBLICATION p{number} FOR {which}" for number, which in enumerate(published)))
    advice = {one["what"] for one in clinic.call("doctor", expect=1)["advice"]}
    assert {f"publication p{number} has the trail in it" for number in range(len(published))} <= advice
