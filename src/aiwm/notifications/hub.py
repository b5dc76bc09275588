"""The live hub: Socket.IO namespace `/notifications`. Rooms are joined by the server alone."""

from typing import Annotated, Any, TypeVar

import socketio
from pydantic import Field, ValidationError

from aiwm.access.guard import Guard
from aiwm.access.principal import Principal
from aiwm.http.sockets import token_of
from aiwm.notifications.streams import Streams
from aiwm.notifications.topics import Topics
from aiwm.protocol.base import Short, Wire
from aiwm.protocol.errors import Invalid
from aiwm.protocol.notifications import NAMESPACE, Connected

Json = dict[str, object]


class _Read(Wire):
    ids: Annotated[list[Short], Field(min_length=1, max_length=1000)]


class _Topic(Wire):
    topic: Short


W = TypeVar("W", bound=Wire)


class NotificationHub(socketio.AsyncNamespace):  # type: ignore[misc]
    """All users' connections to this process."""

    def __init__(self, guard: Guard, streams: Streams, topics: Topics) -> None:
        super().__init__(NAMESPACE)
        self._guard, self._streams, self._topics = guard, streams, topics
        self._who: dict[str, Principal] = {}

    async def tell(self, user_id: str, event: str, payload: Json) -> None:
        """Sends to all of the user's connections."""
        await self.emit(event, payload, room=_user_room(user_id))

    async def on_connect(self, sid: str, environ: dict[str, Any], auth: object) -> None:
        self._who[sid] = await self._guard.principal(token_of(environ, auth))

    async def accepted(self, sid: str) -> None:
        """The client knows it is connected: it hears where its stream stands, and everything from there on."""
        who = self._who[sid]
        rooms = [_user_room(who.id)] + ([f"org:{who.org_id}"] if who.org_id else [])
        async with self._streams.lock(who.id):
            stream = await self._streams.stream(who.id)
            connected = Connected(user_id=who.id, rooms=rooms, epoch=stream.epoch, last_seq=stream.last_seq)
            await self.emit("connected", connected.to_wire(), to=sid)
            for room in rooms:
                await self.enter_room(sid, room)

    async def on_disconnect(self, sid: str, _reason: str = "") -> None:
        self._who.pop(sid, None)

    async def trigger_event(self, event: str, *args: Any) -> Any:
        """Every event of a client is acknowledged `{ok: true}`, or by the server's `{ok: false, code, message}`."""
        if event in ("connect", "disconnect"):
            return await super().trigger_event(event, *args)
        sid, body = args[0], args[1] if len(args) > 1 else None
        await self._handle(event, sid, self._who[sid], body)
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
            case _:
                raise Invalid(f"cannot handle {event[:64]!r}: there is no such event", code="MESSAGE_UNKNOWN")

    async def _subscribe(self, sid: str, who: Principal, topic: str) -> None:
        joined = [room for room in self.rooms(sid) if room.startswith(_topic_room(""))]
        await self._topics.check(who, topic, joined=len(joined))
        await self.enter_room(sid, _topic_room(topic))


def _topic_room(topic: str) -> str:
    return f"topic:{topic}"


def _user_room(user_id: str) -> str:
    return f"user:{user_id}"


def _parsed(kind: type[W], body: object) -> W:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the message"
        raise Invalid(f"cannot read the message: {place}: {first['msg']}", code="MESSAGE_INVALID") from error
