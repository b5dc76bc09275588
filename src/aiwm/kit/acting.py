"""Who does what to what right now; it follows awaits by itself, for those who bound it and those who keep a record."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Actor:
    """Whose credentials were verified; `kind` is a principal's."""

    kind: str
    id: str
    username: str
    org_id: str | None


@dataclass(slots=True)
class Act:
    """One request or connect. `address` is where it came from; the rest is learnt as it is served.

    `identified` is called once with its actor, and may raise what the request is then refused with.
    """

    address: str
    actor: Actor | None = None
    username: str | None = None
    target_id: str | None = None
    target_org_id: str | None = None
    identified: Callable[[Actor], None] | None = None


_act: ContextVar[Act | None] = ContextVar("act", default=None)


def current_act() -> Act | None:
    """What is being done now, None outside of any."""
    return _act.get()


@contextmanager
def acting(act: Act) -> Iterator[None]:
    """Within it, `act` is what is being done."""
    token = _act.set(act)
    try:
        yield
    finally:
        _act.reset(token)


def acted_by(actor: Actor) -> None:
    """Says whose credentials were verified; the first one said counts."""
    act = _act.get()
    if act is None or act.actor is not None:
        return
    act.actor = actor
    if act.identified is not None:
        act.identified(actor)


def claims_to_be(username: str) -> None:
    """Says under which name somebody tries to sign in."""
    if (act := _act.get()) is not None:
        act.username = username


def acted_on(target_id: str, org_id: str | None) -> None:
    """Says what is acted on, and whose it is, where the answer will not show it."""
    if (act := _act.get()) is not None:
        act.target_id, act.target_org_id = target_id, org_id
