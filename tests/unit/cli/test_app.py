import subprocess
import sys

import pytest

from pgseal.cli import main

COMMANDS = ["init", "track", "untrack", "seal", "verify", "status", "history", "search", "prove"]


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PGSEAL_CONFIG", raising=False)


def test_alone_it_shows_the_five_commands_a_newcomer_needs_in_order(capsys):
    assert main([]) == 0

    shown = capsys.readouterr().out
    places = [shown.index(f"pgseal {command}") for command in ("init", "track", "seal", "history", "verify")]
    assert places == sorted(places)


@pytest.mark.parametrize("command", [*([name] for name in COMMANDS), ["key", "show"]], ids=" ".join)
def test_every_help_has_one_example(command, capsys):
    assert main([*command, "--help"]) == 0

    assert capsys.readouterr().out.count(f"Example: pgseal {' '.join(command)}") == 1


def test_key_alone_shows_its_help_as_it_is_with_help(capsys):
    assert main(["key", "--help"]) == 0
    help_text = capsys.readouterr().out

    assert main(["key"]) == 0
    shown = capsys.readouterr()
    assert shown.out == help_text
    assert shown.err == ""
    assert "\n  show " in shown.out


def test_demo_without_its_postgresql_says_so_and_nothing_else(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)

    assert main(["demo"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "pip install 'pgseal[embedded]'" in shown.err
    assert shown.err.count("\n") == 1


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("pgseal 0.")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nothing"], "no such command"),
        (["status", "--wrong"], "no such option"),
        (["track"], "missing argument"),
        (["search", "--limit", "many"], "--limit"),
        (["status"], "pgseal.toml: no such configuration file; make one with pgseal init"),
        (["--config", "other.toml", "status"], "other.toml: no such configuration file"),
        (["status", "--config", "other.toml"], "other.toml: no such configuration file"),
        (["status", "--config=other.toml"], "other.toml: no such configuration file"),
        (["init"], "--source is missing"),
        (["history", "patients"], "expected a table and a key, or --id"),
        (["prove", "x/y/z"], "expected a record as [TRAIL/]ID"),
        (["seal", "--json"], "--json goes with --once"),
        (["verify", "\udcff"], "not UTF-8"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, expected, capsys):
    assert main(arguments) == 2

    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("pgseal: ")
    assert shown.err.count("\n") == 1
    assert expected.lower() in shown.err.lower()


def test_debug_shows_where_an_error_comes_from(capsys):
    assert main(["status", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_ends_with_a_word(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pgseal.settings.load", interrupt)

    assert main(["status"]) == 130
    assert capsys.readouterr().err == "pgseal: interrupted\n"


def test_help_loads_neither_driver_nor_settings(tmp_path):
    code = (
        "import sys; from pgseal.cli import main; main(['--help']); "
        "print([name for name in ('psycopg', 'pydantic', 'cryptography', 'rich.console') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)

    assert shown.stdout.endswith("[]\n")
