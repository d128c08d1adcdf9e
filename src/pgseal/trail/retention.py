"""Partitions that go: which are past their retention, and how they leave the trail without holding up a writer.

The steps, each durable by itself; a run that is killed between two is taken up by the next one:

    close     the partition takes no more rows: nobody can add one that is not sealed (a clock set back far would)
    detach    DETACH CONCURRENTLY: waits for those who use the trail now, and lets them work on
    drop      what was detached

Only the oldest partitions go, and what they leave open at the beginning of time is filled again, so that a record with
an impossible time still finds a partition.
"""

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import psycopg
from psycopg import sql

from pgseal.core.fields import parse_relation
from pgseal.errors import UnavailableError
from pgseal.postgres import OWNER, Connection, connect, translated_errors
from pgseal.trail.partitions import Partition, read_partitions

_CLOSED = "record_closed_ck"
_LOCK_SECONDS = 3
_ATTEMPTS = 10
_POLL_SECONDS = 0.1


class PartitionOwner:
    """The trail's partitions over a connection of its owner's. Not safe for concurrent use."""

    def __init__(self, dsn: str, *, side: str) -> None:
        """Connect as pgseal_owner; raises ``ConfigError`` or ``UnavailableError``."""
        self.side = side
        self.connection: Connection = connect(dsn, side=side, role=OWNER)
        with self._errors():
            self.connection.execute("SET synchronous_commit = on")
            self.connection.execute("SET row_security = off")

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    @contextmanager
    def _errors(self) -> Generator[None, None, None]:
        with translated_errors(self.side, role=OWNER):
            yield

    def read_partitions(self) -> list[Partition]:
        """Return the partitions, oldest first."""
        with self._errors():
            return read_partitions(self.connection)

    def read_expired(self, retention: str, own_time: float) -> list[Partition]:
        """Return the oldest partitions, as far as they are past ``retention`` by both clocks.

        ``own_time`` is this process's, in seconds since 1970: a source that has its clock set ahead loses nothing. An
        empty partition in front of those that stay is none of them: there would have to be one in its place.
        """
        with self._errors():
            row = self.connection.execute(
                "SELECT extract(epoch FROM least(now(), to_timestamp(%s)) - %s::interval)::float8",
                [own_time, retention],
            ).fetchone()
        limit = float(row[0]) if row else float("-inf")
        expired: list[Partition] = []
        for partition in self.read_partitions():
            if partition.end > limit:
                break
            expired.append(partition)
        if len(expired) == 1 and not expired[0].is_detaching and self.is_empty(expired[0].relation):
            return []
        return expired

    def read_closed(self, *, attached: bool) -> list[str]:
        """Return the partitions that were closed; or, not attached, what was detached after that and not dropped."""
        with self._errors():
            rows = self.connection.execute(
                "SELECT audit.format_relation(c.oid) FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid "
                "WHERE k.connamespace = 'audit'::regnamespace AND k.conname = %s AND c.relkind = 'r' "
                "AND c.relispartition = %s AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid "
                "AND i.inhdetachpending) ORDER BY 1",
                [_CLOSED, attached],
            ).fetchall()
        return [row[0] for row in rows]

    def is_empty(self, relation: str) -> bool:
        """Return whether a partition has no row."""
        query = sql.SQL("SELECT NOT EXISTS (SELECT FROM ONLY {})").format(_name(relation))
        with self._errors():
            return self.connection.execute(query).fetchone() == (True,)

    def count_rows(self, relation: str) -> int:
        """Return the number of rows of a partition, or of what was one."""
        with self._errors():
            row = self.connection.execute(sql.SQL("SELECT count(*) FROM ONLY {}").format(_name(relation))).fetchone()
        return int(row[0]) if row else 0

    def read_id_range(self, relation: str) -> tuple[int, int] | None:
        """Return the first and the last id of a partition; None if it has no row, or one without an id."""
        query = sql.SQL("SELECT min(id), max(id), count(*) = count(id) FROM ONLY {}").format(_name(relation))
        with self._errors():
            row = self.connection.execute(query).fetchone()
        return (row[0], row[1]) if row and row[0] is not None and row[2] else None

    def wait_for_users(self, seconds: float) -> None:
        """Wait until everybody who uses the trail now has ended their transaction.

        Raises ``UnavailableError`` if somebody has not after ``seconds``: a DETACH would have to wait for them, too,
        and meanwhile its partition were in between.
        """
        until = time.monotonic() + seconds
        users = self._read_users()
        while users:
            if time.monotonic() > until:
                process = min(users.values())
                raise UnavailableError(
                    f"{self.side}: a transaction has used the trail for more than {seconds:.0f} s (process {process}); "
                    "nothing is dropped while it is open, run pgseal retain again later"
                )
            time.sleep(_POLL_SECONDS)
            users = self._read_users(still=users)

    def _read_users(self, still: Mapping[str, int] | None = None) -> dict[str, int]:
        """Return the process of each transaction that uses the trail; with ``still``, only of these."""
        with self._errors():
            rows = self.connection.execute(
                "SELECT virtualtransaction, pid FROM pg_locks WHERE locktype = 'relation' AND granted "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
                "AND relation = 'audit.record'::regclass AND pid IS DISTINCT FROM pg_backend_pid()"
            ).fetchall()
        return {key: pid or 0 for key, pid in rows if still is None or key in still}

    def close_partition(self, relation: str) -> None:
        """Let a partition take no more rows. Waits for who writes to it now, not for other writers of the trail."""
        name = sql.Identifier(_CLOSED)
        self._retry(
            sql.SQL("ALTER TABLE {0} DROP CONSTRAINT IF EXISTS {1}, ADD CONSTRAINT {1} CHECK (false) NOT VALID").format(
                _name(relation), name
            )
        )

    def open_partition(self, relation: str) -> None:
        """Let it take rows again."""
        self._retry(_format_open(relation))

    def detach(self, partition: Partition, seconds: float) -> None:
        """Detach a partition, or finish a DETACH that was broken off.

        Raises ``UnavailableError`` if it does not come to an end within ``seconds``; the next call goes on.
        """
        how = sql.SQL("FINALIZE" if partition.is_detaching else "CONCURRENTLY")
        statement = sql.SQL("ALTER TABLE audit.record DETACH PARTITION {} {}").format(_name(partition.relation), how)
        with self._errors():
            self.connection.execute(sql.SQL("SET statement_timeout = {}").format(sql.Literal(f"{seconds:.0f}s")))
            try:
                self.connection.execute(statement)
            except psycopg.errors.QueryCanceled as error:
                raise UnavailableError(
                    f"{self.side}: {partition.relation} could not be detached within {seconds:.0f} s, because a "
                    "transaction that uses the trail is open; run pgseal retain again to finish it"
                ) from error
            finally:
                if not self.connection.closed:
                    self.connection.execute("SET statement_timeout = 0")

    @contextmanager
    def dropping(self, relation: str) -> Generator[None, None, None]:
        """Lock what was detached, let the caller look at it, and drop it unless that raises; one transaction."""
        with self._errors(), self.connection.transaction():
            self.connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(f"{_LOCK_SECONDS}s")))
            # LOCK TABLE asks for rights that the owner has given up.
            self.connection.execute(_format_open(relation))
            yield
            self.connection.execute(sql.SQL("DROP TABLE {}").format(_name(relation)))

    def fill(self) -> None:
        """Make the partitions that are wanting, also where some were dropped."""
        with self._errors():
            self.connection.execute("SELECT audit.ensure_partitions()")

    def _retry(self, statement: sql.Composed) -> None:
        # Briefly and again, so that nobody queues up behind us.
        for attempt in range(_ATTEMPTS):
            try:
                with self._errors(), self.connection.transaction():
                    self.connection.execute("SET LOCAL lock_timeout = '500ms'")
                    self.connection.execute(statement)
            except UnavailableError as error:
                if not isinstance(error.__cause__, psycopg.errors.LockNotAvailable) or attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(_POLL_SECONDS * (attempt + 1))
            else:
                return


def _name(relation: str) -> sql.Identifier:
    return sql.Identifier(*parse_relation(relation))


def _format_open(relation: str) -> sql.Composed:
    return sql.SQL("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}").format(_name(relation), sql.Identifier(_CLOSED))
