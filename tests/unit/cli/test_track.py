import pytest

from pgseal.cli.track import make_policies
from pgseal.errors import ConfigError
from pgseal.settings import TablePolicy
from pgseal.trail.catalog import Column, Encoding, Table


def table(name: str, *columns: str) -> Table:
    return Table(1, "public", name, tuple(Column(column, Encoding.IMAGE) for column in columns), columns[:1])


PATIENTS, VISITS = table("patients", "id", "ssn", "photo"), table("visits", "id", "reason", "photo")


def policies_of(exclude=(), mask=(), known=None):
    found = make_policies([PATIENTS, VISITS], list(exclude), list(mask), known or {})
    return [policy for _, policy in found]


def test_a_column_alone_means_every_table_that_has_it():
    assert policies_of(exclude=["photo"]) == [TablePolicy(exclude=("photo",))] * 2


def test_a_column_with_its_table_means_that_one():
    assert policies_of(mask=["patients.ssn=redact", "public.visits.photo=hash"]) == [
        TablePolicy(mask={"ssn": "redact"}),
        TablePolicy(mask={"photo": "hash"}),
    ]


def test_a_table_that_waits_to_be_tracked_keeps_its_policy():
    waiting = TablePolicy(exclude=("reason",))

    assert policies_of(known={"public.visits": waiting}) == [TablePolicy(), waiting]


@pytest.mark.parametrize(
    ("exclude", "mask", "expected"),
    [
        (["nope"], [], "--exclude: no column 'nope' in public.patients, public.visits"),
        (["visits.ssn"], [], "--exclude: no column 'visits.ssn'"),
        ([], ["ssn"], "--mask: expected COL=hash or COL=redact or COL=last4, got 'ssn'"),
        ([], ["ssn=rot13"], "--mask: expected COL=hash or COL=redact"),
        (["ssn"], ["ssn=hash"], "public.patients: column 'ssn' is both excluded and masked"),
        (["photo", "patients.photo"], [], "public.patients: column 'photo' stands here twice"),
    ],
)
def test_what_cannot_be_meant_is_refused(exclude, mask, expected):
    with pytest.raises(ConfigError) as caught:
        policies_of(exclude, mask)

    assert expected in str(caught.value)
