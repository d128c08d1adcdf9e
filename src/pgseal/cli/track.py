"""``pgseal track``: start auditing tables."""

from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pgseal.cli.invocation import load_settings
from pgseal.cli.options import AsJson, SourceName
from pgseal.errors import CaptureError, ConfigError, PgsealError

if TYPE_CHECKING:
    from pgseal.postgres import Connection
    from pgseal.settings import Settings, Source, TablePolicy
    from pgseal.trail.capture import TableRule
    from pgseal.trail.catalog import Table
    from pgseal.trail.registry import Registered

EXAMPLE = "pgseal track public.patients --mask ssn=redact --exclude photo"


def track(
    context: typer.Context,
    tables: Annotated[list[str], typer.Argument(metavar="TABLE...", help="Tables, or 'schema.*' for all of a schema.")],
    *,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="[TABLE.]COL", help="Never record this column's values.")
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(metavar="[TABLE.]COL=HOW", help="Record this column's values changed: hash, redact or last4."),
    ] = None,
    truncate: Annotated[
        str | None,
        typer.Option(metavar="count|rows", help="Of a TRUNCATE, record how many rows went, or every one. [count]"),
    ] = None,
    oversize: Annotated[
        str | None,
        typer.Option(
            metavar="keep|digest|reject",
            help="Values over 1 MB: record them, or their SHA-256 only, or refuse the write. [keep]",
        ),
    ] = None,
    require_actor: Annotated[
        str | None,
        typer.Option(
            metavar="flag|off|reject", help="Changes that name no actor: count them, or not, or refuse. [flag]"
        ),
    ] = None,
    row_filter: Annotated[
        str | None,
        typer.Option(
            "--where", metavar="FILTER", help="Record changes of these rows only, such as \"tenant = 'a'\". [all]"
        ),
    ] = None,
    baseline: Annotated[
        str, typer.Option(metavar="snapshot|none", help="Record the rows that stand now, or leave a recorded gap.")
    ] = "snapshot",
    no_baseline: Annotated[bool, typer.Option("--no-baseline", help="The same as --baseline none.")] = False,
    source: SourceName = None,
    as_json: AsJson = False,
) -> None:
    """Start auditing tables.

    Adds them to pgseal.toml and begins to capture, with the rows that stand there now.
    """
    if baseline not in {"snapshot", "none"}:
        raise ConfigError(f"--baseline: expected snapshot or none, got {baseline!r}")
    settings = load_settings(context)
    where = settings.find_source(source)

    from pgseal.cli.output import print_json
    from pgseal.postgres import connect, translated_errors
    from pgseal.trail.track import check_owners

    side = f"source {where.name!r}"
    with closing(connect(where.admin_dsn.reveal(), side=side)) as connection, translated_errors(side):
        chosen, stale, skipped = _choose(connection, tables)
        check_owners(connection, {table.oid: table.relation for table in chosen}, side)
    more = _check_choices({"truncate": truncate, "oversize": oversize, "require_actor": require_actor})
    if row_filter is not None:
        more["where"] = _format_where(row_filter)
    known = {table.relation: _to_policy(registered.rule) for table, registered in stale}
    policies = make_policies(chosen, exclude or [], mask or [], {**known, **where.tables}, **more)
    _check(policies)
    former = [found.relation for table, found in stale if found.relation != table.relation]
    tracked = _apply(
        settings, where, policies, former, baseline=baseline == "snapshot" and not no_baseline, quiet=as_json
    )
    if as_json:
        documents = [
            {
                "relation": table.relation,
                "exclude": policy.exclude,
                "mask": policy.mask,
                "where": policy.where,
                "baseline": rows,
            }
            for (table, policy), rows in zip(policies, tracked, strict=True)
        ]
        skips = [{"relation": relation, "reason": reason} for relation, reason in skipped]
        print_json({"source": where.name, "tables": documents, "skipped": skips})
    else:
        _report(policies, tracked, skipped)


def make_policies(
    tables: "Sequence[Table]",
    exclude: Sequence[str],
    mask: Sequence[str],
    known: "Mapping[str, TablePolicy]",
    **more: str,
) -> "list[tuple[Table, TablePolicy]]":
    """Return each table with what of it is left out or masked.

    ``exclude`` has columns, ``mask`` columns with ``=hash`` and the like, as a person wrote them: alone, which means
    every one of the tables that has it, or with the table in front; ``more`` is the rest of the policy. A table of
    which they say nothing keeps the policy it has in ``known``: it stands in the file, but could not be tracked yet,
    or its capture is renewed. Raises ``ConfigError``.
    """
    from pydantic import ValidationError

    from pgseal.settings import TablePolicy
    from pgseal.trail.capture import MASKS

    excluded: dict[str, list[str]] = {}
    masked: dict[str, dict[str, str]] = {}
    for text in exclude:
        for relation, column in _find_columns(tables, text, "--exclude"):
            excluded.setdefault(relation, []).append(column)
    for text in mask:
        name, separator, how = text.rpartition("=")
        if not separator or how not in MASKS:
            raise ConfigError(f"--mask: expected {' or '.join(f'COL={mask}' for mask in MASKS)}, got {text!r}")
        for relation, column in _find_columns(tables, name, "--mask"):
            masked.setdefault(relation, {})[column] = how
    policies: list[tuple[Table, TablePolicy]] = []
    for table in tables:
        columns, masks = excluded.get(table.relation, []), masked.get(table.relation, {})
        if not columns and not masks and not more and table.relation in known:
            policies.append((table, known[table.relation]))
            continue
        try:
            policy = TablePolicy.model_validate({"exclude": columns, "mask": masks, **more})
        except ValidationError as error:
            words = error.errors(include_url=False, include_input=False)[0]["msg"].removeprefix("Value error, ")
            raise ConfigError(f"{table.relation}: {words}") from None
        policies.append((table, policy))
    return policies


def _find_columns(tables: "Sequence[Table]", text: str, option: str) -> list[tuple[str, str]]:
    """Return (relation, column) for what ``text``, a column or ``table.column``, means among ``tables``."""
    table_part, _, column_part = text.rpartition(".")
    found = [
        (table.relation, column)
        for table in tables
        for name in [{column.name for column in table.columns}]
        for column in [text if text in name else column_part]
        if column in name and (column == text or table_part in {table.name, table.relation})
    ]
    if not found:
        names = ", ".join(table.relation for table in tables[:3]) + (", …" if len(tables) > 3 else "")  # noqa: PLR2004
        columns = f"; it has {', '.join(column.name for column in tables[0].columns)}" if len(tables) == 1 else ""
        raise ConfigError(f"{option}: no column {text!r} in {names}{columns}")
    return found


def _choose(
    connection: "Connection", texts: Sequence[str]
) -> "tuple[list[Table], list[tuple[Table, Registered]], list[tuple[str, str]]]":
    """Return the tables that ``texts`` name, which of them are registered already, and what is to be skipped with why.

    Skipped is what a pattern matched that cannot or need not be tracked; of a table named outright that is an error.
    """
    from pgseal.trail.catalog import read_table, resolve_relations
    from pgseal.trail.track import find_stale, read_faulty

    faulty = read_faulty(connection)
    tables: dict[str, Table] = {}
    stale: dict[str, tuple[Table, Registered]] = {}
    skipped: dict[str, str] = {}
    for text in texts:
        for schema, name in resolve_relations(connection, text):
            try:
                table = read_table(connection, schema, name)
                registered = find_stale(connection, table, faulty)
            except CaptureError as error:
                if not text.endswith(".*"):
                    raise
                relation = f"{schema}.{name}"
                skipped[relation] = str(error).removeprefix(relation).strip().split(";")[0]
            else:
                tables[table.relation] = table
                if registered is not None:
                    stale[table.relation] = (table, registered)
    return list(tables.values()), list(stale.values()), list(skipped.items())


def _to_policy(rule: "TableRule") -> "TablePolicy":
    from pgseal.settings import TablePolicy

    return TablePolicy.model_validate(asdict(rule))


def _check_choices(options: "Mapping[str, str | None]") -> dict[str, str]:
    """Return the options that were given; raises ``ConfigError``."""
    from pgseal.trail.capture import CHOICES

    for name, choices in CHOICES.items():
        if options[name] is not None and options[name] not in choices:
            raise ConfigError(f"--{name.replace('_', '-')}: expected {' or '.join(choices)}, got {options[name]!r}")
    return {name: value for name, value in options.items() if value is not None}


def _format_where(text: str) -> str:
    from pgseal.trail.filter import format_filter, parse_filter

    try:
        return format_filter(parse_filter(text))
    except ConfigError as error:
        raise ConfigError(f"--{error}") from error


def _check(policies: "Sequence[tuple[Table, TablePolicy]]") -> None:
    """Refuse before anything is changed what would be refused later."""
    from pgseal.trail.policy import to_rule
    from pgseal.trail.track import check_rule

    for table, policy in policies:
        check_rule(table, to_rule(policy, table.relation))


def _apply(
    settings: "Settings",
    source: "Source",
    policies: "Sequence[tuple[Table, TablePolicy]]",
    former: Sequence[str],
    *,
    baseline: bool,
    quiet: bool,
) -> list[int | None]:
    """Write the wish down, then fulfil it; returns the number of rows recorded of each table.

    In this order, because a table that is in the file and not captured yet is mended by the same command again. What
    could not be fulfilled is taken out of the file again. ``former`` are names that tables of these had before; they
    stay in the file until the tables are tracked under the new ones.
    """
    from pgseal.cli.output import show_progress
    from pgseal.settings import edit_tables
    from pgseal.trail.policy import to_rule
    from pgseal.trail.track import track as track_table

    side, dsn = f"source {source.name!r}", source.admin_dsn.reveal()
    edit_tables(settings.path, source.name, {table.relation: policy for table, policy in policies})
    rows: list[int | None] = []
    try:
        for table, policy in policies:
            rule = to_rule(policy, table.relation)
            with show_progress(f"{table.relation}: recording the rows", quiet=quiet) as progress:
                tracked = track_table(
                    dsn, table.schema, table.name, rule, side=side, baseline=baseline, progress=progress
                )
            rows.append(tracked.rows if baseline else None)
        edit_tables(settings.path, source.name, {}, former)
    except BaseException:
        with suppress(PgsealError):
            _forget_untracked(settings, source, [table.relation for table, _ in policies])
        raise
    return rows


def _forget_untracked(settings: "Settings", source: "Source", relations: Sequence[str]) -> None:
    from pgseal.postgres import connect
    from pgseal.settings import edit_tables
    from pgseal.trail.registry import list_tracked

    with closing(connect(source.admin_dsn.reveal(), side=f"source {source.name!r}")) as connection:
        tracked = {table.relation for table in list_tracked(connection)}
    gone = [relation for relation in relations if relation not in tracked and relation not in source.tables]
    edit_tables(settings.path, source.name, {}, gone)


def _report(
    policies: "Sequence[tuple[Table, TablePolicy]]", tracked: Sequence[int | None], skipped: Sequence[tuple[str, str]]
) -> None:
    from pgseal.cli.output import format_count, printable, say

    names = [printable(table.relation) for table, _ in policies] + [printable(relation) for relation, _ in skipped]
    width = max(map(len, names), default=0)
    for name, (_, policy), rows in zip(names, policies, tracked, strict=False):
        what = "no baseline: its history begins with the next change" if rows is None else format_count(rows, "row")
        hidden = _describe_policy(policy)
        say(f"  {name:<{width}}  ", ("track", "green"), f"   {what}{hidden and '   '}{printable(hidden)}")
    for relation, reason in skipped:
        say(f"  {printable(relation):<{width}}  skip    {printable(reason)}")
    if policies:
        say(("✓", "green"), f" {format_count(len(policies), 'table')} tracked")
        say("  next: pgseal seal")
    else:
        say("nothing to track")


def _describe_policy(policy: "TablePolicy") -> str:
    words = {"hash": "hashed", "redact": "redacted", "last4": "shown as last 4"}
    return ", ".join([
        *(f"{column} left out" for column in policy.exclude),
        *(f"{column} {words[how]}" for column, how in policy.mask.items()),
        *([f"only rows where {policy.where}"] if policy.where else []),
    ])  # fmt: skip
