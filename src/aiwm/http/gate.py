"""How routes say who may come in, and the check that none forgot to: no declaration means no start.

The HTTP layer knows no roles. It sees a `Gate`, and marks on dependencies that a route carries.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

from fastapi import Depends, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from starlette.requests import HTTPConnection

_MARK = "__aiwm_declares__"
API = "/api/v1"

C = TypeVar("C", bound=Callable[..., object])


class Gate(Protocol):
    """Decides about tokens."""

    async def identity(self, token: str | None) -> str:
        """The id of the token's bearer; raises `Unauthenticated`."""
        ...

    async def admit(self, token: str | None, permission: str) -> object:
        """Returns when the bearer has `permission`; raises `Unauthenticated` or `Denied`."""
        ...


def declares(call: C, what: str) -> C:
    """`call`, marked as a dependency that settles who may use the route it is on."""
    setattr(call, _MARK, what)
    return call


async def _anybody() -> None:
    """Open to everybody."""


PUBLIC = Depends(declares(_anybody, "public"))


def bearer(request: HTTPConnection) -> str | None:
    """The token in the `Authorization` header, the only place one is taken from."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def check_default_deny(app: FastAPI) -> None:
    """Raises `RuntimeError` naming every route that declares neither a permission nor `PUBLIC`."""
    undeclared = [
        f"{','.join(sorted(context.methods or ()))} {context.path}"
        for context in iter_route_contexts(app.routes)
        if not _declared(getattr(context, "dependant", None), context.path or "")
    ]
    if undeclared:
        raise RuntimeError(f"cannot start: no permission declared for {'; '.join(sorted(undeclared))}")


def _declared(dependant: Dependant | None, path: str) -> bool:
    """Plain Starlette routes declare nothing; there are some for the schema, and none may serve the API."""
    return not path.startswith(API) if dependant is None else _marked(dependant)


def _marked(dependant: Dependant) -> bool:
    return hasattr(dependant.call, _MARK) or any(_marked(each) for each in dependant.dependencies)
