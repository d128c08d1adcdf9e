"""HEARTBEAT and CLOCK records: bounds on times that hold, and silence that shows."""

import json
import time
from contextlib import closing
from typing import Any

import psycopg
import pytest
from tests.deployments import TRAIL, Deployment, RunningSealer, deploy, query

from pgseal.core.heartbeat import Bounds, parse_heartbeat
from pgseal.sealer.seal import Sealer
from pgseal.trail.feed import PollFeed


@pytest.fixture
def deployment(database: str, vault_database: str, tmp_path: Any) -> Deployment:
    query(database, "CREATE TABLE item (id int PRIMARY KEY, note text)")
    deployment = deploy(database, vault_database, tmp_path)
    deployment.track("item")
    change(deployment, 1)
    return deployment


def change(deployment: Deployment, number: int) -> None:
    query(deployment.source, "INSERT INTO item VALUES (%s, 'x')", number)


def beat(deployment: Deployment) -> dict[str, Bounds]:
    """Make a heartbeat and return what it says."""
    with closing(Sealer.open(deployment.settings)) as sealer:
        sealer.beat()
    return heartbeats(deployment)[-1]


def heartbeats(deployment: Deployment) -> list[dict[str, Bounds]]:
    rows = query(deployment.vault, "SELECT data FROM vault.record WHERE action = 'HEARTBEAT' ORDER BY leaf_index")
    return [dict(parse_heartbeat(data.encode())) for (data,) in rows]


def times(deployment: Deployment, trail: str = TRAIL) -> list[int]:
    return [
        row[0]
        for row in query(
            deployment.vault,
            "SELECT (extract(epoch FROM time) * 1000000)::bigint FROM vault.record WHERE trail = %s",
            trail,
        )
    ]


def now() -> int:
    return time.time_ns() // 1000


def test_bounds_close_on_the_present_also_when_nothing_happens(deployment):
    began = now()
    first = beat(deployment)[TRAIL]
    assert first.high == max(times(deployment))
    assert began - 6_000_000 < first.low < now()
    time.sleep(0.1)
    second = beat(deployment)[TRAIL]
    assert second.high == first.high
    assert second.low > first.low
    deployment.check_verified()


def test_a_transaction_that_stays_open_holds_the_lower_bound_back_and_nothing_else(deployment):
    with psycopg.connect(deployment.source) as writer:
        writer.execute("INSERT INTO item VALUES (100, 'open')")
        written = now()
        change(deployment, 2)
        deployment.seal()
        for _ in range(3):
            assert beat(deployment)[TRAIL].low < written
        writer.commit()
    deployment.check_verified()
    last = beat(deployment)[TRAIL]
    assert last.low > written - 5_000_000
    assert last.high == max(times(deployment))
    deployment.check_verified()


def test_the_running_sealer_has_a_heart(deployment):
    sealer = RunningSealer(deployment)
    until = time.monotonic() + 60
    while not heartbeats(deployment) and time.monotonic() < until:
        time.sleep(0.05)
    sealer.stop()
    assert heartbeats(deployment)[-1].keys() == {TRAIL, "vault"}
    assert deployment.call("status")["heartbeat_age_s"] < 60
    deployment.check_verified()


def test_leaves_ahead_of_the_clock_are_named(deployment, monkeypatch):
    deployment.seal()
    behind = time.time_ns() - 3600 * 1_000_000_000
    monkeypatch.setattr("pgseal.sealer.heartbeat.time.time_ns", lambda: behind)
    first = beat(deployment)
    leaves = [row[0] for row in query(deployment.vault, "SELECT leaf_index FROM vault.record WHERE trail = %s", TRAIL)]
    assert (first[TRAIL].future, first[TRAIL].high) == (tuple(sorted(leaves)), 0)
    monkeypatch.undo()
    deployment.check_verified()
    assert (beat(deployment)[TRAIL].future, beat(deployment)[TRAIL].high) == ((), max(times(deployment)))
    deployment.check_verified()


def test_a_clock_that_jumps_is_recorded_once(deployment, monkeypatch):
    beat(deployment)
    read = PollFeed.read_clock
    monkeypatch.setattr(PollFeed, "read_clock", lambda feed: read(feed) + 7)
    beat(deployment)
    beat(deployment)
    monkeypatch.undo()
    beat(deployment)
    said = [
        json.loads(data)
        for (data,) in query(
            deployment.vault, "SELECT data FROM vault.record WHERE action = 'CLOCK' ORDER BY leaf_index"
        )
    ]
    assert [(one["trail"], round(one["before_seconds"]), round(one["offset_seconds"])) for one in said] == [
        (TRAIL, 0, 7),
        (TRAIL, 7, 0),
    ]


def test_a_clock_set_back_contradicts_a_bound(deployment):
    """A row with a time before the last heartbeat's lower bound: here a superuser writes it, as a wrong clock would."""
    beat(deployment)
    change(deployment, 2)
    query(
        deployment.source,
        "UPDATE audit.record SET recorded_at = recorded_at - interval '1 minute' "
        "WHERE id = (SELECT max(id) FROM audit.record)",
    )
    deployment.seal()
    [finding] = deployment.call("verify", expect=1)["findings"]
    assert (finding["kind"], finding["trail"]) == ("time_bound", TRAIL)
    [[leaf]] = query(deployment.vault, "SELECT max(leaf_index) FROM vault.record WHERE trail = %s", TRAIL)
    assert finding["index"] == leaf


def test_a_heartbeat_that_is_forged_contradicts_the_leaves(deployment):
    deployment.seal()
    bounds = {TRAIL: Bounds(1, 0).to_json(), "vault": Bounds(0, 0).to_json()}
    query(deployment.vault, "SELECT audit.record_heartbeat(%s::jsonb, 'vault')", json.dumps(bounds))
    deployment.seal()
    [finding] = deployment.call("verify", expect=1)["findings"]
    assert (finding["kind"], finding["trail"], finding["index"]) == ("time_bound", TRAIL, 0)
