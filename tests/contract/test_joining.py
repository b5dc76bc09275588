"""One join token, one node: over every store, with many at once, in several processes, and whatever dies in between."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import servers
from tests.contract.join_party import party, prepared
from tests.contract.store_kinds import KINDS, opened, url_of
from tests.http_support import SetClock

from aiwm.access.attempts import ADDRESS_FREE
from aiwm.infra.store.port import Query, Record, Store
from aiwm.infra.store.records import Records
from aiwm.nodes.join_records import JOIN_TOKENS, JoinTokenRecord
from aiwm.nodes.join_tokens import KEPT
from aiwm.protocol.errors import Unavailable
from aiwm.protocol.states import NodeRole

KEY = "a key that the machine made for itself"
OTHER = "a key that another machine made, later"
PROCESSES = 4


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str | None]]:
    if request.param != "mongodb":
        yield request.param, None
        return
    with servers.mongodb(tmp_path_factory.mktemp("mongodb")) as url:
        yield request.param, url


@pytest.fixture
def url(kind: tuple[str, str | None], tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A store of its own for each test."""
    found = url_of(kind[0], tmp_path, kind[1])
    return f"{found}_{abs(hash(request.node.name)) % 10**8}" if kind[0] == "mongodb" else found


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with opened(url) as found:
        yield found


async def test_of_fifty_machines_with_one_token_exactly_one_becomes_a_node(store: Store) -> None:
    controllers = [await prepared(store), party(store)]
    token = (await controllers[0].token(role=["storage"], labels={"zone": "a"})).token
    outcomes = await asyncio.gather(
        *(controllers[n % 2].outcome(token, f"n{n}", f"10.0.0.{n}", joinKey=f"{KEY} {n}") for n in range(50))
    )
    won = [each for each in outcomes if each.startswith("node-")]
    assert len(won) == 1, outcomes
    assert [each for each in outcomes if each != won[0]] == ["JOIN_TOKEN_USED"] * 49
    assert await controllers[0].names() == [f"n{outcomes.index(won[0])}"]
    node = controllers[0].nodes.record(won[0])
    assert (node.role, node.labels) == ([NodeRole.STORAGE], {"zone": "a"})


async def test_of_fifty_machines_that_take_a_nodes_place_exactly_one_gets_it(store: Store) -> None:
    controllers = [await prepared(store), party(store)]
    node = await controllers[0].node("gpu-1")
    token = (await controllers[0].token(nodeId=node.id)).token
    outcomes = await asyncio.gather(
        *(controllers[n % 2].outcome(token, "x", f"10.0.0.{n}", joinKey=f"{KEY} {n}") for n in range(50))
    )
    assert sorted(outcomes) == ["JOIN_TOKEN_USED"] * 49 + [node.id]
    assert await controllers[0].names() == ["gpu-1"]


async def test_of_several_processes_with_one_token_exactly_one_becomes_a_node(
    kind: tuple[str, str | None], url: str, store: Store
) -> None:
    if kind[0] == "memory":
        # Nobody else can open it: it is the twin for tests within one process.
        return
    here = await prepared(store)
    token = (await here.token()).token
    when = str(time.time() + 2.5)
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.contract.join_party", url, token, f"p{n}", f"10.0.1.{n}", when),
            stdout=asyncio.subprocess.PIPE,
        )
        for n in range(PROCESSES)
    ]
    said = [(await each.communicate())[0].decode().split() for each in processes]
    assert [words[0] for words in said] == ["ready"] * PROCESSES
    outcomes = sorted(words[1] for words in said)
    assert outcomes[: PROCESSES - 1] == ["JOIN_TOKEN_USED"] * (PROCESSES - 1)
    assert outcomes[-1].startswith("node-")
    assert len(await here.names()) == 1


class Dying:
    """A store whose process dies before or after one of its writes: from then on nothing answers."""

    def __init__(self, store: Store, dies_at: int, after: bool) -> None:
        self._store, self._dies_at, self._after = store, dies_at, after
        self.writes = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)

        async def call(*given: object, **more: object) -> object:
            if name in ("insert", "replace", "delete"):
                self.writes += 1
            dead = self.writes >= self._dies_at
            if dead and (self.writes > self._dies_at or name in ("get", "find") or not self._after):
                raise Unavailable("cannot store: the process is gone")
            answer = await method(*given, **more)
            if dead:
                raise Unavailable("cannot answer: the process is gone")
            return answer

        return call


@pytest.mark.parametrize("readmits", [False, True], ids=["new node", "known node"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_whichever_write_a_controller_dies_at_the_same_machine_comes_again_and_there_is_one_node(
    store: Store, after: bool, readmits: bool
) -> None:
    here = await prepared(store)
    for dies_at in range(1, 5):
        name = f"n{dies_at}"
        before = await here.node(name) if readmits else None
        token = (await here.token(**({"nodeId": before.id} if before else {}))).token
        dying = Dying(store, dies_at, after)
        first = await party(dying).outcome(token, name, joinKey=KEY)
        if first != "UNAVAILABLE":
            assert dying.writes < dies_at
            break
        again = await here.outcome(token, name, joinKey=KEY)
        assert again.startswith("node-"), again
        assert before is None or again == before.id
        assert await here.outcome(token, name, joinKey=KEY) == again
        assert await here.outcome(token, "stranger", joinKey=OTHER) == "JOIN_TOKEN_USED"
        assert await here.outcome(token, "stranger") == "JOIN_TOKEN_USED"
    else:
        pytest.fail("it never came to its end")
    assert dies_at > 1
    assert await here.names() == [f"n{each}" for each in range(1, dies_at + 1)]
    for node, _ in here.nodes.fleet():
        # It can be seen to come: what is observed of it has its place.
        assert (await here.nodes.connected(node.id, None, replaces=False)).epoch == 1


async def test_a_name_that_is_taken_leaves_the_token_as_it_was(store: Store) -> None:
    here = await prepared(store)
    await here.node("gpu-1")
    made = await here.token()
    assert await here.outcome(made.token, "gpu-1") == "NAME_TAKEN"
    record = await here.tokens.record(made.join_token_id)
    assert record is not None
    assert here.tokens.view(record).status == "unused"
    # Another machine may take it as well: nobody has used it.
    assert (await here.outcome(made.token, "gpu-2", joinKey=OTHER)).startswith("node-")
    assert await here.names() == ["gpu-1", "gpu-2"]


async def test_machines_with_tokens_of_their_own_and_one_name_become_one_node(store: Store) -> None:
    here = await prepared(store)
    tokens = [(await here.token()).token for _ in range(10)]
    outcomes = await asyncio.gather(*(here.outcome(each, "same", f"10.0.0.{n}") for n, each in enumerate(tokens)))
    assert sorted(outcomes)[:9] == ["NAME_TAKEN"] * 9
    loser = tokens[outcomes.index("NAME_TAKEN")]
    assert (await here.outcome(loser, "different")).startswith("node-")


async def test_a_token_that_has_expired_or_is_unknown_or_was_revoked_lets_nobody_in(store: Store) -> None:
    clock = SetClock()
    here = await prepared(store, clock)
    old, revoked = await here.token(expiresIn=60), await here.token()
    record = await here.tokens.record(revoked.join_token_id)
    assert record is not None
    await here.tokens.revoke(record, by="user-1")
    clock.forward(60)
    assert await here.outcome(old.token, "n") == "JOIN_TOKEN_EXPIRED"
    for wrong in (revoked.token, old.token[:-1], f"{old.token}0", "x", ""):
        assert await here.outcome(wrong, "n", f"10.1.0.{len(wrong)}") == "JOIN_TOKEN_INVALID"
    assert await here.names() == []


async def test_who_used_a_token_comes_again_only_while_it_lasts(store: Store) -> None:
    clock = SetClock()
    here = await prepared(store, clock)
    token = (await here.token(expiresIn=60)).token
    first = await here.join(token, "n", joinKey=KEY)
    clock.forward(59)
    again = await here.join(token, "renamed meanwhile", joinKey=KEY)
    assert again.node_id == first.node_id
    assert again.expires_at > first.expires_at
    assert await here.names() == ["n"]
    clock.forward(1)
    assert await here.outcome(token, "n", joinKey=KEY) == "JOIN_TOKEN_EXPIRED"


async def test_a_node_that_was_deleted_does_not_come_back_by_its_old_token(store: Store) -> None:
    here = await prepared(store)
    token = (await here.token()).token
    joined = await here.join(token, "n", joinKey=KEY)
    await here.nodes.delete(here.nodes.record(joined.node_id), by=None)
    assert await here.outcome(token, "n", joinKey=KEY) == "JOIN_TOKEN_USED"
    assert await here.names() == []


async def test_a_revoked_node_is_not_let_in_by_what_was_made_before(store: Store) -> None:
    clock = SetClock()
    here = await prepared(store, clock)
    token = (await here.token()).token
    node_id = (await here.join(token, "n", joinKey=KEY)).node_id
    waiting = (await here.token(nodeId=node_id)).token
    clock.forward(1)
    await here.nodes.revoke(here.nodes.record(node_id), by="user-1")
    assert await here.outcome(token, "n", joinKey=KEY) == "JOIN_TOKEN_INVALID"
    assert await here.outcome(waiting, "n") == "JOIN_TOKEN_INVALID"
    clock.forward(1)
    joined = await here.join((await here.token(nodeId=node_id)).token, "n")
    assert (await here.nodes.authenticate(joined.token))[0].id == node_id


async def test_a_token_revoked_while_its_machine_joins_makes_no_node(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await prepared(store)
    made = await here.token()
    record = await here.tokens.record(made.join_token_id)
    assert record is not None
    insert = here.nodes.join

    async def revoked_meanwhile(node: Any) -> Any:
        await here.tokens.revoke(record, by="user-1")
        return await insert(node)

    monkeypatch.setattr(here.nodes, "join", revoked_meanwhile)
    assert await here.outcome(made.token, "n") == "JOIN_TOKEN_INVALID"
    assert await here.names() == []
    await here.node("n")


async def test_a_token_is_never_more_than_the_user_who_made_it(store: Store) -> None:
    here = await prepared(store)
    maker = await here.users.users.get("user-1")
    assert maker is not None
    for changes in ({"is_active": False}, {"roles": ["organization.viewer"], "is_active": True}):
        token = (await here.token()).token
        maker = await here.users.users.replace(type(maker).model_validate({**maker.model_dump(), **changes}))
        assert await here.outcome(token, "n") == "JOIN_TOKEN_INVALID"


async def test_a_machine_that_is_a_node_joins_as_that_one_or_not_at_all(store: Store) -> None:
    here = await prepared(store)
    first, second = await here.node("gpu-1"), await here.node("gpu-2")
    anew, as_second = (await here.token()).token, (await here.token(nodeId=second.id)).token
    for token in (anew, as_second):
        assert await here.outcome(token, "x", nodeId=first.id) == "JOIN_NODE_MISMATCH"
    assert await here.outcome(as_second, "x", nodeId=second.id) == second.id
    assert (await here.outcome(anew, "gpu-3")).startswith("node-")
    assert await here.names() == ["gpu-1", "gpu-2", "gpu-3"]


async def test_whoever_guesses_waits_and_whoever_comes_too_late_does_not(store: Store) -> None:
    here = await prepared(store)
    used = (await here.token()).token
    await here.join(used, "n")
    for _ in range(ADDRESS_FREE * 2):
        assert await here.outcome(used, "n") == "JOIN_TOKEN_USED"
    for _ in range(ADDRESS_FREE):
        assert await here.outcome("aiwm_join_a_guess", "n", "10.0.0.9") == "JOIN_TOKEN_INVALID"
    assert await here.outcome("aiwm_join_a_guess", "n", "10.0.0.9") == "JOIN_DELAYED"
    assert (await here.outcome((await here.token()).token, "m", "10.0.0.8")).startswith("node-")


async def test_nothing_that_is_stored_opens_anything_and_old_tokens_are_forgotten(store: Store) -> None:
    clock = SetClock()
    here = await prepared(store, clock)
    made = await here.token()
    await here.join(made.token, "n", joinKey=KEY)
    await here.join((await here.token(nodeId=(await here.node("m")).id)).token, "m", joinKey=KEY)
    kept: list[Record] = [*await store.find(JOIN_TOKENS, Query()), *await store.find("nodes", Query())]
    assert len(kept) == 4
    assert made.token not in str(kept)
    assert made.token.rpartition("_")[2] not in str(kept)
    assert KEY not in str(kept)
    clock.forward(KEPT.total_seconds() + 3601)
    await here.token()
    assert await Records(store, JOIN_TOKENS, JoinTokenRecord).count() == 1
