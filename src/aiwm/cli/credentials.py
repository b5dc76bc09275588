"""What `aiwm login` keeps for later commands: addresses and tokens, readable by their owner alone."""

import asyncio
import fcntl
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from aiwm.protocol.errors import Invalid, Unauthenticated
from aiwm.protocol.resources.access import TokenPair

_LOOK_AGAIN_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Credentials:
    """One sign-in."""

    url: str
    noti_url: str
    username: str
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)

    def renewed(self, tokens: TokenPair) -> "Credentials":
        """The same with newer tokens."""
        return replace(self, access_token=tokens.access_token, refresh_token=tokens.refresh_token)


def credentials_path() -> Path:
    """`$XDG_CONFIG_HOME/aiwm/credentials.json`, by default below `~/.config`."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "aiwm" / "credentials.json"


def load_credentials() -> Credentials:
    """Those of the last login. Raises `Unauthenticated` when there are none, `Invalid` when they cannot be read."""
    path = credentials_path()
    try:
        return Credentials(**json.loads(path.read_text()))
    except FileNotFoundError:
        raise Unauthenticated("cannot go on: nobody is signed in; run: aiwm login", code="NOT_SIGNED_IN") from None
    except (OSError, ValueError, TypeError) as error:
        raise Invalid(f"cannot read {path}: {error}; run: aiwm login", code="CREDENTIALS_UNREADABLE") from error


def save_credentials(credentials: Credentials) -> None:
    """Keeps them, 0600, replacing the former ones whole. Raises `Invalid`."""
    path = credentials_path()
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            json.dump(asdict(credentials), out)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise Invalid(f"cannot keep the login in {path}: {error.strerror}", code="CREDENTIALS_UNWRITABLE") from error


@asynccontextmanager
async def renewing() -> AsyncIterator[tuple[str, str] | None]:
    """Held by one command at a time; the tokens kept now, None when nobody is signed in any more."""
    with open(credentials_path().with_name("credentials.lock"), "a") as lock:  # noqa: ASYNC230 - a local, empty file
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        try:
            kept = load_credentials()
        except Unauthenticated:
            yield None
        else:
            yield kept.access_token, kept.refresh_token


def forget_credentials() -> None:
    """Removes what is kept."""
    credentials_path().unlink(missing_ok=True)
