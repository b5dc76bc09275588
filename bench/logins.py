"""What a flood of logins does to everybody else: other requests' latency without it and with 1,000 logins a minute.

A controller on a SQLite file in a process of its own, over loopback; logins come from 40 addresses, half of them with
a wrong password. Run it with `python bench/logins.py [seconds for each phase]`; it prints a table.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
from uvloop import new_event_loop

from aiwm.testing.world import ADMIN_PASSWORD, open_world

LOGINS_A_MINUTE = 1000
PROBES_A_SECOND = 50
ADDRESSES = 40
ROUNDS = 4
MUST_MS = 20.0


async def serve() -> None:
    """The controller's process: says where it is, and ends with its standard input."""
    with tempfile.TemporaryDirectory() as folder:
        async with open_world(Path(folder), store=f"{folder}/aiwm.db") as world:
            print(json.dumps({"url": world.url, "token": world.http.headers["Authorization"]}), flush=True)
            await asyncio.to_thread(sys.stdin.read)


async def probes(http: aiohttp.ClientSession, server: dict[str, str], seconds: float) -> list[float]:
    """Milliseconds of each of the others' requests, sent at fixed times whatever the answers take."""
    taken: list[float] = []

    async def one() -> None:
        began = time.perf_counter()
        headers = {"Authorization": server["token"]}
        async with http.get(f"{server['url']}/api/v1/nodes", headers=headers) as answer:
            await answer.read()
            assert answer.status == 200, answer.status
        taken.append((time.perf_counter() - began) * 1000)

    await _at_a_rate(one, PROBES_A_SECOND, seconds)
    return taken


async def logins(http: aiohttp.ClientSession, server: dict[str, str], seconds: float) -> Counter[int]:
    """How often each status was the answer; every 429 says when to come back."""
    answers: Counter[int] = Counter()
    number = 0

    async def one() -> None:
        nonlocal number
        number += 1
        password = ADMIN_PASSWORD if number % 2 else "wrong"
        headers = {"X-Forwarded-For": f"198.51.100.{number % ADDRESSES}"}
        body = {"username": "admin", "password": password}
        async with http.post(f"{server['url']}/api/v1/auth/login", json=body, headers=headers) as answer:
            await answer.read()
            assert answer.status != 429 or int(answer.headers["Retry-After"]) >= 1
        answers[answer.status] += 1

    await _at_a_rate(one, LOGINS_A_MINUTE / 60, seconds)
    return answers


async def _at_a_rate(one: Any, rate: float, seconds: float) -> None:
    began, running = time.perf_counter(), []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        running.append(asyncio.create_task(one()))
    await asyncio.gather(*running)


async def measure(seconds: float) -> tuple[list[float], list[float], Counter[int]]:
    """Latencies without and with logins, and the answers to those."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "serve", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        server = json.loads(await child.stdout.readline())
        async with aiohttp.ClientSession() as http:
            await probes(http, server, 2)
            quiet: list[float] = []
            flooded: list[float] = []
            answers: Counter[int] = Counter()
            # By turns, so that what else the machine does weighs on both alike.
            for _ in range(ROUNDS):
                quiet += await probes(http, server, seconds / ROUNDS)
                part = seconds / ROUNDS
                taken, answered = await asyncio.gather(probes(http, server, part), logins(http, server, part))
                flooded += taken
                answers += answered
        return quiet, flooded, answers
    finally:
        assert child.stdin is not None
        child.stdin.close()
        await child.wait()


def _p95(taken: list[float]) -> float:
    return statistics.quantiles(taken, n=100, method="inclusive")[94]


def main() -> None:
    """Prints the table."""
    if sys.argv[1:] == ["serve"]:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(serve())
        return
    quiet, flooded, answers = asyncio.run(measure(float(sys.argv[1]) if len(sys.argv) > 1 else 15))
    rise = _p95(flooded) - _p95(quiet)
    print("| other requests | number | p50 ms | p95 ms |")
    print("|---|---|---|---|")
    for name, taken in (("without logins", quiet), (f"with {LOGINS_A_MINUTE} logins a minute", flooded)):
        print(f"| {name} | {len(taken)} | {statistics.median(taken):.1f} | {_p95(taken):.1f} |")
    print()
    print(f"p95 rises by {rise:.1f} ms, must: < {MUST_MS:.0f} ms")
    print(f"logins answered: {answers[200]} in, {answers[401]} wrong, {answers[429]} told to come back (429)")
    if rise >= MUST_MS or not answers[429] or set(answers) - {200, 401, 429}:
        sys.exit(1)


if __name__ == "__main__":
    main()
