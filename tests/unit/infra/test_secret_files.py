"""Secrets that one machine makes for itself."""

from pathlib import Path

import pytest

from aiwm.infra.secret_files import made_once, write_private
from aiwm.kit.settings import MIN_SECRET_BYTES, SettingsError


def test_a_secret_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "jwt-secret"
    first = made_once(path)
    assert len(first.encode()) >= MIN_SECRET_BYTES
    assert made_once(path) == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["jwt-secret"]


def test_an_empty_file_left_by_a_crash_is_filled(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\n")
    assert made_once(tmp_path / "key", lambda: "made") == "made"


def test_a_replaced_secret_is_still_private(tmp_path: Path) -> None:
    (tmp_path / "token").touch(0o644)
    write_private(tmp_path / "token", "new")
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600


def test_a_place_that_cannot_hold_a_secret_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot keep a secret in"):
        made_once(tmp_path / "none" / "key")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="cannot keep a secret in"):
        made_once(tmp_path / "binary")
