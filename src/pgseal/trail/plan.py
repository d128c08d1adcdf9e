"""What differs between the policy and the database, and the steps that would mend it. Reads only."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from psycopg import sql

from pgseal.errors import CaptureError, ConfigError
from pgseal.postgres import Connection
from pgseal.trail.capture import CHOICES, TableRule
from pgseal.trail.catalog import Table, list_candidates, read_relation
from pgseal.trail.health import (
    HAS_CHILDREN,
    Drift,
    TriggerFault,
    read_drift,
    read_trigger_faults,
    read_untracked_children,
)
from pgseal.trail.integrity import read_differences
from pgseal.trail.marks import read_touched_objects
from pgseal.trail.outside import Change, describe_difference, read_owner_members, read_role_changes, repair_difference
from pgseal.trail.policy import Entry, Wish, expand
from pgseal.trail.registry import Made, Registered, find_registered, list_made
from pgseal.trail.repartition import find_gone, read_repartition
from pgseal.trail.steps import Step, Track
from pgseal.trail.track import check_owners, check_rule, plan_untrack


@dataclass(frozen=True, slots=True)
class Plan:
    """Differences, the steps on tables that mend them, and the statements (run as pgseal_owner) that mend the schema.

    ``skipped`` are tables that a pattern matches and that cannot be captured, with the reason.
    """

    changes: Sequence[Change]
    steps: Sequence[Step]
    repairs: Sequence[sql.Composed]
    skipped: Sequence[tuple[str, str]]


def read_plan(connection: Connection, entries: Mapping[str, Entry], *, side: str) -> Plan:
    """Compare policy and database.

    Args:
        connection: of the role that would apply the plan.
        entries: the policy's names and patterns.
        side: words for errors.

    Raises:
        ConfigError: a name, pattern or column that is not there, or tables that the login does not own: all of them.
    """
    wishes, tables, skipped = _resolve(connection, entries)
    made = list_made(connection)
    drifts = {drift.relation: drift for drift in read_drift(connection)}
    changes, steps = _plan_tables(connection, wishes, tables, made, drifts, side)
    differences = read_differences(connection, made, list(drifts), side=side)
    changes += [change for difference in differences for change in describe_difference(difference)]
    changes += [*read_role_changes(connection), *read_owner_members(connection)]
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
    repairs = [statement for difference in differences for statement in repair_difference(difference)]
    if touched := read_touched_objects(connection, besides=differences):
        changes += [Change("~", one.subject, one.fault, is_foreign=True) for one in touched]
        repairs.append(sql.SQL("SELECT audit.note_marks()").format())
    return Plan(changes, steps, repairs, skipped)


def _plan_tables(
    connection: Connection,
    wishes: Sequence[Wish],
    tables: Mapping[str, Table],
    made: Sequence[Made],
    drifts: Mapping[str, Drift],
    side: str,
) -> tuple[list[Change], list[Step]]:
    faults: dict[str, list[TriggerFault]] = {}
    for fault in read_trigger_faults(connection):
        faults.setdefault(fault.relation, []).append(fault)
    changes: list[Change] = []
    steps: list[Step] = []
    refusals: list[str] = []
    touched: dict[int, str] = {}
    met: set[str] = set()
    for wish in wishes:
        table = tables[wish.relation]
        known = find_registered(connection, table)
        before: TableRule | None = None
        if known is not None:
            met.add(known.relation)
            before = next(one.rule for one in made if one.relation == known.relation)
        found = list(_compare(wish, table, known, drifts))
        wrong = faults.get(known.relation, []) if known else []
        if not found and not wrong:
            continue
        step = _step(connection, table, wish.rule, known)
        # Where nothing but single partitions is concerned, the others are left alone.
        steps.append(step if found else read_repartition(connection, step.table, step.rule) or step)
        changes += found
        changes += [
            Change(
                "~",
                wish.relation,
                fault.describe(wish.relation),
                is_foreign=not fault.is_routine,
                by_hand=_mend_by_hand(fault),
            )
            for fault in wrong
        ]
        touched[table.oid] = table.relation
        try:
            check_rule(table, wish.rule)
        except ConfigError as error:
            refusals.append(f"{error}{_describe_renamed(table, before, known)}")
    unwanted = [one for one in made if one.relation not in met]
    try:
        check_owners(connection, {**touched, **{one.oid: one.relation for one in unwanted}}, side)
    except ConfigError as error:
        refusals.append(str(error))
    if refusals:
        raise ConfigError("; ".join(refusals))
    for one in unwanted:
        changes.append(Change("-", one.relation, "captured, and not in the policy"))
        steps.append(plan_untrack(connection, one.relation, side=side))
    return changes, steps


def _resolve(
    connection: Connection, entries: Mapping[str, Entry]
) -> tuple[list[Wish], dict[str, Table], list[tuple[str, str]]]:
    """Return the wishes that can be fulfilled with their tables, and the others that a pattern matched with why not."""
    wishes = expand(entries, list_candidates(connection))
    tables: dict[str, Table] = {}
    skipped: list[tuple[str, str]] = []
    for wish in wishes:
        try:
            tables[wish.relation] = read_relation(connection, wish.relation)
        except CaptureError as error:
            if wish.pattern is None:
                raise
            skipped.append((wish.relation, str(error).removeprefix(wish.relation).strip()))
    return [wish for wish in wishes if wish.relation in tables], tables, skipped


def _compare(wish: Wish, table: Table, known: Registered | None, drifts: Mapping[str, Drift]) -> Iterator[Change]:
    if known is None:
        matched = f", matched by {wish.pattern!r}" if wish.pattern else ""
        only = f", {_rows(wish.rule)}" if wish.rule.where else ""
        yield Change("+", wish.relation, f"not captured yet{matched}{only}")
        return
    if known.relation != wish.relation:
        yield Change("~", wish.relation, f"renamed, was {known.relation}", is_foreign=True)
    elif known.oid != table.oid:
        yield Change("~", wish.relation, "dropped and made anew: not captured", is_foreign=True)
    elif known.is_altered:
        yield Change("~", wish.relation, "altered: capture follows, but wants renewing, with a new baseline")
    if known.relation in drifts and drifts[known.relation].lost_filter:
        yield Change("~", wish.relation, f"all rows are captured now, not {_rows(known.rule)}: a column became another")
    if known.baseline == "pending":
        yield Change("~", wish.relation, "the rows that stood before are not recorded")
    for text in _compare_rules(known.rule, wish.rule):
        yield Change("~", wish.relation, text)


def _mend_by_hand(fault: TriggerFault) -> str:
    name = shlex.quote(fault.relation)
    return f"pgseal untrack {name}, then pgseal track {name}" if fault.fault == HAS_CHILDREN else ""


def _describe_renamed(table: Table, before: TableRule | None, known: Registered | None) -> str:
    """Say what hidden columns are called now that the registry knows under another name, or nothing."""
    if before is None or known is None or known.oid != table.oid:
        return ""
    found: list[str] = []
    for column in (*before.exclude, *before.mask):
        fate = _fate(before, column)
        names = [name for name in (*known.rule.exclude, *known.rule.mask)
                 if _fate(known.rule, name) == fate and _fate(before, name) == "recorded"]  # fmt: skip
        if names and _fate(known.rule, column) == "recorded":
            found.append(f"{column!r} is called {' or '.join(map(repr, names))} now")
    if before.where != known.rule.where:
        found.append(f"'where' reads {known.rule.where} now")
    return f"; {', '.join(found)}: change it in pgseal.toml, then pgseal apply" if found else ""


def _compare_rules(known: TableRule, wish: TableRule) -> Iterator[str]:
    for column in sorted({*known.exclude, *known.mask, *wish.exclude, *wish.mask}):
        before, after = _fate(known, column), _fate(wish, column)
        if before != after:
            yield f"column {column}: {before} → {after}"
    for name in CHOICES:
        before, after = getattr(known, name), getattr(wish, name)
        if before != after:
            yield f"{name}: {before} → {after}"
    if known.where != wish.where:
        yield f"captured: {_rows(known)} → {_rows(wish)}"


def _rows(rule: TableRule) -> str:
    return f"only rows where {rule.where}" if rule.where else "all rows"


def _fate(rule: TableRule, column: str) -> str:
    return "left out" if column in rule.exclude else rule.mask.get(column, "recorded")


def _step(connection: Connection, table: Table, rule: TableRule, known: Registered | None) -> Track:
    if known is None or known.oid != table.oid:
        return Track(table, rule, former=None if known is None else known.relation)
    gone = find_gone(connection, known.relation)
    return Track(replace(table, mode=known.mode), rule, former=known.relation, gone=gone)
