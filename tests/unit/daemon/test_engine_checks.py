"""What the doctor finds of Docker, of NVIDIA's toolkit and of the engines."""

import socket
from pathlib import Path

import pytest

from aiwm.daemon import engine_checks
from aiwm.daemon.engine_checks import containers, engines
from aiwm.daemon.software import DockerFacts, Software
from aiwm.kit.settings import Settings
from aiwm.protocol.resources.nodes import ContainerRuntime

DOCKER = ContainerRuntime(type="docker", version="28.0.0")
HOST = "unix:///var/run/docker.sock"
WELL = DockerFacts(live_restore=True, runtimes=frozenset({"runc", "nvidia"}))
BARE = DockerFacts(live_restore=False, runtimes=frozenset({"runc"}))


def test_old_container_software_is_a_warning_that_names_the_floor() -> None:
    old = containers(HOST, Software(ContainerRuntime(type="docker", version="20.10.5"), "1.13.0"), None, gpus=False)
    assert [each.verdict for each in old] == ["warn", "warn"]
    assert "older than 24" in old[0].advice
    new = containers(HOST, Software(DOCKER), None, gpus=False)
    assert [each.verdict for each in new] == ["ok", "ok"]


def test_no_docker_is_well_and_one_that_does_not_answer_is_not(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    for host in (f"unix://{path}", "off"):
        assert [each.verdict for each in containers(host, Software(), None, gpus=True)] == ["ok"]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        (found,) = containers(f"unix://{path}", Software(), None, gpus=True)
    assert found.line() == f"warn  containers: nobody answers on unix://{path}; start it: systemctl start docker"


def lines(found: Software, facts: DockerFacts | None, *, gpus: bool) -> dict[str, str]:
    return {each.what: each.line() for each in containers(HOST, found, facts, gpus=gpus)}


def test_containers_that_would_end_with_docker_are_a_warning_that_says_how_they_would_not() -> None:
    off, on = (lines(Software(DOCKER), facts, gpus=False)["live-restore"] for facts in (BARE, WELL))
    assert off == (
        "warn  live-restore: off: engines in containers end when Docker is restarted;"
        ' put "live-restore": true into /etc/docker/daemon.json, then: systemctl reload docker'
    )
    assert on.startswith("ok ")
    podman = ContainerRuntime(type="podman", version="4.3.1")
    assert "live-restore" not in lines(Software(podman), BARE, gpus=False)


def test_where_there_are_gpus_docker_must_know_how_to_give_them_to_containers() -> None:
    no_toolkit, unregistered = Software(DOCKER), Software(DOCKER, "1.17.4")
    assert "install nvidia-container-toolkit" in lines(no_toolkit, BARE, gpus=True)["container toolkit"]
    assert lines(no_toolkit, BARE, gpus=False)["container toolkit"].startswith("ok ")
    assert lines(unregistered, BARE, gpus=True)["nvidia runtime"] == (
        "warn  nvidia runtime: Docker does not know it, so containers get no GPUs;"
        " nvidia-ctk runtime configure --runtime=docker && systemctl restart docker"
    )
    assert "nvidia runtime" not in lines(unregistered, WELL, gpus=True)
    assert "nvidia runtime" not in lines(unregistered, BARE, gpus=False)


def test_engines_are_found_by_setting_and_judged_by_version(tmp_path: Path) -> None:
    triton, vllm = tmp_path / "triton/bin/tritonserver", tmp_path / "vllm/bin/vllm"
    settings = Settings(triton_server=str(triton), vllm_server=str(vllm))
    missing = engines(settings, Software())
    assert [(each.what, each.verdict) for each in missing] == [("triton", "fail"), ("vllm", "fail")]
    assert [each.advice for each in missing] == ["correct AIWM_TRITON_SERVER", "correct AIWM_VLLM_SERVER"]
    for binary in (triton, vllm):
        binary.parent.mkdir(parents=True)
        binary.write_text("#!/bin/sh\n")
        binary.chmod(0o755)
    assert engines(settings, Software())[0].value == f"triton of unknown version, {triton}"
    (tmp_path / "triton/TRITON_VERSION").write_text("2.30.0\n")
    assert [each.verdict for each in engines(settings, Software(vllm="0.5.0"))] == ["warn", "warn"]


@pytest.mark.parametrize(
    ("found", "vllm", "told"),
    [
        (Software(), None, ["warn  engines: none was found, so nothing can be deployed here; install Docker"]),
        (
            Software(DOCKER),
            None,
            ["ok    triton: in containers of mirror/triton:1", "ok    vllm: in containers of mirror/vllm:1"],
        ),
        (Software(vllm="0.11.0"), Path("/bin/sh"), ["ok    triton: none", "ok    vllm: vllm 0.11.0, /bin/sh"]),
    ],
)
def test_an_engine_is_a_program_here_or_an_image_or_missing(
    monkeypatch: pytest.MonkeyPatch, found: Software, vllm: Path | None, told: list[str]
) -> None:
    monkeypatch.setattr(engine_checks, "find_binary", lambda setting: None)
    monkeypatch.setattr(engine_checks, "find_vllm", lambda setting: vllm)
    checks = engines(Settings(triton_image="mirror/triton:1", vllm_image="mirror/vllm:1"), found)
    assert len(checks) == len(told)
    assert all(check.line().startswith(line) for check, line in zip(checks, told, strict=True))
