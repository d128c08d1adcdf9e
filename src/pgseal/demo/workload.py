"""A morning at the clinic: several applications and one administrator, each logged in as itself.

What is recorded depends on the statements only, not on how their transactions interleave.
"""

import json
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import psycopg
from psycopg import sql

from pgseal.demo.servers import Server
from pgseal.demo.tables import Skip, Table, load
from pgseal.postgres import Connection

DATABASE = "clinic"
#: The row that the demo tells about, and who did what nobody should.
STAR = "5c0ffee1-0000-4000-8000-00000000ada1"
ADMINISTRATOR = "dba_lee"
DOCTOR = "dr.okafor"
_APPLICATIONS = ("intake_app", "care_app", "billing_app")
_NEWCOMERS = (
    ("Ada", "Lindqvist", "568 Hills Branch Unit 86", "18240.75"),
    ("Tom", "Baker", "7 Mill Lane", "310.00"),
    ("Yuki", "Sato", "90 Lakeview Rd", "1204.50"),
)
_CONTENDED = 10
_ROUNDS = 10


def set_up(source: Server, tables: Mapping[str, Table], skip: Skip) -> int:
    """Make database, roles and tables; returns the number of rows."""
    source.rename_database(DATABASE)
    with closing(source.connect(DATABASE)) as connection:
        for role in _APPLICATIONS:
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN SUPERUSER").format(sql.Identifier(ADMINISTRATOR)))
        load(connection, tables, skip)
        patient = sql.Identifier(tables["patients"].types()["id"])
        connection.execute(
            sql.SQL(
                "CREATE TABLE public.invoices (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, patient {} NOT NULL "
                "REFERENCES public.patients, issued date NOT NULL, amount numeric(10, 2) NOT NULL, "
                "status text NOT NULL)"
            ).format(patient)
        )
        invoices = connection.execute(
            "INSERT INTO public.invoices (patient, issued, amount, status) "
            "SELECT p.id, date '2026-11-01' - (7 * n)::integer, (p.place * 7919 + n * 104729) % 40000 / 100.0 + 20, "
            "CASE (p.place + n) % 5 WHEN 0 THEN 'draft' WHEN 1 THEN 'paid' ELSE 'open' END "
            "FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM public.patients) AS p "
            "CROSS JOIN generate_series(1, 3) AS n ORDER BY p.place, n"
        ).rowcount
        connection.execute(
            sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}").format(
                sql.SQL(", ").join(map(sql.Identifier, _APPLICATIONS))
            )
        )
        connection.execute("ANALYZE")
    return invoices + sum(len(table.rows) for table in tables.values())


class Workload:
    """Sessions of the clinic's applications; closed together."""

    def __init__(self, source: Server, tables: Mapping[str, Table]) -> None:
        """Log the applications in."""
        self._source = source
        self._tables = tables
        self._sessions: dict[str, Connection] = {}
        try:
            for role in _APPLICATIONS:
                self._sessions[role] = source.connect(DATABASE, role, application=role)
            self._late = source.connect(DATABASE, "care_app", application="care_app")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Log out."""
        for session in (*self._sessions.values(), getattr(self, "_late", None)):
            if session is not None:
                session.close()

    def run(self) -> None:
        """Do the morning's work; one transaction stays open (``finish``)."""
        self._register()
        self._treat()
        self._send_bills()
        self._work_at_once()
        self._meddle()

    def finish(self) -> None:
        """Commit the transaction that was left open."""
        self._late.execute("COMMIT")

    def _register(self) -> None:
        session = self._sessions["intake_app"]
        for number, (first, last, address, expenses) in enumerate(_NEWCOMERS):
            patient = STAR if number == 0 else f"{STAR[:-1]}{number + 1}"
            with _acting(session, "reception.maria", f"reg-{number + 1}"):
                session.execute(
                    "INSERT INTO public.patients (id, first, last, birthdate, address, city, zip, healthcare_expenses) "
                    "VALUES (%s, %s, %s, '1984-06-02', %s, 'Visalia', '93291', %s)",
                    [patient, first, last, address, expenses],
                )
        with _acting(session, "reception.maria", "reg-4"):
            session.execute("DELETE FROM public.patients WHERE last = 'Sato'")
            raise psycopg.Rollback  # the wrong one: nothing happened, nothing is recorded

    def _treat(self) -> None:
        session = self._sessions["care_app"]
        with _acting(session, DOCTOR, "visit-17"):
            session.execute(
                "SELECT audit.record_event('CHART_OPENED', %s, 'data_access')", [json.dumps({"patient": STAR})]
            )
            session.execute("UPDATE public.patients SET address = '12 Court St', zip = '93277' WHERE id = %s", [STAR])
            with session.transaction():  # a savepoint
                session.execute("UPDATE public.patients SET last = 'Lindquist' WHERE id = %s", [STAR])
                raise psycopg.Rollback
            if self._has("medications", "patient", "description", "dispenses"):
                session.execute(
                    "INSERT INTO public.medications (patient, description, dispenses) "
                    "VALUES (%s, 'Ibuprofen 100 MG Oral Tablet', 2)",
                    [STAR],
                )
        # Somebody went to lunch with this open; it must hold up nobody else's records.
        late = self._late
        late.execute("BEGIN")
        late.execute("SELECT audit.set_context(%s)", [json.dumps({"actor": "nurse.bo", "request": "visit-18"})])
        late.execute("UPDATE public.patients SET city = 'Tulare' WHERE id = %s", [f"{STAR[:-1]}2"])

    def _send_bills(self) -> None:
        session = self._sessions["billing_app"]
        with _acting(session, "billing.batch", "run-2026-11"):
            session.execute("UPDATE public.invoices SET status = 'reminded' WHERE status = 'open'")
            session.execute("DELETE FROM public.invoices WHERE status = 'draft'")
            if self._has("encounters", "encounterclass", "total_claim_cost"):
                session.execute(
                    "UPDATE public.encounters SET total_claim_cost = total_claim_cost + 4 "
                    "WHERE encounterclass = 'ambulatory'"
                )

    def _work_at_once(self) -> None:
        """All applications change the same few invoices."""
        ids = [
            row[0]
            for row in self._sessions["billing_app"].execute(
                "SELECT id FROM public.invoices ORDER BY id LIMIT %s", [_CONTENDED]
            )
        ]

        def work(role: str) -> None:
            session = self._sessions[role]
            for number in range(_ROUNDS):
                for invoice in ids[number % 3 :: 3]:
                    with _acting(session, f"{role.removesuffix('_app')}.desk", f"{role}-{number}"):
                        session.execute("UPDATE public.invoices SET amount = amount + 1 WHERE id = %s", [invoice])

        with ThreadPoolExecutor() as threads:
            list(threads.map(work, _APPLICATIONS))

    def _meddle(self) -> None:
        with closing(self._source.connect(DATABASE, ADMINISTRATOR, application="psql")) as session:
            session.execute("UPDATE public.patients SET healthcare_expenses = 0 WHERE id = %s", [STAR])

    def _has(self, table: str, *columns: str) -> bool:
        return table in self._tables and set(columns) <= set(self._tables[table].columns)


@contextmanager
def _acting(session: Connection, actor: str, request: str) -> Generator[None]:
    """One transaction in the name of ``actor``."""
    with session.transaction():
        session.execute("SELECT audit.set_context(%s)", [json.dumps({"actor": actor, "request": request})])
        yield
