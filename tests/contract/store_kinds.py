"""The stores the contract suite runs over, each opened empty."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiwm.infra.store.open import open_store
from aiwm.infra.store.port import Store

KINDS = ("memory", "file", "mongodb")


def url_of(kind: str, folder: Path, mongodb_url: str | None) -> str:
    """The URL of a store of that kind in `folder`."""
    if kind == "mongodb":
        assert mongodb_url is not None
        return mongodb_url
    return "sqlite:///:memory:" if kind == "memory" else f"sqlite://{folder}/store.db"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    """The store at `url`, closed afterwards."""
    store = await open_store(url)
    try:
        yield store
    finally:
        await store.close()
