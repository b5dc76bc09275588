"""From a job to what is told, and to whom: reading, filling in what is missing, addressing. Pure."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from aiwm.kit.context import accept_correlation_id
from aiwm.notifications.records import InboxRecord, StreamRecord
from aiwm.protocol.errors import Invalid
from aiwm.protocol.notifications import (
    Delivery,
    DeliveryMetadata,
    Notification,
    NotificationData,
    NotificationJob,
    Recipients,
)
from aiwm.protocol.states import Severity

MAX_CONTENT = 262_144


@dataclass(frozen=True, slots=True)
class Told:
    """A notification, complete, before it is anybody's."""

    id: str
    event: str
    data: NotificationData
    content: str | None
    severity: Severity
    created_at: datetime
    correlation_id: str


def read(job_id: str, job_name: str, body: object, *, now: datetime) -> Told:
    """What a job of the queue says; `Invalid` (`NOTIFICATION_INVALID`) says why one can never be read."""
    if not isinstance(body, dict):
        raise _unreadable(job_id, "its data is not an object")
    try:
        job = NotificationJob.model_validate({"event": job_name, **body})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _unreadable(job_id, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    data = job.data
    if not _addresses_anybody(data.recipients):
        raise _unreadable(job_id, "data.recipients names nobody")
    if data.name is None and data.title is None and data.message is None:
        raise _unreadable(job_id, "data has neither a name nor a title or message")
    content = _content(job_id, data.data)
    severity = data.severity or (Severity.HIGH if job.event == "service.alert" else Severity.NORMAL)
    metadata = data.metadata
    return Told(
        id=notification_id(job_id, body),
        event=job.event,
        data=data,
        content=content,
        severity=severity,
        created_at=(metadata and metadata.timestamp) or now,
        correlation_id=accept_correlation_id(metadata.correlation_id if metadata else None),
    )


def notification_id(job_id: str, body: Mapping[str, object]) -> str:
    """The same for a job delivered twice. Job ids alone would not do: foreign writers may count them from 1 again."""
    text = json.dumps([job_id, body], sort_keys=True)
    return f"noti-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def addressed(
    *, users: Sequence[str], members: Mapping[str, Sequence[str]], everyone: Sequence[str]
) -> dict[str, Recipients]:
    """Every user once, with all the ways it was addressed and nothing of the others.

    `users` are those of `userIds` that exist, `members` the users of each of `orgIds`, `everyone` all users where it
    is a broadcast.
    """
    ways: dict[str, Recipients] = {user: Recipients(user_ids=[user]) for user in users}
    for org_id, its_users in members.items():
        for user in its_users:
            way = ways.get(user, Recipients())
            ways[user] = way.model_copy(update={"org_ids": [*(way.org_ids or []), org_id]})
    for user in everyone:
        ways[user] = ways.get(user, Recipients()).model_copy(update={"broadcast": True})
    return ways


def inbox_id(user_id: str, notification_id: str) -> str:
    """The id of a user's entry for a notification: a second one cannot be stored."""
    return f"{user_id}.{notification_id}"


def entry(told: Told, user_id: str, way: Recipients, stream: StreamRecord) -> InboxRecord:
    """The user's entry, at the end of its stream."""
    return InboxRecord(
        id=inbox_id(user_id, told.id),
        user_id=user_id,
        notification_id=told.id,
        event=told.event,
        name=told.data.name,
        title=told.data.title,
        message=told.data.message,
        severity=told.severity,
        content=told.content,
        recipients=way,
        seq=stream.last_seq,
        epoch=stream.epoch,
        created_at=told.created_at,
        correlation_id=told.correlation_id,
    )


def delivery(record: InboxRecord) -> dict[str, object]:
    """What the user's clients receive, under the event's own name."""
    wire = Delivery(
        name=record.name,
        title=record.title,
        message=record.message,
        severity=record.severity,
        notification_metadata=DeliveryMetadata(
            notification_id=record.notification_id,
            seq=record.seq,
            epoch=record.epoch,
            created_at=record.created_at,
            correlation_id=record.correlation_id,
        ),
        recipients=record.recipients,
    ).to_wire()
    return wire if record.content is None else {**wire, "data": json.loads(record.content)}


def view(record: InboxRecord) -> Notification:
    """The entry as REST shows it."""
    return Notification(
        notification_id=record.notification_id,
        event=record.event,
        name=record.name,
        title=record.title,
        message=record.message,
        severity=record.severity,
        data=None if record.content is None else json.loads(record.content),
        seq=record.seq,
        epoch=record.epoch,
        read=record.read_at is not None,
        read_at=record.read_at,
        created_at=record.created_at,
        correlation_id=record.correlation_id,
    )


def _addresses_anybody(recipients: Recipients) -> bool:
    return bool(recipients.user_ids or recipients.org_ids or recipients.agent_ids or recipients.broadcast)


def _content(job_id: str, data: Mapping[str, object] | None) -> str | None:
    if data is None:
        return None
    try:
        text = json.dumps(data, allow_nan=False)
    except ValueError as error:
        raise _unreadable(job_id, f"data.data: {error}") from error
    if len(text) > MAX_CONTENT:
        raise _unreadable(job_id, f"data.data is larger than {MAX_CONTENT} characters")
    return text


def _unreadable(job_id: str, cause: str) -> Invalid:
    return Invalid(f"cannot read notification job {job_id}: {cause}", code="NOTIFICATION_INVALID")
