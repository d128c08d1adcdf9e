import psycopg
import pytest

from pgseal.cli.failures import describe_failure
from pgseal.errors import (
    CaptureError,
    ConfigError,
    ConflictError,
    FatalSealError,
    FormatError,
    MissingRecordError,
    RollbackError,
    StorageError,
    UnavailableError,
    kind_of,
)
from pgseal.ledger.store import MissingObjectError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RollbackError("older than kept", where="ledger"), 1),
        (ConfigError("wrong"), 2),
        (CaptureError("is a view"), 2),
        (FormatError("bad", source="checkpoint", offset=3), 3),
        (StorageError("gone"), 3),
        (UnavailableError("cannot reach the vault"), 3),
        (ConflictError("another sealer"), 3),
        (FatalSealError("stopped"), 3),
        (PermissionError(13, "Permission denied", "/x"), 3),
        (ZeroDivisionError("division by zero"), 3),
    ],
)
def test_each_branch_of_the_errors_has_its_exit_code(error, code):
    assert describe_failure(error)[1] == code


def test_a_message_is_one_line_that_a_terminal_does_not_obey():
    message, _ = describe_failure(ConfigError("first\nsecond\x1b[31m"))

    assert message == "first second�[31m"


@pytest.mark.parametrize(
    "error", [FormatError("bad", source="tile/0/000"), MissingObjectError("it is missing", path="tile/0/000")]
)
def test_what_is_damaged_or_gone_leads_to_verify(error):
    assert describe_failure(error) == (f"{error}; pgseal verify looks at everything", 3)


def test_an_error_of_the_server_that_nobody_expected_is_no_bug():
    assert describe_failure(psycopg.errors.UndefinedTable("no such table\nLINE 1")) == (
        "the server refuses: no such table",
        3,
    )


def test_a_bug_asks_to_be_reported():
    message, _ = describe_failure(KeyError("x"))

    assert message == "unexpected error (KeyError: 'x'); please report it with what --debug shows"


def test_kinds_are_snake_case():
    assert kind_of(MissingRecordError) == "missing_record"
