"""Reading a request's body once, in a bound, in pure ASGI: what was read can be handed on."""

import asyncio

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aiwm.http.paths import takes_raw_body
from aiwm.http.problems import problem
from aiwm.protocol.errors import AiwmError, TooLarge

MAX_BODY_BYTES = 1_048_576
BODY_SECONDS = 30.0
"""For a whole body of JSON."""
SILENCE_SECONDS = 60.0
"""Between two pieces of a raw body, which may take as long as it likes."""


class TooSlow(AiwmError):
    status, title, default_code = 408, "Request too slow", "REQUEST_TOO_SLOW"


class ClientGone(Exception):
    """The client went away before its body was complete."""


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body; `TooLarge` beyond `limit` bytes, `ClientGone` when it does not arrive."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > limit:
            raise too_large(limit)
        if not message.get("more_body", False):
            return bytes(body)


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives `body` first and then goes on with the original."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again


def unsilenced(receive: Receive) -> Receive:
    """A `receive` that takes a client for gone that sends nothing of its unfinished body for a minute."""
    unfinished = True

    async def receiving() -> Message:
        nonlocal unfinished
        if not unfinished:
            return await receive()
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                message = await receive()
        except TimeoutError:
            return {"type": "http.disconnect"}
        unfinished = bool(message.get("more_body", False))
        return message

    return receiving


def _closing(answer: Response) -> Response:
    answer.headers["Connection"] = "close"
    return answer


def too_large(limit: int) -> TooLarge:
    return TooLarge(f"cannot accept the request: its body is larger than {limit} bytes")


class BodyLimit:
    """Refuses bodies over `limit` bytes with 413, except on paths that take raw bodies."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY_BYTES) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or takes_raw_body(scope["path"]):
            receives = unsilenced(receive) if scope["type"] == "http" else receive
            await self._app(scope, receives, send)
            return
        try:
            declared = dict(scope["headers"]).get(b"content-length", b"0")
            if declared.isdigit() and int(declared) > self._limit:
                raise too_large(self._limit)
            async with asyncio.timeout(BODY_SECONDS):
                body = await read_body(receive, self._limit)
        except TimeoutError:
            slow = TooSlow(f"cannot accept the request: its body took longer than {BODY_SECONDS:.0f} seconds")
            await _closing(problem(slow, scope["path"]))(scope, receive, send)
            return
        except TooLarge as error:
            await problem(error, scope["path"])(scope, receive, send)
            return
        except ClientGone:
            return
        await self._app(scope, replay(body, receive), send)
