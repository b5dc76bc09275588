"""The server's HTTP protocol with bounds on a request's head: how large it is, and how long it may take to arrive.

The server itself waits for ever for the end of a head, and takes any number of headers: a few hundred slow or endless
heads would occupy all its connections and memory.
"""

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 15.0
MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 100


class _HeadTooLarge(Exception):
    """Told to the parser to stop it."""


class BoundedHttp(HttpToolsProtocol):
    """Closes connections that send no whole head in time; 431 for a head that is too large."""

    _deadline: asyncio.TimerHandle | None = None
    _in_head = True
    _head_bytes = 0
    _too_large = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or self.cycle.response_complete:
            # Also for what is no head: the rest of a body that was refused, or blank lines to stay connected by.
            self._wait_no_longer()
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._bound(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._bound(len(name) + len(value))
        if len(self.headers) > MAX_HEADERS:
            self._bound(MAX_HEAD_BYTES)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def send_400_response(self, _msg: str) -> None:
        self._refuse_head() if self._too_large else self._refuse(_MALFORMED)

    def _expect_head(self) -> None:
        self._in_head, self._head_bytes, self._parsed_bytes = True, 0, 0
        self._wait_no_longer()

    def _wait_no_longer(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._late)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()

    def _bound(self, size: int) -> None:
        """Raises inside the parser, which then gives up and has a 400 sent: ours says what it was."""
        self._parsed_bytes += size
        if self._parsed_bytes > MAX_HEAD_BYTES:
            self._too_large = True
            raise _HeadTooLarge

    def _refuse_head(self) -> None:
        self._refuse(_TOO_LARGE)

    def _refuse(self, answer: bytes) -> None:
        self.transport.write(answer)
        self.transport.close()


def _answer(status: str, title: str, code: str, detail: str) -> bytes:
    """What has no head that can be read reaches no application: its answer is made here."""
    slug = code.lower().replace("_", "-")
    body = json.dumps(
        {
            "type": f"urn:aiwm:problem:{slug}",
            "title": title,
            "status": int(status[:3]),
            "detail": detail,
            "instance": "",
            "code": code,
            "correlationId": "",
            "errors": [],
        }
    ).encode()
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\nx-content-type-options: nosniff\r\n"
        f"cache-control: no-store\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


_TOO_LARGE = _answer(
    "431 Request Header Fields Too Large",
    "Headers too large",
    "HEADERS_TOO_LARGE",
    f"cannot read the request: its headers are larger than {MAX_HEAD_BYTES} bytes or more than {MAX_HEADERS}",
)
_MALFORMED = _answer("400 Bad Request", "Malformed request", "MALFORMED", "cannot read the request: it is not HTTP/1.1")
