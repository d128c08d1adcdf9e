"""Witnesses of the installed command: served, asked while sealing, demanded by verify, told by status."""

import http.client
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from tests.deployments import Deployment, query
from tests.witnesses import RunningWitness, StrangeWitness, Twist, configure, running_witnesses

from pgseal.core.checkpoint import Checkpoint, format_checkpoint, open_checkpoint
from pgseal.core.keys import KeyType, SignerKey
from pgseal.core.note import cosign_note, parse_verifier_key, sign_note
from pgseal.core.witness import AddCheckpoint, format_request
from pgseal.errors import ForkError, RollbackError
from pgseal.ledger.witness import Answer, name_log
from pgseal.sealer.seal import Sealer

LOG = SignerKey("other.example/log", bytes(32))


@pytest.fixture
def witnesses(tmp_path: Path) -> Iterator[list[RunningWitness]]:
    with running_witnesses(tmp_path / "witnesses") as found:
        yield found


@pytest.fixture
def strange(tmp_path: Path) -> Iterator[Callable[[str], StrangeWitness]]:
    with ExitStack() as stack:

        def make(name: str) -> StrangeWitness:
            return stack.enter_context(closing(StrangeWitness(name, tmp_path / "strange" / name)))

        yield make


def read(deployment: Deployment, name: str) -> tuple[int, set[str]]:
    """Size of a checkpoint of the ledger, and the witnesses who have signed it."""
    settings = deployment.settings
    keys = [settings.read_verifier(), *(witness.key for witness in settings.witnesses)]
    opened = open_checkpoint((deployment.ledger / name).read_bytes(), keys)
    names = {signature.key.name.removeprefix("witness.example/") for signature in opened.signatures}
    return opened.checkpoint.size, names - {settings.origin}


def seal(deployment: Deployment, count: int = 1) -> int:
    """Write and seal; the size of the log."""
    query(
        deployment.source,
        "INSERT INTO patients SELECT max(id) + g FROM patients, generate_series(1, %s::int) g GROUP BY g",
        count,
    )
    return deployment.seal().size


def witness_warnings(deployment: Deployment) -> str:
    return "\n".join(line for line in deployment.call("status")["warnings"] if "witness" in line)


def test_two_witnesses_cosign_what_is_sealed_and_are_killed(deployment: Deployment, witnesses: list[RunningWitness]):
    assert "no witness is configured" in witness_warnings(deployment)
    configure(deployment.config, witnesses)
    assert "no checkpoint is witnessed" in witness_warnings(deployment)
    for _ in range(2):
        size = seal(deployment)
        assert read(deployment, "checkpoint") == (size, {"paris", "oslo"})
        assert read(deployment, "witnessed") == (size, {"paris", "oslo"})
    document = deployment.call("verify")
    assert (document["ok"], document["witnessed"], document["warnings"]) == (True, size, [])
    status = deployment.call("status")
    assert (status["witnesses"]["cosigned"], status["witnesses"]["witnessed_size"]) == (2, size)
    assert witness_warnings(deployment) == ""
    # Killed in mid life, it remembers; while it is away, sealing goes on without it.
    assert witnesses[0].end(signal.SIGKILL)[0] == -signal.SIGKILL
    later = seal(deployment)
    assert read(deployment, "checkpoint") == (later, {"oslo"})
    assert read(deployment, "witnessed") == (size, {"paris", "oslo"})
    assert "witness paris: cannot reach http://127.0.0.1:" in witness_warnings(deployment)
    assert f"has size {size}, of {later}" in witness_warnings(deployment)
    document = deployment.call("verify")
    assert document["ok"], "a witness that is down is no finding"
    assert any("witness paris was not compared" in warning for warning in document["warnings"])
    # It is back, and cosigns from where it was.
    witnesses[0].start()
    newest = seal(deployment)
    assert read(deployment, "witnessed") == (newest, {"paris", "oslo"})
    assert witness_warnings(deployment) == ""
    for witness in witnesses:
        code, errors = witness.end(signal.SIGINT)
        assert (code, errors) == (0, "")


def slow(_path: str, _body: bytes, answer: Answer) -> Answer:
    time.sleep(1.0)
    return answer


def lie(status: int, body: bytes) -> Twist:
    return lambda path, _body, answer: answer if "checkpoint" not in path else Answer(status, body)


def test_a_late_answer_counts_when_it_comes(deployment: Deployment, strange: Callable[[str], StrangeWitness]):
    quick, late = strange("quick"), strange("late")
    late.twist = slow
    configure(deployment.config, [quick, late], deadline=0.2)
    with closing(Sealer.open(deployment.settings)) as sealer:
        began = time.monotonic()
        size = sealer.seal_once().size
        assert time.monotonic() - began < 0.9, "what is late is not waited for"
        assert read(deployment, "checkpoint") == (size, {"quick"})
        assert not (deployment.ledger / "witnessed").exists()
        assert "witness late: no answer within 0.2 s" in witness_warnings(deployment)
        until = time.monotonic() + 30
        while not (deployment.ledger / "witnessed").exists() and time.monotonic() < until:
            sealer.seal_once()
            time.sleep(0.05)
        while read(deployment, "checkpoint")[1] != {"quick", "late"} and time.monotonic() < until:
            sealer.seal_once()
            time.sleep(0.05)
    assert read(deployment, "checkpoint") == (size, {"quick", "late"})
    assert read(deployment, "witnessed") == (size, {"quick", "late"})
    assert witness_warnings(deployment) == ""


def test_what_a_lying_witness_says_is_worth_nothing(deployment: Deployment, strange: Callable[[str], StrangeWitness]):
    honest, liar = strange("honest"), strange("liar")
    configure(deployment.config, [honest, liar], policy="any 1 of honest")
    foreign = SignerKey(liar.signer.name, b"f" * 32, KeyType.COSIGNATURE)

    def cosign(signer: SignerKey, shift: int = 0, size: int | None = None) -> Twist:
        def twist(path: str, body: bytes, answer: Answer) -> Answer:
            if path != "/add-checkpoint" or answer.status != 200:
                return answer
            text = body.split(b"\n\n")[1].decode() + "\n"
            if size is not None:
                origin, _, rest = text.split("\n", 2)
                text = f"{origin}\n{size}\n{rest}"
            return Answer(200, cosign_note(text, signer, int(time.time()) + shift).encode())

        return twist

    for twist, words in (
        (cosign(foreign), "wrong signature|no signature of a known key"),
        (cosign(liar.signer, size=7), "wrong signature"),
        (cosign(liar.signer, shift=3600), "ahead of our clock"),
        (cosign(liar.signer, shift=-3600), "behind our clock"),
        (cosign(honest.signer), "no signature of a known key"),
        (lie(200, b""), "expected"),
        (lie(200, b"x" * 2_000_000), "answer of more than|expected at most"),
        (lie(200, b"\n\n\xff\x1b[2J"), "UTF-8|control"),
        (lie(409, b"nonsense"), "decimal"),
        (lie(409, b"1"), "409"),
        (lie(422, b"no"), "422: no"),
        (lie(404, b"who?\x1b"), "404: who"),
        (lie(500, b""), "500"),
        (lie(302, b""), "302"),
    ):
        liar.twist = twist
        size = seal(deployment)
        assert read(deployment, "checkpoint") == (size, {"honest"}), words
        assert read(deployment, "witnessed") == (size, {"honest"}), words
        warning = witness_warnings(deployment)
        assert "witness liar: " in warning
        assert any(word in warning for word in words.split("|")), (words, warning)
        assert "\x1b" not in warning
    liar.twist = lambda _path, _body, answer: answer
    size = seal(deployment)
    assert read(deployment, "checkpoint") == (size, {"honest", "liar"})
    assert deployment.call("verify")["ok"]


def test_a_witness_that_forgot_is_given_everything_again(
    deployment: Deployment, strange: Callable[[str], StrangeWitness]
):
    witness = strange("forgetful")
    configure(deployment.config, [witness])
    path = witness.directory / f"{name_log(deployment.settings.origin)}.json"
    kept = path.read_bytes()
    seal(deployment)
    earlier = path.read_bytes()
    with closing(Sealer.open(deployment.settings)) as sealer:
        for memory in (kept, earlier):
            query(deployment.source, "UPDATE patients SET name = name || '!' WHERE id = 3")
            size = sealer.seal_once().size
            path.write_bytes(memory)
            query(deployment.source, "UPDATE patients SET name = name || '!' WHERE id = 3")
            size = sealer.seal_once().size
            assert read(deployment, "witnessed") == (size, {"forgetful"})


@pytest.mark.parametrize("shown", [True, False], ids=["and shows it", "and does not show it"])
def test_a_witness_that_has_seen_more_stops_the_sealer(deployment: Deployment, strange, shown: bool):
    witness = strange("ahead")
    configure(deployment.config, [witness])
    size = seal(deployment)
    ahead = sign_note(
        format_checkpoint(Checkpoint(deployment.settings.origin, size + 9, bytes(32))),
        deployment.settings.read_signer(),
    )
    witness.twist = lambda path, _body, _answer: (
        Answer(409, b"%d\n" % (size + 9))
        if path == "/add-checkpoint"
        else Answer(200, ahead)
        if shown
        else Answer(404, b"")
    )
    for _ in range(2):
        with pytest.raises(RollbackError, match=f"has cosigned size {size + 9}") as raised:
            seal(deployment)
        assert ("it shows one" in str(raised.value)) == shown
    assert deployment.checkpoint().size == size
    assert "sealing stopped" in str(deployment.call("status")["warnings"])
    document = deployment.call("verify", expect=1 if shown else 0)
    assert [finding["kind"] for finding in document["findings"]] == (["rollback"] if shown else [])
    # Taken out of the configuration, it stops nobody.
    configure(deployment.config, [])
    seal(deployment)


def test_a_witness_that_shows_another_history_stops_the_sealer(deployment: Deployment, strange):
    witness = strange("fork")
    configure(deployment.config, [witness])
    signer, size = deployment.settings.read_signer(), deployment.checkpoint().size
    fork = sign_note(format_checkpoint(Checkpoint(signer.name, size, b"f" * 32)), signer)
    assert witness.witness.add_checkpoint(format_request(AddCheckpoint(0, (), fork))).status == 200
    with pytest.raises(ForkError, match="another history"):
        deployment.seal()
    assert deployment.checkpoint().size == size
    found = deployment.call("verify", expect=1)["findings"]
    assert {(finding["kind"], finding["where"]) for finding in found} == {
        ("fork", "checkpoint"),
        ("signature", "checkpoint"),
    }


# -- the server


def ask(port: int, method: str, path: str, body: bytes | Iterator[bytes] | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with closing(connection):
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()


def test_the_server_answers_as_the_formats_say(tmp_path: Path):
    with running_witnesses(tmp_path, ["lima"]) as (witness,):
        note = sign_note(format_checkpoint(Checkpoint(LOG.name, 5, b"r" * 32)), LOG)
        body = format_request(AddCheckpoint(0, (), note))
        assert ask(witness.port, "POST", "/add-checkpoint", body)[0] == 404
        witness.add_log(LOG.name, LOG.verifier)  # while it runs
        assert ask(witness.port, "POST", "/add-checkpoint", body[:-1])[0] == 403
        assert ask(witness.port, "POST", "/add-checkpoint", b"junk")[0] == 400
        status, line = ask(witness.port, "POST", "/add-checkpoint", iter([body]))
        assert status == 200
        opened = open_checkpoint(note + line, [LOG.verifier, parse_verifier_key(witness.vkey)])
        assert abs((opened.signatures[1].timestamp or 0) - time.time()) < 60
        assert ask(witness.port, "POST", "/add-checkpoint", body) == (409, b"5\n")
        path = f"/{name_log(LOG.name)}/checkpoint"
        assert ask(witness.port, "GET", path) == (200, note + line)
        for other in ("/", "/checkpoint", f"/{'0' * 64}/checkpoint", "/..%2f..%2fetc/checkpoint", "/add-checkpoint"):
            assert ask(witness.port, "GET", other)[0] in {404, 405}
        assert "5 leaves" in witness.call("list")
        # Killed at any moment it knows what it has answered.
        witness.end(signal.SIGKILL)
        witness.start()
        assert ask(witness.port, "POST", "/add-checkpoint", body) == (409, b"5\n")


def test_the_server_reads_no_more_than_it_must(tmp_path: Path):
    with running_witnesses(tmp_path, ["lima"]) as (witness,):
        # Refused by its declared length, before any of it is sent.
        with socket.create_connection(("127.0.0.1", witness.port), timeout=30) as connection:
            connection.sendall(b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")
        # Without a length, it is cut off at the limit: this would go on for ever.
        with socket.create_connection(("127.0.0.1", witness.port), timeout=30) as connection:
            connection.sendall(b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            sent = 0
            with pytest.raises(OSError):  # noqa: PT012
                while sent < 64 << 20:
                    connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                    sent += 0x10000
            assert sent < 16 << 20
        for junk in (b"\x00\xff\x16\x03\x01" * 20, b"GET / HTTP/9.9\r\n\r\n", b"POST /add-checkpoint HTTP/1.1\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", witness.port), timeout=30) as connection:
                connection.sendall(junk)
                assert connection.recv(1000).startswith(b"HTTP/1.1 4")
        # A memory that is damaged is no business of a stranger's.
        witness.add_log(LOG.name, LOG.verifier)
        (witness.directory / f"{name_log(LOG.name)}.json").write_text("{}")
        status, body = ask(witness.port, "GET", f"/{name_log(LOG.name)}/checkpoint")
        assert (status, b"damaged" in body, b"Traceback" in body) == (500, False, False)
        code, errors = witness.end()
        assert code == 0
        assert "Traceback" not in errors
        assert "damaged" in errors
