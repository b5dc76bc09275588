"""What is stored of users, organizations, signed-in sessions and API keys."""

from aiwm.infra.store.records import OwnedRecord, StoredRecord
from aiwm.protocol.base import Timestamp
from aiwm.protocol.resources.access import Organization, User
from aiwm.protocol.states import Role

USERS = "users"
ORGANIZATIONS = "organizations"
SESSIONS = "sessions"
API_KEYS = "apiKeys"


class UserRecord(OwnedRecord):
    """`org_id` is where the user belongs; `unique_key` is the username in lower case.

    An `external` one is known from an external IAM's tokens, which say its roles and organization anew each time.
    """

    username: str
    password_hash: str
    org_id: str | None = None
    roles: list[Role]
    is_active: bool = True
    external: bool = False

    @property
    def usable(self) -> bool:
        """Whether anything may be done in its name."""
        return self.is_active and self.deleted_at is None


class OrganizationRecord(OwnedRecord):
    """`unique_key` is the name in lower case."""

    name: str


class SessionRecord(StoredRecord):
    """From a sign-in until its sign-out or `expires_at`; its tokens are good as long as it is there.

    `turn` counts its refresh tokens: only the last one is good.
    """

    user_id: str
    expires_at: Timestamp
    turn: int = 1


class ApiKeyRecord(OwnedRecord):
    """`owner.user_id` is whose key it is; `digest` is the key's SHA-256, and `hint` how it ends.

    `parent_id` is the key it was made with, whose end is its end too.
    """

    name: str
    digest: str
    hint: str
    scopes: list[str]
    expires_at: Timestamp | None = None
    last_used_at: Timestamp | None = None
    parent_id: str | None = None


def user_view(record: UserRecord) -> User:
    """The resource of a user."""
    own = ("username", "org_id", "roles", "is_active")
    return User.model_validate({**record.base(), "user_id": record.id, **{name: getattr(record, name) for name in own}})


def organization_view(record: OrganizationRecord) -> Organization:
    """The resource of an organization."""
    return Organization.model_validate({**record.base(), "org_id": record.id, "name": record.name})
