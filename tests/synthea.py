"""Synthea's patients (`shared/data/synthea`) as a clinic's database, and a clinic's work on it.

Eleven tables with foreign keys that cascade; some have a key of their own, one a composite one, some have none. Types
whose output text is easily lost are among them: numeric with a scale, floats, char(n), jsonb, arrays.
"""

import csv
import random
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

TABLES = {
    "organizations": """
        id uuid PRIMARY KEY, name text NOT NULL, address text, city text, state char(4), zip text,
        lat double precision, lon double precision, phone text, revenue numeric, utilization integer""",
    "payers": """
        id uuid PRIMARY KEY, name text NOT NULL, address text, city text, state_headquartered text, zip text,
        phone text, amount_covered numeric, amount_uncovered numeric, revenue numeric, covered_encounters integer,
        uncovered_encounters integer, covered_medications integer, uncovered_medications integer,
        covered_procedures integer, uncovered_procedures integer, covered_immunizations integer,
        uncovered_immunizations integer, unique_customers smallint, qols_avg real, member_months bigint""",
    "providers": """
        id uuid PRIMARY KEY, organization uuid NOT NULL REFERENCES organizations ON UPDATE CASCADE,
        name text NOT NULL, gender "char", speciality text, address text, city text, state text, zip text,
        lat double precision, lon double precision, utilization integer""",
    "patients": """
        id uuid PRIMARY KEY, birthdate date NOT NULL, deathdate date, ssn text, drivers text, passport text,
        prefix text, first text, last text, suffix text, maiden text, marital char(2), race text, ethnicity text,
        gender text, birthplace text, address text, city text, state text, county text, zip text, lat double precision,
        lon double precision, healthcare_expenses numeric, healthcare_coverage numeric,
        contact jsonb, aliases text[], is_vip boolean""",
    "encounters": """
        id uuid PRIMARY KEY, start timestamptz NOT NULL, stop timestamptz,
        patient uuid NOT NULL REFERENCES patients,
        organization uuid NOT NULL REFERENCES organizations ON UPDATE CASCADE,
        provider uuid NOT NULL REFERENCES providers, payer uuid NOT NULL REFERENCES payers, encounterclass varchar(20),
        code text, description text, base_encounter_cost numeric(12, 2), total_claim_cost numeric,
        payer_coverage numeric, reasoncode text, reasondescription text""",
    "conditions": """
        start date, stop date, patient uuid REFERENCES patients, encounter uuid REFERENCES encounters ON DELETE CASCADE,
        code text, description text""",
    "allergies": """
        start date, stop date, patient uuid REFERENCES patients, encounter uuid REFERENCES encounters ON DELETE CASCADE,
        code text, system text, description text, type text, category text, reaction1 text, description1 text,
        severity1 text, reaction2 text, description2 text, severity2 text""",
    "immunizations": """
        date timestamptz, patient uuid REFERENCES patients, encounter uuid REFERENCES encounters ON DELETE CASCADE,
        code text, description text, base_cost numeric, PRIMARY KEY (patient, date, code)""",
    "medications": """
        start timestamptz, stop timestamptz, patient uuid REFERENCES patients, payer uuid REFERENCES payers,
        encounter uuid REFERENCES encounters ON DELETE CASCADE, code text, description text, base_cost numeric,
        payer_coverage numeric, dispenses integer, totalcost numeric, reasoncode text, reasondescription text,
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, taken interval""",
    "observations": """
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, date timestamptz NOT NULL,
        patient uuid REFERENCES patients, encounter uuid REFERENCES encounters ON DELETE CASCADE, category text,
        code text, description text, value text, units text, type text""",
    "procedures": """
        start timestamptz, stop timestamptz, patient uuid REFERENCES patients,
        encounter uuid REFERENCES encounters ON DELETE CASCADE, code text, description text, base_cost numeric,
        reasoncode text, reasondescription text""",
}
#: Looked up by patient or encounter all the time.
INDEXES = ("conditions", "allergies", "medications", "observations", "procedures", "immunizations")


def load(dsn: str, directory: Path) -> int:
    """Make the tables and fill them from the CSV files; the number of rows."""
    rows = 0
    with psycopg.connect(dsn) as connection:
        for table, columns in TABLES.items():
            connection.execute(f"CREATE TABLE {table} ({columns})")
            with (directory / f"{table}.csv").open("rb") as file:
                names = next(csv.reader([file.readline().decode()]))
                statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(
                    sql.Identifier(table), sql.SQL(", ").join(sql.Identifier(name.lower()) for name in names)
                )
                cursor = connection.cursor()
                with cursor.copy(statement) as copy:
                    while data := file.read(1 << 16):
                        copy.write(data)
                rows += cursor.rowcount
        for table in INDEXES:
            connection.execute(f"CREATE INDEX ON {table} (encounter)")
        connection.execute("CREATE INDEX ON encounters (organization)")
    return rows


@dataclass
class Progress:
    """What several clinicians have done together."""

    transactions: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    lock: Lock = field(default_factory=Lock)

    def count(self, end: str) -> None:
        with self.lock:
            self.transactions += 1
            self.ends[end] += 1


#: What a transaction among others may end with.
CONTENTION = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.SerializationFailure,
    psycopg.errors.UniqueViolation,
    psycopg.errors.ForeignKeyViolation,
)


class Clinician:
    """One connection that works at random: short and long transactions, savepoints, changes of heart, lost lines."""

    def __init__(self, dsn: str, number: int) -> None:
        self.dsn = dsn
        self.number = number
        self.chance = random.Random(number)
        self.connect()
        with self.connection.transaction():
            self.patients = self._column("SELECT id FROM patients ORDER BY id")
            self.encounters = self._column("SELECT id FROM encounters ORDER BY id")
            self.organizations = self._column("SELECT id FROM organizations ORDER BY id")
            self.observations = self._column("SELECT max(id) FROM observations")[0]

    def connect(self) -> None:
        self.connection = psycopg.connect(self.dsn, autocommit=True, application_name=f"ward {self.number}")
        self.connection.execute("SET lock_timeout = '500ms'")
        self.connection.execute("SET deadlock_timeout = '100ms'")
        self.connection.prepare_threshold = None

    def _column(self, statement: str) -> list:
        return [row[0] for row in self.connection.execute(statement)]

    def work(self, transactions: int, progress: Progress) -> None:
        """Do that many transactions."""
        with closing(self):
            for _ in range(transactions):
                try:
                    end = self._transact()
                except CONTENTION as error:
                    end = type(error).__name__
                progress.count(end)

    def close(self) -> None:
        self.connection.close()

    def _transact(self) -> str:
        end = self.chance.choices(["commit", "rollback", "lost"], [16, 3, 1])[0]
        isolation = self.chance.choice([None, None, None, psycopg.IsolationLevel.REPEATABLE_READ])
        self.connection.isolation_level = isolation
        if end == "lost":
            try:
                self.connection.execute("BEGIN")
                self._do_things()
            finally:
                self.connection.close()
                self.connect()
            return end
        with self.connection.transaction(force_rollback=end == "rollback"):
            self._do_things()
        return end

    def _do_things(self) -> None:
        context = {"actor": f"dr.{self.number}", "request": f"r-{self.chance.randrange(10**6)}"}
        self.connection.execute("SELECT audit.set_context(%s)", (Jsonb(context),))
        for _ in range(self.chance.randint(1, 6)):
            if self.chance.random() < 0.2:
                with suppress(*CONTENTION), self.connection.transaction(force_rollback=self.chance.random() < 0.5):
                    self._do_one_thing()
            else:
                self._do_one_thing()

    def _do_one_thing(self) -> None:
        things, weights = zip(*THINGS.items(), strict=True)
        statement = self.chance.choices(things, weights)[0]
        values = {
            "hot": self.patients[self.chance.randrange(4)],
            "patient": self.chance.choice(self.patients),
            "encounter": self.chance.choice(self.encounters),
            "organization": self.chance.choice(self.organizations),
            "observation": self.chance.randint(1, self.observations),
            "number": self.chance.randint(1, 10**6),
            "fraction": self.chance.uniform(-1, 1),
            "text": self.chance.choice(["", "naïve", "tab\there", 'quote" and \\', "zwölf Boxkämpfer", "x" * 300]),
        }
        self.connection.execute(statement, values)


#: What is done, and how often.
THINGS = {
    # Everybody wants the same four rows.
    "UPDATE patients SET healthcare_expenses = healthcare_expenses + 1.10, lat = lat + %(fraction)s "
    "WHERE id = %(hot)s": 6,
    "UPDATE patients SET contact = jsonb_build_object('note', %(text)s::text, 'n', %(number)s::int, 'f', 1.50), "
    "aliases = array_append(aliases, %(text)s), marital = 'M' WHERE id = %(patient)s": 4,
    "UPDATE patients SET is_vip = NOT coalesce(is_vip, false), contact = NULL WHERE id = %(patient)s": 2,
    "UPDATE observations SET value = %(text)s || value WHERE id BETWEEN %(observation)s AND %(observation)s + 6": 6,
    "UPDATE observations SET units = units WHERE id BETWEEN %(observation)s AND %(observation)s + 3": 1,
    "DELETE FROM observations WHERE id BETWEEN %(observation)s AND %(observation)s + 4": 3,
    "INSERT INTO observations (date, patient, code, value) SELECT '2024-02-29 23:59:59.9999+00', %(patient)s, 'c', "
    "%(text)s FROM generate_series(1, 3)": 4,
    "UPDATE encounters SET total_claim_cost = total_claim_cost * 1.0, stop = stop + interval '90 seconds' "
    "WHERE id = %(encounter)s": 4,
    "DELETE FROM encounters WHERE id = %(encounter)s": 1,  # with all that refers to it
    "UPDATE organizations SET id = gen_random_uuid() WHERE id = %(organization)s": 1,  # likewise
    "UPDATE organizations SET lon = lon / 3, revenue = revenue + 0.00, state = %(text)s::char(2) "
    "WHERE id = %(organization)s": 2,
    "UPDATE providers SET gender = 'F', utilization = utilization + 1 WHERE organization = %(organization)s": 2,
    "UPDATE conditions SET stop = coalesce(stop, '2024-01-01') WHERE encounter = %(encounter)s": 3,  # no key
    "INSERT INTO conditions SELECT * FROM conditions WHERE patient = %(patient)s LIMIT 2": 2,  # the same row twice
    "DELETE FROM conditions WHERE ctid IN (SELECT ctid FROM conditions WHERE patient = %(patient)s LIMIT 1)": 1,
    "UPDATE procedures SET base_cost = base_cost * 1.25 WHERE encounter = %(encounter)s": 3,  # no key
    "UPDATE immunizations SET date = date + interval '1 day' WHERE encounter = %(encounter)s": 3,  # part of the key
    "INSERT INTO immunizations SELECT date, patient, encounter, code, %(text)s, 7.0 FROM immunizations "
    "WHERE patient = %(patient)s LIMIT 2 ON CONFLICT (patient, date, code) DO UPDATE SET base_cost = 8.00": 3,
    "UPDATE medications SET taken = make_interval(mins => %(number)s::int), dispenses = dispenses + 1 "
    "WHERE encounter = %(encounter)s": 3,
    "UPDATE payers SET qols_avg = qols_avg + %(fraction)s WHERE covered_encounters > 0 AND id = "
    "(SELECT payer FROM encounters WHERE id = %(encounter)s)": 1,
}
