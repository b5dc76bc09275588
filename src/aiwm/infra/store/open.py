"""Which store a URL names."""

from aiwm.infra.store.port import Store
from aiwm.infra.store.sqlite import open_sqlite
from aiwm.kit.settings import SettingsError

_SQLITE = "sqlite://"
_MONGO = ("mongodb://", "mongodb+srv://")


async def open_store(url: str) -> Store:
    """The store at `sqlite:///absolute/path`, `sqlite:///:memory:` or `mongodb://…/database`, answering.

    Everything after `sqlite://` is the path, letter by letter. `Unavailable` when it cannot be reached,
    `SettingsError` when the URL is not one.
    """
    if url.startswith(_SQLITE):
        path = url.removeprefix(_SQLITE)
        return await open_sqlite(":memory:" if path == "/:memory:" else path)
    if url.startswith(_MONGO):
        from aiwm.infra.store.mongo import open_mongo  # a driver of 20 MB that SQLite's users never load

        return await open_mongo(url)
    raise SettingsError("cannot open the store: AIWM_STORE_URL must begin with sqlite:/// or mongodb://")
