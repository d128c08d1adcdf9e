"""The table of checks is whole, and each stands where it says; `make mutants` runs it, which takes half an hour."""

import shutil
from pathlib import Path

import pytest
from tests.docs.attack_reference import find_attacks
from tests.mutants.mutant import Mutant
from tests.mutants.table import MUTANTS

import pgseal

SOURCE = Path(pgseal.__file__).parent
ATTACKS = Path(__file__).parents[1] / "attacks"


def test_every_staged_attack_has_a_check_that_can_be_taken_away():
    assert {mutant.attack for mutant in MUTANTS} == {attack.number for attack, _ in find_attacks()}


def test_the_tests_of_the_table_are_there():
    for mutant in MUTANTS:
        file, _, test = mutant.test.partition("::")
        assert f"def {test.partition('[')[0]}(" in (ATTACKS / file).read_text(encoding="utf-8"), mutant.test


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.attack} {mutant.place}")
def test_a_check_stands_where_the_table_says(mutant: Mutant, tmp_path: Path):
    for one in mutant.all:
        (tmp_path / one.file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SOURCE / one.file, tmp_path / one.file)
    mutant.apply(tmp_path)
    for one in mutant.all:
        changed = (tmp_path / one.file).read_text(encoding="utf-8")
        assert changed != (SOURCE / one.file).read_text(encoding="utf-8")
        if one.file.endswith(".py"):
            compile(changed, one.file, "exec")
