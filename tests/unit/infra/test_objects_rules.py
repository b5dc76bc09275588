"""Keys, tickets and signatures of the object stores: decided without any store."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwm.infra.objects.keys import check_order, checked_key
from aiwm.infra.objects.presign import Presigner
from aiwm.infra.objects.tickets import BlobTickets, Ticket
from aiwm.kit.clock import SystemClock
from aiwm.protocol.errors import Denied, Invalid

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


class StillClock(SystemClock):
    """A clock that a test sets."""

    moment = NOW

    def now(self) -> datetime:
        return self.moment


def code_of(tickets: BlobTickets, token: str) -> str:
    with pytest.raises(Denied) as caught:
        tickets.verify(token)
    return caught.value.code


@given(st.text())
def test_a_key_is_taken_only_if_it_stays_inside(key: str) -> None:
    try:
        checked_key(key)
    except Invalid:
        return
    parts = key.split("/")
    assert "" not in parts
    assert not {".", ".."} & set(parts)
    assert len(key.encode()) <= 1024


@pytest.mark.parametrize("numbers", [[], [2, 1], [1, 1], [0], [10_001]])
def test_part_numbers_out_of_order_or_range_are_refused(numbers: list[int]) -> None:
    with pytest.raises(Invalid):
        check_order(numbers)


def test_a_ticket_says_what_was_signed_until_it_expires() -> None:
    clock = StillClock()
    tickets = BlobTickets([b"k" * 32], clock)
    token = tickets.sign("PUT", "models/ü x", expires=60, upload_id="upload-1", number=3)
    wanted = Ticket("PUT", "models/ü x", int(NOW.timestamp()) + 60, "upload-1", 3)
    assert tickets.verify(token) == wanted
    clock.moment = NOW + timedelta(seconds=59)
    assert tickets.verify(token) == wanted
    clock.moment = NOW + timedelta(seconds=60)
    assert code_of(tickets, token) == "TICKET_EXPIRED"


def test_a_ticket_of_an_older_key_is_still_verified_and_of_another_never() -> None:
    clock = StillClock()
    token = BlobTickets([b"old" * 11], clock).sign("GET", "a", expires=60)
    assert BlobTickets([b"new" * 11, b"old" * 11], clock).verify(token).key == "a"
    assert code_of(BlobTickets([b"new" * 11], clock), token) == "TICKET_INVALID"


def test_a_ticket_changed_anywhere_is_refused() -> None:
    tickets = BlobTickets([b"k" * 32], StillClock())
    token = tickets.sign("GET", "a/b", expires=60)
    text, _, signature = token.partition(".")
    forged = json.dumps({"method": "GET", "key": "other", "expires": 2**40, "upload_id": None, "number": None})
    changed = [
        "",
        ".",
        text,
        f"{text}.",
        f".{signature}",
        token[:-2],
        token + "A",
        token.swapcase(),
        f"{base64.urlsafe_b64encode(forged.encode()).decode()}.{signature}",
        "x" * 9000,
        "ü.ü",
        token + "\n",
    ]
    assert {code_of(tickets, each) for each in changed} == {"TICKET_INVALID"}


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_no_text_is_a_ticket_by_chance(text: str) -> None:
    assert code_of(BlobTickets([b"k" * 32], StillClock()), text) == "TICKET_INVALID"


def test_a_signature_is_the_one_that_amazon_documents() -> None:
    # The example of "Authenticating Requests: Using Query Parameters", whose path is one segment.
    signer = Presigner(
        "https://examplebucket.s3.amazonaws.com",
        "test.txt",
        "us-east-1",
        "AKIAIOSFODNN7EXAMPLE",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    )
    url = signer.url("GET", expires=86_400, now=datetime(2013, 5, 24, tzinfo=UTC))
    assert url.endswith("X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("http://minio:9000", "minio:9000"),
        ("http://minio:80", "minio"),
        ("https://s3.example:443", "s3.example"),
        ("http://[::1]:9000", "[::1]:9000"),
    ],
)
def test_the_signed_host_is_the_one_clients_send(endpoint: str, host: str) -> None:
    url = Presigner(endpoint, "bucket", "us-east-1", "a", "b").url("GET", "x y/ü", expires=60)
    assert url.split("://", 1)[1].startswith(f"{host}/bucket/x%20y/%C3%BC?")


def test_a_secret_key_never_shows() -> None:
    assert "hush" not in repr(Presigner("http://m", "b", "r", "a", "hush"))
