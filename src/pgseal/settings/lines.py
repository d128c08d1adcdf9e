"""Where in a TOML file each key stands, so that a message can name the line.

``tomllib`` tells the line of a syntax error and nothing else. A file that it accepts is cut here into statements
(header or ``key = value``, however many lines long), and each is parsed on its own by ``tomllib`` again: no second
opinion on what TOML is.

Spec: https://toml.io/en/v1.0.0.
"""

import tomllib
from collections.abc import Iterator, Sequence
from typing import TypeAlias, cast

Path: TypeAlias = tuple[str | int, ...]


def find_line(text: str, path: Sequence[str | int]) -> int | None:
    """Return the 1-based line of the key at ``path``, or of the nearest table around it that is there.

    ``text`` is valid TOML; ``path`` has keys, and 0-based numbers for the elements of an array of tables. None if not
    even the first key is there.
    """
    lines = index_lines(text)
    for end in range(len(path), 0, -1):
        line = lines.get(tuple(path[:end]))
        if line is not None:
            return line
    return None


def index_lines(text: str) -> dict[Path, int]:
    """Return the line where each key of ``text``, which is valid TOML, first stands."""
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    for number, statement in _iter_statements(text):
        document = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            table = _resolve(next(_iter_paths(document)), counts, is_array=statement.lstrip().startswith("[["))
            _note(found, table, number)
        else:
            for path in _iter_paths(document):
                _note(found, (*table, *path), number)
    return found


def _iter_statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number of the first line and the text of each statement; comments and empty lines are none."""
    pending, start = "", 0
    # TOML ends lines at \n and \r\n only, str.splitlines at more.
    for number, line in enumerate(text.split("\n"), 1):
        if not pending:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            start = number
        pending += line + "\n"
        try:
            tomllib.loads(pending)
        except tomllib.TOMLDecodeError:
            continue  # goes on in the next line
        yield start, pending
        pending = ""


def _iter_paths(value: object) -> Iterator[Path]:
    """Yield the path of each innermost key (of a header: the one it names)."""
    if not isinstance(value, dict):
        return
    for key, inner in cast("dict[str, object]", value).items():
        deeper = list(_iter_paths(inner))
        if deeper:
            yield from ((key, *path) for path in deeper)
        else:
            yield (key,)


def _resolve(keys: Path, counts: dict[Path, int], *, is_array: bool) -> Path:
    """Return the full path of a header: names of arrays of tables are followed by the number of the last element."""
    path: Path = ()
    for depth, key in enumerate(keys, 1):
        path = (*path, key)
        if is_array and depth == len(keys):
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _note(found: dict[Path, int], path: Path, number: int) -> None:
    for end in range(len(path), 0, -1):
        found.setdefault(path[:end], number)
