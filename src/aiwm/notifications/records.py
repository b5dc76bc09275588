"""What is stored of notifications: each user's stream, and an inbox entry for each thing the user was told."""

from aiwm.infra.store.records import StoredRecord
from aiwm.protocol.base import Timestamp
from aiwm.protocol.notifications import Recipients
from aiwm.protocol.states import Severity

STREAMS = "notificationStreams"
INBOX = "notificationInbox"


class StreamRecord(StoredRecord):
    """A user's one ordered stream; its id is the user's. `epoch` names this incarnation of it."""

    epoch: str
    last_seq: int = 0


class InboxRecord(StoredRecord):
    """One notification in one user's stream.

    `content` is the notification's `data` as JSON text, so that it is told exactly as it was sent. `recipients` says
    how this user was addressed.
    """

    user_id: str
    notification_id: str
    event: str
    name: str | None = None
    title: str | None = None
    message: str | None = None
    severity: Severity
    content: str | None = None
    recipients: Recipients
    seq: int
    epoch: str
    created_at: Timestamp
    correlation_id: str
    read_at: Timestamp | None = None
