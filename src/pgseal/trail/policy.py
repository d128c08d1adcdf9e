"""Which tables the policy wants captured, and how: its names and patterns, held against the tables there are. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from pgseal.errors import ConfigError
from pgseal.settings import TablePolicy, is_pattern
from pgseal.trail.capture import TableRule
from pgseal.trail.catalog import Candidate
from pgseal.trail.filter import format_filter, list_columns, parse_filter


def to_rule(policy: TablePolicy, name: str) -> TableRule:
    """Return how a table with this policy is to be captured; ``name`` is the table or pattern, for errors.

    Raises ``ConfigError`` if its filter cannot be parsed.
    """
    try:
        where = None if policy.where is None else format_filter(parse_filter(policy.where))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    return TableRule(policy.exclude, policy.mask, policy.truncate, policy.oversize, policy.require_actor, where)


@dataclass(frozen=True, slots=True)
class Entry:
    """What the policy says under one name or pattern (``public.*``); ``exceptions`` are names or patterns."""

    rule: TableRule = field(default_factory=TableRule)
    exceptions: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Wish:
    """A table the policy wants captured; ``pattern`` is what matched it, None if it is named outright."""

    relation: str
    rule: TableRule
    pattern: str | None


def expand(entries: Mapping[str, Entry], candidates: Sequence[Candidate]) -> list[Wish]:
    """Return a wish for each table that the entries name or match, by relation.

    A name wins over a pattern; of several patterns the last one does. A pattern's columns and its filter concern the
    tables that have them. An outright name is a wish also where there is no such table.

    Raises:
        ConfigError: a pattern that matches nothing, or a column or filter of one that no matching table has or had.
    """
    wishes: dict[str, Wish] = {}
    for pattern, entry in entries.items():
        if not is_pattern(pattern):
            continue
        matched = [candidate for candidate in candidates if _matches(candidate.relation, pattern, entry.exceptions)]
        if not matched:
            raise ConfigError(f"{pattern!r} matches no table")
        there = frozenset[str]().union(*(candidate.columns for candidate in matched))
        # What none of them has any more is wished for where it was: the plan says that it is gone.
        matched = [replace(one, columns=one.columns | (one.former - there)) for one in matched]
        for column in (*entry.rule.exclude, *entry.rule.mask):
            if not any(column in candidate.columns for candidate in matched):
                raise ConfigError(f"no table that {pattern!r} matches has a column {column!r}")
        if entry.rule.where and not any(_can_filter(entry.rule, candidate.columns) for candidate in matched):
            raise ConfigError(f"no table that {pattern!r} matches has all columns that its 'where' tests")
        for candidate in matched:
            wishes[candidate.relation] = Wish(candidate.relation, _narrow(entry.rule, candidate.columns), pattern)
    for name, entry in entries.items():
        if not is_pattern(name):
            wishes[name] = Wish(name, entry.rule, None)
    return [wishes[relation] for relation in sorted(wishes)]


def covers(policies: Mapping[str, TablePolicy], relation: str) -> bool:
    """Return whether the policy names ``relation``, or a pattern of it matches."""
    return relation in policies or matching_pattern(policies, relation) is not None


def matching_pattern(policies: Mapping[str, TablePolicy], relation: str) -> str | None:
    """Return the pattern that has ``relation`` captured where it is not named; of several the last one."""
    found = [name for name, policy in policies.items() if is_pattern(name)
             and _matches(relation, name, policy.exceptions)]  # fmt: skip
    return found[-1] if found else None


def _matches(relation: str, pattern: str, exceptions: Sequence[str]) -> bool:
    return fnmatchcase(relation, pattern) and not any(fnmatchcase(relation, exception) for exception in exceptions)


def _narrow(rule: TableRule, columns: frozenset[str]) -> TableRule:
    return replace(
        rule,
        exclude=[column for column in rule.exclude if column in columns],
        mask={column: how for column, how in rule.mask.items() if column in columns},
        where=rule.where if _can_filter(rule, columns) else None,
    )


def _can_filter(rule: TableRule, columns: frozenset[str]) -> bool:
    return rule.where is not None and columns.issuperset(list_columns(parse_filter(rule.where)))
