"""The live hub: Socket.IO namespace `/notifications`. Rooms are joined by the server alone.

Who may listen is asked at the connect and again every two seconds: what a connection may no longer have, it loses.
"""

import logging
from typing import Annotated, Any, TypeVar

import socketio
from pydantic import Field, ValidationError

from aiwm.access import policy
from aiwm.access.guard import Guard
from aiwm.access.principal import Principal
from aiwm.access.watch import Seat, Watch, judge, look_again
from aiwm.http.sockets import token_of
from aiwm.kit.clock import Clock
from aiwm.notifications.streams import Streams
from aiwm.notifications.topics import Topics
from aiwm.protocol.base import Short, Wire
from aiwm.protocol.errors import AiwmError, Denied, Invalid, Unauthenticated
from aiwm.protocol.notifications import ENDED, NAMESPACE, Connected, Refusal

log = logging.getLogger(__name__)

Json = dict[str, object]


class _Read(Wire):
    ids: Annotated[list[Short], Field(min_length=1, max_length=1000)]


class _Topic(Wire):
    topic: Short


class _Renewal(Wire):
    token: str


W = TypeVar("W", bound=Wire)


class NotificationHub(socketio.AsyncNamespace):  # type: ignore[misc]
    """All users' connections to this process."""

    def __init__(self, guard: Guard, streams: Streams, topics: Topics, watch: Watch, clock: Clock) -> None:
        super().__init__(NAMESPACE)
        self._guard, self._streams, self._topics, self._watch, self._clock = guard, streams, topics, watch, clock
        self._seats: dict[str, Seat] = {}

    async def tell(self, user_id: str, event: str, payload: Json) -> None:
        """Sends to all of the user's connections."""
        await self.emit(event, payload, room=_user_room(user_id))

    async def on_connect(self, sid: str, environ: dict[str, Any], auth: object) -> None:
        self._seats[sid] = await self._seat(token_of(environ, auth))

    async def accepted(self, sid: str) -> None:
        """The client knows it is connected: it hears where its stream stands, and everything from there on."""
        if (seat := self._seats.get(sid)) is None:
            return
        who = seat.principal
        rooms = _rooms(who)
        async with self._streams.lock(who.id):
            stream = await self._streams.stream(who.id)
            connected = Connected(user_id=who.id, rooms=rooms, epoch=stream.epoch, last_seq=stream.last_seq)
            await self.emit("connected", connected.to_wire(), to=sid)
            for room in rooms:
                await self.enter_room(sid, room)

    async def on_disconnect(self, sid: str, _reason: str = "") -> None:
        self._seats.pop(sid, None)

    async def watch(self) -> None:
        """Looks after open connections for ever."""
        await look_again(self.look, self._clock)

    async def look(self) -> None:
        """Ends the connections that may no longer be there; the others get the rooms and topics of who they are now."""
        seats = dict(self._seats)
        if not seats:
            return
        standing, now = await self._watch.standing(seats.values()), self._clock.now()
        for sid, seat in seats.items():
            if self._seats.get(sid) is not seat:
                continue
            try:
                judged = judge(seat, standing, now=now)
            except Unauthenticated as error:
                await self._end(sid, seat, error)
            else:
                await self._moved(sid, seat, judged)

    async def _end(self, sid: str, seat: Seat, error: AiwmError) -> None:
        log.info("connection ended", extra={"userId": seat.principal.id, "code": error.code})
        await self.emit(ENDED, Refusal(code=error.code, message=error.message).to_wire(), to=sid)
        await self.disconnect(sid)

    async def _moved(self, sid: str, seat: Seat, judged: Seat) -> None:
        if judged is seat:
            return
        self._seats[sid] = judged
        before, after = set(_rooms(seat.principal)), set(_rooms(judged.principal))
        for room in before - after:
            await self.leave_room(sid, room)
        for room in after - before:
            await self.enter_room(sid, room)
        for topic in self._joined(sid):
            try:
                await self._topics.check(judged.principal, topic, joined=0)
            except AiwmError:
                await self.leave_room(sid, _topic_room(topic))

    async def trigger_event(self, event: str, *args: Any) -> Any:
        """Every event of a client is acknowledged `{ok: true}`, or by the server's `{ok: false, code, message}`."""
        if event in ("connect", "disconnect"):
            return await super().trigger_event(event, *args)
        sid, body = args[0], args[1] if len(args) > 1 else None
        await self._handle(event, sid, self._seats[sid].principal, body)
        return {"ok": True}

    async def _handle(self, event: str, sid: str, who: Principal, body: object) -> None:
        match event:
            case "notification.read":
                await self._streams.read(who.id, _parsed(_Read, body).ids)
            case "notification.readAll":
                await self._streams.read_all(who.id)
            case "subscribe":
                await self._subscribe(sid, who, _parsed(_Topic, body).topic)
            case "unsubscribe":
                await self.leave_room(sid, _topic_room(_parsed(_Topic, body).topic))
            case "token.renew":
                await self._renew(sid, _parsed(_Renewal, body).token)
            case _:
                raise Invalid(f"cannot handle {event[:64]!r}: there is no such event", code="MESSAGE_UNKNOWN")

    async def _subscribe(self, sid: str, who: Principal, topic: str) -> None:
        await self._topics.check(who, topic, joined=len(self._joined(sid)))
        await self.enter_room(sid, _topic_room(topic))

    def _joined(self, sid: str) -> list[str]:
        prefix = _topic_room("")
        return [room.removeprefix(prefix) for room in self.rooms(sid) if room.startswith(prefix)]

    async def _seat(self, token: str | None) -> Seat:
        seat = await self._guard.seat(token)
        policy.acting(seat.principal, "notifications.read")
        return seat

    async def _renew(self, sid: str, token: str) -> None:
        """The connection stands on another token of the same subject from now on."""
        renewed = await self._seat(token)
        seat = self._seats.get(sid)
        if seat is None:
            return
        if (renewed.principal.kind, renewed.principal.id) != (seat.principal.kind, seat.principal.id):
            raise Denied("cannot renew: the token is somebody else's; connect anew with it")
        await self._moved(sid, seat, renewed)


def _topic_room(topic: str) -> str:
    return f"topic:{topic}"


def _user_room(user_id: str) -> str:
    return f"user:{user_id}"


def _rooms(who: Principal) -> list[str]:
    return [_user_room(who.id)] + ([f"org:{who.org_id}"] if who.org_id else [])


def _parsed(kind: type[W], body: object) -> W:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the message"
        raise Invalid(f"cannot read the message: {place}: {first['msg']}", code="MESSAGE_INVALID") from error
