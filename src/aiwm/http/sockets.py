"""The Socket.IO shell: one server with the same limits and manners everywhere, mounted beside an HTTP application."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, NoReturn

import engineio
import socketio
from fastapi import FastAPI
from socketio.exceptions import ConnectionRefusedError as Refused
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from aiwm.http.address import address_in
from aiwm.http.app import origins
from aiwm.http.audit import Deed, Recorder
from aiwm.http.edge import secure
from aiwm.kit.acting import Act, acting, current_act
from aiwm.kit.settings import Settings
from aiwm.protocol.audit import AuditTarget, Outcome
from aiwm.protocol.errors import AiwmError
from aiwm.protocol.notifications import Refusal

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 1_000_000
# What the libraries raise at a packet that is none: cut, nested too deep, or noise.
_UNREADABLE = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)
_AT_NOISE = ("Unknown receive error", "post request handler error")
_PROTOCOL_ERROR = 1002


class _Engine(engineio.AsyncServer):  # type: ignore[misc]
    """Holds on to its background tasks, which asyncio alone would not, and ends them with the server."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._background: set[asyncio.Future[Any]] = set()

    def start_background_task(self, target: Any, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        task: asyncio.Future[Any] = super().start_background_task(target, *args, **kwargs)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def shutdown(self) -> None:
        await super().shutdown()
        left = list(self._background)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


class SocketServer(socketio.AsyncServer):  # type: ignore[misc]
    """A handler that fails answers its client `{ok: false, code, message}`; a bug is logged, and tells nothing.

    Connects, good and refused, go on record with `recorder`, where there is one.
    """

    recorder: Recorder | None = None

    def _engineio_server_class(self) -> type[_Engine]:
        return _Engine

    async def _handle_connect(self, eio_sid: str, namespace: str | None, data: object) -> None:
        """Nothing may be emitted before a connect was accepted; a namespace that has `accepted(sid)` is told when.

        A connect that cannot be put on record is ended again, and so is tried again; a refusal stands anyway.
        """
        with acting(Act(address_in(self.environ.get(eio_sid, {})))):
            await super()._handle_connect(eio_sid, namespace, data)
            name = namespace or "/"
            sid = self.manager.sid_from_eio_sid(eio_sid, name)
            if sid is None or not self.manager.is_connected(sid, name):
                return
            if not await self._on_record(name, "ok"):
                await self.disconnect(sid, namespace=name)
                return
            accepted = getattr(self.namespace_handlers.get(name), "accepted", None)
            if accepted is not None and self.manager.is_connected(sid, name):
                await accepted(sid)

    async def _handle_eio_message(self, eio_sid: str, data: object) -> None:
        """A packet that cannot be read is left out, with a line in the log and no traceback of the library's."""
        try:
            await super()._handle_eio_message(eio_sid, data)
        except _UNREADABLE as error:
            log.warning("left out what is no packet", extra={"reason": _reason(error)})

    async def _trigger_event(self, event: str, namespace: str, *args: Any) -> Any:
        if not isinstance(event, str):
            log.warning("left out an event without a name", extra={"namespace": namespace})
            return None
        if event != "connect":
            return await self._answered(event, namespace, *args)
        try:
            return await self._answered(event, namespace, *args)
        except Refused as refusal:
            await self._on_record(namespace, "denied", str(refusal.error_args.get("message")))
            raise

    async def _on_record(self, namespace: str, outcome: Outcome, code: str | None = None) -> bool:
        """Whether it is kept, which it is for nothing where no recorder is."""
        act = current_act()
        if self.recorder is None or act is None:
            return True
        target = AuditTarget(kind=namespace.strip("/"), id=act.actor.id if act.actor else None)
        action = f"{namespace.strip('/').replace('/', '.')}.connect"
        try:
            await self.recorder.record(Deed("signin", action, target, outcome, code=code), act)
        except AiwmError as error:
            log.error("cannot put on record", extra={"action": action, "code": error.code})  # noqa: TRY400
            return False
        return True

    async def _answered(self, event: str, namespace: str, *args: Any) -> Any:
        try:
            return await super()._trigger_event(event, namespace, *args)
        except AiwmError as error:
            if event == "connect":
                refuse(error)
            return {"ok": False, "code": error.code, "message": error.message}
        except Refused:
            raise
        except Exception:
            log.exception("socket event failed", extra={"event": event, "namespace": namespace})
            bug = AiwmError("cannot do this: something went wrong here; the log has it")
            if event == "connect":
                refuse(bug)
            return {"ok": False, "code": bug.code, "message": bug.message}


class _Mounted(socketio.ASGIApp):  # type: ignore[misc]
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message.get("headers", ())))
                secure(headers)
                message = {**message, "headers": headers.raw}
            await send(message)

        try:
            await super().__call__(scope, receive, secured if scope["type"] == "http" else send)
        except _UNREADABLE as error:
            if scope["type"] != "websocket":
                raise
            log.warning("socket ended: it sent what is no packet", extra={"reason": _reason(error)})
            await send({"type": "websocket.close", "code": _PROTOCOL_ERROR})

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().lifespan(scope, receive, send)
        finally:
            await self.engineio_server.shutdown()


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def socket_server(
    *, settings: Settings, ping_interval: float, ping_timeout: float, recorder: Recorder | None = None
) -> SocketServer:
    """A server without namespaces; seconds. Browsers may come from the origins of the settings, others send none."""
    server = SocketServer(
        async_mode="asgi",
        cors_allowed_origins=origins(settings),
        ping_interval=ping_interval,
        ping_timeout=ping_timeout,
        max_http_buffer_size=MAX_MESSAGE_BYTES,
        namespaces=[],
        logger=_quiet("socketio"),
        engineio_logger=_quiet("engineio"),
    )
    server.recorder = recorder
    return server


def _quiet(library: str) -> logging.Logger:
    """Given none, the libraries write lines of their own making to standard error; at INFO they log every packet."""
    logger = log.getChild(library)
    logger.setLevel(logging.WARNING)
    logger.addFilter(_sender_s_fault)
    return logger


def _sender_s_fault(record: logging.LogRecord) -> bool:
    """The library takes some of what is no packet for a failure of its own, and logs it with a traceback."""
    if record.msg in _AT_NOISE and record.exc_info and isinstance(record.exc_info[1], _UNREADABLE):
        record.levelno, record.levelname, record.exc_info = logging.WARNING, "WARNING", None
    return True


def mount(app: FastAPI, sio: SocketServer) -> Any:
    """An ASGI application that serves `/socket.io` by `sio` and all else by `app`."""
    return _Mounted(sio, other_asgi_app=app)


def refuse(error: AiwmError) -> NoReturn:
    """Refuses a connect: the client sees `connect_error` with the code as message and `{code, message}` as data."""
    raise Refused(error.code, Refusal(code=error.code, message=error.message).to_wire()) from error


def token_of(environ: Mapping[str, Any], auth: object) -> str | None:
    """A connecting client's token: `auth.token`, else the `Authorization` header's."""
    token = auth.get("token") if isinstance(auth, dict) else None
    if isinstance(token, str) and token:
        return token
    scheme, _, bearer = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    return bearer.strip() or None if scheme.lower() == "bearer" else None
