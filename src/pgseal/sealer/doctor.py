"""What is misconfigured around the audit trail, why it matters, and the command that mends it. Reads only.

``status`` says how things stand and ``plan`` how policy and database differ; this is about everything else: settings of
the servers, roles that can get around the trail, what this installation could not be given (here), what the two sides
and this machine share (``separation``), and what was changed of what pgseal installed (``installed``).
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import LiteralString

from pgseal.errors import PgsealError
from pgseal.postgres import Connection, connect, translated_errors
from pgseal.sealer.advice import Advice, Severity
from pgseal.sealer.installed import examine_source, examine_vault
from pgseal.sealer.rotate import OLD_SECONDS, OVERLAP_SECONDS, describe_overlap, read_key_state
from pgseal.sealer.separation import compare_sides, examine_files, examine_machine
from pgseal.sealer.trails import SEALER_ROLE
from pgseal.settings import Settings, Source, describe_os_error
from pgseal.vault.store import VaultStore

_LITTLE_SPACE = 0.05
_CLOCK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Check:
    """A query that gives a row for each thing that is wrong; its columns fill ``{0}``, ``{1}`` in the texts."""

    severity: Severity
    query: LiteralString
    what: str
    why: str
    command: str


def examine(settings: Settings) -> list[Advice]:
    """Return everything worth saying, the worst first.

    A side that cannot be reached is an advice of its own; the others are looked at all the same.
    """
    found = [
        *_examine_ledger(settings),
        *_examine_files(settings),
        *_examine_key(settings),
        *_examine_vault(settings),
    ]
    for source in settings.sources:
        try:
            found += _examine_source(source, settings)
        except PgsealError as error:
            found.append(
                Advice(
                    "error", f"source {source.name}", "cannot be examined", str(error), "mend that, then pgseal doctor"
                )
            )
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(found, key=lambda advice: order[advice.severity])


def _examine_ledger(settings: Settings) -> Iterator[Advice]:
    for name, path in (("ledger", settings.ledger), ("state", settings.state)):
        if not path.exists():
            yield Advice("error", name, f"{path} is not there", "nothing can be sealed without it", "pgseal init")
            continue
        usage = shutil.disk_usage(path)
        if usage.free < _LITTLE_SPACE * usage.total:
            yield Advice(
                "warning",
                name,
                f"only {usage.free / usage.total:.0%} of its disk is free",
                "sealing stops on a full disk, and records wait in the source",
                f"make room on the disk of {path}",
            )
    if settings.witnesses:
        return
    yield Advice(
        "note",
        "witness",
        "none is configured",
        "whoever holds key, ledger and vault could rewrite history without anybody outside noticing",
        "have somebody else run pgseal witness, or keep the file checkpoint where those people cannot reach",
    )


def _examine_files(settings: Settings) -> list[Advice]:
    try:
        return list(examine_files(settings))
    except OSError as error:
        return [_blind("ledger", error)]


def _blind(subject: str, error: OSError) -> Advice:
    what = f"who may read and write {error.filename} could not be told"
    return Advice("note", subject, what, describe_os_error(error), "run pgseal doctor as the user that seals")


def _examine_machine(connection: Connection, subject: str, settings: Settings) -> list[Advice]:
    try:
        return list(examine_machine(connection, subject, settings))
    except OSError as error:
        return [_blind(subject, error)]


def _examine_key(settings: Settings) -> Iterator[Advice]:
    try:
        with closing(connect(settings.vault.dsn.reveal(), side="vault", role=SEALER_ROLE)) as connection:
            state = read_key_state(settings, VaultStore(connection))
    except PgsealError as error:
        yield Advice("error", "key", "cannot be examined", str(error), "mend that, then pgseal doctor")
        return
    if state.old is not None and not state.is_sealed:
        yield Advice(
            "warning", "key", "a new key waits to be taken up", "until a sealer records it, the old one signs alone",
            "pgseal key rotate",
        )  # fmt: skip
    elif state.old is not None:
        is_long = state.age is not None and state.age > OVERLAP_SECONDS
        yield Advice(
            "warning" if is_long else "note",
            "key",
            describe_overlap(state) if is_long else "is being rotated: two keys sign",
            "the old one can still sign; what it was replaced for lasts until it is gone",
            "give the new key to witnesses and auditors, then pgseal key rotate --finish",
        )
    elif state.age is not None and state.age > OLD_SECONDS:
        yield Advice(
            "note", "key", f"has signed for {state.age / (365.25 * 86400):.1f} years",
            "the longer a key lives, the more copies of it there are", "pgseal key rotate",
        )  # fmt: skip


def _examine_vault(settings: Settings) -> list[Advice]:
    try:
        with closing(connect(settings.vault.dsn.reveal(), side="vault")) as connection, translated_errors("vault"):
            return [
                *_run(connection, "vault", (*_SERVER_CHECKS, *_ROLE_CHECKS, *_VAULT_CHECKS)),
                *examine_vault(connection),
                *_examine_machine(connection, "vault", settings),
            ]
    except PgsealError as error:
        return [Advice("error", "vault", "cannot be examined", str(error), "mend that, then pgseal doctor")]


def _examine_source(source: Source, settings: Settings) -> list[Advice]:
    side = f"source {source.name!r}"
    subject = f"source {source.name}"
    with closing(connect(source.admin_dsn.reveal(), side=side)) as connection, translated_errors(side):
        found = list(_run(connection, subject, (*_SERVER_CHECKS, *_ROLE_CHECKS, *_SOURCE_CHECKS)))
        found += examine_source(connection, subject, side)
        found += _examine_machine(connection, subject, settings)
        with (
            suppress(PgsealError),  # said once already, by _examine_vault
            closing(connect(settings.vault.dsn.reveal(), side="vault")) as vault,
            translated_errors("vault"),
        ):
            found += compare_sides(connection, vault, subject)
            found += _compare_clocks(connection, vault, subject)
    return found


def _run(connection: Connection, subject: str, checks: Sequence[_Check]) -> Iterator[Advice]:
    for check in checks:
        for row in connection.execute(check.query).fetchall():
            texts = (text.format(*row) for text in (check.what, check.why, check.command))
            yield Advice(check.severity, subject, *texts)


def _compare_clocks(source: Connection, vault: Connection, subject: str) -> Iterator[Advice]:
    clocks = [
        connection.execute("SELECT extract(epoch FROM clock_timestamp())").fetchone() for connection in (source, vault)
    ]
    seconds = abs(float(clocks[0][0]) - float(clocks[1][0])) if clocks[0] and clocks[1] else 0.0
    if seconds > _CLOCK_SECONDS:
        yield Advice(
            "warning",
            subject,
            f"its clock is {seconds:.0f} s off the vault's",
            "times of records are the source's; searches by time miss or mix what happened",
            "set up time synchronisation (chrony, ntpd) on both servers",
        )


# Of source and vault. The sealer waits for the vault's disk whatever synchronous_commit says there (vault/store.py).
_SERVER_CHECKS = (
    _Check(
        "error",
        "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'",
        "{0} is off",
        "a crash of the machine can lose or spoil committed records, and with them the proof",
        "ALTER SYSTEM SET {0} = on; SELECT pg_reload_conf();",
    ),
)
# Of both, too: who can act as one of our roles, or needs none.
_ROLE_CHECKS = (
    _Check(
        "warning",
        """
        SELECT quote_ident(m.rolname), quote_ident(r.rolname)
        FROM pg_auth_members a JOIN pg_roles r ON r.oid = a.roleid JOIN pg_roles m ON m.oid = a.member
        WHERE r.rolname IN ('pgseal_owner', 'pgseal_sealer') AND m.rolcanlogin AND NOT m.rolsuper
            AND m.rolname NOT IN (session_user, 'pgseal_owner')
        """,
        "{0} may act as {1}",
        "who can take that role administers the trail, or seals",
        "if that is not meant: REVOKE {1} FROM {0};",
    ),
    _Check(
        "note",
        "SELECT string_agg(quote_ident(rolname), ', ' ORDER BY rolname) FROM pg_roles WHERE rolcanlogin "
        "AND (rolsuper OR rolbypassrls OR rolreplication) AND rolname <> 'pgseal_sealer' HAVING count(*) > 0",
        "roles that can get around privileges: {0}",
        "what they do to records is found by pgseal verify; that they read, is not recorded",
        "have as few of them as you can, and none that an application uses",
    ),
)
_VAULT_CHECKS = (
    _Check(
        "warning",
        "SELECT DISTINCT quote_ident(pubname) FROM pg_publication_tables WHERE schemaname IN ('audit', 'vault') "
        "ORDER BY 1",
        "publication {0} has sealed records in it",
        "whoever subscribes gets every record, personal data included",
        "publish what is not pgseal's: ALTER PUBLICATION {0} DROP TABLE …",
    ),
)
_SOURCE_CHECKS = (
    _Check(
        "error",
        """
        SELECT coalesce('role ' || quote_ident(r.rolname), 'database ' || quote_ident(d.datname), 'all roles'),
            coalesce('ROLE ' || quote_ident(r.rolname), 'DATABASE ' || quote_ident(d.datname), 'ROLE ALL'), c.setting
        FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) AS c(setting)
        LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
        WHERE c.setting LIKE 'session_replication_role=%' AND c.setting NOT LIKE '%=origin'
        """,
        "{0} works with {2}",
        "foreign keys and the application's own triggers do not fire for it; ours do",
        "ALTER {1} RESET session_replication_role;",
    ),
    _Check(
        "error",
        """
        SELECT quote_ident(t.tgname), t.tgrelid::regclass, p.oid::regprocedure
        FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
        WHERE NOT t.tgisinternal AND t.tgenabled IN ('A', 'R') AND t.tgparentid = 0
            AND p.pronamespace <> 'audit'::regnamespace
            AND concat(p.prosrc, p.proconfig) ~* 'session_replication_role'
            AND EXISTS (SELECT FROM audit.tracked WHERE mode = 'statement')
            AND EXISTS (SELECT s.oid FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
                        WHERE d.datname = current_database())
        """,
        "trigger {0} of {1} changes session_replication_role in apply workers",
        "what such a worker changes from then on in tables that are captured a statement at a time is not recorded",
        "take it out of {2}, or ALTER TABLE {1} DISABLE TRIGGER {0};",
    ),
    _Check(
        "warning",
        """
        SELECT string_agg(s.name || ' = ' || s.setting, ', ' ORDER BY s.name),
            string_agg(format('ALTER SYSTEM SET %s = %s;', s.name, CASE
                WHEN s.name = 'log_min_error_statement' THEN 'panic'
                WHEN s.name IN ('log_statement', 'pgaudit.log') THEN '''ddl'''
                ELSE '-1' END), ' ' ORDER BY s.name)
        FROM pg_settings s
        WHERE EXISTS (SELECT FROM audit.tracked t WHERE t.mask <> '{}' OR t.exclude <> '{}') AND (
            (s.name = 'log_statement' AND s.setting IN ('mod', 'all'))
            OR (s.name IN ('log_min_duration_statement', 'log_min_duration_sample') AND s.setting::int >= 0)
            OR (s.name = 'log_min_error_statement' AND s.setting NOT IN ('fatal', 'panic'))
            OR (s.name = 'pgaudit.log' AND s.setting ~* '(write|all)'))
        HAVING count(*) > 0
        """,
        "the server's own log may hold values that are masked or left out here ({0})",
        "statements are logged with their values, where no policy of pgseal's reaches",
        "guard the log like the data, or: {1} SELECT pg_reload_conf();",
    ),
    _Check(
        "warning",
        "SELECT 1 WHERE NOT pg_has_role('pgseal_owner', 'pg_read_all_stats', 'USAGE')",
        "pgseal_owner may not see when a backend began",
        "pid alone does not name a session: pids come again",
        "as a superuser: GRANT pg_read_all_stats TO pgseal_owner;",
    ),
    _Check(
        "note",
        """
        SELECT string_agg(DISTINCT quote_ident(r.rolname), ', '), count(DISTINCT r.oid)
        FROM audit.tracked t JOIN pg_class c ON c.oid = t.table_oid JOIN pg_roles r ON r.oid = c.relowner
        WHERE r.rolcanlogin AND NOT r.rolsuper HAVING count(*) > 0
        """,
        "owners of tracked tables that can log in: {0}",
        "an owner can disable capture; pgseal status and pgseal plan --check find it, but only afterwards",
        "let a role own the tables that nobody logs in as, and run pgseal plan --check from cron",
    ),
    _Check(
        "warning",
        "SELECT DISTINCT quote_ident(pubname) FROM pg_publication_tables WHERE schemaname = 'audit' ORDER BY 1",
        "publication {0} has the trail in it",
        "whoever subscribes gets every record, personal data included",
        "publish the application's schemas instead: CREATE PUBLICATION … FOR TABLES IN SCHEMA …",
    ),
    _Check(
        "note",
        "SELECT name FROM pg_settings WHERE name IN ('log_connections', 'log_disconnections') "
        "AND setting IN ('off', '')",
        "{0} is off",
        "logins are not in the server's log, and pgseal does not record them",
        "ALTER SYSTEM SET {0} = on; SELECT pg_reload_conf();",
    ),
    _Check(
        "note",
        "SELECT 1 WHERE EXISTS (SELECT FROM audit.tracked)",
        "DDL is not recorded when it happens",
        "pgseal makes no event triggers; that a tracked table was altered, renamed, or dropped and made anew is "
        "noticed by pgseal status and pgseal plan",
        "run pgseal plan --check after deployments and from cron",
    ),
)
