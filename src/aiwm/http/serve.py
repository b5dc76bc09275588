"""Serving an application until told to stop: the process decides about signals and logs, not the server."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from aiwm.http.protocol import BoundedHttp
from aiwm.http.tls import Certificate
from aiwm.kit.settings import Settings, SettingsError

log = logging.getLogger(__name__)

_GRACE_SECONDS = 4
_BACKLOG = 2048


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The process has handlers of its own."""
        yield


def _worth_a_line(record: logging.LogRecord) -> bool:
    """Answers that a stop cuts off are no error, though the server logs them as such."""
    cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cancelled and "timeout graceful shutdown exceeded" not in record.getMessage()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; `SettingsError` in one line when the address is taken or not ours (0: any free port)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Said in full: asyncio turns Nagle off only where the protocol is TCP by name, and answers would wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; end what uses it or choose another port"
        ) from error
    listener.setblocking(False)
    return listener


async def serve(
    asgi_app: Any,
    *,
    host: str,
    port: int,
    stop: asyncio.Event,
    listener: socket.socket | None = None,
    tls: Certificate | None = None,
) -> None:
    """Serves until `stop` is set, then lets requests end for up to four seconds; over TLS with a certificate.

    `listener` is a socket from `bind`, where the caller needs to know the port first. `SettingsError` for an address
    that cannot be had.
    """
    listener = listener or bind(host, port)
    logging.getLogger("uvicorn.error").addFilter(_worth_a_line)
    config = uvicorn.Config(
        asgi_app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        timeout_keep_alive=75,
        lifespan="on",
        http=BoundedHttp,
        ws="websockets-sansio",
        # Every socket here is Socket.IO's, which pings by itself: a second ping beneath it costs and tells nothing.
        ws_ping_interval=None,
        ssl_context_factory=None if tls is None else lambda *_: tls.context,
    )
    server = _Server(config)

    async def watch() -> None:
        await stop.wait()
        server.should_exit = True

    watching = [asyncio.create_task(watch(), name="stop watch")]
    if tls is not None:
        watching.append(asyncio.create_task(tls.keep_fresh(), name="certificate watch"))
    try:
        await server.serve(sockets=[listener])
    finally:
        for task in watching:
            task.cancel()
        listener.close()


def warn_plain(settings: Settings) -> None:
    """One line when passwords and tokens travel unencrypted beyond this machine."""
    if settings.plain_abroad:
        log.warning(
            "plain HTTP on %s: passwords and tokens can be read on the way; set AIWM_TLS_CERT and AIWM_TLS_KEY",
            settings.host,
        )
