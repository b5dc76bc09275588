"""What every resource of the REST API offers: list, get, create, patch, delete; and finding by name."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Generic, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from aiwm.protocol.errors import Conflict, NotFound, TimedOut
from aiwm.protocol.resources.base import Page, Pagination, Resource
from aiwm.sdk.transport import Body, Transport, read_as

R = TypeVar("R", bound=Resource)
T = TypeVar("T", bound=BaseModel)

MAX_PAGE = 200


def listing(
    page: int, limit: int, sort: str | None, q: str | None, filters: Mapping[str, str] | None
) -> dict[str, str]:
    """The query of a list, as the REST API spells it."""
    query = {"page": str(page), "limit": str(limit)}
    if sort:
        query["sort"] = sort
    if q:
        query["q"] = q
    return query | {f"filter[{field}]": value for field, value in (filters or {}).items()}


def page_as(kind: type[T], payload: object) -> Page[T]:
    """A page of `kind`."""
    return read_as(Page[kind], payload)  # type: ignore[valid-type]


def items_as(kind: type[T], payload: object) -> list[T]:
    """All of a short list, paged or not."""
    items = payload.get("data") if isinstance(payload, dict) else payload
    return [read_as(kind, item) for item in items] if isinstance(items, list) else []


class Noun(Generic[R]):
    """One kind of resource; ids are what the server calls `<noun>Id`."""

    path: str
    noun: str
    kind: type[R]

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(
        self,
        *,
        page: int = 1,
        limit: int = 20,
        sort: str | None = None,
        q: str | None = None,
        filters: Mapping[str, str] | None = None,
    ) -> Page[R]:
        """One page; `sort` like `-createdAt`, `filters` by field, `limit` at most 200."""
        payload = await self._transport.request("GET", self.path, params=listing(page, limit, sort, q, filters))
        return page_as(self.kind, payload)

    async def all(
        self, *, sort: str | None = None, q: str | None = None, filters: Mapping[str, str] | None = None
    ) -> AsyncIterator[R]:
        """Every one, page by page."""
        number = 0
        while True:
            number += 1
            page = await self.list(page=number, limit=MAX_PAGE, sort=sort, q=q, filters=filters)
            for each in page.data:
                yield each
            if _is_last(page.pagination):
                return

    async def get(self, resource_id: str) -> R:
        """One, by its id. Raises `NotFound`."""
        return read_as(self.kind, await self._transport.request("GET", self.at(resource_id)))

    async def create(self, params: Body, *, idempotency_key: str | None = None) -> R:
        """A new one; `params` is a create model of the protocol or its JSON. Raises `Invalid` naming each field."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
        return read_as(self.kind, await self._transport.request("POST", self.path, json=params, headers=headers))

    async def patch(self, resource_id: str, params: Body, *, if_version: int | None = None) -> R:
        """Changes what `params` names; with `if_version`, only that `resourceVersion` (else `Stale`)."""
        headers = {"If-Match": f'"{if_version}"'} if if_version is not None else None
        return read_as(
            self.kind, await self._transport.request("PATCH", self.at(resource_id), json=params, headers=headers)
        )

    async def delete(self, resource_id: str) -> None:
        """Deletes it; what is running is stopped first, by the server."""
        await self._transport.request("DELETE", self.at(resource_id))

    async def resolve(self, reference: str) -> str:
        """The id that `reference` (an id or a name) means. Raises `NotFound`, or `Conflict` when several fit."""
        page = await self.list(limit=MAX_PAGE, filters={"name": reference})
        found = [self.id_of(each) for each in page.data]
        if len(found) > 1:
            raise Conflict(
                f"cannot tell which {self.noun} {reference!r} is: {', '.join(found)} have that name; give the id",
                code="NAME_AMBIGUOUS",
            )
        if found:
            return found[0]
        try:
            return self.id_of(await self.get(reference))
        except NotFound as error:
            code = f"{self.noun.upper()}_NOT_FOUND"
            raise NotFound(
                f"cannot find {self.noun} {reference!r}: none has that name or id", code=code, details=error.details
            ) from error

    def id_of(self, resource: R) -> str:
        """Its own id."""
        return str(getattr(resource, f"{self.noun}_id"))

    def at(self, resource_id: str, *more: str) -> str:
        """The path of one resource, and of what is below it."""
        return "/".join((self.path, _segment(resource_id), *more))

    async def _until(
        self,
        resource_id: str,
        done: Callable[[R], bool],
        *,
        timeout: float,
        what: str,
        on_change: Callable[[R], Awaitable[None] | None] | None,
    ) -> R:
        """Asks until `done` says so; raises `TimedOut` after `timeout` seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        for pause in _pauses():
            current = await self.get(resource_id)
            if on_change is not None and (told := on_change(current)) is not None:
                await told
            if done(current):
                return current
            if loop.time() >= end:
                raise TimedOut(f"cannot wait longer for {self.noun} {resource_id}: not {what} after {timeout:g} s")
            await asyncio.sleep(min(pause, max(0.0, end - loop.time())))
        raise AssertionError("pauses never end")


def _pauses() -> Iterator[float]:
    """Seconds between looks: often at first, when most things happen, then once a second."""
    pause = 0.1
    while True:
        yield pause
        pause = min(pause * 1.3, 1.0)


def _is_last(pagination: Pagination) -> bool:
    return pagination.page * pagination.limit >= pagination.total


def _segment(resource_id: str) -> str:
    return quote(resource_id, safe="")
