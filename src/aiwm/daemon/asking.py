"""Asking an engine over HTTP. What it answers is not to be trusted: it leads nowhere else, and is read in bounds."""

from dataclasses import dataclass

import aiohttp

MOST_WORDS = 2**16
"""Bytes of an answer that is read for its words."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An engine's answer; `text` is its beginning where it is not `whole`."""

    status: int
    text: str
    whole: bool = True


def session(base: str | None = None, *, seconds: float | None = None) -> aiohttp.ClientSession:
    """A session to ask in, each question for at most `seconds`. Nothing is unpacked: little can unpack to very much."""
    return aiohttp.ClientSession(
        base,
        timeout=aiohttp.ClientTimeout(total=seconds),
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
    )


async def status(asking: aiohttp.ClientSession, path: str) -> int:
    """The status alone; what comes after it is not waited for."""
    async with asking.get(path, allow_redirects=False) as answer:
        return answer.status


async def get(asking: aiohttp.ClientSession, path: str, most: int) -> Reply:
    """At most `most` bytes of what is there."""
    async with asking.get(path, allow_redirects=False) as answer:
        return await _read(answer, most)


async def post(asking: aiohttp.ClientSession, path: str, data: bytes, headers: dict[str, str]) -> Reply:
    """The answer's words."""
    async with asking.post(path, data=data, headers=headers, allow_redirects=False) as answer:
        return await _read(answer, MOST_WORDS)


async def _read(answer: aiohttp.ClientResponse, most: int) -> Reply:
    if 300 <= answer.status < 400:
        return Reply(answer.status, "it refers to another address, which is not followed")
    read = bytearray()
    async for piece in answer.content.iter_any():
        read += piece
        if len(read) > most:
            break
    return Reply(answer.status, read[:most].decode(errors="replace"), whole=len(read) <= most)
