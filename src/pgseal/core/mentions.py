"""Which application events and statements are about a row, by what they say. Pure.

An application says what it likes in an event. These are understood, at any depth:

- a member ``resource``, ``resources``, ``target`` or ``targets``: ``"patients/42"``, ``"patient:42"``,
  ``{"type": "patient", "id": 42}``, ``{"table": "public.patients", "key": {"id": 42}}``, one of them or a list;
- a member named for table and column: ``patient_id``, ``patients_id``, ``patientId``;
- the same objects with a table and a key, under whatever name.

A table is known by its name with or without the schema, in the singular too; upper and lower case are alike. Where an
event gives no type, a bare number could be anybody's: only what is no number counts then.

A statement is about the row if it names the table and has the key's value among its words or parameters.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

_PLACES = frozenset({"resource", "resources", "target", "targets"})
_TYPES = ("type", "table", "relation", "kind")
_KEYS = ("id", "key")
_PATH = re.compile(r"([^/:]+)[/:](.+)", re.DOTALL)
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True)
class RowName:
    """A row by its table, as records write it, and its key: values as text, by column."""

    relation: str
    key: Mapping[str, str]

    @property
    def names(self) -> set[str]:
        """Return what the table may be called, in lower case."""
        whole = self.relation.replace('"', "").lower()
        bare = whole.rpartition(".")[2]
        return {whole, bare, *_singular(bare)}

    @property
    def value(self) -> str | None:
        """The key's value, where it has one column."""
        return next(iter(self.key.values())) if len(self.key) == 1 else None


def is_event_about(what: object, row: RowName) -> bool:
    """Return whether the data of an application event is about ``row``."""
    names = row.names
    members = {_plain(f"{name}_{column}") for name in names if "." not in name for column in row.key}
    if row.value is not None:
        members |= {_plain(f"{name}_id") for name in names if "." not in name}
    for name, value in _iter_members(what):
        if name in _PLACES and any(_names_row(one, row, names, bare=True) for one in _as_list(value)):
            return True
        if _is_object(value) and _names_row(value, row, names, bare=False):
            return True
        if row.value is not None and _plain(name) in members and _text(value) == row.value:
            return True
    return False


def is_statement_about(what: object, relation: str | None, row: RowName) -> bool:
    """Return whether a statement record, with its ``relation``, is about ``row``."""
    texts = list(_iter_texts(what))
    whole = "\n".join(texts).lower()
    names = {row.relation.replace('"', "").lower(), row.relation.replace('"', "").lower().rpartition(".")[2]}
    if relation != row.relation and not any(has_word(whole, name) for name in names):
        return False
    return all(has_word(whole, value.lower()) for value in row.key.values())


def has_word(text: str, word: str) -> bool:
    """Return whether ``word`` stands in ``text`` and is no part of a longer one."""
    return re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w-]|\.\w)", text) is not None


def mentions(what: object, row: RowName) -> bool:
    """Return whether every value of the key stands somewhere in ``what``."""
    whole = "\n".join(_iter_texts(what))
    return all(has_word(whole, value) for value in row.key.values())


def iter_values(what: object) -> Iterator[str]:
    """Yield what may be a key's value in ``what``: every value as text, and what stands behind ``TYPE/``."""
    for text in _iter_texts(what):
        yield text
        path = _PATH.fullmatch(text)
        if path is not None:
            yield path[2]


def _names_row(value: object, row: RowName, names: set[str], *, bare: bool) -> bool:
    if isinstance(value, Mapping):
        said = {str(name).lower(): inner for name, inner in cast("Mapping[str, Any]", value).items()}
        kind = next((_text(said[name]) for name in _TYPES if name in said), None)
        found = next((said[name] for name in _KEYS if name in said), None)
        if kind is None and (not bare or _is_number(row.value)):
            return False
        return (kind is None or kind.replace('"', "").lower() in names) and _is_key(found, row)
    text = _text(value)
    if text is None:
        return False
    path = _PATH.fullmatch(text)
    if path is not None and path[1].lower() in names:
        return path[2] == row.value
    return bare and text == row.value and not _is_number(row.value)


def _is_key(value: object, row: RowName) -> bool:
    if isinstance(value, Mapping):
        given = {name: _text(inner) for name, inner in cast("Mapping[str, Any]", value).items()}
        return given == dict(row.key)
    return row.value is not None and _text(value) == row.value


def _is_object(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_number(text: str | None) -> bool:
    return text is None or _NUMBER.fullmatch(text) is not None


def _singular(name: str) -> Iterator[str]:
    if name.endswith("ies"):
        yield f"{name[:-3]}y"
    if name.endswith("es"):
        yield name[:-2]
    if name.endswith("s"):
        yield name[:-1]


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _text(value: object) -> str | None:
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def _as_list(value: object) -> Sequence[object]:
    return cast("list[object]", value) if isinstance(value, list) else [value]


def _iter_members(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for name, inner in cast("Mapping[str, object]", value).items():
            yield name.lower(), inner
            yield from _iter_members(inner)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            if _is_object(inner):
                yield "", inner
            yield from _iter_members(inner)


def _iter_texts(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner in cast("Mapping[str, object]", value).values():
            yield from _iter_texts(inner)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            yield from _iter_texts(inner)
    elif value is not None:
        yield str(value)
