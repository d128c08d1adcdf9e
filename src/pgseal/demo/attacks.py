"""Attacks on the databases, each staged for real, looked for, and undone."""

from contextlib import closing
from typing import LiteralString

import psycopg
from psycopg import sql

from pgseal.core.checkpoint import parse_checkpoint
from pgseal.core.note import parse_note
from pgseal.demo import forgery
from pgseal.demo.scene import Attack, Scene, Sighting, edited, from_backup
from pgseal.demo.workload import ADMINISTRATOR, STAR

_TAIL = 5
_APPLICATION: LiteralString = "billing_app"
#: What the right to change business tables must not include.
_FORBIDDEN: tuple[LiteralString, ...] = (
    "INSERT INTO audit.record (id) VALUES (1)",
    "UPDATE audit.record SET session_role = 'somebody'",
    "DELETE FROM audit.record",
    "TRUNCATE audit.record",
    "SELECT nextval('audit.record_id_seq')",
    "SELECT audit.record_act('TRACK', '{}')",
    (
        "CREATE TEMP TABLE own (id int); CREATE TRIGGER t AFTER TRUNCATE ON own "
        "EXECUTE FUNCTION audit.capture_truncate('public.patients')"
    ),
    "ALTER TABLE public.patients DISABLE TRIGGER ALL",
)


def call_internals(scene: Scene) -> Sighting | None:
    """Write the trail, forge records and stop capture with the rights of an application."""
    refused = 0
    with closing(scene.source(_APPLICATION)) as connection:
        for statements in _FORBIDDEN:
            try:
                with connection.transaction(force_rollback=True):
                    connection.execute(statements)
            except psycopg.errors.InsufficientPrivilege:
                refused += 1
    return Sighting("refused", f"{refused} of {refused} attempts") if refused == len(_FORBIDDEN) else None


def switch_triggers_off(scene: Scene) -> Sighting | None:
    """Change data as a session that ordinary triggers ignore."""
    known = {record["id"] for record in scene.pgseal.read("history", "patients", STAR)}
    with closing(scene.source(ADMINISTRATOR)) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE public.patients SET zip = '00000' WHERE id = %s", [STAR])
    scene.pgseal.read("seal", "--once")
    new = [record for record in scene.pgseal.read("history", "patients", STAR) if record["id"] not in known]
    if [(one["action"], one["actor"]["role"], one["changed"]) for one in new] != [("UPDATE", ADMINISTRATOR, ["zip"])]:
        return None
    return Sighting("recorded", f"as record {new[0]['id']}, all the same")


def change_actor(scene: Scene) -> Sighting | None:
    """Let the record say that somebody else did it."""
    with edited(scene.source(), "audit.record", "id", scene.crime.id) as connection:
        connection.execute(
            "UPDATE audit.record SET session_role = 'care_app', claimed = '{\"actor\": \"dr.okafor\"}' WHERE id = %s",
            [scene.crime.id],
        )
        return scene.find_records("altered_record", "trail", [scene.crime.id])


def delete_record(scene: Scene) -> Sighting | None:
    """Remove one record."""
    with edited(scene.source(), "audit.record", "id", scene.crime.id) as connection:
        connection.execute("DELETE FROM audit.record WHERE id = %s", [scene.crime.id])
        return scene.find_records("missing_record", "trail", [scene.crime.id])


def delete_tail(scene: Scene) -> Sighting | None:
    """Remove the newest records."""
    with closing(scene.source()) as connection:
        rows = connection.execute("SELECT id FROM audit.record ORDER BY id DESC LIMIT %s", [_TAIL]).fetchall()
    ids = [row[0] for row in rows]
    with edited(scene.source(), "audit.record", "id", *ids) as connection:
        connection.execute("DELETE FROM audit.record WHERE id = ANY(%s)", [ids])
        return scene.find_records("missing_record", "trail", ids)


def forge_record(scene: Scene) -> Sighting | None:
    """Add a record to the past, with an id that no other has."""
    with closing(scene.source()) as connection:
        row = connection.execute(
            "SELECT max(r.id) + 1 FROM audit.record AS r WHERE r.id < %s "
            "AND NOT EXISTS (SELECT FROM audit.record AS n WHERE n.id = r.id + 1)",
            [scene.crime.id],
        ).fetchone()
    id_ = int(row[0]) if row else 0
    with edited(scene.source(), "audit.record", "id", id_) as connection:
        connection.execute("CREATE TEMP TABLE forged AS SELECT * FROM audit.record WHERE id = %s", [scene.visit.id])
        connection.execute("UPDATE forged SET id = %s", [id_])
        connection.execute("INSERT INTO audit.record SELECT * FROM forged")
        return scene.find_records("forged_record", "trail", [id_])


def swap_records(scene: Scene) -> Sighting | None:
    """Let two records change places."""
    ids = (scene.visit.id, scene.crime.id)
    with edited(scene.source(), "audit.record", "id", *ids) as connection:
        connection.execute(
            "UPDATE audit.record SET id = CASE id WHEN %s THEN %s ELSE %s END WHERE id = ANY(%s)",
            [*ids, ids[0], list(ids)],
        )
        return scene.find_records("altered_record", "trail", ids)


def restore_source(scene: Scene) -> Sighting | None:
    """Put an older backup of the source in its place and carry on working."""
    with from_backup(scene.servers.source):
        with closing(scene.source(ADMINISTRATOR)) as connection:
            connection.execute("UPDATE public.invoices SET status = 'paid'")
        return scene.refuses_to_seal("rollback", "trail")


def change_vault(scene: Scene) -> Sighting | None:
    """Change what the sealed copy says."""
    with edited(scene.vault(), "vault.record", "leaf_index", scene.crime.index) as connection:
        connection.execute(
            "UPDATE vault.record SET data = replace(data, %s, 'nobody') WHERE leaf_index = %s",
            ["Lindqvist", scene.crime.index],
        )
        return scene.find_records("altered_record", "vault", [scene.crime.id])


def blank_vault(scene: Scene) -> Sighting | None:
    """Blank content and salt, and call it an erasure."""
    with edited(scene.vault(), "vault.record", "leaf_index", scene.crime.index) as connection:
        connection.execute(
            "UPDATE vault.record SET data = NULL, data_salt = NULL WHERE leaf_index = %s", [scene.crime.index]
        )
        return scene.find_records("unauthorized_erasure", "vault", [scene.crime.id])


def restore_vault(scene: Scene) -> Sighting | None:
    """Put the vault's tables back to what they held before the morning."""
    size = parse_checkpoint(parse_note(scene.old_checkpoint)[0]).size
    with closing(scene.vault()) as connection:
        rows = connection.execute("SELECT leaf_index FROM vault.record WHERE leaf_index >= %s", [size]).fetchall()
    newer = [row[0] for row in rows]
    with edited(scene.vault(), "vault.record", "leaf_index", *newer) as connection:
        connection.execute("DELETE FROM vault.record WHERE leaf_index >= %s", [size])
        return scene.refuses_to_seal("rollback", "vault")


def rewrite_everything(scene: Scene) -> Sighting | None:
    """Change the record in trail, vault and ledger alike, and sign the new ledger with the real key."""
    with closing(scene.source()) as connection:
        row = connection.execute(
            "SELECT concat('\"healthcare_expenses\": ', new -> 'healthcare_expenses') FROM audit.record WHERE id = %s",
            [scene.crime.id],
        ).fetchone()
    before, after = str(row[0]) if row else "", '"healthcare_expenses": 18240.75'
    statement = sql.SQL("UPDATE {} SET {} = {} WHERE {} = {}")
    with (
        edited(scene.source(), "audit.record", "id", scene.crime.id) as source,
        edited(scene.vault(), "vault.record", "leaf_index", scene.crime.index) as vault,
    ):
        text = sql.SQL("replace({}::text, {}, {}){}")
        source.execute(
            statement.format(
                sql.SQL("audit.record"),
                sql.SQL("new"),
                text.format(sql.SQL("new"), sql.Literal(before), sql.Literal(after), sql.SQL("::jsonb")),
                sql.SQL("id"),
                sql.Literal(scene.crime.id),
            )
        )
        vault.execute(
            statement.format(
                sql.SQL("vault.record"),
                sql.SQL("data"),
                text.format(sql.SQL("data"), sql.Literal(before), sql.Literal(after), sql.SQL("")),
                sql.SQL("leaf_index"),
                sql.Literal(scene.crime.index),
            )
        )
        with forgery.forged_ledger(scene, vault):
            return scene.find_checkpoint("fork")


#: In the order they are shown; numbers as in the red-team table of the design.
ATTACKS = (
    Attack(13, "An application", "write the trail, forge it, stop capture", call_internals),
    Attack(10, "A superuser of the source", "change data with triggers switched off", switch_triggers_off),
    Attack(1, "A superuser of the source", "blame the doctor for it", change_actor),
    Attack(2, "A superuser of the source", "delete the record of it", delete_record),
    Attack(3, "A superuser of the source", f"delete the {_TAIL} newest records", delete_tail),
    Attack(5, "A superuser of the source", "add a false record to the past", forge_record),
    Attack(6, "A superuser of the source", "let two records change places", swap_records),
    Attack(7, "A superuser of the source", "restore a backup from before, go on", restore_source),
    Attack(15, "An administrator of the vault", "change what the sealed copy says", change_vault),
    Attack(29, "An administrator of the vault", "blank it and call it erased", blank_vault),
    Attack(16, "An administrator of the vault", "restore a backup from before", restore_vault),
    Attack(17, "Whoever holds the ledger's files", "flip one bit", forgery.flip_bit),
    Attack(18, "Whoever holds the ledger's files", "put an older signed checkpoint back", forgery.put_back_checkpoint),
    Attack(20, "Whoever holds the ledger's files", "sign with another key", forgery.replace_key),
    Attack(19, "All of them together, with the signing key", "rewrite history everywhere, sign it", rewrite_everything),
)
