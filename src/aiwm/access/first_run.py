"""The first run: an organization `default` and a user `admin` in it, so that somebody can sign in at all."""

import contextlib
import os
import secrets
from pathlib import Path

from aiwm.access.passwords import Passwords
from aiwm.access.records import OrganizationRecord, UserRecord
from aiwm.access.service import Users
from aiwm.infra.store.port import Query, Where
from aiwm.kit.clock import Clock
from aiwm.kit.ids import new_id
from aiwm.kit.settings import Settings, SettingsError
from aiwm.protocol.errors import Conflict
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.states import Role

ADMIN = "admin"
DEFAULT_ORGANIZATION = "default"
PASSWORD_FILE = "admin-password"  # noqa: S105 - a file's name
_MIN_PASSWORD = 8


async def first_run(users: Users, passwords: Passwords, settings: Settings, clock: Clock) -> Path | None:
    """Makes what is missing; where the admin's password was put when it was made just now.

    Several processes may do this at once. Raises `SettingsError` for a password that is too short or a file that
    cannot be written.
    """
    # Deleted users count: an admin that was deleted must not return with the password of the first day.
    if await users.users.count():
        return None
    path = None if settings.admin_password else settings.data_dir / PASSWORD_FILE
    password = settings.admin_password or _made_once(settings.data_dir / PASSWORD_FILE)
    if len(password) < _MIN_PASSWORD:
        raise SettingsError(f"AIWM_ADMIN_PASSWORD must hold at least {_MIN_PASSWORD} characters")
    org_id = await _default_organization(users, clock)
    hashed = await passwords.hash(password)
    now, user_id = clock.now(), new_id("user")
    admin = UserRecord(
        id=user_id,
        owner=Owner(org_id=org_id, user_id=user_id),
        created_by=user_id,
        updated_by=user_id,
        created_at=now,
        updated_at=now,
        unique_key=ADMIN,
        username=ADMIN,
        password_hash=hashed,
        org_id=org_id,
        roles=[Role.UNIVERSE_OWNER],
    )
    try:
        await users.users.insert(admin)
    except Conflict:
        return None
    return path


async def _default_organization(users: Users, clock: Clock) -> str:
    now, org_id = clock.now(), new_id("org")
    record = OrganizationRecord(
        id=org_id,
        owner=Owner(org_id=org_id, user_id=None),
        created_by=None,
        updated_by=None,
        created_at=now,
        updated_at=now,
        unique_key=DEFAULT_ORGANIZATION,
        name=DEFAULT_ORGANIZATION,
    )
    try:
        return (await users.organizations.insert(record)).id
    except Conflict:
        found = await users.organizations.find(Query((Where("uniqueKey", "eq", DEFAULT_ORGANIZATION),), limit=1))
        return found[0].id


def _made_once(path: Path) -> str:
    """The password in the file, made there when there is none; a crash before the user was stored keeps it."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(18) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link appears whole or not at all, and never over a file that another process made first.
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink()
        return path.read_text().strip()
    except OSError as error:
        raise SettingsError(f"cannot keep the admin's password in {path}: {error.strerror}") from error
