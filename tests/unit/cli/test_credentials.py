"""What a login leaves on the disk."""

import json
import stat
from pathlib import Path

import pytest

from aiwm.cli.credentials import (
    Credentials,
    credentials_path,
    forget_credentials,
    load_credentials,
    save_credentials,
)
from aiwm.protocol.errors import Invalid, Unauthenticated

KEPT = Credentials("http://aiwm:3003", "http://aiwm:3002", "ann", "the-access-token", "the-refresh-token")


@pytest.fixture(autouse=True)
def _config_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_credentials_come_back_as_they_were_kept() -> None:
    save_credentials(KEPT)
    assert load_credentials() == KEPT


def test_only_their_owner_can_read_them() -> None:
    save_credentials(KEPT)
    assert stat.S_IMODE(credentials_path().stat().st_mode) == 0o600
    assert [each.name for each in credentials_path().parent.iterdir()] == ["credentials.json"]


def test_a_file_that_was_open_to_others_is_replaced_by_a_closed_one() -> None:
    credentials_path().parent.mkdir(parents=True)
    credentials_path().write_text("{}")
    credentials_path().chmod(0o644)
    save_credentials(KEPT)
    assert stat.S_IMODE(credentials_path().stat().st_mode) == 0o600


def test_tokens_never_show_where_credentials_are_printed() -> None:
    assert "the-access-token" not in repr(KEPT)
    assert "the-refresh-token" not in repr(KEPT)


def test_without_a_login_the_way_to_one_is_named() -> None:
    with pytest.raises(Unauthenticated, match="run: aiwm login"):
        load_credentials()


@pytest.mark.parametrize("text", ["", "[]", json.dumps({"url": "x"}), json.dumps({"url": "x", "other": 1})])
def test_a_file_that_something_else_wrote_is_refused(text: str) -> None:
    credentials_path().parent.mkdir(parents=True)
    credentials_path().write_text(text)
    with pytest.raises(Invalid, match="run: aiwm login"):
        load_credentials()


def test_a_logout_leaves_nothing() -> None:
    save_credentials(KEPT)
    forget_credentials()
    assert not credentials_path().exists()
    forget_credentials()
