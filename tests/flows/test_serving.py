"""Serving: addresses that cannot be had, a clean stop, sockets that refuse and fail politely."""

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import socketio
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from socketio.exceptions import ConnectionError as Refused
from tests.http_support import served, until

from aiwm.http.serve import bind, serve
from aiwm.http.sockets import mount, socket_server
from aiwm.kit.settings import Settings, SettingsError
from aiwm.protocol.errors import Conflict


def test_a_taken_port_is_one_clear_line() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError) as caught:
            bind("127.0.0.1", port)
    assert str(caught.value).startswith(f"cannot listen on 127.0.0.1:{port}: Address already in use")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["203.0.113.77", "no.such.host.invalid"])
def test_an_address_that_is_not_ours_is_one_clear_line(host: str) -> None:
    with pytest.raises(SettingsError, match=f"cannot listen on {host}:0"):
        bind(host, 0)


async def test_signals_stay_with_the_process() -> None:
    before = signal.getsignal(signal.SIGTERM)
    async with served(FastAPI()) as url, httpx2.AsyncClient() as http:
        await http.get(url)
        assert signal.getsignal(signal.SIGTERM) == before


async def test_a_stop_waits_for_no_endless_answer() -> None:
    app = FastAPI()

    @app.get("/endless")
    async def endless() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            while True:
                yield b"."
                await asyncio.sleep(0.05)

        return StreamingResponse(parts())

    listener, stop = bind("127.0.0.1", 0), asyncio.Event()
    port = listener.getsockname()[1]
    serving = asyncio.create_task(serve(app, host="127.0.0.1", port=port, stop=stop, listener=listener))
    async with httpx2.AsyncClient() as http, http.stream("GET", f"http://127.0.0.1:{port}/endless") as answer:
        assert answer.status_code == 200
        stop.set()
        await asyncio.wait_for(serving, 8)


class Rude(socketio.AsyncNamespace):  # type: ignore[misc]
    async def on_connect(self, sid: str, environ: dict[str, Any], auth: dict[str, str]) -> None:
        if auth["as"] == "conflict":
            raise Conflict("cannot connect: there are two of you", code="TWO_OF_YOU")
        if auth["as"] == "bug":
            raise RuntimeError("the secret plan")

    async def on_conflict(self, sid: str, body: object) -> None:
        raise Conflict("cannot do it: because", code="BECAUSE")

    async def on_bug(self, sid: str, body: object) -> None:
        raise RuntimeError("the secret plan")


@pytest.fixture
async def url() -> AsyncIterator[str]:
    sio = socket_server(settings=Settings(), ping_interval=20, ping_timeout=10)
    sio.register_namespace(Rude("/rude"))
    async with served(mount(FastAPI(), sio)) as each:
        yield each


async def _connect(client: socketio.AsyncClient, url: str, role: str, **headers: str) -> None:
    await client.connect(url, auth={"as": role}, namespaces=["/rude"], transports=["websocket"], headers=headers)


@pytest.mark.expects_errors
async def test_a_failing_handler_is_acknowledged_with_its_code_and_a_bug_tells_nothing(url: str) -> None:
    client = socketio.AsyncClient(reconnection=False)
    try:
        await _connect(client, url, "guest")
        assert await client.call("conflict", {}, namespace="/rude", timeout=5) == {
            "ok": False,
            "code": "BECAUSE",
            "message": "cannot do it: because",
        }
        bug = await client.call("bug", {}, namespace="/rude", timeout=5)
        assert (bug["ok"], bug["code"]) == (False, "INTERNAL_ERROR")
        assert "secret" not in bug["message"]
    finally:
        await client.shutdown()


@pytest.mark.expects_errors
@pytest.mark.parametrize(("role", "code"), [("conflict", "TWO_OF_YOU"), ("bug", "INTERNAL_ERROR")])
async def test_a_connect_that_fails_is_refused_with_code_and_message(url: str, role: str, code: str) -> None:
    client = socketio.AsyncClient(reconnection=False)
    refusals: list[Any] = []
    client.on("connect_error", refusals.append, namespace="/rude")
    try:
        with pytest.raises(Refused):
            await _connect(client, url, role)
        await until(lambda: bool(refusals), "the refusal arrives")
        assert refusals[0]["message"] == code
        assert refusals[0]["data"].keys() == {"code", "message"}
    finally:
        await client.shutdown()


@pytest.mark.expects_errors
async def test_a_browser_from_elsewhere_gets_no_socket(url: str) -> None:
    client = socketio.AsyncClient(reconnection=False)
    try:
        with pytest.raises(Refused):
            await _connect(client, url, "guest", Origin="http://evil.example")
        await _connect(client, url, "guest", Origin="http://127.0.0.1:3003")
    finally:
        await client.shutdown()
