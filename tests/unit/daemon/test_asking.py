"""What an engine answers leads nowhere else, and is read no further than it is of use."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web
from tests.unit.daemon.engines.vllm_support import vllm_order

from aiwm.daemon.asking import MOST_WORDS
from aiwm.daemon.engines.base import Trial, Verdict
from aiwm.daemon.engines.triton_trial import try_model
from aiwm.daemon.engines.vllm import VllmEngine
from aiwm.daemon.engines.vllm_errors import words_of_answer
from aiwm.daemon.launchers.probe import all_answer, any_answers
from aiwm.daemon.scrape import read_page

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# What the system itself takes in advance, on both sides.
SOCKET_BYTES = 16 * 2**20
DEEP = "[" * 60_000


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application(client_max_size=2**20)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def saying(text: str, status: int = 200, content_type: str = "application/json") -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=text.encode(), headers={"Content-Type": content_type})

    return handler


class Endless:
    """Answers without an end, and counts what it could get rid of."""

    def __init__(self, status: int) -> None:
        self.status, self.sent = status, 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(status=self.status)
        await answer.prepare(request)
        with suppress(ConnectionError):
            while self.sent < 4 * SOCKET_BYTES:
                await answer.write(b"x" * 2**16)
                self.sent += 2**16
        return answer


async def tried(base: str) -> list[Trial]:
    return [await VllmEngine(None).try_out(vllm_order(), base), await try_model(base, "m")]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_answer_leads_to_another_server(status: int) -> None:
    asked: list[str] = []

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(text="{}")

    async with serving(elsewhere) as other:

        async def leading(_: web.Request) -> web.StreamResponse:
            return web.Response(status=status, headers={"Location": f"{other}/secret"})

        async with serving(leading) as base:
            assert not await all_answer((base,))
            assert await any_answers((base,))
            assert await read_page(base) is None
            assert await tried(base) == [
                Trial(Verdict.FAILED, f"it answered {status}: it refers to another address, which is not followed"),
                Trial(Verdict.UNTRIED, f"Triton answered {status} to what the model takes"),
            ]
    assert asked == []


@pytest.mark.parametrize("status", [200, 500])
async def test_an_answer_without_an_end_is_read_in_bounds(status: int) -> None:
    for ask in (read_page, tried, lambda base: all_answer((base,))):
        endless = Endless(status)
        async with serving(endless.answer) as base:
            await ask(base)
        assert endless.sent < SOCKET_BYTES + 2 * 4 * 2**20


async def test_of_a_long_answer_the_words_at_its_beginning_are_told() -> None:
    async with serving(saying("no " + "x" * 2 * MOST_WORDS, 500)) as base:
        assert (await VllmEngine(None).try_out(vllm_order(), base)).words.startswith("it answered 500: no xxx")


@pytest.mark.parametrize("charset", ["nonsense", "utf-16", "base64"])
async def test_letters_are_read_the_same_whatever_the_engine_calls_them(charset: str) -> None:
    said = json.dumps({"error": {"message": "né"}}, ensure_ascii=False)
    async with serving(saying(said, 500, f"application/json; charset={charset}")) as base:
        assert (await VllmEngine(None).try_out(vllm_order(), base)).words == "it answered 500: né"


async def test_what_is_nested_without_an_end_is_no_error_of_ours() -> None:
    for status in (200, 500):
        async with serving(saying(DEEP, status)) as base:
            for trial in await tried(base):
                assert trial.verdict in (Verdict.WORKED, Verdict.FAILED, Verdict.UNTRIED)
    assert words_of_answer(DEEP) == DEEP[:200]


async def test_a_triton_that_answers_a_request_with_something_nested_is_doubted() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await saying(DEEP, 500)(request) if request.method == "POST" else web.json_response({})

    async with serving(handler) as base:
        assert (await try_model(base, "m")).verdict is Verdict.DOUBTED


async def test_what_is_packed_is_not_unpacked() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(body=b"\x1f\x8b\x08\x00", headers={"Content-Encoding": "gzip"})

    async with serving(handler) as base:
        assert await read_page(base) == "\x1f\ufffd\x08\x00"
