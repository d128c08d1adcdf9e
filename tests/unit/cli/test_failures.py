import pytest

from pgseal.cli.failures import describe_failure, kind_of
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
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RollbackError("older than kept", where="ledger"), 1),
        (ConfigError("wrong"), 2),
        (CaptureError("is a view"), 2),
        (FormatError("bad", source="checkpoint", offset=3), 2),
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


def test_a_bug_asks_to_be_reported():
    message, _ = describe_failure(KeyError("x"))

    assert message == "unexpected error (KeyError: 'x'); please report it with what --debug shows"


def test_kinds_are_snake_case():
    assert kind_of(MissingRecordError("x")) == "missing_record"
