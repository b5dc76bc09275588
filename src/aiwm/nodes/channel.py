"""The controller's end of the node channel: Socket.IO namespace `/ws/node`, contract section 5.

A message that cannot be read is answered with `error` and never drops the connection. A node speaks about itself
alone: its identity is its connection's, whatever a message says.
"""

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Protocol

import socketio
from pydantic import ValidationError

from aiwm import __version__
from aiwm.access.watch import look_again
from aiwm.http.sockets import refuse
from aiwm.kit.acting import Actor, acted_by
from aiwm.kit.clock import Clock, iso
from aiwm.kit.context import accept_correlation_id, correlated
from aiwm.kit.machine import machine_mark
from aiwm.nodes import rules
from aiwm.nodes.commands import Commands
from aiwm.nodes.history import History
from aiwm.nodes.presence import Presence, Session
from aiwm.nodes.records import NodeObservation, NodeRecord
from aiwm.nodes.service import NodeService
from aiwm.nodes.tenure import Tenure, check, renewal_due
from aiwm.protocol import node_channel as wire
from aiwm.protocol.base import Wire
from aiwm.protocol.errors import AiwmError, Unauthenticated

log = logging.getLogger(__name__)

_LONGEST_INSTANCE = 128


class Listener(Protocol):
    """Who must hear what nodes report; a composition root registers one."""

    async def inventory(self, session: Session) -> None:
        """A node has registered: `session.inventory` is all it runs, if the session counts as registered.

        It does not yet when the node did not say what it runs.
        """
        ...

    async def status(self, session: Session, report: wire.DeploymentStatusReport) -> None:
        """News of one replica."""
        ...

    async def progress(self, session: Session, report: wire.ModelProgress) -> None:
        """How much of a model a replica has fetched."""
        ...

    async def logs(self, session: Session, report: wire.DeploymentLogs) -> None:
        """The last lines of an engine that ended."""
        ...

    async def left(self, session: Session) -> None:
        """The node's current connection has ended."""
        ...


class NodeChannel(socketio.AsyncNamespace):  # type: ignore[misc]
    """One instance serves all nodes of this controller."""

    def __init__(
        self, nodes: NodeService, presence: Presence, history: History, clock: Clock, controller_id: str
    ) -> None:
        super().__init__(wire.NAMESPACE)
        self._nodes, self._presence, self._clock, self._controller_id = nodes, presence, clock, controller_id
        self._history = history
        self._records: dict[str, NodeRecord] = {}
        self._held: dict[str, Tenure] = {}
        self._listener: Listener | None = None
        self._closing = False
        self.commands = Commands(presence, clock, self._send)
        self._handlers: dict[str, tuple[type[Wire], Callable[[Session, Any], Awaitable[None]]]] = {
            wire.NODE_REGISTER: (wire.NodeRegister, self._register),
            wire.HEARTBEAT: (wire.Heartbeat, self._heartbeat),
            wire.METRICS: (wire.Metrics, self._metrics),
            wire.DEPLOYMENT_STATUS: (wire.DeploymentStatusReport, self._status),
            wire.DEPLOYMENT_LOGS: (wire.DeploymentLogs, self._logs),
            wire.MODEL_PROGRESS: (wire.ModelProgress, self._progress),
            wire.COMMAND_ACK: (wire.CommandAck, self._acknowledged),
            wire.COMMAND_RESULT: (wire.CommandResult, self._result),
        }

    def listen(self, listener: Listener) -> None:
        """Names who hears reports from now on."""
        self._listener = listener

    def closing(self) -> None:
        """This controller is about to end: that its nodes lose it says nothing about them."""
        self._closing = True

    async def close_node(self, node_id: str) -> None:
        """Ends a node's connection at once where it may no longer be there."""
        await self._look({sid: node for sid, node in self._records.items() if node.id == node_id})

    async def replaced(self, session: Session) -> None:
        """Ends a connection whose node has a newer one at another controller."""
        self.commands.lost(session)
        await self.disconnect(session.sid)

    async def watch(self) -> None:
        """Looks after open connections for ever."""
        await look_again(self.look, self._clock)

    async def look(self) -> None:
        """Ends the connections that may no longer be there; nodes whose token ends soon are given another."""
        await self._look(dict(self._records))

    async def _look(self, connected: dict[str, NodeRecord]) -> None:
        if not connected:
            return
        # A token renewed below counts as issued before this look: a revocation that comes between refuses it.
        now = self._clock.now()
        current = await self._nodes.again(connected.values())
        for sid, known in connected.items():
            if self._records.get(sid) is not known:
                continue
            try:
                node = check(current.get(known.id), self._held[sid], now=now)
            except AiwmError as error:
                await self._end(sid, known, error)
                continue
            self._records[sid] = node
            if renewal_due(self._held[sid], now=now):
                await self._renew(sid, node, now)

    async def _end(self, sid: str, node: NodeRecord, error: AiwmError) -> None:
        log.warning("node disconnected", extra={"nodeId": node.id, "code": error.code})
        data = wire.ChannelError.model_validate({"code": error.code, "message": error.message})
        await self._send(wire.ERROR, wire.envelope(wire.ERROR, data, now=self._clock.now()), sid)
        await self.disconnect(sid)

    async def _renew(self, sid: str, node: NodeRecord, now: datetime) -> None:
        token, self._held[sid] = self._nodes.renewed(node, self._held[sid], now=now)
        data = wire.TokenRenewed(token=token.token, expires_at=token.expires_at)
        await self._send(wire.TOKEN_RENEWED, wire.envelope(wire.TOKEN_RENEWED, data, now=self._clock.now()), sid)
        log.info("token renewed", extra={"nodeId": node.id, "expiresAt": iso(token.expires_at)})

    async def _send(self, event: str, message: dict[str, object], sid: str) -> None:
        await self.emit(event, message, to=sid)

    async def on_connect(self, sid: str, environ: dict[str, Any], auth: object) -> None:
        try:
            node, held = await self._nodes.authenticate(_token(environ, auth))
        except AiwmError as error:
            log.warning("node refused", extra={"code": error.code})
            refuse(error)
        acted_by(Actor("node", node.id, node.name, node.owner.org_id))
        seen = await self._opened(node, _instance(auth))
        self._records[sid], self._held[sid] = node, held
        older = self._presence.opened(Session(node.id, sid, seen.epoch))
        if older is not None:
            self.commands.lost(older)
            log.warning("a newer connection replaces an older one", extra={"nodeId": node.id})
        ack = wire.ConnectionAck(
            timestamp=self._clock.now(), node_id=node.id, controller_id=self._controller_id, server_version=__version__
        )
        self.server.start_background_task(self._greet, sid, ack, older)

    async def _opened(self, node: NodeRecord, instance: str | None) -> NodeObservation:
        try:
            return await self._nodes.connected(node.id, instance, replaces=self._presence.of(node.id) is not None)
        except Unauthenticated as error:
            log.warning("node refused", extra={"nodeId": node.id, "code": error.code})
            await self._nodes.cloned(node)
            refuse(error)

    async def _greet(self, sid: str, ack: wire.ConnectionAck, older: Session | None) -> None:
        """After the connect was accepted, as nothing may be emitted before it."""
        await self.emit(wire.CONNECTION_ACK, ack.to_wire(), to=sid)
        if older is not None:
            await self.disconnect(older.sid)

    async def on_disconnect(self, sid: str, reason: str = "") -> None:
        node, _ = self._records.pop(sid, None), self._held.pop(sid, None)
        session = self._presence.closed(sid)
        if node is None or session is None or self._closing:
            return
        log.info("node gone", extra={"nodeId": node.id, "reason": reason})
        self.commands.lost(session)
        await self._nodes.gone(node, epoch=session.epoch)
        if self._listener is not None:
            await self._listener.left(session)

    async def trigger_event(self, event: str, *args: Any) -> Any:
        """Every event but connect and disconnect goes through one door that no message can break."""
        if event in ("connect", "disconnect"):
            return await super().trigger_event(event, *args)
        sid, body = args[0], args[1] if len(args) > 1 else {}
        session = self._presence.current(sid)
        if session is not None:
            await self._receive(session, event, body)
        return None

    async def _receive(self, session: Session, event: str, body: object) -> None:
        message_id = body.get("messageId") if isinstance(body, dict) else None
        if event not in self._handlers:
            await self._complain(session, "MESSAGE_UNKNOWN", f"cannot handle {event[:64]!r}: unknown type", message_id)
            return
        kind, handle = self._handlers[event]
        try:
            data = kind.model_validate(_data(body))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            await self._complain(
                session, "MESSAGE_INVALID", f"cannot read {event}: {place or 'data'}: {first['msg']}", message_id
            )
            return
        with correlated(accept_correlation_id(_correlation(body))):
            try:
                await handle(session, data)
            except AiwmError as error:
                log.warning("message not applied", extra={"type": event, "code": error.code, "nodeId": session.node_id})

    async def _complain(self, session: Session, code: str, message: str, original: object) -> None:
        log.warning("message refused", extra={"nodeId": session.node_id, "code": code, "reason": message})
        data = wire.ChannelError.model_validate(
            {"code": code, "message": message, "originalMessageId": original if isinstance(original, str) else None}
        )
        await self.emit(wire.ERROR, wire.envelope(wire.ERROR, data, now=self._clock.now()), to=session.sid)

    async def _register(self, session: Session, report: wire.NodeRegister) -> None:
        node = self._records[session.sid]
        seen = await self._nodes.registered(node, report)
        self._presence.reached_at(node.id, rules.dial_host(seen, own_machine=machine_mark()))
        session.advertise_host, session.machine = seen.advertise_host, seen.machine
        if report.replicas is not None:
            session.took(report.replicas)
        now = self._clock.now()
        about = wire.ControllerInfo(
            controller_id=self._controller_id,
            heartbeat_interval=wire.HEARTBEAT_INTERVAL_MS,
            metrics_interval=wire.METRICS_INTERVAL_MS,
        )
        ack = wire.RegisterAck(node_id=node.id, registered_at=now, epoch=session.epoch, controller_info=about)
        await self._send(wire.REGISTER_ACK, wire.envelope(wire.REGISTER_ACK, ack, now=now), session.sid)
        log.info(
            "node registered", extra={"nodeId": node.id, "epoch": session.epoch, "replicas": len(session.inventory)}
        )
        if self._listener is not None:
            await self._listener.inventory(session)

    async def _heartbeat(self, session: Session, report: wire.Heartbeat) -> None:
        self._history.note(await self._nodes.beat(self._records[session.sid], report))

    async def _metrics(self, session: Session, report: wire.Metrics) -> None:
        self._history.note(await self._nodes.measured(self._records[session.sid], report))
        if report.replicas is not None:
            session.used(report.replicas)

    async def _status(self, session: Session, report: wire.DeploymentStatusReport) -> None:
        if self._listener is not None:
            await self._listener.status(session, report)

    async def _logs(self, session: Session, report: wire.DeploymentLogs) -> None:
        if self._listener is not None:
            await self._listener.logs(session, report)

    async def _progress(self, session: Session, report: wire.ModelProgress) -> None:
        if self._listener is not None:
            await self._listener.progress(session, report)

    async def _acknowledged(self, session: Session, ack: wire.CommandAck) -> None:
        self.commands.acknowledged(session, ack)

    async def _result(self, session: Session, result: wire.CommandResult) -> None:
        self.commands.ended(session, result)


def _token(environ: dict[str, Any], auth: object) -> str | None:
    if isinstance(auth, dict) and isinstance(auth.get("token"), str):
        return str(auth["token"])
    header = environ.get("HTTP_AUTHORIZATION", "")
    return header[7:] if header[:7].lower() == "bearer " else None


def _instance(auth: object) -> str | None:
    """How a connecting daemon names its run; what cannot be such a name is none."""
    named = auth.get("instance") if isinstance(auth, dict) else None
    return named if isinstance(named, str) and 0 < len(named) <= _LONGEST_INSTANCE else None


def _data(body: object) -> object:
    """The payload: `data` of an envelope, or a bare data object as the source's own frames may be."""
    return body["data"] if isinstance(body, dict) and "data" in body else body


def _correlation(body: object) -> str | None:
    about = body.get("metadata") if isinstance(body, dict) else None
    given = about.get("correlationId") if isinstance(about, dict) else None
    return given if isinstance(given, str) else None
