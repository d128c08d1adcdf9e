"""From the file and the environment to ``Settings``; every message has the file, the line and the key."""

import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

from pydantic import ValidationError

from pgseal.core.record import parse_relation
from pgseal.errors import ConfigError, FormatError
from pgseal.settings.files import read_text
from pgseal.settings.lines import find_line
from pgseal.settings.model import Settings, is_pattern
from pgseal.settings.secret import ENV_PREFIX, FILE_PREFIX, Dsn, Secret
from pgseal.signing.uri import SCHEME

DEFAULT_PATH = Path("pgseal.toml")
#: Environment variable → key of the file.
_OVERRIDES: dict[str, tuple[str | int, ...]] = {
    "PGSEAL_ORIGIN": ("origin",),
    "PGSEAL_LEDGER": ("ledger",),
    "PGSEAL_KEY": ("key",),
    "PGSEAL_STATE": ("state",),
    "PGSEAL_VAULT_DSN": ("vault", "dsn"),
    "PGSEAL_SOURCE_DSN": ("source", 0, "dsn"),
}

KeyPath: TypeAlias = tuple[str | int, ...]


def find_path(environ: Mapping[str, str] | None = None) -> Path:
    """Return where the configuration is unless said otherwise: ``PGSEAL_CONFIG``, or ``pgseal.toml`` here."""
    return Path((os.environ if environ is None else environ).get("PGSEAL_CONFIG") or DEFAULT_PATH)


def load(path: Path = DEFAULT_PATH, environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings in the file at ``path``, overridden by ``environ`` (default: this process's).

    Raises ``ConfigError`` with file, line and key.
    """
    environ = dict(os.environ if environ is None else environ)
    text = read_text(path)
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {_describe_syntax_error(error, text)}") from error
    except (ValueError, RecursionError):
        # Not chained: it may quote a value.
        raise ConfigError(f"{path}: a number is too long to be read, or values are nested too deep") from None
    overridden = _apply_overrides(path, document, environ)

    def locate(key_path: KeyPath) -> str:
        """Say where the setting at ``key_path`` came from."""
        for variable in overridden:
            if _OVERRIDES[variable] == key_path:
                return f"environment variable {variable}"
        line = find_line(text, key_path)
        return f"{path}, {'' if line is None else f'line {line}, '}{_format_key_path(key_path)}"

    _resolve_values(path, document, environ, overridden, locate)
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        raise _explain(error, locate) from None
    _check_whole(settings, locate)
    return settings


def _describe_syntax_error(error: tomllib.TOMLDecodeError, text: str) -> str:
    """Return the line, the key that stands there, and tomllib's words, which quote keys but no values."""
    match = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error), re.DOTALL)
    if match is None:
        return "it cannot be parsed"
    number = int(match[2]) if match[2] else text.rstrip("\n").count("\n") + 1
    lines = text.split("\n")
    line = lines[number - 1] if number <= len(lines) else ""
    key = re.match(r"\s*(\[*[\w.\"'-]+\]*)\s*(?:=|$|#)", line)
    words = match[1]
    return f"line {number}{f', {key[1]}' if key else ''}: {words[:1].lower()}{words[1:]}"


def _apply_overrides(path: Path, document: dict[str, Any], environ: Mapping[str, str]) -> list[str]:
    """Put ``PGSEAL_*`` into the document; returns the variables that were used."""
    used: list[str] = []
    for variable, key_path in _OVERRIDES.items():
        value = environ.get(variable)
        if not value:
            continue
        target: Any = document
        for key in key_path[:-1]:
            if isinstance(key, int):
                if not isinstance(target, list) or len(cast("list[Any]", target)) != 1:
                    raise ConfigError(
                        f"environment variable {variable}: {path} has not exactly one source: name it there"
                    )
                target = cast("Any", target[0])
            else:
                target = cast("dict[str, Any]", target).setdefault(key, {})
        if isinstance(target, dict):
            target[key_path[-1]] = value
            used.append(variable)
    return used


def _resolve_values(
    path: Path,
    document: dict[str, Any],
    environ: Mapping[str, str],
    overridden: Sequence[str],
    locate: Callable[[KeyPath], str],
) -> None:
    """Turn strings into absolute paths and secrets, which know where they were given."""
    from_environment = {_OVERRIDES[variable] for variable in overridden}

    def base_of(key_path: KeyPath) -> Path:
        return Path.cwd() if key_path in from_environment else path.absolute().parent

    def convert(table: Any, prefix: KeyPath, name: str, kind: type[Secret]) -> None:
        if isinstance(table, dict) and isinstance(value := cast("dict[str, Any]", table).get(name), str):
            key_path = (*prefix, name)
            if not value or "\0" in value:
                raise ConfigError(f"{locate(key_path)}: expected something, got an empty string or one with a NUL")
            table[name] = kind(value, locate(key_path), base_of(key_path), environ)

    if "path" in document:
        raise ConfigError(f"{locate(('path',))}: there is no such setting")
    document["path"] = path
    document.setdefault("state", ".pgseal")
    for name in ("ledger", "state"):
        _resolve_path(document, name, base_of((name,)), locate)
    convert(document, (), "key", Secret)
    key = document.get("key")
    if isinstance(key, Secret) and not key.reference.startswith((ENV_PREFIX, FILE_PREFIX, SCHEME)):
        raise ConfigError(
            f"{locate(('key',))}: expected file:PATH, env:NAME or pkcs11:…, got something else (not shown, it may be "
            "secret)"
        )
    convert(document.get("vault"), ("vault",), "dsn", Dsn)
    convert(document.get("vault"), ("vault",), "admin_dsn", Dsn)
    sources = document.get("source")
    for number, source in enumerate(cast("list[Any]", sources) if isinstance(sources, list) else ()):
        convert(source, ("source", number), "dsn", Dsn)
        convert(source, ("source", number), "admin_dsn", Dsn)


def _resolve_path(document: dict[str, Any], name: str, base: Path, locate: Callable[[KeyPath], str]) -> None:
    value = document.get(name)
    if isinstance(value, str):
        if not value or "\0" in value:
            raise ConfigError(f"{locate((name,))}: expected the path of a directory, got {value!r}")
        document[name] = Path(os.path.normpath(base / value))


#: pydantic's error type → our words; ``{input}`` only where the value cannot be a secret.
_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "there is no such setting",
    "string_type": "expected a string",
    "is_instance_of": "expected a string",
    "path_type": "expected a string",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "dict_type": "expected a table",
    "model_type": "expected a table",
    "model_attributes_type": "expected a table",
    "too_short": "expected at least one [[source]]",
}


def _explain(error: ValidationError, locate: Callable[[KeyPath], str]) -> ConfigError:
    """Return the first thing that is wrong; pydantic's words may quote a value, so they are used for numbers only."""
    errors = error.errors(include_url=False, include_input=False)
    # A misspelled key is unknown under one name and missing under another: the line of the first helps.
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    key_path = tuple(part for part in first["loc"] if part != "[key]")
    kind = first["type"]
    context = first.get("ctx", {})
    if kind == "value_error":
        words = str(context["error"])  # our own validators' words
    elif kind == "literal_error":
        words = f"expected {context['expected']}"
    else:
        words = _WORDS.get(kind, first["msg"][:1].lower() + first["msg"][1:])
    return ConfigError(f"{locate(key_path)}: {words}")


def _check_whole(settings: Settings, locate: Callable[[KeyPath], str]) -> None:
    """Check what concerns several settings at once."""
    names: set[str] = set()
    for number, source in enumerate(settings.sources):
        if source.name in names:
            raise ConfigError(f"{locate(('source', number, 'name'))}: another source is called {source.name!r} already")
        names.add(source.name)
        for relation in source.tables:
            if is_pattern(relation):
                continue
            try:
                parse_relation(relation)
            except FormatError as error:
                raise ConfigError(f"{locate(('source', number, 'tables', relation))}: {error}") from error
    _check_witnesses(settings, locate)
    if settings.state == settings.ledger or settings.ledger in settings.state.parents:
        raise ConfigError(f"{locate(('state',))}: expected a directory outside the ledger, got {str(settings.state)!r}")


def _check_witnesses(settings: Settings, locate: Callable[[KeyPath], str]) -> None:
    seen: dict[object, str] = {}
    for number, witness in enumerate(settings.witnesses):
        for what, value in (("name", witness.name), ("key", witness.key)):
            if value in seen:
                raise ConfigError(f"{locate(('witness', number, what))}: witness {seen[value]!r} has it already")
            seen[value] = witness.name
    if settings.witness_policy is not None and not settings.witnesses:
        raise ConfigError(f"{locate(('witness_policy',))}: there is no [[witness]] that it could be about")
    try:
        settings.find_witness_policy()
    except FormatError as error:
        raise ConfigError(f"{locate(('witness_policy',))}: {str(error).removeprefix('witness policy: ')}") from error


def _format_key_path(path: KeyPath) -> str:
    """Return ``source.tables."public.patients".mask``: the numbers of array elements are told by the line."""
    parts = [part for part in path if isinstance(part, str)]
    return ".".join(part if re.fullmatch(r"[\w-]+", part, re.ASCII) else f'"{part}"' for part in parts)
