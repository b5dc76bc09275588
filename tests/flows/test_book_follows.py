"""Two books on one store: each takes what the other wrote when told, and nothing in either ever grows older."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.held_store import HeldStore
from tests.unit.deployments.builders import NOW, a_wish

from aiwm.deployments.book import Book
from aiwm.deployments.records import DEPLOYMENTS, STATES, DeploymentState, Wish
from aiwm.infra.store.records import soft_deleted
from aiwm.infra.store.sqlite import open_sqlite
from aiwm.kit.wake import Wake
from aiwm.protocol.errors import NotFound


@pytest_asyncio.fixture
async def store() -> AsyncIterator[HeldStore]:
    opened = await open_sqlite(":memory:")
    yield HeldStore(opened)
    await opened.close()


async def a_book(store: HeldStore, told: list[str] | None = None) -> Book:
    said = told if told is not None else []
    book = Book(store, Wake(), said.append)  # type: ignore[arg-type]
    await book.load()
    return book


def named(name: str) -> Wish:
    return a_wish(f"deploy-{name}", name=name, unique_key=f"org/{name}")


async def scaled(book: Book, wish: Wish, replicas: int) -> Wish:
    changed = await book.wishes.replace(wish.model_copy(update={"replicas": replicas}))
    book.note(changed)
    return changed


async def deleted(book: Book, wish: Wish) -> None:
    book.note(await book.wishes.replace(soft_deleted(wish, by=None, at=NOW)))


def reasoned(reason: str):  # type: ignore[no-untyped-def]
    return lambda state: state.model_copy(update={"status_reason": reason})


@pytest.mark.parametrize("by_name", [True, False])
async def test_what_one_writes_the_other_takes_whether_told_of_it_or_of_everything(
    store: HeldStore, by_name: bool
) -> None:
    one, two = await a_book(store), await a_book(store)
    kept, gone = await one.add(named("kept")), await one.add(named("gone"))
    ids = {kept.id, gone.id} if by_name else None
    await two.reload(ids)
    assert {wish.id for wish in two} == {kept.id, gone.id}
    kept = await scaled(one, kept, 3)
    await one.observe(kept.id, reasoned("because"))
    await deleted(one, gone)
    await two.reload(ids)
    assert [(wish.id, wish.replicas) for wish in two] == [(kept.id, 3)]
    assert two.state(kept.id).status_reason == "because"
    assert two.named(kept.owner.org_id, "gone") is None


async def test_each_write_is_told_once_and_looking_is_not(store: HeldStore) -> None:
    told: list[str] = []
    book = await a_book(store, told)
    wish = await book.add(named("one"))
    await book.observe(wish.id, reasoned("because"))
    wish = await scaled(book, wish, 2)
    assert told == [wish.id] * 3
    await book.observe(wish.id, lambda state: state)
    await book.reload({wish.id})
    await book.reload(None)
    assert told == [wish.id] * 3


@pytest.mark.parametrize("overtaken", [DEPLOYMENTS, STATES])
async def test_a_read_that_was_overtaken_by_a_write_changes_nothing_back(store: HeldStore, overtaken: str) -> None:
    book = await a_book(store)
    wish = await book.add(named("one"))

    async def meanwhile() -> None:
        await scaled(book, wish, 5)
        await book.observe(wish.id, reasoned("newer"))

    store.hold(overtaken, meanwhile)
    await book.reload({wish.id})
    found = book.wish(wish.id)
    assert found is not None
    assert (found.replicas, book.state(wish.id).status_reason) == (5, "newer")


async def test_a_deployment_deleted_while_it_was_read_does_not_come_back(store: HeldStore) -> None:
    book = await a_book(store)
    wish = await book.add(named("one"))

    async def meanwhile() -> None:
        await deleted(book, wish)

    for ids in ({wish.id}, None):
        if ids is not None:
            store.hold(DEPLOYMENTS, meanwhile)
        await book.reload(ids)
        assert (book.wish(wish.id), book.named(wish.owner.org_id, "one"), list(book)) == (None, None, [])
    with pytest.raises(NotFound):
        await book.observe(wish.id, reasoned("late"))


async def test_a_name_that_another_controller_gave_away_again_stays_with_the_new_one(store: HeldStore) -> None:
    one, two = await a_book(store), await a_book(store)
    old = await one.add(named("digits"))
    await two.reload(None)
    await deleted(one, old)
    new = await one.add(a_wish("deploy-new", name="digits", unique_key="org/digits"))
    for told in (new.id, old.id):
        await two.reload({told})
        assert two.named(new.owner.org_id, "digits") == new


async def test_a_deployment_made_while_everything_was_read_is_kept(store: HeldStore) -> None:
    book = await a_book(store)
    made: list[Wish] = []

    async def meanwhile() -> None:
        made.append(await book.add(named("late")))

    store.hold(DEPLOYMENTS, meanwhile)
    await book.reload(None)
    assert [wish.id for wish in book] == [made[0].id]
    assert book.state(made[0].id) == DeploymentState(id=made[0].id, version=1)
