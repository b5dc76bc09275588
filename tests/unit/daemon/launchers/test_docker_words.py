"""What Docker says becomes a code and a sentence that says what to do."""

from typing import Any

import pytest

from aiwm.daemon.launchers.docker_words import end_of, refuses_memlock, start_error
from aiwm.daemon.launchers.port import PortTaken

NO_RLIMIT = (
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
    "error during container init: error setting rlimits for ready process: error setting rlimit type 8: "
    "operation not permitted: unknown"
)


def ended(code: int, *, killed: int = 0, **state: Any) -> str:
    inspected = {"State": {"ExitCode": code, **state}, "HostConfig": {"Memory": 512 * 2**20}}
    return end_of(inspected, killed=killed).reason


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "ended with code 0"),
        (1, "ended with code 1"),
        (127, "ended with code 127: its command is not in the image"),
        (139, "was killed by signal 11 (SIGSEGV)"),
        (137, "was killed by signal 9 (SIGKILL)"),
        (128 + 40, "was killed by signal 40 (a real-time signal)"),
        (255, "ended with code 255"),
    ],
)
def test_an_end_has_a_reason(code: int, words: str) -> None:
    assert ended(code) == words


def test_memory_comes_first_and_says_what_to_give() -> None:
    words = ended(137, killed=9, OOMKilled=True)
    assert "memory limit (512 MiB)" in words
    assert "resources.ram" in words


@pytest.mark.parametrize(("code", "killed"), [(143, 15), (0, 15), (137, 9), (137, 15), (3, 2)])
def test_an_end_that_somebody_brought_about_is_not_the_engine_s(code: int, killed: int) -> None:
    assert ended(code, killed=killed).startswith("was ended outside of AIWM")


def test_a_signal_that_ends_nothing_explains_no_end() -> None:
    assert ended(1, killed=1) == "ended with code 1"


@pytest.mark.parametrize(
    "message",
    [
        "driver failed programming external connectivity on endpoint x (1): Bind for 0.0.0.0:80 failed: "
        "port is already allocated",
        "Error starting userland proxy: listen tcp4 127.0.0.1:80: bind: address already in use",
    ],
)
def test_a_taken_port_is_told_apart(message: str) -> None:
    assert isinstance(start_error(message, "a"), PortTaken)


@pytest.mark.parametrize(
    ("message", "code", "advice"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "GPU_NOT_AVAILABLE", "nvidia-ctk runtime"),
        ("nvidia-container-cli: device error: GPU-1: unknown device", "GPU_NOT_AVAILABLE", "GPU-1"),
        ('exec: "docker-init": executable file not found in $PATH', "CONTAINER_START_FAILED", "tini"),
        ("Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs", "CONTAINER_START_FAILED", "Range of CPUs"),
    ],
)
def test_why_nothing_was_started(message: str, code: str, advice: str) -> None:
    error = start_error(message, "a")
    assert error.code == code
    assert advice in error.message


def test_the_runtime_s_own_words_are_shortened_to_what_matters() -> None:
    assert start_error(NO_RLIMIT, "a").message == (
        "cannot start the engine in image a: error setting rlimits for ready process: error setting rlimit type 8: "
        "operation not permitted"
    )
    assert len(start_error("x" * 5000, "a").message) <= 1000


def test_only_a_refused_limit_is_tried_without() -> None:
    assert refuses_memlock(NO_RLIMIT)
    assert not refuses_memlock("no such image")
