"""The witness over HTTP: ``POST /add-checkpoint`` and ``GET /<hex sha256(origin)>/checkpoint`` (FORMATS.md section 2).

Anybody may ask: a request proves itself by the log's signature, and what is held is public. What a stranger can cost us
is bounded instead: 128 KiB are read of a body and no more, within a few seconds; connections are limited in number.
Errors of ours (a full disk, a damaged file) are one line on stderr here and a bare 500 there.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pgseal.core.witness import MAX_REQUEST_BYTES
from pgseal.errors import PgsealError
from pgseal.ledger.witness import Answer, Witness

_BODY_SECONDS = 10.0
_MALFORMED, _NOT_FOUND, _TIMEOUT, _FAILED = 400, 404, 408, 500


class _TooLongError(Exception):
    pass


def make_app(witness: Witness) -> Starlette:
    """Return the ASGI application of a witness."""

    async def add_checkpoint(request: Request) -> Response:
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await _read_body(request)
        except _TooLongError:
            # The rest is not read: the connection cannot be used for anything else.
            text = f"expected at most {MAX_REQUEST_BYTES} bytes\n"
            return PlainTextResponse(text, _MALFORMED, headers={"Connection": "close"})
        except TimeoutError:
            return PlainTextResponse("the request took too long\n", _TIMEOUT, headers={"Connection": "close"})
        except ClientDisconnect:
            return Response(status_code=_MALFORMED)
        # In a thread: it waits for the disk, and for others who ask about the same log.
        return await _answer(lambda: run_in_threadpool(witness.add_checkpoint, body))

    async def read_checkpoint(request: Request) -> Response:
        async def read() -> Answer:
            note = await run_in_threadpool(witness.read_checkpoint, request.path_params["log_id"])
            return Answer(_NOT_FOUND, b"no checkpoint\n") if note is None else Answer(200, note)

        return await _answer(read)

    return Starlette(
        routes=[
            Route("/add-checkpoint", add_checkpoint, methods=["POST"]),
            Route("/{log_id}/checkpoint", read_checkpoint, methods=["GET"]),
        ],
    )


async def _read_body(request: Request) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > MAX_REQUEST_BYTES:
        raise _TooLongError
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_REQUEST_BYTES:
            raise _TooLongError
    return bytes(body)


async def _answer(work: Callable[[], Awaitable[Answer]]) -> Response:
    try:
        answer = await work()
    except PgsealError as error:
        sys.stderr.write(f"pgseal: {error}\n")
        sys.stderr.flush()
        answer = Answer(_FAILED, b"the witness cannot work now; its operator was told\n")
    # A media type is sent as it stands: Starlette would add a charset to text/x.tlog.size.
    return Response(answer.body, answer.status, headers={"Content-Type": answer.media_type})
