"""``[[witness]]``, ``witness_policy`` and ``witness_deadline`` of ``pgseal.toml``."""

import tomllib
from pathlib import Path

import pytest

from pgseal import settings
from pgseal.core.keys import KeyType, SignerKey
from pgseal.errors import ConfigError
from pgseal.settings import TablePolicy

PARIS, OSLO = (
    SignerKey(f"witness.example/{name}", bytes([number]) * 32, KeyType.COSIGNATURE).verifier
    for number, name in enumerate(("paris", "oslo"), 1)
)
LOG = SignerKey("o", bytes(32)).verifier
VALID = f"""\
origin = "o"
ledger = "l"
key = "file:k"
witness_policy = "any 1 of oslo"
witness_deadline = 2

[vault]
dsn = "env:V"

[[source]]
name = "s"
dsn = "env:S"

[[witness]]
name = "paris"
url = "https://witness.example/prefix/"
key = "{PARIS}"

[[witness]]
name = "oslo"
url = "http://[::1]:8780"
key = "{OSLO}"
"""


def load(directory: Path, text: str) -> settings.Settings:
    path = directory / "pgseal.toml"
    path.write_text(text, encoding="utf-8")
    return settings.load(path, {})


def test_witnesses_are_read(tmp_path: Path):
    found = load(tmp_path, VALID)
    assert [(one.name, one.key) for one in found.witnesses] == [("paris", PARIS), ("oslo", OSLO)]
    assert found.witness_deadline == 2
    policy = found.find_witness_policy()
    assert policy is not None
    assert str(policy) == "any 1 of oslo"


def test_all_witnesses_are_wanted_unless_said_otherwise(tmp_path: Path):
    found = load(tmp_path, VALID.replace('witness_policy = "any 1 of oslo"\nwitness_deadline = 2\n', ""))
    assert found.witness_deadline == 0.5
    assert str(found.find_witness_policy()) == "any 2 of paris, oslo"


def test_without_witnesses_there_is_no_policy(tmp_path: Path):
    text = VALID.partition("[[witness]]")[0]
    with pytest.raises(ConfigError, match="line 4, witness_policy: there is no"):
        load(tmp_path, text)
    assert load(tmp_path, text.replace("witness_policy", "#")).find_witness_policy() is None


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("any 1 of oslo", "any 2 of oslo", "line 4, witness_policy: expected at most the 1 witnesses"),
        ("any 1 of oslo", "any 1 of rome", "line 4, witness_policy: there is no witness 'rome'"),
        ("any 1 of oslo", "most", "line 4, witness_policy: expected a policy such as"),
        ("witness_deadline = 2", "witness_deadline = 0", "line 5, witness_deadline: "),
        ("witness_deadline = 2", "witness_deadline = 61", "line 5, witness_deadline: "),
        ("witness_deadline = 2", 'witness_deadline = "1 s"', "line 5, witness_deadline: "),
        ('name = "oslo"', 'name = "paris"', "line 20, witness.name: witness 'paris' has it already"),
        ('name = "oslo"', 'name = "os lo"', "line 20, witness.name: expected 1 to 63"),
        (str(OSLO), str(PARIS), "line 22, witness.key: witness 'paris' has it already"),
        (str(OSLO), str(LOG), "line 22, witness.key: 'o' is a key that signs logs"),
        (str(OSLO), "PRIVATE+KEY+x", "line 22, witness.key: this is a signer key"),
        (str(OSLO), "junk", "line 22, witness.key: expected name"),
        ("https://witness.example/prefix/", "ftp://witness.example", "line 16, witness.url: expected where"),
        ("https://witness.example/prefix/", "https://u:geheim@witness.example", "line 16, witness.url: expected where"),
        ("https://witness.example/prefix/", "https://witness.example/?q", "line 16, witness.url: expected where"),
        ("https://witness.example/prefix/", "https://w:99999", "line 16, witness.url: expected where"),
        ("https://witness.example/prefix/", "witness.example", "line 16, witness.url: expected where"),
        ('name = "oslo"\n', "", "witness.name: is missing"),
    ],
)
def test_what_is_wrong_is_named_with_line_and_key(tmp_path: Path, old: str, new: str, expected: str):
    assert old in VALID
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, VALID.replace(old, new))
    assert expected in str(raised.value)
    assert "geheim" not in str(raised.value)


def test_edits_leave_witnesses_alone(tmp_path: Path):
    path = load(tmp_path, VALID).path
    settings.edit_tables(path, "s", {"public.item": TablePolicy(exclude=("photo",))})
    settings.add_source(path, "other", "env:OTHER")
    found = settings.load(path, {})
    assert [source.name for source in found.sources] == ["s", "other"]
    assert list(found.sources[0].tables) == ["public.item"]
    assert tomllib.loads(path.read_text())["witness"] == tomllib.loads(VALID)["witness"]
