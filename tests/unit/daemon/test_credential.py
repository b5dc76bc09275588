"""Which token a node shows."""

import stat
from pathlib import Path

import pytest

from aiwm.daemon.credential import Credential


def test_a_renewed_token_is_shown_after_a_restart_too_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    credential = Credential(tmp_path, "given")
    assert credential.token == "given"
    credential.renewed("newer")
    assert credential.token == "newer"
    assert Credential(tmp_path, "given").token == "newer"
    (kept,) = tmp_path.iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "given" not in kept.read_text()


def test_a_node_that_is_given_another_token_shows_that_one(tmp_path: Path) -> None:
    Credential(tmp_path, "given").renewed("newer")
    assert Credential(tmp_path, "given by hand").token == "given by hand"


def test_after_a_refusal_the_given_token_is_tried_again(tmp_path: Path) -> None:
    credential = Credential(tmp_path, "given")
    credential.renewed("newer")
    credential.refused()
    assert credential.token == "given"
    credential.refused()
    assert credential.token == "newer"


def test_another_given_token_takes_the_place_of_both(tmp_path: Path) -> None:
    credential = Credential(tmp_path, "given")
    credential.renewed("newer")
    credential.replaced("given anew")
    assert credential.token == "given anew"
    credential.refused()
    assert credential.token == "given anew"
    credential.renewed("newest")
    assert Credential(tmp_path, "given anew").token == "newest"


@pytest.mark.parametrize("content", ["", "[1]", '{"after": 1}', "\x00\xff"])
def test_a_damaged_file_is_passed_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "renewed-token").write_text(content)
    assert Credential(tmp_path, "given").token == "given"


def test_a_token_that_cannot_be_kept_is_shown_until_the_end() -> None:
    credential = Credential(Path("/proc/self"), "given")
    credential.renewed("newer")
    assert credential.token == "newer"
