import pytest

from pgseal.demo.made_up import make_tables
from pgseal.demo.synthea import read_table, read_tables
from pgseal.demo.tables import derive_type
from pgseal.errors import ConfigError


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("id", ["5c0ffee1-0000-4000-8000-00000000ada1", None], "uuid"),
        ("birthdate", ["1984-06-02", None], "date"),
        ("start", ["2021-08-23T03:26:50Z"], "timestamptz"),
        ("dispenses", ["2", "-1"], "int4"),
        ("lat", ["36.41989374333241", "2"], "numeric"),
        ("base_cost", ["136"], "numeric"),
        ("other", ["08", "9"], "text"),
        ("zip", ["93291"], "text"),
        ("code", ["410620009"], "text"),
        ("big", ["12345678901"], "numeric"),
        ("suffix", [None, None], "text"),
        ("mixed", ["1984-06-02", "soon"], "text"),
    ],
)
def test_a_column_gets_the_narrowest_type_that_holds_all_its_values(column, values, expected):
    assert derive_type(column, values) == expected


def test_made_up_clinic_is_the_same_every_time_and_refers_to_itself_only():
    tables = make_tables()
    assert tables == make_tables()
    patients = {row[0] for row in tables["patients"].rows}
    encounters = {row[0] for row in tables["encounters"].rows}
    assert {row[3] for row in tables["encounters"].rows} <= patients
    assert {row[1] for row in tables["medications"].rows} <= patients
    assert {row[2] for row in tables["medications"].rows} <= encounters
    assert tables["patients"].types()["id"] == "uuid"


HEADER = "Id,BIRTHDATE,FIRST,LAST,ADDRESS,CITY,ZIP,HEALTHCARE_EXPENSES\n"


def test_missing_files_are_skipped_with_a_line(tmp_path):
    (tmp_path / "patients.csv").write_text(f"{HEADER}1,,Ada,,,,,2\n")
    skipped = []
    tables = read_tables(tmp_path, skipped.append)
    assert list(tables) == ["patients"]
    assert tables["patients"].rows == [["1", None, "Ada", None, None, None, None, "2"]]
    assert "observations.csv is not there: skipped" in skipped
    assert len(skipped) == 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names of columns|is empty"),
        (b"Id,ID\n", "each once"),
        (b"Id,A\n1,2\n3\n", "line 3: expected 2 fields, got 1"),
        (b'Id\n"1\n', "not a CSV file"),
        (b"Id\n\xff\n", "UTF-8"),
    ],
)
def test_a_file_that_is_no_table_is_named_with_its_line(tmp_path, content, message):
    path = tmp_path / "patients.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_table(path)


def test_data_without_patients_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no patients\.csv"):
        read_tables(tmp_path, lambda _: None)
    with pytest.raises(ConfigError, match="not a directory"):
        read_tables(tmp_path / "nowhere", lambda _: None)
    (tmp_path / "patients.csv").write_text("Id,FIRST\n")
    with pytest.raises(ConfigError, match="expected columns address, birthdate"):
        read_tables(tmp_path, lambda _: None)
