"""What deciding about a request costs: from a bearer token to a principal with a permission, p95 below 0.2 ms.

On a SQLite file, tokens of 500 users who come by turns, so that identities are remembered, run out after two seconds
and are looked up again as in service. Run it with `python bench/authorization.py [requests]`; it prints a table.
"""

import asyncio
import statistics
import sys
import tempfile
import time

from aiwm.access.build import Access, compose_access
from aiwm.access.records import UserRecord
from aiwm.infra.store.open import open_store
from aiwm.infra.tokens import Tokens
from aiwm.kit.clock import SystemClock
from aiwm.kit.ids import new_id
from aiwm.protocol.resources.api_keys import ApiKeyCreate
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.states import Role

USERS = 500
A_SECOND = 1500
MUST_MS = 0.2


async def _user(access: Access, number: int) -> tuple[str, str]:
    """A session's access token and an API key of a new user."""
    now = SystemClock().now()
    record = UserRecord(
        id=new_id("user"),
        owner=Owner(),
        created_at=now,
        updated_at=now,
        unique_key=f"u{number}",
        username=f"u{number}",
        password_hash="",
        org_id="org-1",
        roles=[Role.ORGANIZATION_EDITOR],
    )
    await access.users.users.insert(record)
    pair = await access.sessions._begin(record)
    who = await access.guard.principal(pair.access_token)
    made = await access.api_keys.create(who, ApiKeyCreate(name=f"k{number}", scopes=["manage"]))
    return pair.access_token, made.key


async def _timed(access: Access, tokens: list[str], count: int) -> list[float]:
    """Milliseconds of each of `count` decisions, spread as requests are."""
    taken, began = [], time.perf_counter()
    for number in range(count):
        if (ahead := began + number / A_SECOND - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)
        asked = time.perf_counter()
        await access.guard.admit(tokens[number % len(tokens)], "models.write")
        taken.append((time.perf_counter() - asked) * 1000)
    return taken


async def measure(count: int) -> dict[str, list[float]]:
    """By what was shown."""
    with tempfile.TemporaryDirectory() as folder:
        clock = SystemClock()
        store = await open_store(f"sqlite://{folder}/aiwm.db")
        access = compose_access(store, Tokens((b"k" * 32,), clock), clock)
        try:
            await access.prepare()
            made = [await _user(access, number) for number in range(USERS)]
            tokens, keys = [list(each) for each in zip(*made, strict=True)]
            # A handful of busy callers is what most requests come from; all of them at once is the worst.
            return {
                "access token, 20 busy users": await _timed(access, tokens[:20], count),
                "API key, 20 busy programs": await _timed(access, keys[:20], count),
                "access token, each user 3 times a second": await _timed(access, tokens, count),
            }
        finally:
            access.passwords.close()
            await store.close()


def main() -> None:
    """Prints the table."""
    measured = asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 9000))
    print("| shown | requests | p50 ms | p95 ms | p99 ms | must |")
    print("|---|---|---|---|---|---|")
    worst = 0.0
    for name, taken in measured.items():
        cuts = statistics.quantiles(taken, n=100, method="inclusive")
        worst = max(worst, cuts[94])
        print(f"| {name} | {len(taken)} | {cuts[49]:.3f} | {cuts[94]:.3f} | {cuts[98]:.3f} | p95 < {MUST_MS} |")
    if worst >= MUST_MS:
        sys.exit(1)


if __name__ == "__main__":
    main()
