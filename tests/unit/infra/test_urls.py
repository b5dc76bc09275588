"""The guard of outgoing URLs, told nothing but the URL: every way to write an address that is not public."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwm.infra.urls import UrlGuard, address_in, networks
from aiwm.kit.settings import SettingsError
from aiwm.protocol.errors import Invalid

GUARD = UrlGuard()

_INSIDE = [
    ipaddress.ip_network(each)
    for each in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10")
]
inside = st.sampled_from(_INSIDE).flatmap(
    lambda net: st.integers(int(net.network_address), int(net.broadcast_address)).map(ipaddress.IPv4Address)
)
ports = st.sampled_from(["", ":80", ":8080"])


def _octets(address: ipaddress.IPv4Address, form: str) -> str:
    return ".".join(format(int(octet), form) for octet in str(address).split("."))


def _forms(address: ipaddress.IPv4Address) -> list[str]:
    number = int(address)
    hexed = ".".join(f"0x{int(octet):x}" for octet in str(address).split("."))
    octal = ".".join(f"0{int(octet):o}" for octet in str(address).split("."))
    return [
        str(address),
        f"{address}.",
        str(number),
        hex(number),
        f"0{number:o}",
        hexed,
        octal,
        f"{number >> 24}.{number & 0xFFFFFF}",
        f"[::ffff:{address}]",
        f"[::ffff:{number >> 16:x}:{number & 0xFFFF:x}]",
        f"[0:0:0:0:0:ffff:{address}]",
        f"[64:ff9b::{address}]",
        f"[2002:{number >> 16:x}:{number & 0xFFFF:x}::1]",
        f"[::{address}]",
    ]


@given(inside, st.integers(0, 13), ports, st.sampled_from(["http", "https", "HTTP"]))
def test_no_way_of_writing_an_inside_address_passes(
    address: ipaddress.IPv4Address, form: int, port: str, scheme: str
) -> None:
    with pytest.raises(Invalid) as caught:
        GUARD.check(f"{scheme}://{_forms(address)[form]}{port}/latest/meta-data")
    assert caught.value.code == "URL_REFUSED"


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1]/",
        "http://[::]/",
        "http://0/",
        "http://0.0.0.0/",
        "http://[fe80::1]/",
        "http://[fe80::1%25eth0]/",
        "http://[fd00:ec2::254]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://255.255.255.255/",
        "http://224.0.0.1/",
        "http://192.0.2.1/",
        "http://198.18.0.1/",
        "ftp://example.org/",
        "file:///etc/passwd",
        "gopher://example.org/",
        "javascript:alert(1)",
        "//example.org/",
        "example.org",
        "",
        "http://",
        "http:///path",
        "http://user@example.org/",
        "http://user:pass@example.org/",
        "http://@example.org/",
        "http://example.org@127.0.0.1/",
        "http://127.0.0.1#@example.org/",
        "http://127.0.0.1\\@example.org/",
        "http://example.org\r\nX-Header: y/",
        "http://exa mple.org/",
        "http://ex\x00ample.org/",
        "http://\uff11\uff12\uff17.0.0.1/",
        "http://127。0。0。1/",
        "http://ⓛocalhost/",
        "http://example.org:99999/",
        "http://example.org:0/",
        "http://[::1",
        "http://%31%32%37.0.0.1/",
        "http://" + "a" * 3000,
    ],
)
def test_what_is_no_public_http_url_is_refused(url: str) -> None:
    with pytest.raises(Invalid):
        GUARD.check(url)


@given(st.text(max_size=60), st.sampled_from(["http://", "https://", ""]))
def test_any_text_is_read_or_refused(text: str, scheme: str) -> None:
    try:
        parsed = GUARD.check(scheme + text)
    except Invalid:
        return
    literal = address_in(str(parsed.host))
    assert parsed.user is None
    assert literal is None or GUARD.permits(literal)


@given(st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address) | st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address))
def test_what_is_permitted_is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if GUARD.permits(address):
        assert address.is_global
        assert not any((address.is_private, address.is_loopback, address.is_link_local, address.is_multicast))


@pytest.mark.parametrize("url", ["http://example.org", "https://93.184.215.14:8443/v1?x=y#z", "http://[2606:4700::1]/"])
def test_public_urls_pass(url: str) -> None:
    assert GUARD.check(url).host


def test_a_network_can_be_allowed_and_no_other_is() -> None:
    guard = UrlGuard(networks("10.1.0.0/16, ::1/128"))
    assert guard.check("http://10.1.2.3/").host == "10.1.2.3"
    assert guard.check("http://[::ffff:10.1.2.3]/")
    assert guard.check("http://[::1]:9000/")
    for other in ("http://10.2.0.1/", "http://127.0.0.1/", "http://user@10.1.2.3/"):
        with pytest.raises(Invalid):
            guard.check(other)


def test_a_setting_that_is_no_network_is_refused() -> None:
    assert networks("") == ()
    for text in ("10.0.0.1/8", "everything", "10.0.0.0/33"):
        with pytest.raises(SettingsError, match="AIWM_ALLOWED_ADDRESSES"):
            networks(text)
