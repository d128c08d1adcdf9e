"""Writing ``pgseal.toml`` and changing it by its tables, as a careful hand would: comments and layout stay."""

import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import tomlkit
import tomlkit.exceptions
from tomlkit.items import AoT, InlineTable, Table

from pgseal.errors import ConfigError
from pgseal.settings.files import describe_os_error, read_text, sync_directory, write_temporary
from pgseal.settings.model import TablePolicy


def write_new(
    path: Path,
    *,
    origin: str,
    ledger: str,
    key: str,
    state: str,
    vault_dsn: str,
    sources: Sequence[tuple[str, str]],
) -> None:
    """Write a new configuration, readable by its owner only (it may hold passwords); all or nothing, durable.

    ``sources`` are (name, dsn). Raises ``ConfigError`` if the file is there already or cannot be written.
    """
    document = tomlkit.document()
    document.add(tomlkit.comment("pgseal's configuration. Secrets may be given as env:NAME or file:PATH."))
    for name, value, comment in (
        ("origin", origin, "the log's name, signed into every checkpoint"),
        ("ledger", ledger, "the tamper-evident log: static files"),
        ("key", key, "signs the log: keep a copy somewhere else"),
        ("state", state, "what the sealer and the verifier remember; outside vault and ledger"),
    ):
        document.add(name, tomlkit.item(value).comment(comment))
    vault = tomlkit.table()
    vault.add("dsn", vault_dsn)
    document.add("vault", vault)
    array = tomlkit.aot()
    for name, dsn in sources:
        cast("Any", array).append(_new_source(name, dsn))
    document.add("source", array)
    temporary = write_temporary(path, tomlkit.dumps(document), mode=0o600)
    try:
        os.link(temporary, path)  # fails if it exists: never overwrites
    except OSError as error:
        raise ConfigError(f"{path}: cannot write the configuration ({describe_os_error(error)})") from error
    finally:
        temporary.unlink()
    sync_directory(path.parent)


def add_source(path: Path, name: str, dsn: str) -> None:
    """Add ``[[source]]`` to the configuration, keeping comments and layout; raises ``ConfigError``."""

    def edit(document: tomlkit.TOMLDocument) -> None:
        array = document.setdefault("source", tomlkit.aot())
        if not isinstance(array, AoT):
            raise ConfigError(f"{path}: sources are not written as [[source]]: add source {name!r} by hand")
        cast("Any", array).append(_new_source(name, dsn))

    _edit(path, edit)


def edit_tables(path: Path, source: str, add: Mapping[str, TablePolicy], remove: Sequence[str] = ()) -> None:
    """Set the policies of the tables in ``add`` and drop those of ``remove``, keeping comments and layout.

    Tables are named as in records (``public.patients``); one that is there already gets the new policy, one to remove
    may be missing. The file is replaced as a whole or not at all. Raises ``ConfigError``.
    """

    def edit(document: tomlkit.TOMLDocument) -> None:
        entry = _find_source_entry(path, document, source)
        if "tables" not in entry:
            entry.add("tables", tomlkit.table(is_super_table=True))
        tables = cast("Table", entry["tables"])
        for relation in remove:
            if relation in tables:
                tables.remove(relation)
        for relation, policy in add.items():
            if relation in tables:
                _edit_policy(cast("Table", tables[relation]), policy)
            else:
                tables.add(tomlkit.key([relation]), _edit_policy(tomlkit.table(), policy))
        if not tables:
            entry.remove("tables")

    _edit(path, edit)


def _new_source(name: str, dsn: str) -> Table:
    source = tomlkit.table()
    source.add("name", name)
    source.add("dsn", dsn)
    return source


def _find_source_entry(path: Path, document: tomlkit.TOMLDocument, name: str) -> Table:
    array = cast("dict[str, Any]", document).get("source")
    for entry in cast("list[Table]", array if isinstance(array, AoT) else []):
        if "name" in entry and entry["name"] == name:
            return entry
    raise ConfigError(f"{path}: there is no [[source]] named {name!r}")


def _edit_policy(table: Table, policy: TablePolicy) -> Table:
    """Make ``table`` say what ``policy`` says, touching only what differs."""
    values: dict[str, Any] = {"exclude": list(policy.exclude), "mask": dict(policy.mask)}
    for name in ("truncate", "oversize", "require_actor", "where"):
        value = getattr(policy, name)
        values[name] = None if value == TablePolicy.model_fields[name].default else value
    for name, value in values.items():
        if not value:
            if name in table:
                table.remove(name)
        elif name not in table or table[name].unwrap() != value:
            table[name] = _format_mask(value) if name == "mask" else tomlkit.item(value)
    return table


def _format_mask(mask: Mapping[str, str]) -> InlineTable:
    table = tomlkit.inline_table()
    for column, how in mask.items():
        table.add(tomlkit.key([column]), how)
    return table


def _edit(path: Path, edit: Callable[[tomlkit.TOMLDocument], None]) -> None:
    """Apply ``edit`` to the file, by way of a copy that replaces it; keeps its mode, follows a symbolic link."""
    text = read_text(path)
    try:
        document = tomlkit.parse(text)
        edit(document)
        edited = tomlkit.dumps(document)
        wanted = tomllib.loads(edited)
        # tomlkit drops the empty line before [[source]] together with a table that stood there.
        spaced = re.sub(r"(?<=[^\n])\n(?=\[\[source\]\])", "\n\n", edited)
        # And it leaves the one before a table that was the last.
        if not text.endswith("\n\n"):
            spaced = re.sub(r"\n{2,}\Z", "\n", spaced)
        if tomllib.loads(spaced) == wanted:
            edited = spaced
    except (tomlkit.exceptions.TOMLKitError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be edited without spoiling its layout: change it by hand") from error
    if edited == text:
        return
    target = path.resolve()
    mode = stat.S_IMODE(target.stat().st_mode)
    temporary = write_temporary(target, edited, mode=mode)
    try:
        temporary.replace(target)
    except OSError as error:
        temporary.unlink()
        raise ConfigError(f"{path}: cannot write the configuration ({describe_os_error(error)})") from error
    sync_directory(target.parent)
