"""What a machine does with what it was given: which token it shows, and when it refuses to become another node."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from aiwm.daemon.join import Joiner, read_identity
from aiwm.kit.clock import SystemClock
from aiwm.kit.settings import Settings, SettingsError

URL = "http://controller:3003"
KEPT = {"nodeId": "node-1", "token": "kept", "url": URL, "joinedWith": "a mark"}


def entered(folder: Path, url: str = URL, **given: str) -> str:
    settings = replace(Settings(data_dir=folder), **given)  # type: ignore[arg-type]
    return asyncio.run(Joiner(settings, folder, url, SystemClock()).enter())


def test_a_token_of_a_node_wins_over_who_this_machine_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "identity.json").write_text(json.dumps(KEPT))
    assert entered(tmp_path, node_token="given", join_token="j") == "given"
    assert "AIWM_JOIN_TOKEN is not used" in caplog.text


def test_who_this_machine_is_needs_no_controller_to_be_known(tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_text(json.dumps(KEPT))
    assert entered(tmp_path) == "kept"
    assert entered(tmp_path, join_token="another") == "kept"
    assert entered(tmp_path, url="http://the-same-under-another-name") == "kept"


def test_a_folder_of_another_controllers_node_is_not_joined_to_this_one(tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_text(json.dumps(KEPT))
    with pytest.raises(SettingsError, match=r"cannot join http://other: .* belongs to node node-1 of http://contr"):
        entered(tmp_path, url="http://other", join_token="another")


def test_a_folder_with_engines_of_a_node_nobody_knows_makes_no_new_one(tmp_path: Path) -> None:
    ledger = tmp_path / "replicas" / "replica-1" / "ledger.json"
    ledger.parent.mkdir(parents=True)
    ledger.write_text("{}")
    with pytest.raises(SettingsError, match="holds engines of an earlier one"):
        entered(tmp_path, join_token="j")


def test_a_machine_with_nothing_to_show_is_told_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="aiwm nodes join-token"):
        entered(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"nodeId": "node-1"}', '{"nodeId": 1}', "\x00\xff"])
def test_an_identity_that_cannot_be_read_is_said_and_not_thrown_away(tmp_path: Path, content: str) -> None:
    (tmp_path / "identity.json").write_text(content)
    with pytest.raises(SettingsError, match="cannot read who this node is"):
        read_identity(tmp_path)
    assert (tmp_path / "identity.json").read_text() == content


def test_a_key_that_cannot_be_kept_is_never_shown() -> None:
    with pytest.raises(SettingsError, match="cannot keep /proc/self/join-key"):
        entered(Path("/proc/self"), join_token="j")
