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


def declarations(app: FastAPI) -> dict[tuple[str, str], frozenset[str]]:
    """What each route declares, by method and path: a permission, `signed in` or `public`."""
    return {
        (method, context.path or ""): _marks(getattr(context, "dependant", None))
        for context in iter_route_contexts(app.routes)
        for method in context.methods or ()
    }


def check_default_deny(app: FastAPI) -> None:
    """Raises `RuntimeError` naming every route that declares neither a permission nor `PUBLIC`.

    Plain Starlette routes can declare nothing; there are some for the schema, and none may serve the API.
    """
    undeclared = [
        f"{','.join(sorted(context.methods or ()))} {context.path}"
        for context in iter_route_contexts(app.routes)
        if not _marks(dependant := getattr(context, "dependant", None))
        and (dependant is not None or (context.path or "").startswith(API))
    ]
    if undeclared:
        raise RuntimeError(f"cannot start: no permission declared for {'; '.join(sorted(undeclared))}")


def _marks(dependant: Dependant | None) -> frozenset[str]:
    if dependant is None:
        return frozenset()
    own = getattr(dependant.call, _MARK, None)
    return frozenset({own} if own else ()).union(*(_marks(each) for each in dependant.dependencies))
