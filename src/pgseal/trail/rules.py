"""What the policy's rule for a table says against the one that it is captured by. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from pgseal.trail.capture import CHOICES, TableRule
from pgseal.trail.catalog import Table
from pgseal.trail.filter import format_constant, iter_comparisons, list_columns, parse_filter
from pgseal.trail.policy import Wish


def compare_rules(known: TableRule, wish: TableRule) -> Iterator[str]:
    """Say how two rules differ."""
    for column in sorted({*known.exclude, *known.mask, *wish.exclude, *wish.mask}):
        before, after = _fate(known, column), _fate(wish, column)
        if before != after:
            yield f"column {column}: {before} → {after}"
    for name in CHOICES:
        before, after = getattr(known, name), getattr(wish, name)
        if before != after:
            yield f"{name}: {before} → {after}"
    if known.where != wish.where:
        yield f"captured: {describe_rows(known)} → {describe_rows(wish)}"


def describe_rows(rule: TableRule) -> str:
    """Say which rows a rule covers."""
    return f"only rows where {rule.where}" if rule.where else "all rows"


@dataclass(frozen=True, slots=True)
class Unfollowed:
    """Where a column got another name, or went, and the policy does not follow; ``way_out`` says what does."""

    text: str
    way_out: str = "change it in pgseal.toml, then pgseal apply"


def find_unfollowed(wish: Wish, table: Table, before: TableRule, now: TableRule) -> Iterator[Unfollowed]:
    """Find what would be an error to apply, or would show what is hidden, because columns are not called as they were.

    Another column may have the name, and a pattern means the columns that there are: of what it says about a renamed
    one nothing would be left. So the policy has to say what it means.

    Args:
        wish: what the policy says of the table.
        table: the table as it is, the one that capture was made for.
        before: the rule that capture was made with, in the names of then.
        now: the same rule in the names of now.
    """
    names = {column.name for column in table.columns}
    renamed = [name for name in _hidden(now) if _fate(before, name) == _RECORDED]
    for column in _hidden(wish.rule):
        if column not in names and _fate(before, column) != _RECORDED:
            found = [name for name in renamed if _fate(now, name) == _fate(before, column)]
            renamed = [name for name in renamed if name not in found]
            yield Unfollowed(f"column {column!r} is {_called(found)}")
    yield from _find_unfollowed_filter(wish, table, before, now)
    if wish.pattern is None and not wish.rule.is_same(before):
        return  # somebody has written since what is wanted of just this table
    for name in renamed:
        if _fate(wish.rule, name) == _RECORDED:
            yield Unfollowed(
                f"column {name}: {_fate(now, name)} → recorded, only because it is called so now",
                "in pgseal.toml, name it, or this very table if it is to be recorded, then pgseal apply",
            )


def _find_unfollowed_filter(wish: Wish, table: Table, before: TableRule, now: TableRule) -> Iterator[Unfollowed]:
    labels = {column.name: dict(column.labels) for column in table.columns}
    if before.where is None or wish.rule.where not in {None, before.where}:
        return
    if before.where != now.where:
        if wish.rule.where or wish.pattern:
            yield Unfollowed(f"'where' reads {now.where} now")
    elif wish.rule.where:
        found = parse_filter(wish.rule.where)
        for column in list_columns(found):
            if column not in labels:
                yield Unfollowed(f"column {column!r}, which 'where' tests, is gone")
        for test in iter_comparisons(found):
            for constant in test.constants:
                if (there := labels.get(test.column)) and constant not in there:
                    label = format_constant(constant)
                    yield Unfollowed(
                        f"'where' tests {test.column!r} for {label}, which its type does not have any more"
                    )


_RECORDED = "recorded"


def _hidden(rule: TableRule) -> list[str]:
    return [*rule.exclude, *rule.mask]


def _fate(rule: TableRule, column: str) -> str:
    return "left out" if column in rule.exclude else rule.mask.get(column, _RECORDED)


def _called(names: list[str]) -> str:
    return f"called {' or '.join(map(repr, names))} now" if names else "gone"
