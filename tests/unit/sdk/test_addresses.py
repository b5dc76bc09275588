"""Where the SDK looks for services."""

import pytest

from aiwm.protocol.errors import Invalid
from aiwm.sdk.client import default_noti_url
from aiwm.sdk.transport import checked_url


@pytest.mark.parametrize(
    ("url", "noti_url"),
    [
        ("http://127.0.0.1:3003", "http://127.0.0.1:3002"),
        ("https://aiwm.example", "https://aiwm.example:3002"),
        ("http://[::1]:3003", "http://[::1]:3002"),
    ],
)
def test_noti_is_looked_for_beside_the_controller(url: str, noti_url: str) -> None:
    assert default_noti_url(url) == noti_url


def test_a_trailing_slash_does_not_matter() -> None:
    assert checked_url("http://aiwm:3003/") == "http://aiwm:3003"


@pytest.mark.parametrize("url", ["127.0.0.1:3003", "ws://aiwm:3003", "http://", ""])
def test_what_is_no_http_url_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(Invalid, match=r"like http://127\.0\.0\.1:3003") as refused:
        checked_url(url)
    assert refused.value.code == "URL_INVALID"
