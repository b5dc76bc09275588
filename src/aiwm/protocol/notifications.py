"""Notifications: what travels through the `noti` queue and what users receive on `/notifications`."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from aiwm.protocol.base import Json, Params, Short, Text, Timestamp, View, Wire
from aiwm.protocol.states import Severity

NAMESPACE = "/notifications"
QUEUE = "noti"
ENDED = "session.ended"

EventKind = Literal["system.notification", "service.event", "service.alert", "agent.event"]


class NotificationMetadata(Wire):
    correlation_id: Short | None = None
    org_id: Short | None = None
    user_id: Short | None = None
    agent_id: Short | None = None
    timestamp: Timestamp | None = None


class Recipients(Wire):
    user_ids: Annotated[list[Short], Field(max_length=10_000)] | None = None
    org_ids: Annotated[list[Short], Field(max_length=10_000)] | None = None
    agent_ids: Annotated[list[Short], Field(max_length=10_000)] | None = None
    broadcast: bool | None = None


class NotificationData(Wire):
    """`name` for service and agent events; `title`, `message`, `severity` for what people read."""

    name: Short | None = None
    title: Short | None = None
    message: Text | None = None
    severity: Severity | None = None
    data: dict[str, object] | None = None
    metadata: NotificationMetadata | None = None
    recipients: Recipients = Field(default_factory=Recipients)


class NotificationJob(Wire):
    """The data of a job in the `noti` queue; the job's name is `event` too."""

    event: EventKind
    data: NotificationData


class DeliveryMetadata(Wire):
    """Where a notification stands in its user's one ordered stream."""

    notification_id: str
    seq: int
    epoch: str
    created_at: Timestamp
    correlation_id: str | None = None


class Delivery(Wire):
    """What a user receives, under the event's own name; `recipients` shows only how this user was addressed."""

    name: str | None = None
    title: str | None = None
    message: str | None = None
    severity: Severity | None = None
    data: dict[str, object] | None = None
    notification_metadata: DeliveryMetadata
    recipients: Recipients


class Connected(Wire):
    """The first event after a connect."""

    user_id: str
    rooms: list[str]
    epoch: str
    last_seq: int


class Notification(View):
    """An inbox entry, over REST."""

    notification_id: str
    event: str
    name: str | None
    title: str | None
    message: str | None
    severity: Severity
    data: dict[str, object] | None
    seq: int
    epoch: str
    read: bool
    read_at: Timestamp | None
    created_at: Timestamp
    correlation_id: str | None


class Audience(Params):
    """Whom an announcement is for: users, organizations, or everyone."""

    user_ids: Annotated[list[Short], Field(max_length=10_000)] | None = None
    org_ids: Annotated[list[Short], Field(max_length=10_000)] | None = None
    broadcast: bool | None = None

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if not (self.user_ids or self.org_ids or self.broadcast):
            raise ValueError("name userIds, orgIds or broadcast")
        return self


class Announcement(Params):
    """A `system.notification`, as the REST API accepts it."""

    title: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    message: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    severity: Severity = Severity.NORMAL
    data: Json | None = None
    recipients: Audience


class AnnouncementAccepted(View):
    notification_id: str


class ReadAll(View):
    """How many were unread before."""

    count: int


class UnreadCount(View):
    count: int


class Refusal(Wire):
    """`data` of a refused connect (the error's message is the code), and of `session.ended` before a disconnect."""

    code: str
    message: str
