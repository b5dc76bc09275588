"""Asking an engine over HTTP whether it serves."""

import aiohttp

_TIMEOUT = aiohttp.ClientTimeout(total=5)


async def all_answer(urls: tuple[str, ...]) -> bool:
    """Whether every one of `urls` answers 200, each within 5 s."""
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        for url in urls:
            try:
                async with session.get(url) as answer:
                    if answer.status != 200:
                        return False
            except (aiohttp.ClientError, TimeoutError):
                return False
    return True
