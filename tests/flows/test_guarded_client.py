"""URLs of users on real sockets: names that change their minds, redirects inwards, credentials that stay behind."""

from collections.abc import AsyncIterator, Sequence

import pytest
from aiohttp import web

from aiwm.infra.urls import GuardedClient, LookUp, UrlGuard, networks
from aiwm.protocol.errors import BadUpstream, Invalid, Unavailable

HERE = networks("127.0.0.1/32")


class Asked:
    """A resolver that answers from a list, one answer each time, and the last one from then on."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers, self.count = list(answers), 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.count += 1
        return self.answers[min(self.count, len(self.answers)) - 1]


async def _echo(request: web.Request) -> web.Response:
    return web.json_response(
        {"host": request.host, "auth": request.headers.get("Authorization"), "via": request.method}
    )


async def _away(request: web.Request) -> web.Response:
    return web.Response(status=int(request.query.get("status", "302")), headers={"Location": request.query["to"]})


async def _loop(request: web.Request) -> web.Response:
    raise web.HTTPFound("/loop")


@pytest.fixture
async def port() -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_route("*", "/echo", _echo)
    app.router.add_route("*", "/away", _away)
    app.router.add_route("*", "/loop", _loop)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def _get(url: str, look_up: LookUp, *, allowed: bool = True, method: str = "GET") -> dict[str, object]:
    guard = UrlGuard(HERE if allowed else (), look_up)
    async with (
        GuardedClient(guard) as client,
        client.request(method, url, headers={"Authorization": "Bearer secret"}) as answer,
    ):
        body: dict[str, object] = await answer.json()
        return body


async def test_a_name_is_asked_where_its_judged_address_is(port: int) -> None:
    told = await _get(f"http://models.example:{port}/echo", Asked(["127.0.0.1"]))
    assert told == {"host": f"models.example:{port}", "auth": "Bearer secret", "via": "GET"}


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["::1"], ["93.184.215.14", "10.0.0.1"], ["::ffff:127.0.0.1"]])
async def test_a_name_that_leads_inside_is_refused(port: int, addresses: list[str]) -> None:
    with pytest.raises(Invalid) as caught:
        await _get(f"http://models.example:{port}/echo", Asked(addresses), allowed=False)
    assert caught.value.code == "URL_REFUSED"


async def test_a_name_that_changes_its_mind_gains_nothing(port: int) -> None:
    asked = Asked(["93.184.215.14"], ["127.0.0.1"])
    with pytest.raises(Invalid):
        await _get(f"http://rebind.example:{port}/echo", asked, allowed=False)
    assert asked.count == 2


async def test_a_redirect_inwards_is_refused(port: int) -> None:
    for inside in ("http://169.254.169.254/latest", "http://[::1]/", "file:///etc/passwd", "http://user@x/", "//10.1/"):
        with pytest.raises(Invalid):
            await _get(f"http://models.example:{port}/away?to={inside}", Asked(["127.0.0.1"]))


async def test_redirects_are_followed_five_times_and_credentials_stay_with_their_origin(port: int) -> None:
    same = await _get(f"http://models.example:{port}/away?to=/echo", Asked(["127.0.0.1"]))
    assert same["auth"] == "Bearer secret"
    other = await _get(f"http://models.example:{port}/away?to=http://other.example:{port}/echo", Asked(["127.0.0.1"]))
    assert (other["host"], other["auth"]) == (f"other.example:{port}", None)
    posted = await _get(f"http://models.example:{port}/away?status=303&to=/echo", Asked(["127.0.0.1"]), method="POST")
    assert posted["via"] == "GET"
    with pytest.raises(BadUpstream):
        await _get(f"http://models.example:{port}/loop", Asked(["127.0.0.1"]))


async def test_a_name_that_leads_nowhere_is_unavailable(port: int) -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise OSError("no such name")

    for look_up in (unknown, Asked([])):
        with pytest.raises(Unavailable):
            await _get(f"http://models.example:{port}/echo", look_up)
    with pytest.raises(Unavailable):
        await _get("http://models.example:1/echo", Asked(["127.0.0.1"]))
