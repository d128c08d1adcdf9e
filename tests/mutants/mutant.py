"""A check that is taken away: where it stands in src/pgseal, and which test of an attack has to fail without it."""

import ast
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """``old`` in ``file`` becomes ``new``; then ``test``, below tests/attacks, must fail.

    ``attack`` is the number in docs/reference/attacks.md. ``beside`` are checks that catch it as well: they go, too.
    """

    attack: int
    test: str
    file: str
    old: str
    new: str = ""
    function: str = ""
    beside: tuple["Mutant", ...] = ()

    @property
    def place(self) -> str:
        """Where the check stands, for people."""
        return f"{self.file}: {self.function or self.old.strip().splitlines()[0].strip()}"

    @property
    def all(self) -> tuple["Mutant", ...]:
        """This one and those beside it."""
        return (self, *self.beside)

    def apply(self, source: Path) -> None:
        """Change the copy of pgseal in ``source``; raises ``ValueError`` where the check is not there (any more)."""
        for one in self.all:
            path = source / one.file
            text = path.read_text(encoding="utf-8")
            changed = _cut(text, one.function, one.new) if one.function else _replace(text, one.old, one.new)
            path.write_text(changed, encoding="utf-8")


def cut(attack: int, test: str, place: str, instead: str = "return") -> Mutant:
    """Return a mutant in which the function of ``place`` (file:function) does nothing but ``instead``."""
    file, _, function = place.partition(":")
    return Mutant(attack, test, file, "", instead, function)


def swap(attack: int, test: str, file: str, old: str, new: str) -> Mutant:
    """Return a mutant in which ``old``, which stands in ``file`` once, is ``new``."""
    return Mutant(attack, test, file, old, new)


def both(one: Mutant, other: Mutant) -> Mutant:
    """Return a mutant without either check: each alone catches what ``one`` is about."""
    return replace(one, beside=(other,))


def _replace(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise ValueError(f"stands there {text.count(old)} times: {old!r}")
    return text.replace(old, new)


def _cut(text: str, name: str, instead: str) -> str:
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef) and node.name == name]
    if len(found) != 1:
        raise ValueError(f"there are {len(found)} functions {name}")
    body = found[0].body
    first = body[1] if len(body) > 1 and isinstance(body[0], ast.Expr) else body[0]
    lines = text.splitlines(keepends=True)
    lines.insert(first.lineno - 1, " " * first.col_offset + instead + "\n")
    return "".join(lines)
