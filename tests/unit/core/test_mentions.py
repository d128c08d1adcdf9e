"""Which events and statements are about a row."""

import pytest

from pgseal.core.mentions import RowName, is_event_about, is_statement_about, mentions

ROW = RowName("public.patients", {"id": "42"})
NAMED = RowName('public."Categories"', {"id": "ab-12"})
PAIR = RowName("clinic.visits", {"day": "2026-01-01", "patient": "42"})


@pytest.mark.parametrize(
    "what",
    [
        {"resource": "patients/42"},
        {"resource": "Patient:42"},
        {"resource": {"type": "patient", "id": 42}},
        {"targets": [{"type": "user", "id": 42}, {"type": "public.patients", "id": "42"}]},
        {"target": {"table": "patients", "key": {"id": 42}}},
        {"metadata": {"deep": [{"patient_id": 42}]}},
        {"patientId": "42"},
        {"patients_id": 42},
        {"any": [{"relation": "public.patients", "key": 42}]},
    ],
)
def test_events_about_the_row(what):
    assert is_event_about(what, ROW)


@pytest.mark.parametrize(
    "what",
    [
        {},
        {"resource": "42"},
        {"resource": {"id": 42}},
        {"resource": "patients/421"},
        {"resource": "invoices/42"},
        {"targets": [{"type": "user", "id": 42}]},
        {"amount": 42},
        {"invoice_id": 42},
        {"patient_id": 421},
        {"patient_id": True},
        {"note": "patients/42"},
        {"any": {"id": 42}},
    ],
)
def test_events_about_something_else(what):
    assert not is_event_about(what, ROW)


def test_other_names_and_keys():
    assert is_event_about({"resource": "ab-12"}, NAMED)  # no number, so nobody else's
    assert is_event_about({"resource": "category/ab-12"}, NAMED)
    assert is_event_about({"resource": {"type": "visit", "key": {"day": "2026-01-01", "patient": 42}}}, PAIR)
    assert not is_event_about({"resource": {"type": "visit", "key": {"day": "2026-01-01", "patient": 43}}}, PAIR)


def test_statements():
    assert is_statement_about({"text": "UPDATE patients SET x = 1 WHERE id = 42"}, None, ROW)
    assert is_statement_about({"text": "SELECT $1", "parameters": ["42"]}, "public.patients", ROW)
    assert not is_statement_about({"text": "SELECT $1", "parameters": ["42"]}, None, ROW)
    assert not is_statement_about({"text": "UPDATE patients SET x = 1 WHERE id = 421"}, None, ROW)
    assert not is_statement_about({"text": "UPDATE patients_old SET x = 1 WHERE id = 42"}, None, ROW)
    assert is_statement_about({"text": "SELECT FROM visits WHERE day = '2026-01-01' AND patient = 42"}, None, PAIR)
    assert not is_statement_about({"text": "SELECT FROM visits WHERE day = '2026-01-01'"}, None, PAIR)


def test_mentions_are_whole_words():
    assert mentions({"a": [{"b": "of 42."}]}, ROW)
    assert not mentions({"a": "1.42", "b": "42nd", "c": "4-42"}, ROW)
