"""TLS: what is served, what is refused in one line, and a certificate that changes under open connections."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import socketio
from fastapi import FastAPI
from tests.http_support import until
from tests.tls_support import Authority, Pair, serial_of, served_serial

from aiwm.daemon.daemon import Daemon
from aiwm.daemon.launchers.fake import FakeLauncher
from aiwm.http.serve import bind, serve, warn_plain
from aiwm.http.sockets import mount, socket_server
from aiwm.http.tls import Certificate
from aiwm.kit.settings import Settings, SettingsError, load_settings
from aiwm.kit.trust import trusting
from aiwm.protocol.errors import AiwmError, Invalid, Unavailable
from aiwm.sdk.client import Client
from aiwm.sdk.live import Live


class Echo(socketio.AsyncNamespace):  # type: ignore[misc]
    async def on_say(self, _sid: str, body: object) -> object:
        return body


@asynccontextmanager
async def served(certificate: Certificate) -> AsyncIterator[int]:
    """A service with a socket over TLS; its port."""
    sio = socket_server(settings=Settings(), ping_interval=20, ping_timeout=10)
    sio.register_namespace(Echo("/echo"))
    listener, stop = bind("127.0.0.1", 0), asyncio.Event()
    port = int(listener.getsockname()[1])
    application = mount(FastAPI(), sio)
    serving = asyncio.create_task(
        serve(application, host="127.0.0.1", port=port, stop=stop, listener=listener, tls=certificate)
    )
    try:
        yield port
    finally:
        stop.set()
        await serving


@asynccontextmanager
async def talking(port: int, authority: Authority) -> AsyncIterator[Callable[[str], "asyncio.Future[object]"]]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=authority.trust)) as http:
        client = socketio.AsyncClient(reconnection=False, http_session=http)
        await client.connect(f"https://127.0.0.1:{port}", namespaces=["/echo"], transports=["websocket"])
        try:
            yield lambda word: asyncio.ensure_future(client.call("say", word, namespace="/echo", timeout=5))
        finally:
            await client.shutdown()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.issue("server", rsa_key=True)


def certificate_of(pair: Pair) -> Certificate:
    return Certificate(str(pair.cert), str(pair.key))


async def test_a_certificate_that_changes_is_served_at_once_and_open_connections_go_on(
    authority: Authority, pair: Pair
) -> None:
    certificate, first = certificate_of(pair), serial_of(pair)
    async with served(certificate) as port, talking(port, authority) as before:
        assert await asyncio.to_thread(served_serial, port, authority.trust) == first
        # Of another key type, which a context that is loaded anew would not forget.
        second = serial_of(authority.issue("server"))
        certificate.look()
        assert second != first
        for _ in range(3):
            assert await asyncio.to_thread(served_serial, port, authority.trust) == second
        assert await before("still here") == "still here"
        async with talking(port, authority) as after:
            assert await after("new") == "new"


async def test_files_that_cannot_be_used_are_one_warning_and_the_last_good_certificate_stays(
    authority: Authority, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, first = certificate_of(pair), serial_of(pair)
    async with served(certificate) as port:
        pair.cert.write_bytes(authority.issue("other").cert.read_bytes())
        with caplog.at_level(logging.WARNING):
            certificate.look()
            certificate.look()
        (line,) = [each.getMessage() for each in caplog.records]
        assert "the key does not belong to the certificate" in line
        assert await asyncio.to_thread(served_serial, port, authority.trust) == first
        pair.key.write_bytes((pair.key.parent / "other.key").read_bytes())
        certificate.look()
        assert await asyncio.to_thread(served_serial, port, authority.trust) == serial_of(pair)


def _spoil(pair: Pair, authority: Authority, how: str) -> str:
    match how:
        case "no certificate":
            pair.cert.unlink()
            return f"AIWM_TLS_CERT: {pair.cert}: No such file"
        case "no key":
            pair.key.unlink()
            return f"AIWM_TLS_KEY: {pair.key}: No such file"
        case "a folder":
            pair.key.unlink()
            pair.key.mkdir()
            return "AIWM_TLS_KEY"
        case "not PEM":
            pair.cert.write_text("certificate")
            return "not PEM"
        case "another's key":
            pair.key.write_bytes(authority.issue("other", rsa_key=True).key.read_bytes())
            return "the key does not belong to the certificate"
        case _:
            authority.issue("server", passphrase=b"secret")
            return "has a passphrase"


@pytest.mark.parametrize("how", ["no certificate", "no key", "a folder", "not PEM", "another's key", "a passphrase"])
def test_what_cannot_be_served_is_one_clear_line_at_the_start(authority: Authority, pair: Pair, how: str) -> None:
    expected = _spoil(pair, authority, how)
    with pytest.raises(SettingsError) as caught:
        certificate_of(pair)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", ["AIWM_TLS_CERT", "AIWM_TLS_KEY"])
def test_certificate_and_key_go_together(given: str) -> None:
    with pytest.raises(SettingsError, match="AIWM_TLS_CERT and AIWM_TLS_KEY go together"):
        load_settings(environment={given: "/etc/aiwm.pem"})


def test_with_a_certificate_the_own_address_is_https() -> None:
    settings = load_settings(environment={"AIWM_TLS_CERT": "a.crt", "AIWM_TLS_KEY": "a.key"})
    assert settings.own_url == "https://127.0.0.1:3003"
    assert Path(settings.tls_cert).is_absolute()


@pytest.mark.parametrize(
    ("host", "tls", "lines"),
    [
        ("0.0.0.0", "", 1),  # noqa: S104
        ("192.0.2.1", "", 1),
        ("::", "", 1),
        ("127.0.0.1", "", 0),
        ("::1", "", 0),
        ("0.0.0.0", "c", 0),  # noqa: S104
    ],
)
def test_plain_http_beyond_loopback_is_warned_about_once(
    host: str, tls: str, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    warn_plain(Settings(host=host, tls_cert=tls))
    assert len(caplog.records) == lines


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_of_authorities_that_cannot_be_used_is_one_line(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match="cannot use AIWM_TLS_CA"):
        trusting(str(file))
    with pytest.raises(Invalid, match="cannot use AIWM_TLS_CA"):
        Client("https://127.0.0.1:1", ca_file=str(file))


async def test_the_sdk_trusts_the_named_authority_alone(
    authority: Authority, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = Authority(tmp_path, "stranger")
    async with served(certificate_of(pair)) as port:
        url = f"https://127.0.0.1:{port}"
        monkeypatch.setenv("AIWM_TLS_CA", str(authority.file))
        async with Client(url) as client:
            with pytest.raises(AiwmError) as answered:
                await client.me()
            assert answered.value.status == 404
        async with Client(url, ca_file=str(stranger.file)) as client:
            with pytest.raises(Unavailable, match=r"not trusted .* set AIWM_TLS_CA") as caught:
                await client.me()
        assert caught.value.code == "CERTIFICATE_REFUSED"
        with pytest.raises(Unavailable, match=r"not trusted .* set AIWM_TLS_CA"):
            async with Live(url, "token", trust=stranger.trust):
                pass


async def test_a_daemon_that_does_not_trust_the_controller_says_so_in_one_line(
    authority: Authority, pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = Authority(tmp_path, "stranger")
    async with served(certificate_of(pair)) as port:
        settings = Settings(
            data_dir=tmp_path / "d",
            controller_url=f"wss://127.0.0.1:{port}",
            node_token="token",
            tls_ca=str(stranger.file),
        )
        daemon = Daemon(settings, launcher=FakeLauncher())
        running = asyncio.create_task(daemon.run())
        await until(lambda: "cannot reach" in caplog.text, "the daemon says why")
        daemon.stop()
        await running
        (line,) = [each.getMessage() for each in caplog.records if "cannot reach" in each.getMessage()]
        assert "its certificate is not trusted" in line
        assert "set AIWM_TLS_CA" in line
        with pytest.raises(SettingsError, match="cannot use AIWM_TLS_CA"):
            Daemon(replace(settings, tls_ca="/nowhere.pem"), launcher=FakeLauncher())
