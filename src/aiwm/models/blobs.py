"""Blobs by ticket: what a signed URL of ours allows its holder, and nothing else. No other credential is looked at."""

import re
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import StreamingResponse

from aiwm.http.gate import PUBLIC
from aiwm.infra.objects.local import LocalObjects
from aiwm.infra.objects.port import Objects
from aiwm.infra.objects.tickets import BlobTickets, Ticket
from aiwm.protocol.errors import Denied, Invalid

PREFIX = "/blobs"
MAX_PART_BYTES = 2 * 2**30

_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")


def blobs_router(objects: Objects, tickets: BlobTickets) -> APIRouter:
    """PUT one part of an upload (local store only), GET one blob, whole or a range of it."""
    router = APIRouter(prefix=PREFIX, tags=["blobs"], dependencies=[PUBLIC])

    def allowed(method: str, token: str) -> Ticket:
        ticket = tickets.verify(token)
        if ticket.method != method:
            raise Denied(f"cannot {method} here: this URL is for {ticket.method}", code="TICKET_INVALID")
        return ticket

    def for_put(token: str) -> Ticket:
        return allowed("PUT", token)

    def for_get(token: str) -> Ticket:
        return allowed("GET", token)

    @router.put("/{token}", status_code=200)
    async def put_part(ticket: Annotated[Ticket, Depends(for_put)], request: Request) -> Response:
        if not isinstance(objects, LocalObjects):
            raise Denied("cannot PUT here: parts go to the object store itself", code="TICKET_INVALID")
        etag = await objects.write_part(ticket, request.stream(), MAX_PART_BYTES)
        return Response(headers={"ETag": f'"{etag}"'})

    @router.get("/{token}")
    async def get_blob(
        ticket: Annotated[Ticket, Depends(for_get)], wanted: Annotated[str | None, Header(alias="range")] = None
    ) -> StreamingResponse:
        stat = await objects.stat(ticket.key)
        start, end = _span(wanted, stat.size)
        headers = {"Accept-Ranges": "bytes", "Content-Length": str(end - start)}
        if wanted is not None:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{stat.size}"
        return StreamingResponse(
            _bytes(objects, ticket.key, start, end - start),
            status_code=200 if wanted is None else 206,
            headers=headers,
            media_type="application/octet-stream",
        )

    return router


async def _bytes(objects: Objects, key: str, start: int, length: int) -> AsyncIterator[bytes]:
    if length:
        async for chunk in objects.get(key, start=start, length=length):
            yield chunk


def _span(wanted: str | None, size: int) -> tuple[int, int]:
    """First byte and the one after the last, of one `bytes=a-b` or `bytes=a-` range."""
    if wanted is None:
        return 0, size
    match = _RANGE.fullmatch(wanted.strip())
    start = int(match[1]) if match else size
    end = min(int(match[2]) + 1, size) if match and match[2] else size
    if start >= end:
        raise Invalid(f"cannot serve this range of {size} bytes", code="RANGE_INVALID")
    return start, end
