"""The demo as a newcomer runs it: the installed command, on servers of its own, nothing left behind."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tests.conftest import miss

PGSEAL = Path(sys.executable).with_name("pgseal")
LAST_LINE = re.compile(r"demo: ([0-9,]+) captured, \1 sealed, \1 verified, ([0-9]+)/\2 attacks caught")
TIMEOUT = 900  # of a machine that does much else


@pytest.fixture
def temporary():
    """A directory with a short name that servers of another user can enter."""
    with tempfile.TemporaryDirectory(prefix="pgseal-test-", dir="/tmp") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


def pgseal(*arguments, cwd=None, **environ):
    return subprocess.run(
        [PGSEAL, *arguments],
        cwd=cwd,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.fixture
def heeded_interrupts():
    """Where a shell has put the tests into the background, Ctrl-C is ignored, and so it would be by their children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def left_behind():
    return set(Path("/tmp").glob("pgseal-demo-*"))


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in {"Z", "X"}


@pytest.mark.slow
def test_demo_tells_the_whole_story_and_leaves_nothing_behind():
    before = left_behind()
    # What is set for the user's own database must not lead the demo there.
    done = pgseal("demo", PGHOST="nowhere.invalid", PGSEAL_ORIGIN="another.example", PGOPTIONS="-c nonsense=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    last = LAST_LINE.fullmatch(lines[-1])
    assert last, lines[-1]
    assert int(last[2]) >= 8
    assert int(last[1].replace(",", "")) > 1000
    assert "not caught" not in done.stdout
    assert "\x1b" not in done.stdout
    # The row's history names who did it.
    history = done.stdout[done.stdout.index("$ pgseal history") :]
    for who in ("reception.maria (intake_app)", "dr.okafor (care_app)", "dba_lee (psql)"):
        assert who in history
    assert "no actor set" in history
    assert left_behind() <= before


@pytest.mark.slow
def test_demo_on_synthea_data_as_json(shared):
    data = shared / "data" / "synthea"
    if not data.is_dir():
        miss(f"no Synthea data in {data}")
    done = pgseal("demo", "--data", str(data), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["ok"]
    assert document["captured"] == document["sealed"] == document["verified"] > 30_000
    assert all(attack["caught"] for attack in document["attacks"])
    assert {"altered_record", "missing_record", "forged_record", "rollback", "proof", "signature", "fork"} <= {
        attack["kind"] for attack in document["attacks"]
    }
    assert [one["action"] for one in document["history"]][:3] == ["INSERT", "UPDATE", "UPDATE"]
    assert document["kept"] is None


@pytest.mark.slow
def test_what_is_kept_works_by_hand(temporary):
    home = temporary / "kept"
    done = pgseal("demo", "--keep", str(home), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    kept = document["kept"]
    try:
        for command in (["status"], ["history", *kept["row"]], ["seal", "--once"], ["verify"]):
            by_hand = pgseal(*command, cwd=home)
            assert by_hand.returncode == 0, by_hand.stdout + by_hand.stderr
        tamper = "DELETE FROM audit.record WHERE id = (SELECT max(id) FROM audit.record)"
        psql = subprocess.run(
            [*kept["psql"].split(" ", 1)[:1], "-c", tamper, kept["psql"].split(" ", 1)[1].strip("'")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert psql.stdout == "DELETE 1\n", psql.stderr
        found = pgseal("verify", cwd=home)
        assert found.returncode == 1
        assert "missing_record" in found.stdout
    finally:
        subprocess.run(kept["stop"].split(), check=True)
    deadline = time.monotonic() + 60
    while any(map(is_alive, kept["pids"])) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_alive, kept["pids"]))


@pytest.mark.slow
@pytest.mark.usefixtures("heeded_interrupts")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_takes_its_servers_along(number):
    before = left_behind()
    demo = subprocess.Popen([PGSEAL, "demo"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert demo.stdout
    with demo.stdout as output:
        for line in output:
            if "pgseal track" in line:
                break
        (home,) = left_behind() - before
        pids = [int((home / side / "data" / "postmaster.pid").read_text().split()[0]) for side in ("source", "vault")]
        demo.send_signal(number)
        output.read()
    assert demo.wait(TIMEOUT) == 128 + number
    assert not home.exists()
    assert not any(map(is_alive, pids))


def test_demo_refuses_what_it_cannot_use_in_one_line(temporary):
    before = left_behind()
    (temporary / "something").touch()
    for arguments, words in (
        (["--data", str(temporary / "nowhere")], "is not a directory"),
        (["--data", str(temporary)], "no patients.csv"),
        (["--keep", str(temporary)], "is not empty"),
        ([str(temporary)], "goes with --keep"),
    ):
        done = pgseal("demo", *arguments)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    assert left_behind() <= before
