"""What reading the numbers of fifty engines every ten seconds costs a node.

    python bench/engine_scrape.py [rounds]

The pages in `bench/pages` were recorded from a vLLM 0.32 that had answered three requests and a Triton 2.51 with six
models; another process serves them. A round is what fifty engines cost in ten seconds: two questions whether one
serves, and its page. It prints processor time of this process for a round, as a part of those ten seconds of one core.
"""

import asyncio
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from aiohttp import web

from aiwm.daemon.engines.prometheus import samples
from aiwm.daemon.engines.triton_numbers import read_numbers
from aiwm.daemon.launchers.probe import all_answer
from aiwm.daemon.scrape import read_page

PAGES = Path(__file__).parent / "pages"
ENGINES, INTERVAL_SECONDS = 50, 10
_VLLM = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:request_success_total",
    "vllm:time_to_first_token_seconds_sum",
    "vllm:time_to_first_token_seconds_count",
    "vllm:e2e_request_latency_seconds_sum",
    "vllm:e2e_request_latency_seconds_count",
)

Read = Callable[[str], object]


def serve(port: Connection) -> None:
    """Serves the recorded pages until it is ended."""

    async def run() -> None:
        app = web.Application()
        for path in PAGES.glob("*.prom"):
            app.router.add_get(f"/{path.stem}", partial(_page, path.read_bytes()))
        app.router.add_get("/ready", partial(_page, b""))
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(run())


async def _page(body: bytes, request: web.Request) -> web.Response:
    return web.Response(body=body, content_type="text/plain", charset="utf-8")


async def look(url: str, ready: str, take: Read) -> None:
    """One look at an engine, as the daemon does it."""
    assert await all_answer((ready, ready))
    page = await read_page(url)
    assert page is not None
    assert take(page)


async def measure(url: str, ready: str, take: Read, rounds: int) -> list[float]:
    """Seconds of processor time for each round."""
    taken = []
    for _ in range(rounds + 1):
        began = time.process_time()
        await asyncio.gather(*(look(url, ready, take) for _ in range(ENGINES)))
        taken.append(time.process_time() - began)
    return taken[1:]


def main() -> None:
    """Prints the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ours.recv()}"
    takes: dict[str, Read] = {"triton": partial(read_numbers, model="good"), "vllm": partial(samples, names=_VLLM)}
    print("| engines | page KiB | ms each | % of a core at 10 s | must |")
    print("|---|---|---|---|---|")
    for name, take in takes.items():
        spent = statistics.median(asyncio.run(measure(f"{url}/{name}", f"{url}/ready", take, rounds)))
        size = (PAGES / f"{name}.prom").stat().st_size / 1024
        share = spent / INTERVAL_SECONDS * 100
        print(f"| {ENGINES} {name} | {size:.0f} | {spent / ENGINES * 1000:.2f} | {share:.2f} | < 2 |")
    server.terminate()


if __name__ == "__main__":
    main()
