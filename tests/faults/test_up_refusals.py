"""What `aiwm up` refuses: each in one line that says what to do, with exit code 2 and nothing started."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiwm.apps.up.folder import free_port, locked, make_folder


def up(*flags: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AIWM_")}
    return subprocess.run(
        [sys.executable, "-m", "aiwm", "up", *flags],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def refusal(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 2, done
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_is_named_with_the_flag_that_changes_it(tmp_path: Path, taken: int) -> None:
    free = str(free_port())
    line = refusal(up("--data-dir", str(tmp_path), "--port", str(taken), "--noti-port", free))
    assert f"cannot listen on 127.0.0.1:{taken}" in line
    assert "--port or AIWM_PORT" in line
    line = refusal(up("--data-dir", str(tmp_path), "--port", free, "--noti-port", str(taken)))
    assert "--noti-port or AIWM_NOTI_PORT" in line


def test_one_port_cannot_be_two(tmp_path: Path) -> None:
    assert "must differ" in refusal(up("--data-dir", str(tmp_path), "--port", "3333", "--noti-port", "3333"))


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    assert "AIWM_HOST" in refusal(up("--data-dir", str(tmp_path), "--host", "192.0.2.7"))


def test_a_second_up_on_the_same_folder_names_the_first(tmp_path: Path) -> None:
    make_folder(tmp_path)
    with locked(tmp_path):
        line = refusal(up("--data-dir", str(tmp_path)))
    assert f"another aiwm up (pid {os.getpid()}) uses {tmp_path}" in line


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "it is not a folder" in refusal(up("--data-dir", str(tmp_path / "file")))
    assert "it is not a folder" in refusal(up("--data-dir", str(tmp_path / "file" / "below")))


def test_a_folder_that_cannot_be_written_is_refused() -> None:
    assert "cannot use the data folder /proc/aiwm" in refusal(up("--data-dir", "/proc/aiwm"))


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    assert "must be a port" in refusal(up("--data-dir", str(tmp_path), "--port", "99999"))
    assert "AIWM_JWT_SECRET must hold keys" in refusal(up("--data-dir", str(tmp_path), AIWM_JWT_SECRET="short"))


def test_an_unknown_setting_is_answered_with_the_nearest(tmp_path: Path) -> None:
    line = refusal(up("--data-dir", str(tmp_path), AIWM_PROT="3003"))
    assert "unknown setting AIWM_PROT; the nearest valid one is AIWM_PORT" in line


def test_a_secret_file_that_is_missing_is_named(tmp_path: Path) -> None:
    line = refusal(up("--data-dir", str(tmp_path), AIWM_JWT_SECRET_FILE=str(tmp_path / "none")))
    assert "AIWM_JWT_SECRET_FILE" in line


def test_help_names_the_flags_and_exits_0() -> None:
    done = up("--help")
    assert done.returncode == 0
    assert "--no-node" in done.stdout


def test_an_unknown_flag_is_a_usage_error() -> None:
    assert up("--nonsense").returncode == 2
