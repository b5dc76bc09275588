"""How several controllers share the deployments: each follows what the others write, and one of them plans."""

from collections.abc import Callable

from aiwm.deployments.book import Book
from aiwm.deployments.dirty import Dirty
from aiwm.infra.bus.feed import Feed
from aiwm.infra.bus.lease import Lease
from aiwm.nodes.roster import Roster

NODE, DEPLOYMENT, DIRTY = "node", "deployment", "dirty"


def telling(feed: Feed, kind: str) -> Callable[[str], None]:
    """What whoever keeps records of a kind calls after each write."""
    return lambda record_id: feed.changed(kind, record_id)


def planning(feed: Feed, lease: Lease) -> Dirty:
    """Marks that stay here while this controller plans, and go to the one that does while not."""

    def hand_on(ids: set[str] | None) -> None:
        for each in (None,) if ids is None else ids:
            feed.changed(DIRTY, each)

    dirty = Dirty(lambda: lease.held, hand_on)
    # Whoever planned before may have left anything half done.
    lease.on_taken(dirty.mark_all)
    return dirty


def follow(feed: Feed, lease: Lease, roster: Roster, book: Book, dirty: Dirty) -> None:
    """Records first: what is marked is planned from them."""

    async def nodes_changed(ids: frozenset[str] | None) -> None:
        await roster.reload(ids)
        if lease.held:
            for each in ids or ():
                dirty.mark_each(book.concerned(each))

    async def marked(ids: frozenset[str] | None) -> None:
        if lease.held and ids is None:
            dirty.mark_all()
        elif lease.held and ids is not None:
            dirty.mark_each(ids)

    feed.on(NODE, nodes_changed)
    feed.on(DEPLOYMENT, book.reload)
    feed.on(DIRTY, marked)
