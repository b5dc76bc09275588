"""The audit log over REST: a page of it, and all of it as JSON lines."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse

from aiwm.access.audit.log import AuditLog
from aiwm.access.guard import Guard
from aiwm.access.principal import Principal
from aiwm.http.paging import Listing, ListingWith, page_of, to_query
from aiwm.infra.store.port import Any, Condition, Where
from aiwm.protocol.audit import AuditEntry
from aiwm.protocol.base import Timestamp
from aiwm.protocol.resources.base import Page

_FILTERS = {
    "actor": "actor.id",
    "username": "actor.username",
    "address": "actor.address",
    "action": "action",
    "category": "category",
    "target": "target.id",
    "targetKind": "target.kind",
    "outcome": "outcome",
    "correlationId": "correlationId",
}
_SORTS = {"seq": "id", "time": "time"}
_SEARCH = ("action", "actor.username", "target.id")
_NOTHING = "[]"

From = Annotated[Timestamp | None, Query(alias="from", description="not before this time")]
To = Annotated[Timestamp | None, Query(alias="to", description="before this time")]


def audit_router(log: AuditLog, guard: Guard) -> APIRouter:
    """`/audit`, `/audit/export`. Organization owners see what their people did, and what was done to what is theirs."""
    router = APIRouter(prefix="/audit", tags=["audit"])
    reader = guard.needs("audit.read")

    @router.get("")
    async def list_audit(
        who: Annotated[Principal, reader],
        what: Annotated[Listing, Depends(ListingWith("from", "to"))],
        since: From = None,
        until: To = None,
    ) -> Page[AuditEntry]:
        """The newest entries first."""
        listing = replace(what, sort=what.sort or "-seq")
        scope = (*seen_by(who), *_between(since, until))
        query = to_query(listing, filterable=_FILTERS, sortable=_SORTS, search=_SEARCH, scope=scope)
        entries, total = await log.page(query)
        return page_of(entries, what, total)

    @router.get("/export", response_class=StreamingResponse)
    async def export_audit(
        who: Annotated[Principal, reader],
        what: Annotated[Listing, Depends(ListingWith("from", "to"))],
        since: From = None,
        until: To = None,
    ) -> StreamingResponse:
        """All entries that match, oldest first, one JSON object a line; whole logs pass `aiwm audit verify`."""
        scope = (*seen_by(who), *_between(since, until))
        query = to_query(what, filterable=_FILTERS, sortable=_SORTS, search=_SEARCH, scope=scope)
        headers = {"Content-Disposition": 'attachment; filename="audit.jsonl"'}
        entries = log.entries(query.where)
        # The first one before the answer begins: what the store refuses can then still be answered.
        first = await anext(entries, None)
        return StreamingResponse(_lines(first, entries), media_type="application/jsonl", headers=headers)

    return router


def seen_by(who: Principal) -> tuple[Condition, ...]:
    """What of the log a caller may see: all of it, or what concerns its organization."""
    if who.is_universe:
        return ()
    org_id = who.org_id or _NOTHING
    return (Any((Where("actor.orgId", "eq", org_id), Where("target.orgId", "eq", org_id))),)


async def _lines(first: AuditEntry | None, others: AsyncIterator[AuditEntry]) -> AsyncIterator[bytes]:
    if first is not None:
        yield _line(first)
    async for entry in others:
        yield _line(entry)


def _line(entry: AuditEntry) -> bytes:
    return json.dumps(entry.to_wire(), ensure_ascii=False).encode() + b"\n"


def _between(since: datetime | None, until: datetime | None) -> tuple[Condition, ...]:
    bounds: list[Condition] = []
    if since is not None:
        bounds.append(Where("time", "gte", since.astimezone(UTC)))
    if until is not None:
        bounds.append(Where("time", "lt", until.astimezone(UTC)))
    return tuple(bounds)
