"""Sealed secrets: they open for their record alone, unchanged, with any key of the ring."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwm.infra.secrets import Sealer, SecretUnreadable
from aiwm.kit.settings import SettingsError

OLD, NEW = b"o" * 32, b"n" * 32
SEALER = Sealer((OLD,))
SEALED = SEALER.seal("top secret", record_id="r")


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8"), min_size=1))
def test_what_was_sealed_opens_for_its_record(secret: str, record_id: str) -> None:
    assert SEALER.open(SEALER.seal(secret, record_id=record_id), record_id=record_id) == secret


@given(st.text(min_size=8, alphabet="abcdefghij"))
def test_a_sealed_text_shows_nothing_of_the_secret_and_is_never_the_same_twice(secret: str) -> None:
    sealed = SEALER.seal(secret, record_id="r")
    assert secret not in sealed
    assert sealed != SEALER.seal(secret, record_id="r")


def test_it_does_not_open_for_another_record() -> None:
    with pytest.raises(SecretUnreadable, match="belongs to another record"):
        SEALER.open(SEALER.seal("s", record_id="a"), record_id="b")


@given(st.data())
def test_one_changed_character_is_noticed(data: st.DataObject) -> None:
    sealed = SEALED
    place = data.draw(st.integers(0, len(sealed) - 3))
    other = data.draw(st.sampled_from([c for c in "ABCxyz019-_." if c != sealed[place]]))
    with pytest.raises(SecretUnreadable) as caught:
        SEALER.open(sealed[:place] + other + sealed[place + 1 :], record_id="r")
    assert "top secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "plain", "aiwm1..", "aiwm1.0.AAAA", "aiwm2.0.AAAA", "aiwm1.x.ü"])
def test_what_is_no_sealed_text_is_refused(text: str) -> None:
    with pytest.raises(SecretUnreadable):
        SEALER.open(text, record_id="r")


def test_the_first_key_seals_and_all_open() -> None:
    old = SEALER.seal("s", record_id="r")
    both = Sealer((NEW, OLD))
    assert both.open(old, record_id="r") == "s"
    assert both.stale(old)
    new = both.seal("s", record_id="r")
    assert not both.stale(new)
    assert Sealer((NEW,)).open(new, record_id="r") == "s"
    with pytest.raises(SecretUnreadable, match="put it back"):
        Sealer((NEW,)).open(old, record_id="r")


def test_a_short_key_or_none_is_refused() -> None:
    for text in ("", "short", f"{'k' * 32}\nshort"):
        with pytest.raises(SettingsError, match="AIWM_ENCRYPTION_KEY"):
            Sealer.from_setting(text)


def test_nothing_of_a_key_is_shown() -> None:
    assert "oooo" not in repr(SEALER) + repr(vars(SEALER)) + SEALER.seal("s", record_id="r")
