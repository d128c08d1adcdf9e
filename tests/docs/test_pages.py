"""Links, command lines, configuration and JSON of the documentation, compared with the program."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from tests.docs import attack_reference
from tests.docs.cli_reference import PATH, format_reference
from tests.docs.markdown import ROOT, anchors, blocks, inline_code, links, pages
from typer.main import get_command

from pgseal import settings
from pgseal.cli.app import _hoist, app

# Commands that the documentation names as missing. When one arrives, these pages have to be written anew.
NOT_YET = {"collect", "serve", "up", "coverage"}
PAGES = pages()
GENERATED = {PATH}


def name_of(value: Any) -> str | None:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page):
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(file), f"{page}: {link}"


def test_every_page_is_reachable_from_the_readme():
    found: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in found or page.suffix != ".md":
            continue
        found.add(page)
        waiting += [(page.parent / link.partition("#")[0]).resolve() for link in links(page) if ":" not in link]
    assert not [page for page in PAGES if page not in found and page.name != "benchmarks.md"]


def test_command_reference_is_what_the_commands_say():
    assert PATH.read_text(encoding="utf-8") == format_reference(), "run: python -m tests.docs.cli_reference"


def test_every_attack_is_listed():
    listed = attack_reference.PATH.read_text(encoding="utf-8")
    assert listed == attack_reference.format_reference(), "run: python -m tests.docs.attack_reference"


def parse(command_line: str, *, in_full: bool) -> None:
    """Parse a command line as the program does; unless ``in_full``, arguments may be missing."""
    arguments = _hoist(shlex.split(command_line)[1:])
    group: Any = get_command(app)
    name = "pgseal"
    context = None
    while True:
        try:
            context = group.make_context(name, list(arguments), parent=context)
        except Exception as error:
            if in_full or type(error).__name__ != "MissingParameter":
                raise
            return
        if not hasattr(group, "commands"):
            return
        rest = [*getattr(context, "_protected_args", []), *context.args]
        if not rest:
            return
        assert rest[0] in group.commands, f"no command {rest[0]!r}: {command_line}"
        name, group, arguments = rest[0], group.commands[rest[0]], rest[1:]


def command_lines(page: Path) -> list[str]:
    """Lines of the page's shell blocks that call pgseal, without redirections, pipes and comments."""
    found: list[str] = []
    for block in blocks(page, "sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            match = re.match(r"(?:[A-Z_]+=\S+ )*(pgseal\b[^#>|]*)", line.strip())
            if match:
                found.append(match[1].strip())
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if page not in GENERATED], ids=name_of)
def test_command_lines_parse(page):
    for line in command_lines(page):
        parse(line, in_full=True)
    for code in inline_code(page):
        if re.match(r"pgseal [a-z-]", code):
            line = re.split(r" [\\|>]", code)[0]
            if line.split()[1] not in NOT_YET:
                parse(line.replace("…", "x"), in_full=False)


def test_commands_named_as_missing_are_missing():
    assert not NOT_YET & set(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", [page for page in PAGES if list(blocks(page, "toml"))], ids=name_of)
def test_configurations_load(page, tmp_path):
    for block in blocks(page, "toml"):
        text = block.text
        if "origin" not in text:  # an excerpt
            source = "" if "[[source]]" in text else '[vault]\ndsn = "env:V"\n[[source]]\nname = "s"\ndsn = "env:S"\n'
            top, header, tables = re.match(r"((?:(?!\[).*\n)*)(\[)?(.*)", text, re.DOTALL).groups(default="")  # type: ignore[union-attr]
            text = 'origin = "o"\nledger = "l"\nkey = "file:k"\n' + top + source + header + tables
        path = tmp_path / "pgseal.toml"
        path.write_text(text, encoding="utf-8")
        settings.load(path, {})


@pytest.mark.parametrize("page", [page for page in PAGES if list(blocks(page, "json"))], ids=name_of)
def test_json_documents_parse(page):
    for block in blocks(page, "json"):
        json.loads(block.text)


@pytest.mark.parametrize("page", [page for page in PAGES if list(blocks(page, "python"))], ids=name_of)
def test_python_compiles(page):
    for block in blocks(page, "python"):
        compile(block.text, f"{page}:{block.line}", "exec")
