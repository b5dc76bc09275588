"""Registries' credentials, as `docker login` keeps them: the right ones, to the right registry, and never in words."""

import base64
import json
from pathlib import Path

import pytest

from aiwm.daemon.launchers.docker_credentials import registry_header
from aiwm.daemon.launchers.docker_images import parse_image
from aiwm.protocol.errors import AiwmError

SECRET = "s3cret"
AUTH = base64.b64encode(f"me:{SECRET}".encode()).decode()


def told(tmp_path: Path, auths: object, image: str) -> dict[str, str] | None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": auths}))
    header = registry_header(str(path), parse_image(image)).get("X-Registry-Auth")
    return None if header is None else json.loads(base64.urlsafe_b64decode(header))


@pytest.mark.parametrize(
    ("server", "image"),
    [
        ("registry.local:5000", "registry.local:5000/team/engine:1"),
        ("https://registry.local", "registry.local/engine"),
        ("https://index.docker.io/v1/", "vllm/vllm-openai:v0.11.0"),
        ("docker.io", "busybox"),
    ],
)
def test_a_registry_gets_its_own(tmp_path: Path, server: str, image: str) -> None:
    found = told(tmp_path, {"other.example": {"auth": "eDp5"}, server: {"auth": AUTH}}, image)
    assert found is not None
    assert (found["username"], found["password"]) == ("me", SECRET)


def test_tokens_and_plain_names_are_read_too(tmp_path: Path) -> None:
    assert told(tmp_path, {"r.example": {"identitytoken": "t"}}, "r.example/a") == {
        "identitytoken": "t",
        "serveraddress": "r.example",
    }
    found = told(tmp_path, {"r.example": {"username": "me", "password": SECRET}}, "r.example/a")
    assert found is not None
    assert found["password"] == SECRET


def test_another_registry_is_told_nothing(tmp_path: Path) -> None:
    for image in ("evil.example/registry.local/engine", "registry.local.evil.example/engine", "busybox"):
        assert told(tmp_path, {"registry.local": {"auth": AUTH}}, image) is None
    assert registry_header("", parse_image("busybox")) == {}


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", f'{{"auths": {{"r.example": {{"auth": "{SECRET}"}}}}}}', f'{{"auths": {SECRET}']
)
def test_a_file_that_cannot_be_used_is_said_without_what_it_holds(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(AiwmError, match="AIWM_REGISTRY_AUTH_FILE") as caught:
        registry_header(str(path), parse_image("r.example/a"))
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(AiwmError, match="No such file"):
        registry_header(str(tmp_path / "nowhere"), parse_image("r.example/a"))
