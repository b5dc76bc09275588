"""Reading an engine's metrics page."""

import aiohttp

_TIMEOUT = aiohttp.ClientTimeout(total=5)
_MOST_BYTES = 4 * 2**20


async def read_page(url: str) -> str | None:
    """The page at `url`; None when it does not come within 5 s, or is larger than a page of numbers can be."""
    try:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session, session.get(url) as answer:
            if answer.status != 200:
                return None
            page = bytearray()
            async for piece in answer.content.iter_any():
                page += piece
                if len(page) > _MOST_BYTES:
                    return None
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
    return page.decode(errors="replace")
