"""Docker's API over its Unix socket, as little of it as tests need: no client of the product's own is trusted here."""

import http.client
import json
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

VERSION = "v1.41"


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class DockerError(RuntimeError):
    """What Docker answered instead: `status`, and its own words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status}: {words}")
        self.status = status


def call(
    path: Path,
    method: str,
    route: str,
    *,
    query: dict[str, str] | None = None,
    body: object = None,
    stream: Iterable[bytes] | None = None,
    headers: dict[str, str] | None = None,
    timeout: float = 120,
) -> bytes:
    """The answer's body; `body` is sent as JSON, `stream` as a tar. Raises `DockerError`."""
    sent = dict(headers or {})
    data: bytes | Iterable[bytes] | None = stream
    if stream is not None:
        sent["Content-Type"] = "application/x-tar"
    elif body is not None:
        sent["Content-Type"] = "application/json"
        data = json.dumps(body).encode()
    connection = _Connection(path, timeout)
    try:
        where = f"/{VERSION}{route}" + (f"?{urlencode(query)}" if query else "")
        connection.request(method, where, data, sent, encode_chunked=stream is not None)
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if answer.status >= 400:
        raise DockerError(answer.status, text.decode(errors="replace").strip())
    return text


def lines(text: bytes) -> list[dict[str, Any]]:
    """The events of a long answer. An error in one of them is raised: Docker has said 200 before it went wrong."""
    events = [json.loads(line) for line in text.splitlines() if line.strip()]
    for event in events:
        if "error" in event:
            raise DockerError(200, event["error"])
    return events


def unframed(text: bytes) -> bytes:
    """A container's log without the eight bytes before each piece that name its stream and its length."""
    pieces = []
    while text:
        end = 8 + int.from_bytes(text[4:8], "big")
        pieces.append(text[8:end])
        text = text[end:]
    return b"".join(pieces)
