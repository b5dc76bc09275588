"""Asking an engine over HTTP whether it serves."""

import aiohttp

from aiwm.daemon import asking

_SECONDS = 5


async def all_answer(urls: tuple[str, ...]) -> bool:
    """Whether every one of `urls` answers 200, each within 5 s."""
    async with asking.session(seconds=_SECONDS) as session:
        for url in urls:
            if await _status(session, url) != 200:
                return False
    return True


async def any_answers(urls: tuple[str, ...]) -> bool:
    """Whether one of `urls` answers at all, each within 5 s."""
    async with asking.session(seconds=_SECONDS) as session:
        for url in urls:
            if await _status(session, url) is not None:
                return True
    return False


async def _status(session: aiohttp.ClientSession, url: str) -> int | None:
    try:
        return await asking.status(session, url)
    except (aiohttp.ClientError, TimeoutError):
        return None
