"""What was changed outside pgseal, of a schema and of pgseal's roles: in words, and in statements that mend it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from psycopg import sql

from pgseal.postgres import Connection, quote_name
from pgseal.postgres.expected import Difference


@dataclass(frozen=True, slots=True)
class Change:
    """One difference, in words. ``is_foreign``: it was made outside pgseal.

    ``by_hand`` says what mends it where ``apply`` does not, as far as that is known.
    """

    sign: Literal["+", "-", "~"]
    subject: str
    text: str
    is_foreign: bool = False
    by_hand: str = ""


def describe_difference(difference: Difference) -> Iterator[Change]:
    """Say what was changed, a line each."""
    subject = difference.subject
    if not difference.is_ours:
        kind, _, name = subject.partition(" ")
        by_hand = (
            f"if nobody needs it: DROP {kind.upper()} {name};"
            if kind in {"function", "table", "view", "sequence", "type"}
            else ""
        )
        yield Change("~", subject, "is not pgseal's", is_foreign=True, by_hand=by_hand)
        return
    lacks, has = (
        [fact for fact in facts if not fact.startswith("definition ")]
        for facts in (difference.missing, difference.extra)
    )
    if len(lacks) < len(difference.missing):
        is_rewritten = len(has) < len(difference.extra)
        yield Change("~", subject, "was rewritten" if is_rewritten else "is missing", is_foreign=True)
        if not is_rewritten:
            return
    yield from (Change("~", subject, f"lacks {fact}", is_foreign=True) for fact in lacks)
    for fact in has:
        yield Change("~", subject, f"has {fact}", is_foreign=True, by_hand=_revoke_by_hand(subject, fact))


def _revoke_by_hand(subject: str, fact: str) -> str:
    found = _PRIVILEGE.fullmatch(fact)
    if found is None or subject not in {"schema audit", "schema vault", "a partition of audit.record"}:
        return ""
    place = (
        f"SCHEMA {subject.removeprefix('schema ')}" if subject.startswith("schema") else "ALL TABLES IN SCHEMA audit"
    )
    return f"REVOKE {found[2]} ON {place} FROM {'PUBLIC' if found[1] == 'PUBLIC' else quote_name(found[1])};"


def repair_difference(difference: Difference) -> Iterator[sql.Composed]:
    """Write what mends a function, a privilege, or what would swallow records; the rest is for a person to decide."""
    kind, _, name = difference.subject.partition(" ")
    for fact in difference.missing:
        if fact.startswith("definition "):
            yield trusted(fact.removeprefix("definition "))
    if not difference.is_ours or kind not in {"function", "table", "view", "sequence"}:
        return
    words = {"function": "FUNCTION", "sequence": "SEQUENCE"}.get(kind, "TABLE")
    for fact in difference.extra:
        if found := _ATTACHED.match(fact):
            yield trusted(f"DROP {found[1].upper()} {found[2]} ON {name}")
        elif found := _PRIVILEGE.fullmatch(fact):
            yield trusted(f"REVOKE {found[2]} ON {words} {name} FROM ") + _role(found[1])
    for fact in difference.missing:
        if found := _PRIVILEGE.fullmatch(fact):
            yield trusted(f"GRANT {found[2]} ON {words} {name} TO ") + _role(found[1])


_PRIVILEGE = re.compile(r"privilege (?!pgseal_owner )(\S+) ([A-Z]+)")
_ATTACHED = re.compile(r'(rule|trigger) CREATE (?:RULE|TRIGGER) ("(?:[^"]|"")+"|\S+) ')


def trusted(text: str) -> sql.Composed:
    """Text that the catalog printed, quoted as it must be."""
    return sql.Composed([sql.SQL(text)])  # pyright: ignore[reportArgumentType]


def _role(name: str) -> sql.Composable:
    return sql.SQL("PUBLIC") if name == "PUBLIC" else sql.Identifier(name)


def read_role_changes(connection: Connection) -> list[Change]:
    """Return what pgseal's own roles may that they were not given, whoever installed."""
    rows = connection.execute(
        """
        SELECT r.rolname, a.word, format('ALTER ROLE %I %s;', r.rolname, a.mending)
        FROM pg_roles r CROSS JOIN LATERAL (VALUES
            (r.rolsuper, 'is a superuser', 'NOSUPERUSER'),
            (r.rolbypassrls AND r.rolname <> 'pgseal_sealer', 'bypasses row security', 'NOBYPASSRLS'),
            (r.rolcreaterole, 'may create roles', 'NOCREATEROLE'),
            (r.rolcreatedb, 'may create databases', 'NOCREATEDB'),
            (r.rolreplication, 'may replicate', 'NOREPLICATION'),
            (r.rolcanlogin AND r.rolname <> 'pgseal_sealer', 'may log in', 'NOLOGIN')
        ) AS a(has, word, mending)
        WHERE r.rolname IN ('pgseal_owner', 'pgseal_sealer', 'pgseal_reader') AND a.has
        ORDER BY 1, 2
        """
    ).fetchall()
    return [_change_role(*row) for row in rows]


def read_owner_members(connection: Connection) -> list[Change]:
    """Return who else may act as the schema's owner."""
    rows = connection.execute(
        """
        SELECT 'pgseal_owner', 'may be taken by ' || quote_ident(m.rolname),
            format('REVOKE pgseal_owner FROM %I;', m.rolname)
        FROM pg_auth_members a JOIN pg_roles r ON r.oid = a.roleid JOIN pg_roles m ON m.oid = a.member
        WHERE r.rolname = 'pgseal_owner' AND NOT m.rolsuper AND m.rolname <> session_user
        ORDER BY 2
        """
    ).fetchall()
    return [_change_role(*row) for row in rows]


def _change_role(name: str, text: str, by_hand: str) -> Change:
    return Change("~", f"role {name}", text, is_foreign=True, by_hand=by_hand)
