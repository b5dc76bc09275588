"""Programs that share one login, and the deployments that a key for one model reaches."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from aiwm.cli.credentials import Credentials, load_credentials, save_credentials
from aiwm.cli.session import signed_in
from aiwm.protocol.resources.access import TokenPair
from aiwm.protocol.states import PrincipalKind
from aiwm.testing.road import ready_model
from aiwm.testing.world import ADMIN_PASSWORD, World, open_world


@pytest_asyncio.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    async with open_world(tmp_path) as opened:
        yield opened


async def test_commands_at_once_renew_their_shared_login_once(world: World) -> None:
    pair = await world.controller.access.sessions.login("admin", ADMIN_PASSWORD, "192.0.2.1")
    claims = world.infra.tokens.verify(pair.access_token, PrincipalKind.USER)
    expired, _ = world.infra.tokens.issue(PrincipalKind.USER, claims.subject, expires_in=-1, values=claims.values)
    save_credentials(Credentials(world.url, world.url, "admin", expired, pair.refresh_token))

    async def command() -> str:
        async with signed_in() as client:
            return (await client.me()).username

    assert await asyncio.gather(*(command() for _ in range(5))) == ["admin"] * 5
    kept = load_credentials()
    assert kept.refresh_token != pair.refresh_token
    renewed = await world.controller.access.sessions.refresh(kept.refresh_token)
    assert isinstance(renewed, TokenPair)


async def test_a_model_scope_finds_its_own_deployment_alone(world: World) -> None:
    model_id = await ready_model(world)
    ids = []
    for name in ("digits", "letters"):
        body = {"name": name, "modelId": model_id, "desired": "stopped"}
        ids.append(str((await world.call("POST", "/api/v1/deployments", json=body, expect=201))["deploymentId"]))
    key = (await _key(world, "model:digits"))["key"]
    statuses = []
    for deployment_id in ids:
        path = f"{world.url}/api/v1/deployments/{deployment_id}/inference/v2/health/ready"
        async with world.http.get(path, headers={"Authorization": f"Bearer {key}"}) as answer:
            statuses.append(answer.status)
    for name in ("digits", "letters"):
        path = f"{world.url}/v2/models/{name}/ready"
        async with world.http.get(path, headers={"Authorization": f"Bearer {key}"}) as answer:
            statuses.append(answer.status)
    assert statuses == [503, 404, 503, 404]
    async with world.http.get(f"{world.url}/api/v1/deployments", headers={"Authorization": f"Bearer {key}"}) as answer:
        assert answer.status == 403


async def _key(world: World, scope: str) -> dict[str, object]:
    body = {"name": scope.replace(":", " "), "scopes": [scope]}
    return await world.call("POST", "/api/v1/api-keys", json=body, expect=201)
