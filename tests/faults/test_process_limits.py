"""Engines that want more than they were given: memory, processes, files; and what one finds where it runs."""

import asyncio
import json
import os
import re
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.daemon_support import TinyEngine, controller, order, until
from tests.faults.test_daemon_engines import node

from aiwm.daemon import keeper
from aiwm.daemon.engines.base import EnginePlan
from aiwm.daemon.launchers.identity import SPEC
from aiwm.daemon.launchers.port import NO_LIMITS, Ended, Room, Running
from aiwm.daemon.launchers.process import ProcessLauncher

ANOTHER_USER = 61_234
BOMB = f"""
import os, time
os.setgid({ANOTHER_USER}); os.setuid({ANOTHER_USER})
made = 0
try:
    while made < 1000:
        if os.fork() == 0:
            time.sleep(1000)
        made += 1
except BlockingIOError as error:
    print("made", made, "then", error.strerror, flush=True)
"""
LOOK = """
import json, os, resource
limits = {name: resource.getrlimit(getattr(resource, name)) for name in ("RLIMIT_CORE", "RLIMIT_NOFILE")}
print(json.dumps({"pid": os.getpid(), "parent": os.getppid(), "group": os.getpgid(0), "session": os.getsid(0),
    "folder": os.getcwd(), "environment": dict(os.environ), "limits": limits}), flush=True)
import time; time.sleep(1000)
"""
STAND_IN = """#!/bin/sh
echo "$@" > {said}
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""


def plan(code: str) -> EnginePlan:
    return EnginePlan(argv=(sys.executable, "-I", "-S", "-c", code), environment={"MINE": "1"}, ready=())


@asynccontextmanager
async def looked(
    folder: Path, room: Room = NO_LIMITS, **launching: Any
) -> AsyncIterator[tuple[Running, dict[str, Any]]]:
    """An engine, and what it sees of itself."""
    launcher = ProcessLauncher({}, **launching)
    started = await launcher.start(folder, plan(LOOK), room)
    try:
        async with asyncio.timeout(10):
            while not (said := await launcher.output(folder)).endswith("\n"):  # noqa: ASYNC110 - a file raises no event
                await asyncio.sleep(0.01)
        yield started, json.loads(said)
    finally:
        await launcher.stop(folder, 2)


async def ended(folder: Path, code: str, room: Room) -> Ended:
    """How an engine came to its end."""
    launcher = ProcessLauncher({})
    await launcher.start(folder, plan(code), room)
    found: Ended = await until(lambda: seen if isinstance(seen := launcher.status(folder), Ended) else None, 20)
    return found


async def test_an_engine_that_eats_more_memory_than_it_was_given_ends_with_words(tmp_path: Path) -> None:
    greedy = TinyEngine("eaten = bytearray(2**28)", "import time; time.sleep(1000)")
    async with controller() as one, node(one, tmp_path, greedy):
        sent = await one.command("command.deploy", order(resources={"ram": 128}).to_wire())
        told = (await one.result(sent))["error"]["message"]
        words = r"was ended for using (\d+) MiB, more than its limit of 128 MiB, which resources.ram raises"
        found = re.fullmatch(f"cannot run triton: {words}", told)
        assert found, told
        assert 256 <= int(found.group(1)) < 300


async def test_memory_is_that_of_all_the_engine_has_started(tmp_path: Path) -> None:
    eat = "import subprocess, sys, time; eaten = bytearray(2**26); "
    nested = f"{eat} subprocess.Popen([sys.executable, '-c', {eat + 'time.sleep(1000)'!r}]); time.sleep(1000)"
    found = await ended(tmp_path, nested, Room(ram=100))
    assert "more than its limit of 100 MiB" in found.reason
    assert not found.requested


async def test_what_is_reserved_or_held_in_common_with_a_fork_is_not_used_twice(tmp_path: Path) -> None:
    """A stack for each of many threads is reserved, and the pages of a fork are its parent's."""
    code = """
import os, threading, time
eaten = bytearray(2**26)
for _ in range(60):
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
children = [os.fork() or (time.sleep(4), os._exit(0)) for _ in range(4)]
for child in children:
    os.waitpid(child, 0)
os._exit(0)
"""
    found = await ended(tmp_path, code, Room(ram=128))
    assert found.reason == "ended with code 0"


@pytest.mark.skipif(os.geteuid() != 0, reason="not root, so no engine can be made another user's: run it with sudo")
async def test_an_engine_that_multiplies_is_bounded_and_ends_to_the_last(tmp_path: Path) -> None:
    """The keeper bounds what it starts; that the bound is only for users other than root is the kernel's doing."""
    launcher = ProcessLauncher({})
    await launcher.start(tmp_path, plan("pass"))
    await until(lambda: isinstance(launcher.status(tmp_path), Ended))
    spec = json.loads((tmp_path / SPEC).read_bytes())
    keeper.write_atomically(
        tmp_path / SPEC, spec | {"argv": list(plan(BOMB).argv), "rlimits": spec["rlimits"] | {"RLIMIT_NPROC": 20}}
    )
    kept = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", keeper.__file__, str(tmp_path / SPEC))
    async with asyncio.timeout(20):
        await kept.wait()
    said = await launcher.output(tmp_path)
    assert said == "made 19 then Resource temporarily unavailable\n"
    assert [each for each in psutil.process_iter(["uids"]) if each.info["uids"].real == ANOTHER_USER] == []


async def test_an_engine_has_a_group_a_folder_and_limits_of_its_own_and_no_secret_of_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIWM_NODE_TOKEN", "must not reach an engine")
    async with looked(tmp_path, Room(ram=512)) as (started, seen):
        assert started.pid == seen["pid"] == seen["group"]
        assert seen["session"] == seen["parent"] != os.getsid(0)
        assert seen["folder"] == str(tmp_path / "work")
        assert set(seen["environment"]) == {
            *("LANG", "HOME", "MINE", "ENGINE_FOLDER", "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES")
        }
        files = min(65_536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        assert seen["limits"] == {
            "RLIMIT_CORE": [0, 0],
            "RLIMIT_NOFILE": [files, files],
        }


async def test_in_a_scope_an_engine_is_still_its_keepers_and_known_by_its_pid(tmp_path: Path) -> None:
    program, said = tmp_path / "systemd-run", tmp_path / "said"
    program.write_text(STAND_IN.format(said=said))
    program.chmod(0o755)
    async with looked(tmp_path, Room(ram=512, cpu_cores=2), systemd_run=str(program)) as (started, seen):
        assert started.pid == seen["pid"] == seen["group"]
        assert seen["parent"] == json.loads((tmp_path / keeper.STATE).read_bytes())["keeperPid"]
        assert said.read_text().startswith(
            "--scope --quiet --collect -p TasksMax=4096 -p MemoryMax=512M -p CPUQuota=200% -- "
        )
        assert json.loads((tmp_path / SPEC).read_bytes())["memory"] is None, "the scope's limit is enough"
