"""What differs between the policy and the database, and the steps that would mend it. Reads only."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from psycopg import sql

from pgseal.core.record import parse_relation
from pgseal.errors import CaptureError, ConfigError
from pgseal.postgres import Connection, quote_name
from pgseal.trail.capture import TableRule
from pgseal.trail.catalog import Table, list_candidates, read_table
from pgseal.trail.health import (
    HAS_CHILDREN,
    Drift,
    TriggerFault,
    read_drift,
    read_trigger_faults,
    read_untracked_children,
)
from pgseal.trail.integrity import Difference, read_differences
from pgseal.trail.marks import read_touched_objects
from pgseal.trail.policy import Entry, Wish, expand
from pgseal.trail.registry import Made, Registered, find_registered, list_made
from pgseal.trail.repartition import find_gone, read_repartition
from pgseal.trail.rules import Unfollowed, compare_rules, describe_rows, find_unfollowed
from pgseal.trail.steps import Step, Track
from pgseal.trail.track import check_owners, check_rule, plan_untrack


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


@dataclass(frozen=True, slots=True)
class Plan:
    """Differences, the steps on tables that mend them, and the statements (run as pgseal_owner) that mend the schema.

    ``skipped`` are tables that a pattern matches and that cannot be captured, with the reason. ``refusals`` say what
    keeps all of it from being applied until the policy is changed.
    """

    changes: Sequence[Change]
    steps: Sequence[Step]
    repairs: Sequence[sql.Composed]
    skipped: Sequence[tuple[str, str]]
    refusals: Sequence[str] = ()

    def check_can_be_applied(self) -> None:
        """Raise ``ConfigError`` if the policy has to be changed before anything is applied."""
        if self.refusals:
            raise ConfigError("; ".join(self.refusals))


def read_plan(connection: Connection, entries: Mapping[str, Entry], *, side: str) -> Plan:
    """Compare policy and database.

    Args:
        connection: of the role that would apply the plan.
        entries: the policy's names and patterns.
        side: words for errors.

    Raises:
        ConfigError: a name, pattern or column that is not there, or tables that the login does not own: all of them. A
            column that was there when capture was made is a difference.
    """
    wishes, tables, skipped = _resolve(connection, entries)
    made = list_made(connection)
    drifts = {drift.relation: drift for drift in read_drift(connection)}
    changes, steps, refusals = _plan_tables(connection, wishes, tables, made, drifts, side)
    current = [
        (replace(_read_named(connection, one.relation), mode=one.mode), one.rule, one.layout)
        for one in made
        if one.relation not in drifts
    ]
    differences = read_differences(connection, current, list(drifts), side=side)
    changes += [change for difference in differences for change in _describe(difference)]
    changes += _read_role_changes(connection)
    changes += [
        Change(
            "~",
            child.relation,
            f"inherits from {child.parent}, and is not tracked",
            is_foreign=True,
            by_hand=f"pgseal track {shlex.quote(child.relation)}",
        )
        for child in read_untracked_children(connection)
        if child.relation not in tables
    ]
    repairs = [statement for difference in differences for statement in _repair(difference)]
    if touched := [one for one in read_touched_objects(connection) if one.subject not in _subjects(differences)]:
        changes += [Change("~", one.subject, one.fault, is_foreign=True) for one in touched]
        repairs.append(_trusted("SELECT audit.note_marks()"))
    return Plan(changes, steps, repairs, skipped, refusals)


def _plan_tables(
    connection: Connection,
    wishes: Sequence[Wish],
    tables: Mapping[str, Table],
    made: Sequence[Made],
    drifts: Mapping[str, Drift],
    side: str,
) -> tuple[list[Change], list[Step], list[str]]:
    faults: dict[str, list[TriggerFault]] = {}
    for fault in read_trigger_faults(connection):
        faults.setdefault(fault.relation, []).append(fault)
    kept = {one.relation: one.rule for one in made}
    changes: list[Change] = []
    steps: list[Step] = []
    errors: list[str] = []
    refusals: list[str] = []
    touched: dict[int, str] = {}
    met: set[str] = set()
    for wish in wishes:
        table = tables[wish.relation]
        known = find_registered(connection, table)
        wrong: list[TriggerFault] = []
        unfollowed: list[Unfollowed] = []
        found = list(_compare(wish, table, known, drifts))
        if known is not None:
            met.add(known.relation)
            wrong = faults.get(known.relation, [])
            if known.oid == table.oid:
                unfollowed = list(find_unfollowed(wish, table, kept[known.relation], known.rule))
            found += _compare_rules(wish, known, unfollowed)
        if not found and not wrong:
            continue
        step = _step(connection, table, wish.rule, known)
        # Where nothing but single partitions is concerned, the others are left alone.
        steps.append(step if found else read_repartition(connection, step.table, step.rule) or step)
        changes += [*found, *_describe_faults(wish, wrong)]
        touched[table.oid] = table.relation
        refusals += [f"{table.relation}: {one.text}; {one.way_out}" for one in unfollowed]
        errors += [] if unfollowed else _find_errors(table, wish.rule)
    unwanted = [one for one in made if one.relation not in met]
    try:
        check_owners(connection, {**touched, **{one.oid: one.relation for one in unwanted}}, side)
    except ConfigError as error:
        errors.append(str(error))
    if errors:
        raise ConfigError("; ".join(errors))
    for one in unwanted:
        changes.append(Change("-", one.relation, "captured, and not in the policy"))
        steps.append(plan_untrack(connection, one.relation, side=side))
    return changes, steps, refusals


def _compare_rules(wish: Wish, known: Registered, unfollowed: Sequence[Unfollowed]) -> Iterator[Change]:
    if unfollowed:
        for one in unfollowed:
            yield Change("~", wish.relation, one.text, is_foreign=True, by_hand=one.way_out)
        return
    for text in compare_rules(known.rule, wish.rule):
        yield Change("~", wish.relation, text)


def _describe_faults(wish: Wish, faults: Sequence[TriggerFault]) -> Iterator[Change]:
    for fault in faults:
        yield Change(
            "~",
            wish.relation,
            fault.describe(wish.relation),
            is_foreign=not fault.is_routine,
            by_hand=_mend_by_hand(fault),
        )


def _find_errors(table: Table, rule: TableRule) -> Iterator[str]:
    try:
        check_rule(table, rule)
    except ConfigError as error:
        yield str(error)


def _resolve(
    connection: Connection, entries: Mapping[str, Entry]
) -> tuple[list[Wish], dict[str, Table], list[tuple[str, str]]]:
    """Return the wishes that can be fulfilled with their tables, and the others that a pattern matched with why not."""
    wishes = expand(entries, list_candidates(connection))
    tables: dict[str, Table] = {}
    skipped: list[tuple[str, str]] = []
    for wish in wishes:
        try:
            tables[wish.relation] = _read_named(connection, wish.relation)
        except CaptureError as error:
            if wish.pattern is None:
                raise
            skipped.append((wish.relation, str(error).removeprefix(wish.relation).strip()))
    return [wish for wish in wishes if wish.relation in tables], tables, skipped


def _compare(wish: Wish, table: Table, known: Registered | None, drifts: Mapping[str, Drift]) -> Iterator[Change]:
    if known is None:
        matched = f", matched by {wish.pattern!r}" if wish.pattern else ""
        only = f", {describe_rows(wish.rule)}" if wish.rule.where else ""
        yield Change("+", wish.relation, f"not captured yet{matched}{only}")
        return
    if known.relation != wish.relation:
        yield Change("~", wish.relation, f"renamed, was {known.relation}", is_foreign=True)
    elif known.oid != table.oid:
        yield Change("~", wish.relation, "dropped and made anew: not captured", is_foreign=True)
    elif known.is_altered:
        yield Change("~", wish.relation, "altered: capture follows, but wants renewing, with a new baseline")
    if known.relation in drifts and drifts[known.relation].lost_filter:
        yield Change(
            "~",
            wish.relation,
            f"all rows are captured now, not {describe_rows(known.rule)}: what it tests became another",
        )
    if known.baseline == "pending":
        yield Change("~", wish.relation, "the rows that stood before are not recorded")


def _mend_by_hand(fault: TriggerFault) -> str:
    name = shlex.quote(fault.relation)
    return f"pgseal untrack {name}, then pgseal track {name}" if fault.fault == HAS_CHILDREN else ""


def _step(connection: Connection, table: Table, rule: TableRule, known: Registered | None) -> Track:
    if known is None or known.oid != table.oid:
        return Track(table, rule, former=None if known is None else known.relation)
    gone = find_gone(connection, known.relation)
    return Track(replace(table, mode=known.mode), rule, former=known.relation, gone=gone)


def _read_named(connection: Connection, relation: str) -> Table:
    schema, name = parse_relation(relation, source="a relation")
    return read_table(connection, schema, name)


# -- the schema -------------------------------------------------------------------------------------------------


def _subjects(differences: Sequence[Difference]) -> set[str]:
    return {difference.subject for difference in differences}


def _describe(difference: Difference) -> Iterator[Change]:
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
    if found is None or subject not in {"schema audit", "a partition of audit.record"}:
        return ""
    place = "SCHEMA audit" if subject == "schema audit" else "ALL TABLES IN SCHEMA audit"
    return f"REVOKE {found[2]} ON {place} FROM {'PUBLIC' if found[1] == 'PUBLIC' else quote_name(found[1])};"


def _repair(difference: Difference) -> Iterator[sql.Composed]:
    """Write what mends a function, a privilege, or what would swallow records; the rest is for a person to decide."""
    kind, _, name = difference.subject.partition(" ")
    for fact in difference.missing:
        if fact.startswith("definition "):
            yield _trusted(fact.removeprefix("definition "))
    if not difference.is_ours or kind not in {"function", "table", "view", "sequence"}:
        return
    words = {"function": "FUNCTION", "sequence": "SEQUENCE"}.get(kind, "TABLE")
    for fact in difference.extra:
        if found := _ATTACHED.match(fact):
            yield _trusted(f"DROP {found[1].upper()} {found[2]} ON {name}")
        elif found := _PRIVILEGE.fullmatch(fact):
            yield _trusted(f"REVOKE {found[2]} ON {words} {name} FROM ") + _role(found[1])
    for fact in difference.missing:
        if found := _PRIVILEGE.fullmatch(fact):
            yield _trusted(f"GRANT {found[2]} ON {words} {name} TO ") + _role(found[1])


_PRIVILEGE = re.compile(r"privilege (?!pgseal_owner )(\S+) ([A-Z]+)")
_ATTACHED = re.compile(r'(rule|trigger) CREATE (?:RULE|TRIGGER) ("(?:[^"]|"")+"|\S+) ')


def _trusted(text: str) -> sql.Composed:
    """Text that the catalog printed, quoted as it must be."""
    return sql.Composed([sql.SQL(text)])  # pyright: ignore[reportArgumentType]


def _role(name: str) -> sql.Composable:
    return sql.SQL("PUBLIC") if name == "PUBLIC" else sql.Identifier(name)


def _read_role_changes(connection: Connection) -> list[Change]:
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
        UNION ALL
        SELECT 'pgseal_owner', 'may be taken by ' || quote_ident(m.rolname),
            format('REVOKE pgseal_owner FROM %I;', m.rolname)
        FROM pg_auth_members a JOIN pg_roles r ON r.oid = a.roleid JOIN pg_roles m ON m.oid = a.member
        WHERE r.rolname = 'pgseal_owner' AND NOT m.rolsuper AND m.rolname <> session_user
        ORDER BY 1, 2
        """
    ).fetchall()
    return [Change("~", f"role {name}", text, is_foreign=True, by_hand=by_hand) for name, text, by_hand in rows]
