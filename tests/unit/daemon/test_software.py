"""Which software a machine has; a driver that does not answer."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aiwm.daemon.engines.vllm_install import find_vllm, vllm_version
from aiwm.daemon.patience import Patience
from aiwm.daemon.software import DockerFacts, Software, Survey, docker_at, docker_facts, docker_runtime, toolkit_version


@contextmanager
def listening(path: Path, answer: bytes, asked: str = "/version") -> Iterator[str]:
    """A socket in Docker's place that answers one request."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(65_536).startswith(f"GET {asked} HTTP/1.1\r\n".encode())
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"unix://{path}"
        thread.join()


def http(body: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ('{"Version": "24.0.7", "Components": [{"Name": "Engine"}]}', ("docker", "24.0.7")),
        ('{"Version": "4.3.1", "Components": [{"Name": "Podman Engine"}]}', ("podman", "4.3.1")),
    ],
)
def test_who_answers_on_docker_s_socket_is_named(tmp_path: Path, body: str, found: tuple[str, str]) -> None:
    with listening(tmp_path / "s", http(body)) as host:
        runtime = docker_runtime(host)
    assert runtime is not None
    assert (runtime.type, runtime.version) == found


@pytest.mark.parametrize("answer", [http("[]"), http("{"), http('{"Version": 24}'), b"nonsense\r\n\r\n", b""])
def test_nonsense_on_docker_s_socket_is_no_docker(tmp_path: Path, answer: bytes) -> None:
    with listening(tmp_path / "s", answer) as host:
        assert docker_runtime(host) is None


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (
            '{"LiveRestoreEnabled": true, "Runtimes": {"runc": {}, "nvidia": {}}}',
            DockerFacts(True, frozenset({"runc", "nvidia"})),
        ),
        ('{"LiveRestoreEnabled": false, "Runtimes": {}}', DockerFacts(False, frozenset())),
        ('{"LiveRestoreEnabled": 1, "Runtimes": {}}', None),
        ('{"LiveRestoreEnabled": true, "Runtimes": null}', None),
        ("[]", None),
    ],
)
def test_docker_says_how_it_is_set_up(tmp_path: Path, body: str, found: DockerFacts | None) -> None:
    with listening(tmp_path / "s", http(body), "/info") as host:
        assert docker_facts(host) == found


def test_no_socket_and_a_docker_elsewhere_are_no_docker_here(tmp_path: Path) -> None:
    assert docker_runtime(f"unix://{tmp_path / 'none'}") is None
    assert docker_runtime("tcp://127.0.0.1:2375") is None


def test_the_setting_says_where_docker_is_before_the_environment_does() -> None:
    environment = {"DOCKER_HOST": "unix:///run/other.sock"}
    assert docker_at("off", environment) == "off"
    assert docker_at("", environment) == "unix:///run/other.sock"
    assert docker_at("", {}) == "unix:///var/run/docker.sock"
    assert docker_runtime("off") is None


def command(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_the_toolkit_says_its_version_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert toolkit_version() is None
    command(tmp_path, "nvidia-container-toolkit", 'echo "NVIDIA Container Runtime Hook version 1.16.1"')
    assert toolkit_version() == "1.16.1"
    command(tmp_path, "nvidia-ctk", "echo broken >&2; exit 1")
    assert toolkit_version() == "1.16.1"
    command(tmp_path, "nvidia-ctk", 'printf "NVIDIA Container Toolkit CLI version 1.17.4\\ncommit: 9b69590c\\n"')
    assert toolkit_version() == "1.17.4"


def test_vllm_is_known_by_what_lies_beside_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_vllm("") is None
    (tmp_path / "bin").mkdir()
    command(tmp_path / "bin", "vllm", "exit 1")
    binary = find_vllm("")
    assert binary is not None
    assert vllm_version(binary) is None
    (tmp_path / "lib/python3.12/site-packages/vllm-0.6.3.post1.dist-info").mkdir(parents=True)
    assert vllm_version(binary) == "0.6.3.post1"
    assert find_vllm("/opt/other") == Path("/opt/other")


def test_a_look_is_taken_at_most_every_ten_minutes() -> None:
    now, looks = 0.0, iter([Software(vllm="1"), Software(vllm="2")])
    survey = Survey(lambda: next(looks), lambda: now)
    assert survey.found == Software()
    assert survey.software().vllm == "1"
    now = 599.0
    assert survey.software().vllm == "1"
    now = 600.0
    assert survey.software().vllm == "2"


def test_a_question_that_is_not_answered_holds_nobody_up() -> None:
    release, asked = threading.Event(), []

    def question() -> int:
        asked.append(1)
        if len(asked) == 2:
            release.wait(10)
        return len(asked)

    patience = Patience(question, 0, seconds=5)
    assert patience.ask() == (1, 0.0)
    impatient = Patience(question, 7, seconds=0.05)
    value, waited = impatient.ask()
    assert (value, waited >= 0.05) == (7, True)
    assert impatient.ask()[1] > waited
    assert len(asked) == 2
    release.set()
    deadline = time.monotonic() + 10
    while impatient.ask()[1] and time.monotonic() < deadline:
        pass
    assert impatient.ask()[1] == 0.0


def test_a_question_s_error_is_its_asker_s() -> None:
    def question() -> int:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        Patience(question, 0, seconds=5).ask()
