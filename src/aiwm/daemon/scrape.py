"""Reading an engine's metrics page."""

import aiohttp

from aiwm.daemon import asking

_SECONDS = 5
_MOST_BYTES = 4 * 2**20


async def read_page(url: str) -> str | None:
    """The page at `url`; None when it does not come within 5 s, or is larger than a page of numbers can be."""
    try:
        async with asking.session(seconds=_SECONDS) as session:
            page = await asking.get(session, url, _MOST_BYTES)
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
    return page.text if page.status == 200 and page.whole else None
