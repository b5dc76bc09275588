"""What is stored of users, organizations and signed-in sessions."""

from aiwm.infra.store.records import OwnedRecord, StoredRecord
from aiwm.protocol.base import Timestamp
from aiwm.protocol.states import Role

USERS = "users"
ORGANIZATIONS = "organizations"
SESSIONS = "sessions"


class UserRecord(OwnedRecord):
    """`org_id` is where the user belongs; `unique_key` is the username in lower case."""

    username: str
    password_hash: str
    org_id: str | None = None
    roles: list[Role]
    is_active: bool = True


class OrganizationRecord(OwnedRecord):
    """`unique_key` is the name in lower case."""

    name: str


class SessionRecord(StoredRecord):
    """From a sign-in until its sign-out or `expires_at`; its tokens are good as long as it is there."""

    user_id: str
    expires_at: Timestamp
