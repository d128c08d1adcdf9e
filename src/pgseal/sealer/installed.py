"""Whether schemas, functions, grants and roles of both sides are as they were installed. Reads only.

``pgseal plan`` says the same of a source, beside how it differs from the policy; ``pgseal apply`` mends that. Of the
vault nobody else speaks.
"""

from collections.abc import Iterator, Sequence

from pgseal.errors import ConfigError
from pgseal.postgres import Connection, translated_errors
from pgseal.postgres.expected import Difference
from pgseal.sealer.advice import Advice
from pgseal.trail.health import read_drift
from pgseal.trail.integrity import read_differences as read_trail_differences
from pgseal.trail.marks import read_touched_objects
from pgseal.trail.outside import describe_difference, read_role_changes, repair_difference
from pgseal.trail.registry import list_made
from pgseal.vault.integrity import read_differences as read_vault_differences

_WHY = "somebody has changed what pgseal installed: what it says and what it keeps out cannot be relied on"


def examine_source(connection: Connection, subject: str, side: str) -> Iterator[Advice]:
    """Say what of schema audit, and of pgseal's roles, is not as installed."""
    try:
        drifted = [drift.relation for drift in read_drift(connection)]
        with translated_errors(side):
            differences = read_trail_differences(connection, list_made(connection), drifted, side=side)
    except ConfigError as error:
        yield _not_compared(subject, error, "pgseal doctor, with admin_dsn set to an administrator's login")
    else:
        for difference in differences:
            yield _advise(subject, difference, "pgseal apply" if [*repair_difference(difference)] else "")
        for touched in read_touched_objects(connection, besides=differences):
            yield Advice("error", subject, f"{touched.subject} {touched.fault}", _WHY, "pgseal apply")
    yield from _examine_roles(connection, subject)


def examine_vault(connection: Connection) -> Iterator[Advice]:
    """Say what of the vault's schemas, and of pgseal's roles there, is not as installed."""
    try:
        with translated_errors("vault"):
            differences = [
                *read_trail_differences(connection, [], [], side="vault"),
                *read_vault_differences(connection, side="vault"),
            ]
    except ConfigError as error:
        yield _not_compared("vault", error, "PGSEAL_VAULT_DSN=… pgseal doctor, with an administrator's login")
    else:
        for difference in differences:
            yield _advise("vault", difference, _statements(difference))
        for touched in read_touched_objects(connection, besides=differences):
            mending = "find out who did it; then, as pgseal_owner: SELECT audit.note_marks();"
            yield Advice("error", "vault", f"{touched.subject} {touched.fault}", _WHY, mending)
    yield from _examine_roles(connection, "vault")


def _advise(subject: str, difference: Difference, mending: str) -> Advice:
    changes = list(describe_difference(difference))
    by_hand = " ".join(change.by_hand for change in changes if change.by_hand)
    what = f"{difference.subject} {'; '.join(change.text for change in changes)}"
    return Advice("error", subject, what, _WHY, mending or by_hand or "find out who did it, and put it back by hand")


def _statements(difference: Difference) -> str:
    statements: Sequence[str] = [statement.as_string() for statement in repair_difference(difference)]
    if not statements:
        return ""
    return "as pgseal_owner: " + " ".join(f"{statement.rstrip().rstrip(';')};" for statement in statements)


def _examine_roles(connection: Connection, subject: str) -> Iterator[Advice]:
    for change in read_role_changes(connection):
        yield Advice("error", subject, f"{change.subject} {change.text}", _WHY, change.by_hand)


def _not_compared(subject: str, error: ConfigError, command: str) -> Advice:
    return Advice("note", subject, "its schema could not be compared with what pgseal installs", str(error), command)
