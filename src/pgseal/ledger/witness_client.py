"""``WitnessClient``: talks to one witness over HTTP (C2SP tlog-witness, FORMATS.md section 2).

It moves bytes and judges none of them: whatever comes back is checked by whoever asked. What it reads is bounded. No
redirect is followed and no proxy is used: the address in the configuration is the witness's. A connection is kept for
the next request, because a log asks the same few witnesses about every checkpoint.
"""

import http.client
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from pgseal.core.note import MAX_NOTE_BYTES
from pgseal.errors import UnavailableError
from pgseal.ledger.witness import name_log

_HEADERS = {"User-Agent": "pgseal"}


@dataclass(frozen=True, slots=True)
class Response:
    """What a witness answered."""

    status: int
    body: bytes


class WitnessClient:
    """One request at a time; ``abort`` may be called from another thread meanwhile."""

    def __init__(self, url: str, timeout: float) -> None:
        """Talk to the witness whose ``add-checkpoint`` is below ``url``, http or https.

        ``timeout`` is how many seconds it may keep silent. Nothing is connected yet.
        """
        parts = urlsplit(url)
        self._url = url
        self._path = parts.path.rstrip("/")
        host, port = parts.hostname or "", parts.port
        self._connection = (
            http.client.HTTPSConnection(host, port, timeout=timeout, context=ssl.create_default_context())
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=timeout)
        )
        self._is_aborted = False

    def add_checkpoint(self, body: bytes) -> Response:
        """Send a request of ``add-checkpoint``; raises ``UnavailableError``."""
        return self._ask("POST", "/add-checkpoint", body)

    def read_checkpoint(self, origin: str) -> bytes | None:
        """Return the checkpoint of a log that the witness holds, None if it shows none; raises ``UnavailableError``."""
        response = self._ask("GET", f"/{name_log(origin)}/checkpoint")
        return response.body if response.status == http.HTTPStatus.OK else None

    def abort(self) -> None:
        """Let whoever waits for an answer fail at once."""
        self._is_aborted = True
        connection = self._connection.sock
        if connection is not None:  # pyright: ignore[reportUnnecessaryComparison]  None while not connected
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Response:
        self._is_aborted = False
        is_kept = self._connection.sock is not None  # pyright: ignore[reportUnnecessaryComparison]
        try:
            return self._ask_once(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            # A connection that was kept may have been closed by the other side meanwhile; asking twice does no harm.
            if not is_kept or self._is_aborted or isinstance(error, TimeoutError):
                raise self._explain(error) from error
        try:
            return self._ask_once(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            raise self._explain(error) from error

    def _ask_once(self, method: str, path: str, body: bytes | None) -> Response:
        try:
            self._connection.request(method, self._path + path, body, _HEADERS)
            response = self._connection.getresponse()
            data = response.read(MAX_NOTE_BYTES + 1)
            if len(data) > MAX_NOTE_BYTES:
                raise http.client.HTTPException(f"an answer of more than {MAX_NOTE_BYTES} bytes")  # noqa: TRY301
        except BaseException:
            self._connection.close()
            raise
        return Response(response.status, data)

    def _explain(self, error: Exception) -> UnavailableError:
        words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        words = "no answer in time" if isinstance(error, TimeoutError) else words
        return UnavailableError(f"cannot reach {self._url} ({(words or type(error).__name__).lower()})")
