"""Which rows of a table are recorded, as the policy says it (``where``): parsed and written. Pure.

::

    tenant = 'clinic' and (status <> 'draft' or total >= 1000) and closed_at is null
    region in ('eu', 'us') and not is_test = true

A filter is not SQL, although it looks like it: columns compared with constants, ``is null``, ``and``, ``or``, ``not``.
It is evaluated in a function that runs as pgseal_owner, so nothing that a user can define may be in it, and nothing
that a session can set may change what it says; ``conditions`` makes SQL of it.

NULL is as in SQL: a comparison with it is neither true nor false, and a row is recorded where the filter is true.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import LiteralString, NamedTuple, NoReturn, TypeAlias

from pgseal.errors import ConfigError

Constant: TypeAlias = str | bool | int | Decimal

MAX_LENGTH = 4000
_MAX_DEPTH = 50
_KEYWORDS = frozenset({"and", "or", "not", "in", "is", "null", "true", "false"})
_COMPARISONS: Mapping[str, LiteralString] = {
    "=": "=", "<>": "<>", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">=",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """One column against constants: ``operator`` is a comparison with one, ``in`` with several, ``null`` with none."""

    column: str
    operator: LiteralString
    constants: tuple[Constant, ...] = ()


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of ``part``."""

    part: "Filter"


@dataclass(frozen=True, slots=True)
class Group:
    """Two parts or more, joined by ``word``: ``and`` or ``or``."""

    word: LiteralString
    parts: tuple["Filter", ...]


Filter: TypeAlias = Comparison | Not | Group


def parse_filter(text: str) -> Filter:
    """Parse a filter.

    Raises ``ConfigError`` with the position, counted in characters from 1.
    """
    if len(text) > MAX_LENGTH:
        raise ConfigError(f"where: expected at most {MAX_LENGTH} characters, got {len(text)}")
    return _Parser(text).parse()


def format_filter(found: Filter) -> str:
    """Write a filter in the one form that it has: what is parsed from it is equal."""
    if isinstance(found, Comparison):
        return _format_comparison(found)
    if isinstance(found, Not):
        if isinstance(found.part, Comparison) and found.part.operator in {"in", "null"}:
            return _format_comparison(found.part, "not ")
        inner = format_filter(found.part)
        return f"not ({inner})" if isinstance(found.part, Group) else f"not {inner}"
    return f" {found.word} ".join(
        f"({format_filter(part)})" if isinstance(part, Group) else format_filter(part) for part in found.parts
    )


def list_columns(found: Filter) -> list[str]:
    """List the columns that a filter tests, each once, in order."""
    return list(dict.fromkeys(test.column for test in iter_comparisons(found)))


def rename_columns(found: Filter, names: Mapping[str, str]) -> Filter:
    """Return the filter with other names for some columns."""
    if isinstance(found, Comparison):
        return Comparison(names.get(found.column, found.column), found.operator, found.constants)
    if isinstance(found, Not):
        return Not(rename_columns(found.part, names))
    return Group(found.word, tuple(rename_columns(part, names) for part in found.parts))


def iter_comparisons(found: Filter) -> Iterator[Comparison]:
    """Yield every comparison in a filter, in order."""
    if isinstance(found, Comparison):
        yield found
    else:
        for part in (found.part,) if isinstance(found, Not) else found.parts:
            yield from iter_comparisons(part)


def _format_comparison(test: Comparison, negation: LiteralString = "") -> str:
    name = test.column
    if name in _KEYWORDS or not re.fullmatch(r"[a-z_][a-z0-9_]*", name):
        name = '"' + name.replace('"', '""') + '"'
    constants = ", ".join(map(format_constant, test.constants))
    if test.operator == "null":
        return f"{name} is {negation}null"
    if test.operator == "in":
        return f"{name} {negation}in ({constants})"
    return f"{name} {test.operator} {constants}"


def format_constant(constant: Constant) -> str:
    """Write a constant as it stands in a filter."""
    if isinstance(constant, bool):
        return str(constant).lower()
    if isinstance(constant, str):
        return "'" + constant.replace("'", "''") + "'"
    return format(constant, "f") if isinstance(constant, Decimal) else str(constant)


def show(text: str) -> str:
    """Return what was written, for a message of one line: line breaks and the like as escapes."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


# What no text of PostgreSQL holds: NUL, and halves of characters, as which bytes of a command that are no UTF-8 arrive.
_IMPOSSIBLE = re.compile("[\0\ud800-\udfff]")
_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<string>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")+")
    | (?P<number>[-+]?[0-9]+(?:\.[0-9]+)?(?![\w.]))
    | (?P<word>[^\W\d][\w$]*)
    | (?P<sign><>|!=|<=|>=|[=<>(),])
    """,
    re.VERBOSE,
)


class _Parser:
    """Recursive descent: ``or`` binds loosest, then ``and``, then ``not``."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_iter_tokens(text))
        self._next = 0
        self._depth = 0

    def parse(self) -> Filter:
        found = self._parse_group("or")
        if self._peek().kind != "end":
            self._refuse("'and', 'or' or the end")
        return found

    def _parse_group(self, word: LiteralString) -> Filter:
        parts = [self._parse_operand(word)]
        while self._take(word):
            parts.append(self._parse_operand(word))
        return parts[0] if len(parts) == 1 else Group(word, tuple(parts))

    def _parse_operand(self, word: LiteralString) -> Filter:
        return self._parse_group("and") if word == "or" else self._parse_negation()

    def _parse_negation(self) -> Filter:
        if self._depth == _MAX_DEPTH:
            raise ConfigError(f"where, character {self._peek().position}: nested more than {_MAX_DEPTH} deep")
        self._depth += 1
        try:
            if self._take("not"):
                return Not(self._parse_negation())
            if not self._take("("):
                return self._parse_comparison()
            found = self._parse_group("or")
            if not self._take(")"):
                self._refuse("'and', 'or' or ')'")
            return found
        finally:
            self._depth -= 1

    def _parse_comparison(self) -> Filter:
        token = self._peek()
        if token.kind == "quoted":
            column = token.text[1:-1].replace('""', '"')
        elif token.kind == "word" and token.text.lower() not in _KEYWORDS:
            # As PostgreSQL does in UTF-8 databases.
            column = re.sub("[A-Z]+", lambda match: match[0].lower(), token.text)
        else:
            self._refuse("a column")
        self._next += 1
        if self._take("is"):
            is_negated = self._take("not")
            if not self._take("null"):
                self._refuse("'null'" if is_negated else "'null' or 'not null'")
            return _negated(Comparison(column, "null"), is_negated=is_negated)
        is_negated = self._take("not")
        if self._take("in"):
            return _negated(Comparison(column, "in", self._parse_constants()), is_negated=is_negated)
        sign = _COMPARISONS.get(self._peek().text)
        if sign is None or is_negated:
            self._refuse("'in'" if is_negated else f"{' '.join(_COMPARISONS)}, in or is after {column!r}")
        self._next += 1
        return Comparison(column, sign, (self._parse_constant(),))

    def _parse_constants(self) -> tuple[Constant, ...]:
        if not self._take("("):
            self._refuse("'('")
        constants = [self._parse_constant()]
        while self._take(","):
            constants.append(self._parse_constant())
        if not self._take(")"):
            self._refuse("',' or ')'")
        return tuple(constants)

    def _parse_constant(self) -> Constant:
        token = self._peek()
        word = token.text.lower()
        constant: Constant
        if token.kind == "string":
            constant = token.text[1:-1].replace("''", "'")
        elif token.kind == "number":
            constant = Decimal(token.text) if "." in token.text else int(token.text)
        elif token.kind == "word" and word in {"true", "false"}:
            constant = word == "true"
        elif token.kind == "word" and word == "null":
            self._refuse("a value, which null is not: write 'is null'")
        else:
            self._refuse("a 'text', a number, true or false")
        self._next += 1
        return constant

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, text: LiteralString) -> bool:
        token = self._peek()
        if token.kind not in {"word", "sign"} or token.text.lower() != text:
            return False
        self._next += 1
        return True

    def _refuse(self, expected: str) -> NoReturn:
        token = self._peek()
        raise ConfigError(
            f"where, character {token.position}: expected {expected}, got {show(token.text) or 'the end'}"
        )


def _iter_tokens(text: str) -> Iterator[_Token]:
    end = 0
    while end < len(text):
        found = _TOKEN.match(text, end)
        if found is None or _IMPOSSIBLE.search(found[0]):
            what = {"'": "an unclosed text", '"': "an unclosed name"}.get(text[end], repr(text[end]))
            raise ConfigError(f"where, character {end + 1}: {what} cannot stand here")
        if found.lastgroup != "space":
            yield _Token(str(found.lastgroup), found[0], end + 1)
        end = found.end()
    yield _Token("end", "", len(text) + 1)


def _negated(test: Comparison, *, is_negated: bool) -> Filter:
    return Not(test) if is_negated else test
