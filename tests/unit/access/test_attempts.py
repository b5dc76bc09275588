"""How often somebody may try to sign in."""

from contextlib import ExitStack

import pytest
from tests.http_support import SetClock

from aiwm.access import attempts
from aiwm.access.attempts import Attempts, delay_after, network_of
from aiwm.protocol.errors import TooMany


class Ticking(SetClock):
    def __init__(self) -> None:
        super().__init__()
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Ticking:
    return Ticking()


def _try(tries: Attempts, name: str, address: str, *, right: bool) -> None:
    with tries.attempt(name, address) as attempt:
        attempt.right = right


def _wait(tries: Attempts, name: str, address: str, *, right: bool = False) -> int:
    with pytest.raises(TooMany) as caught:
        _try(tries, name, address, right=right)
    assert caught.value.code == "LOGIN_DELAYED"
    return int(str(caught.value.details["retryAfter"]))


def _fail(tries: Attempts, clock: Ticking, name: str, address: str, times: int) -> None:
    for _ in range(times):
        _try(tries, name, address, right=False)
        clock.seconds += 0.3


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0), (4, 0), (5, 1), (6, 2), (8, 8), (13, 256), (14, 300), (99, 300)]
)
def test_the_delay_grows_with_the_failures(failures: int, seconds: float) -> None:
    assert delay_after(failures, 5) == seconds


def test_an_address_that_failed_waits_longer_each_time_whatever_account_it_tries(clock: Ticking) -> None:
    tries = Attempts(clock)
    for number in range(5):
        _fail(tries, clock, f"user{number}", "10.0.0.1", 1)
    assert _wait(tries, "another", "10.0.0.1", right=True) == 1
    clock.seconds += 1
    _fail(tries, clock, "another", "10.0.0.1", 1)
    assert _wait(tries, "another", "10.0.0.1") == 2


def test_nobody_can_lock_an_account_the_right_password_gets_in_from_an_address_without_failures(clock: Ticking) -> None:
    tries = Attempts(clock)
    for number in range(200):
        _fail(tries, clock, "admin", f"10.0.{number}.1", 1)
    assert _wait(tries, "admin", "10.0.7.1", right=True) > 1
    _try(tries, "admin", "192.0.2.1", right=True)


def test_a_try_that_was_refused_does_not_lengthen_the_delay(clock: Ticking) -> None:
    tries = Attempts(clock)
    _fail(tries, clock, "ann", "10.0.0.1", 5)
    assert {_wait(tries, "ann", "10.0.0.1") for _ in range(50)} == {1}
    clock.seconds += 1
    _try(tries, "ann", "10.0.0.1", right=True)


def test_a_success_forgives_its_own_failures_but_not_guesses_at_others(clock: Ticking) -> None:
    tries = Attempts(clock)
    _fail(tries, clock, "ann", "10.0.0.1", 4)
    _try(tries, "ann", "10.0.0.1", right=True)
    _fail(tries, clock, "ann", "10.0.0.1", 4)
    _try(tries, "ann", "10.0.0.1", right=True)
    _fail(tries, clock, "admin", "10.0.0.2", 4)
    _try(tries, "eve", "10.0.0.2", right=True)
    _fail(tries, clock, "admin", "10.0.0.2", 1)
    assert _wait(tries, "eve", "10.0.0.2", right=True) == 1


def test_unknown_names_are_treated_as_known_ones_are(clock: Ticking) -> None:
    waits = []
    for name in ("admin", "nobody"):
        tries = Attempts(clock)
        _fail(tries, clock, name, "10.0.0.1", 5)
        waits.append(_wait(tries, name, "10.0.0.1"))
    assert waits[0] == waits[1]


def test_failures_are_forgotten_after_a_quarter_of_an_hour(clock: Ticking) -> None:
    tries = Attempts(clock)
    _fail(tries, clock, "ann", "10.0.0.1", 5)
    clock.seconds += attempts.FORGOTTEN_AFTER + 1
    _fail(tries, clock, "ann", "10.0.0.1", 4)
    _try(tries, "ann", "10.0.0.1", right=True)


def test_guesses_sent_all_at_once_are_not_more_than_guesses_one_by_one(clock: Ticking) -> None:
    tries = Attempts(clock)
    _fail(tries, clock, "ann", "10.0.0.1", 3)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(tries.attempt("ann", "10.0.0.1"))
        assert _wait(tries, "ann", "10.0.0.1") == 1


def test_one_address_cannot_use_up_what_all_may_try_together(clock: Ticking) -> None:
    tries = Attempts(clock)
    for _ in range(int(attempts.ADDRESS_BURST)):
        _try(tries, "eve", "10.0.0.1", right=True)
    assert _wait(tries, "eve", "10.0.0.1") == 1
    _try(tries, "admin", "192.0.2.1", right=True)


def test_all_together_have_a_bound(clock: Ticking) -> None:
    tries = Attempts(clock)
    for number in range(int(attempts.BURST)):
        _try(tries, f"u{number}", f"10.0.0.{number}", right=True)
    assert _wait(tries, "admin", "192.0.2.1") == 1
    clock.seconds += 0.2
    _try(tries, "admin", "192.0.2.1", right=True)


def test_what_is_remembered_is_bounded(clock: Ticking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "MOST_KEPT", 10)
    tries = Attempts(clock)
    for number in range(100):
        _fail(tries, clock, f"user{number}", f"10.0.0.{number}", 1)
    assert len(tries._addresses) == len(tries._accounts) == 10


@pytest.mark.parametrize(
    ("address", "network"),
    [("10.1.2.3", "10.1.2.3"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"), ("unknown", "unknown")],
)
def test_an_ipv6_subscriber_is_one_address(address: str, network: str) -> None:
    assert network_of(address) == network
