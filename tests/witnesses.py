"""Witnesses as processes of their own on free ports of the loopback, and witnesses that misbehave in every way."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.deployments import PGSEAL

from pgseal.core.keys import KeyType, SignerKey, VerifierKey, parse_signer_key
from pgseal.ledger.witness import Answer, Witness, WitnessStore
from pgseal.settings import load

WAIT_SECONDS = 60


@dataclass
class RunningWitness:
    """`pgseal witness serve`, which can be killed and started again on the same port."""

    name: str
    directory: Path
    port: int = 0
    process: subprocess.Popen[str] | None = None

    def __post_init__(self) -> None:
        self.vkey = self.call("init", f"witness.example/{self.name}").strip()

    def call(self, *arguments: str) -> str:
        done = subprocess.run(
            [PGSEAL, "witness", *arguments, "--dir", self.directory],
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=True,
        )
        return done.stdout

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def signer(self) -> SignerKey:
        return parse_signer_key((self.directory / "witness.key").read_text().strip())

    def start(self) -> "RunningWitness":
        self.process = subprocess.Popen(
            [PGSEAL, "witness", "serve", "--listen", f"127.0.0.1:{self.port}", "--dir", self.directory],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("PGSEAL_")},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert " listens on http://127.0.0.1:" in line, line + (
            self.process.stderr.read() if self.process.stderr else ""
        )
        self.port = int(line.rpartition(":")[2])
        return self

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Signal it; its exit code and what it said on stderr."""
        assert self.process is not None
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=WAIT_SECONDS)
        code, self.process = self.process.returncode, None
        return code, errors

    def add_log(self, origin: str, key: VerifierKey) -> None:
        self.call("add-log", origin, str(key))


@contextmanager
def running_witnesses(directory: Path, names: Sequence[str] = ("paris", "oslo")) -> Iterator[list[RunningWitness]]:
    witnesses = [RunningWitness(name, directory / name) for name in names]
    try:
        yield [witness.start() for witness in witnesses]
    finally:
        for witness in witnesses:
            if witness.process is not None:
                witness.end(signal.SIGKILL)


#: What a strange witness does with a request and the honest answer to it.
Twist = Callable[[str, bytes, Answer], Answer]


@dataclass
class StrangeWitness:
    """An HTTP server with an honest witness inside, whose answers a test bends; remembers the requests."""

    name: str
    directory: Path
    twist: Twist = lambda _path, _body, answer: answer
    clock: Callable[[], float] = time.time
    requests: list[tuple[str, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.signer = SignerKey(f"witness.example/{self.name}", os.urandom(32), KeyType.COSIGNATURE)
        self.vkey = str(self.signer.verifier)
        self.store = WitnessStore(self.directory)
        self.witness = Witness(self.store, self.signer, lambda: self.clock())  # noqa: PLW0108 - tests change it
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _reply(self, body: bytes) -> None:
                outer.requests.append((self.path, body))
                if self.command == "POST":
                    answer = outer.witness.add_checkpoint(body)
                else:
                    note = outer.witness.read_checkpoint(self.path.split("/")[1])
                    answer = Answer(404, b"") if note is None else Answer(200, note)
                answer = outer.twist(self.path, body, answer)
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.media_type)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def do_POST(self) -> None:
                self._reply(self.rfile.read(int(self.headers["Content-Length"])))

            def do_GET(self) -> None:
                self._reply(b"")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  a client that gave up
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add_log(self, origin: str, key: VerifierKey) -> None:
        self.store.add_key(origin, key)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def configure(
    config: Path,
    witnesses: Sequence[RunningWitness | StrangeWitness],
    *,
    policy: str | None = None,
    deadline: float = 5.0,
) -> None:
    """Write witnesses into a pgseal.toml, in place of those that are there, and make the log known to them."""
    text = config.read_text(encoding="utf-8")
    kept = text.partition("[[witness]]")[0].rstrip("\n")
    lines = [line for line in kept.split("\n") if not line.startswith("witness_")]
    head = [f"witness_deadline = {deadline}", *([f'witness_policy = "{policy}"'] if policy else [])]
    tables = [
        f'[[witness]]\nname = "{witness.name}"\nurl = "{witness.url}"\nkey = "{witness.vkey}"\n'
        for witness in witnesses
    ]
    config.write_text("\n".join([*head, *lines, "", *tables]), encoding="utf-8")
    settings = load(config)
    for witness in witnesses:
        witness.add_log(settings.origin, settings.read_verifier())
