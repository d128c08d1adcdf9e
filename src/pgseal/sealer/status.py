"""What ``pgseal status`` says: sizes, lag, last checkpoint, tracked tables, and what to mend. Changes nothing.

What cannot be read is None and a warning says why: half an answer is better than none when something is down.
"""

import shlex
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeVar

from pgseal.core.checkpoint import open_checkpoint
from pgseal.core.encoding import format_base64
from pgseal.core.heartbeat import INTERVAL_SECONDS
from pgseal.errors import PgsealError
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import CHECKPOINT, DirectoryStore
from pgseal.postgres import Connection, connect, translated_errors
from pgseal.sealer.registered import find_forged_marks
from pgseal.sealer.rotate import OVERLAP_SECONDS, describe_overlap, read_key_state
from pgseal.sealer.state import read_finding
from pgseal.sealer.trails import SEALER_ROLE, VAULT_TRAIL, TrailAddress, read_state, trail_addresses
from pgseal.sealer.witnessing import read_witnessing
from pgseal.settings import Settings, Source, is_pattern
from pgseal.trail.capture import TableRule
from pgseal.trail.feed import PollFeed, find_signs
from pgseal.trail.health import HAS_CHILDREN, TriggerFault, read_drift, read_trigger_faults, read_untracked_children
from pgseal.trail.marks import read_touched_objects
from pgseal.trail.partitions import read_room
from pgseal.trail.policy import covers
from pgseal.trail.registry import list_tracked
from pgseal.trail.shape import find_trail_faults
from pgseal.vault.store import VaultStore

_STALE_SECONDS = 10.0
_RECENT_SECONDS = 3600
_PARTITIONS_AHEAD_DAYS = 180
_LONG_TRANSACTION_SECONDS = 600.0
_SHOWN_TRANSACTIONS = 5
_SILENT_SECONDS = 5 * INTERVAL_SECONDS

_Part = TypeVar("_Part")


def collect_status(settings: Settings) -> dict[str, Any]:
    """Return the document of ``pgseal status --json`` (DESIGN.md, "Command line")."""
    warnings: list[str] = []
    _attempt(lambda: _warn_of_finding(settings, warnings), warnings)
    vault = _attempt(lambda: _connect_vault(settings), warnings)
    unknown = {"size": None, "root": None, "checkpoint_age_s": None}
    ledger = _attempt(lambda: _read_ledger(settings), warnings) or unknown
    witnesses = _attempt(lambda: read_witnessing(settings, warnings), warnings)
    key = _attempt(lambda: _read_key(settings, vault, warnings), warnings) if vault else None
    silence = _attempt(vault.read_silence, warnings) if vault else None
    if silence is not None and silence > _SILENT_SECONDS:
        warnings.append(f"no heartbeat for {silence:.0f} s: nothing says that sealing goes on; is pgseal seal running?")
    trails = [_read_trail(address, vault, warnings) for address in trail_addresses(settings)]
    tables: list[dict[str, Any]] = []
    unread: list[str] = []
    for source in settings.sources:
        found = _attempt(lambda source=source: _read_tables(source, vault, warnings), warnings)
        tables += found or []
        unread += [source.name] if found is None else []
    records = _attempt(vault.count, warnings) if vault else None
    unasked = [f"{table['trail']}/{table['relation']}" for table in tables if table["require_actor"] == "off"]
    unattributed = _attempt(lambda: vault.count_unattributed(_RECENT_SECONDS, unasked), warnings) if vault else None
    if vault:
        vault.connection.close()
    unsealed = sum(trail["unsealed"] or 0 for trail in trails)
    age = ledger["checkpoint_age_s"]
    if unsealed and age is not None and age > _STALE_SECONDS:
        warnings.append(
            f"records wait ({unsealed:,}) and no checkpoint was signed for {age:.0f} s: is pgseal seal running?"
        )
    return {
        "origin": settings.origin,
        "trails": trails,
        "ledger": ledger,
        "key": key,
        "witnesses": witnesses,
        "heartbeat_age_s": None if silence is None else round(silence, 3),
        "vault": {"records": records},
        "unattributed": {"last_hour": unattributed},
        "tables": tables,
        "unread": unread,
        "warnings": warnings,
    }


def _attempt(read: Callable[[], _Part], warnings: list[str]) -> _Part | None:
    try:
        return read()
    except PgsealError as error:
        if str(error) not in warnings:
            warnings.append(str(error))
        return None


def _warn_of_finding(settings: Settings, warnings: list[str]) -> None:
    found = read_finding(settings.state)
    if found is not None:
        when = f" at {found['time'][:19]}Z" if isinstance(found.get("time"), str) else ""
        where = f" in the {found['where']}" if found.get("where") else ""
        warnings.append(
            f"sealing stopped{when}, {found.get('kind', 'finding')}{where}: {found.get('detail')}; "
            "pgseal verify looks at everything, and a pgseal seal that finds all in order removes this warning"
        )


def _connect_vault(settings: Settings) -> VaultStore:
    return VaultStore(connect(settings.vault.dsn.reveal(), side="vault", role=SEALER_ROLE))


def _read_ledger(settings: Settings) -> dict[str, Any]:
    note = LedgerReader(DirectoryStore(settings.ledger)).checkpoint_note()
    checkpoint = open_checkpoint(note, [settings.read_verifier()], origin=settings.origin).checkpoint
    # A checkpoint carries no time; the file's is when it was published.
    age = max(0.0, time.time() - (settings.ledger / CHECKPOINT).stat().st_mtime)
    return {"size": checkpoint.size, "root": format_base64(checkpoint.root), "checkpoint_age_s": round(age, 3)}


def _read_key(settings: Settings, vault: VaultStore, warnings: list[str]) -> dict[str, Any]:
    state = read_key_state(settings, vault)
    if state.old is not None and not state.is_sealed:
        warnings.append("a new key waits, and no sealer has taken it up: is pgseal seal running? pgseal key rotate")
    elif state.old is not None and state.age is not None and state.age > OVERLAP_SECONDS:
        warnings.append(describe_overlap(state))
    return state.to_json()


def _read_trail(address: TrailAddress, vault: VaultStore | None, warnings: list[str]) -> dict[str, Any]:
    trail: dict[str, Any] = {
        "name": address.name,
        "records": None,
        "unsealed": None,
        "oldest_open_transaction_s": None,
        "partition_days": None,
    }
    if vault is None:
        return trail

    def read() -> None:
        with closing(address.connect()) as connection, translated_errors(address.side, role=SEALER_ROLE):
            state = read_state(vault, address.name)
            warnings.extend(
                f"{address.side} is not the server that was sealed from, or an earlier state of it ({sign}); nothing "
                f"is sealed, and what waits cannot be counted; pgseal recover {address.name} --dry-run"
                for sign in find_signs(connection, state)
            )
            trail["unsealed"] = PollFeed(connection, side=address.side).count_unsealed(state)
            trail["records"] = _scalar(connection, "SELECT count(*) FROM audit.record")
            room = read_room(connection)
            trail["partition_days"] = None if room is None else round(room)
            if room is not None and room < _PARTITIONS_AHEAD_DAYS:
                warnings.append(_describe_room(address.side, room))
        if address.name != VAULT_TRAIL:
            trail["oldest_open_transaction_s"] = _read_oldest_transaction(address, warnings)

    _attempt(read, warnings)
    return trail


def _describe_room(side: str, days: float) -> str:
    if days <= 0:
        return f"{side}: the trail has no partition for records of now: audited writes fail; run pgseal seal"
    return (
        f"{side}: the trail has partitions for {days:.0f} more days only, after that audited writes fail; "
        "run pgseal seal, which makes more"
    )


def _read_oldest_transaction(address: TrailAddress, warnings: list[str]) -> float | None:
    # As the login itself, which may see more than pgseal_sealer does.
    with closing(connect(address.dsn, side=address.side)) as connection, translated_errors(address.side):
        rows = connection.execute(
            "SELECT extract(epoch FROM now() - t.since)::float8 AS age, t.who FROM ("
            "SELECT xact_start AS since, format('process %%s of %%s', pid, usename) AS who FROM pg_stat_activity "
            "WHERE backend_xid IS NOT NULL AND datname = current_database() "
            "UNION ALL SELECT prepared, format('prepared transaction %%L of %%s', gid, owner) FROM pg_prepared_xacts "
            "WHERE database = current_database()) AS t WHERE t.since IS NOT NULL ORDER BY age DESC LIMIT %s",
            [_SHOWN_TRANSACTIONS],
        ).fetchall()
    warnings += [
        f"{address.side}: {who} in database {connection.info.dbname} has a writing transaction open for {age:.0f} s; "
        "its records wait for it"
        for age, who in rows
        if age > _LONG_TRANSACTION_SECONDS
    ]
    return round(float(rows[0][0]), 3) if rows else 0.0


def _read_tables(source: Source, vault: VaultStore | None, warnings: list[str]) -> list[dict[str, Any]]:
    side = f"source {source.name!r}"
    with (
        closing(connect(source.dsn.reveal(), side=side, role=SEALER_ROLE)) as connection,
        translated_errors(side, role=SEALER_ROLE),
    ):
        tracked = list_tracked(connection)
        faults = read_trigger_faults(connection)
        drifts = read_drift(connection)
        children = read_untracked_children(connection)
        if vault is not None:
            warnings += find_forged_marks(connection, vault, source.name)
        warnings += [f"{side}: {words}" for words in find_trail_faults(connection)]
        warnings += [f"{side}: {one.subject} {one.fault}; pgseal plan" for one in read_touched_objects(connection)]
    warnings += [
        f"{child.relation}: inherits from {child.parent}, and its changes are not recorded; "
        f"{_advise_mending(source, child.relation)}"
        for child in children
    ]
    known = {table.relation: table.rule for table in tracked}
    gone = {drift.relation for drift in drifts if drift.name_now is None}
    warnings += [
        f"{drift.relation}: the table was dropped and made anew, and is not captured; "
        f"{_advise_mending(source, drift.relation)}"
        if drift.is_anew
        else f"{drift.relation}: the table was dropped; pgseal untrack {shlex.quote(drift.relation)}"
        for drift in drifts
        if drift.name_now is None
    ]
    warnings += [_describe_fault(fault, source, known[fault.relation]) for fault in faults]
    for drift in drifts:
        if drift.name_now is None:
            continue
        mending = _advise_mending(source, drift.name_now)
        if drift.lost_filter is not None:
            warnings.append(
                f"{drift.relation}: a column that 'where' tests is gone or of another type; all rows are recorded, not "
                f"only those where {drift.lost_filter}; correct 'where' in the configuration, then pgseal apply"
            )
            continue
        warnings.append(
            f"{drift.relation}: the table was altered; its changes are recorded as they are, at a higher cost, but not "
            f"what the ALTER did to its rows; for a new baseline: {mending}"
            if drift.name_now == drift.relation
            else f"{drift.relation}: the table is called {drift.name_now} now, and recorded so; {mending}"
        )
    for table in tracked:
        if table.baseline == "pending":
            mending = _advise_mending(source, table.relation)
            warnings.append(f"{table.relation}: the rows that stood before are not recorded; {mending}")
    for name in sorted(name for name in source.tables.keys() - known.keys() if not is_pattern(name)):
        warnings.append(f"{name}: in the configuration but not tracked; pgseal apply")
    return [
        {
            "trail": source.name,
            "relation": table.relation,
            "exclude": list(table.rule.exclude),
            "mask": dict(table.rule.mask),
            "require_actor": table.rule.require_actor,
            "where": table.rule.where,
            "baseline": table.baseline,
            "capturing": table.relation not in gone | {fault.relation for fault in faults if not fault.is_capturing},
        }
        for table in tracked
    ]


def _advise_mending(source: Source, relation: str) -> str:
    """Name the command that has a table captured as the file says; ``track`` would write an entry of its own there."""
    return "pgseal apply" if covers(source.tables, relation) else f"pgseal track {shlex.quote(relation)}"


def _describe_fault(fault: TriggerFault, source: Source, rule: TableRule) -> str:
    is_mendable = fault.is_local or (covers(source.tables, fault.relation) and fault.fault != HAS_CHILDREN)
    mending = _advise_mending(source, fault.relation) if is_mendable else _track_anew(fault.relation, rule)
    if fault.is_local and not fault.trigger:
        return f"{fault.place}: {fault.fault}; {mending}"
    return f"{fault.place}: capture was changed: {fault.describe(fault.place)}; {mending}"


def _track_anew(relation: str, rule: TableRule) -> str:
    name = shlex.quote(relation)
    options = rule.format_options()
    return f"pgseal untrack {name}, then pgseal track {name}{' ' if options else ''}{options}"


def _scalar(connection: Connection, query: Any) -> int:
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0
