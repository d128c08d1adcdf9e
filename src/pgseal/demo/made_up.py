"""A made-up clinic, the same every time, in the shape of Synthea's tables."""

import random
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from pgseal.demo.tables import Table

_SEED = 20261123
_PATIENTS, _ENCOUNTERS, _MEDICATIONS = 120, 420, 300
_FIRST = ("Amara", "Ben", "Carmen", "Dmitri", "Elif", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kaya", "Liam", "Mina")
_LAST = ("Adler", "Brandt", "Castillo", "Duarte", "Eriksen", "Fofana", "Garcia", "Haddad", "Ito", "Jansen", "Kowalski")
_STREETS = ("Court St", "Hills Branch", "Lakeview Rd", "Mill Lane", "Oak Avenue", "Station Rd")
_CITIES = (("Visalia", "93277"), ("Tulare", "93274"), ("Exeter", "93221"), ("Dinuba", "93618"))
_VISITS = ("Well child visit", "Check up", "Follow-up", "Consultation", "Emergency room admission")
_CLASSES = ("ambulatory", "wellness", "outpatient", "emergency")
_DRUGS = ("Ibuprofen 100 MG Oral Tablet", "Amoxicillin 250 MG Oral Capsule", "Metformin 500 MG", "Lisinopril 10 MG")


def make_tables() -> dict[str, Table]:
    """Return patients, encounters and medications."""
    chance = random.Random(_SEED)  # noqa: S311 - the same every time is the point
    patients = [_make_patient(chance) for _ in range(_PATIENTS)]
    encounters = [_make_encounter(chance, chance.choice(patients)[0]) for _ in range(_ENCOUNTERS)]
    medications = [_make_medication(chance, chance.choice(encounters)) for _ in range(_MEDICATIONS)]
    tables = (
        Table(
            "patients",
            ("id", "birthdate", "ssn", "passport", "first", "last", "address", "city", "zip", "healthcare_expenses"),
            patients,
        ),
        Table(
            "encounters",
            ("id", "start", "stop", "patient", "encounterclass", "description", "total_claim_cost"),
            encounters,
        ),
        Table("medications", ("start", "patient", "encounter", "description", "dispenses", "totalcost"), medications),
    )
    return {table.name: table for table in tables}


def _make_id(chance: random.Random) -> str:
    return str(UUID(int=chance.getrandbits(128), version=4))


def _make_money(chance: random.Random, most: int) -> str:
    return f"{chance.randint(2000, most * 100) / 100:.2f}"


def _make_patient(chance: random.Random) -> tuple[str, ...]:
    city, code = chance.choice(_CITIES)
    return (
        _make_id(chance),
        (date(1935, 1, 1) + timedelta(days=chance.randrange(32000))).isoformat(),
        f"999-{chance.randint(10, 99)}-{chance.randint(1000, 9999)}",
        f"X{chance.randint(10_000_000, 99_999_999)}X",
        chance.choice(_FIRST),
        chance.choice(_LAST),
        f"{chance.randint(1, 999)} {chance.choice(_STREETS)}",
        city,
        code,
        _make_money(chance, 20_000),
    )


def _make_encounter(chance: random.Random, patient: str) -> tuple[str, ...]:
    start = datetime(2025, 1, 2, 8, tzinfo=UTC) + timedelta(minutes=chance.randrange(900_000))
    return (
        _make_id(chance),
        f"{start:%Y-%m-%dT%H:%M:%SZ}",
        f"{start + timedelta(minutes=15):%Y-%m-%dT%H:%M:%SZ}",
        patient,
        chance.choice(_CLASSES),
        chance.choice(_VISITS),
        _make_money(chance, 900),
    )


def _make_medication(chance: random.Random, encounter: tuple[str, ...]) -> tuple[str, ...]:
    return (
        encounter[1],
        encounter[3],
        encounter[0],
        chance.choice(_DRUGS),
        str(chance.randint(1, 6)),
        _make_money(chance, 120),
    )
