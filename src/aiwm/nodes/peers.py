"""Several controllers as one: each says which nodes it holds, and sends commands to them for the others.

What is known of a session travels whole, so the last word is all the word there is. A node's connection may move from
one controller to another at any moment: the epoch tells which is newer, and the older one is ended where it is.
"""

import logging
from collections.abc import Callable, Coroutine

from pydantic import Field, ValidationError

from aiwm.infra.bus.calls import Calls
from aiwm.infra.bus.circle import Circle, Part
from aiwm.infra.bus.port import Message
from aiwm.kit.context import correlated, correlation_id
from aiwm.kit.machine import machine_mark
from aiwm.kit.tasks import Tasks
from aiwm.nodes import rules
from aiwm.nodes.commands import CommandFailed, Commands, Order, offline
from aiwm.nodes.presence import Presence, Session
from aiwm.protocol.base import Wire
from aiwm.protocol.errors import AiwmError, TimedOut, Unavailable
from aiwm.protocol.node_channel import ACK_TIMEOUT_SECONDS, ReplicaReport

log = logging.getLogger(__name__)

_COMMAND, _FORGET = "command", "forget"
_ROUND_TRIP_SECONDS = 5.0

Moved = Callable[[str | None, set[str]], None]
"""Takes a node whose session another controller opened or lost, and the deployments it runs; without a node, those of
which another controller heard news."""


class HeldNode(Wire):
    """What a controller says of a node's session; `epoch` None: it holds none."""

    node_id: str
    epoch: int | None = None
    registered: bool = False
    advertise_host: str | None = None
    machine: str | None = None
    replicas: list[ReplicaReport] = Field(default_factory=list)


class AskedCommand(Wire):
    """A command that another controller wants sent over the connection of that epoch."""

    node_id: str
    epoch: int
    type: str
    data: "Relayed"
    timeout: float
    generation: int | None = None
    correlation_id: str | None = None


class Relayed(Wire):
    """Data that goes through as it is."""

    model_config = {"extra": "allow"}


class CommandOutcome(Wire):
    """Its result, or why there is none: `failed` by the node, `offline` or `late`."""

    result: dict[str, object] | None = None
    problem: str | None = None
    message: str = ""
    code: str = ""
    retryable: bool = False


class Peers(Part):
    """`replaced(session)` ends a connection of this controller whose node has a newer one elsewhere."""

    def __init__(
        self,
        circle: Circle,
        calls: Calls,
        presence: Presence,
        commands: Commands,
        replaced: Callable[[Session], Coroutine[None, None, None]],
        moved: Moved,
        tasks: Tasks,
    ) -> None:
        self._circle, self._calls, self._presence, self._commands = circle, calls, presence, commands
        self._replaced, self._moved, self._tasks = replaced, moved, tasks
        self._changed: dict[str, None] = {}
        circle.add("nodes", self)
        circle.on_direct(_FORGET, self._forget)
        calls.serve(_COMMAND, self._serve)
        presence.tell(self._note)
        commands.forward(self._forward)

    def _note(self, node_id: str) -> None:
        self._changed[node_id] = None
        self._circle.wake()

    def news(self) -> list[Message]:
        changed, self._changed = self._changed, {}
        return [_told(self._presence.of(node_id), node_id) for node_id in changed]

    def whole(self) -> list[Message]:
        return [_told(session, session.node_id) for session in self._presence.here()]

    def heard(self, member: str, message: Message) -> None:
        told = _read(message)
        if told is None:
            return
        if told.epoch is None:
            self._left(told.node_id, member)
        else:
            self._elsewhere(member, told, told.epoch)

    def pictured(self, member: str, messages: list[Message]) -> None:
        there = {told.node_id for told in map(_read, messages) if told is not None}
        for message in messages:
            self.heard(member, message)
        for session in self._presence.held_by(member):
            if session.node_id not in there:
                self._left(session.node_id, member)

    def parted(self, member: str) -> None:
        for session in self._presence.held_by(member):
            self._left(session.node_id, member)

    def _left(self, node_id: str, member: str) -> None:
        session = self._presence.left(node_id, member)
        if session is not None:
            self._moved(node_id, _deployments(session))

    def _elsewhere(self, member: str, told: HeldNode, epoch: int) -> None:
        known = self._presence.of(told.node_id)
        session = Session(
            told.node_id,
            "",
            epoch,
            registered=told.registered,
            inventory={report.replica_id: report for report in told.replicas},
            holder=member,
            advertise_host=told.advertise_host,
            machine=told.machine,
            noted=self._forgotten,
        )
        older = self._presence.elsewhere(session)
        if self._presence.of(told.node_id) is not session:
            return
        if told.registered:
            self._presence.reached_at(told.node_id, rules.dial_host(session, own_machine=machine_mark()))
        if older is not None:
            log.info("a node connected to another controller", extra={"nodeId": told.node_id, "member": member})
            self._tasks.spawn(f"end of {told.node_id}'s older connection", self._replaced(older))
        if known is not None and (known.epoch, known.registered) == (session.epoch, session.registered):
            self._moved(None, _changed(known, session))
        else:
            self._moved(told.node_id, _deployments(session))

    def _forgotten(self, session: Session, replica_id: str | None) -> None:
        """What a command sent from here has shown: the holder must know it too."""
        if session.holder is not None and replica_id is not None:
            about: Message = {"nodeId": session.node_id, "epoch": session.epoch, "replicaId": replica_id}
            self._tasks.spawn(f"forget {replica_id}", self._tell_forgotten(session.holder, about))

    async def _tell_forgotten(self, holder: str, about: Message) -> None:
        try:
            await self._circle.send(holder, _FORGET, about)
        except Unavailable as error:
            log.info("the holder keeps a replica that is gone: %s", error.message)

    def _forget(self, member: str, message: Message) -> None:  # noqa: ARG002 - whoever sent the command
        session = self._presence.of(str(message.get("nodeId")))
        if session is not None and session.holder is None and session.epoch == message.get("epoch"):
            session.forgot(str(message.get("replicaId")))

    async def _forward(self, session: Session, order: Order) -> dict[str, object]:
        assert session.holder is not None  # noqa: S101 - commands forwards no others
        asked = AskedCommand(
            node_id=session.node_id,
            epoch=session.epoch,
            type=order.type,
            data=Relayed.model_validate(order.data.to_wire()),
            timeout=order.timeout,
            generation=order.generation,
            correlation_id=correlation_id(),
        )
        patience = ACK_TIMEOUT_SECONDS + order.timeout + _ROUND_TRIP_SECONDS
        try:
            answer = await self._calls.ask(session.holder, _COMMAND, asked.to_wire(), timeout=patience)
        except Unavailable as error:
            raise offline(session.node_id, error.message) from error
        return _unwrapped(session.node_id, CommandOutcome.model_validate(answer))

    async def _serve(self, message: Message) -> Message:
        try:
            asked = AskedCommand.model_validate(message)
        except ValidationError:
            # Of another release.
            return CommandOutcome(problem="failed", code="COMMAND_INVALID", message="cannot read the command").to_wire()
        session = self._presence.of(asked.node_id)
        if session is None or session.holder is not None or session.epoch != asked.epoch:
            return _problem("offline", offline(asked.node_id, "its connection is gone"))
        with correlated(asked.correlation_id):
            try:
                order = Order(asked.type, asked.data, asked.timeout, asked.generation)
                return CommandOutcome(result=await self._commands.send(session, order)).to_wire()
            except CommandFailed as error:
                return _problem("failed", error, retryable=error.retryable)
            except Unavailable as error:
                return _problem("offline", error)
            except TimedOut as error:
                return _problem("late", error)


def _told(session: Session | None, node_id: str) -> Message:
    if session is None or session.holder is not None:
        return HeldNode(node_id=node_id).to_wire()
    return HeldNode(
        node_id=node_id,
        epoch=session.epoch,
        registered=session.registered,
        advertise_host=session.advertise_host,
        machine=session.machine,
        replicas=list(session.inventory.values()),
    ).to_wire()


def _read(message: Message) -> HeldNode | None:
    try:
        return HeldNode.model_validate(message)
    except ValidationError as error:
        log.warning("what another controller says of a node cannot be read: %s", error.errors()[0]["msg"])
        return None


def _deployments(session: Session) -> set[str]:
    return {report.deployment_id for report in session.inventory.values()}


def _changed(before: Session, after: Session) -> set[str]:
    """The deployments of which a replica came, went or changed."""
    replicas = before.inventory.keys() | after.inventory.keys()
    pairs = [(before.inventory.get(each), after.inventory.get(each)) for each in replicas]
    return {report.deployment_id for pair in pairs if pair[0] != pair[1] for report in pair if report is not None}


def _problem(kind: str, error: AiwmError, *, retryable: bool = True) -> Message:
    return CommandOutcome(problem=kind, message=error.message, code=error.code, retryable=retryable).to_wire()


def _unwrapped(node_id: str, outcome: CommandOutcome) -> dict[str, object]:
    if outcome.problem is None:
        return outcome.result or {}
    if outcome.problem == "failed":
        raise CommandFailed(outcome.message, code=outcome.code, retryable=outcome.retryable)
    if outcome.problem == "late":
        raise TimedOut(outcome.message)
    raise Unavailable(outcome.message or f"cannot reach node {node_id}", code="NODE_OFFLINE")
