"""The store on MongoDB, or on what speaks its wire protocol: single-document writes, finds and plain indexes only."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC
from typing import Any

from bson.codec_options import CodecOptions
from bson.errors import BSONError
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidName,
    InvalidOperation,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WTimeoutError,
)
from pymongo.write_concern import WriteConcern

from aiwm.infra.store import documents, mongo_query
from aiwm.infra.store.mongo_document import Document, from_document, to_document
from aiwm.infra.store.port import Condition, Index, Query, Record
from aiwm.kit.settings import SettingsError
from aiwm.protocol.errors import Conflict, Invalid, TooLarge, Unavailable

DEFAULT_DATABASE = "hydra-aiwm"

_SELECTION_MS = 2_500
_SOCKET_MS = 20_000
_AWAY = (ConnectionFailure, ServerSelectionTimeoutError, ExecutionTimeout, WTimeoutError)
# Unauthorized, AuthenticationFailed, Atlas's own refusal, OutOfDiskSpace: for the operator to mend, not bugs.
_OPERATOR = frozenset({13, 18, 8000, 14031})


async def open_mongo(url: str) -> "MongoStore":
    """The store in the URL's database; `Unavailable` when no server answers in 3 s, `SettingsError` for a wrong URL."""
    try:
        client: AsyncMongoClient[Document] = AsyncMongoClient(
            url,
            serverSelectionTimeoutMS=_SELECTION_MS,
            connectTimeoutMS=_SELECTION_MS,
            socketTimeoutMS=_SOCKET_MS,
            appname="aiwm",
        )
        store = MongoStore(client)
    except (ConfigurationError, InvalidURI, InvalidName, ValueError) as error:
        raise SettingsError(f"cannot use AIWM_STORE_URL: {error}") from error
    try:
        await store.ping()
    except BaseException:
        await store.close()
        raise
    return store


@contextmanager
def _translated() -> Iterator[None]:
    """Within it the driver's errors become ours; what only a bug can cause stays what it is."""
    try:
        yield
    except DuplicateKeyError as error:
        by_id = set((error.details or {}).get("keyPattern", ())) == {"_id"}
        cause = "its id is taken" if by_id else "another one has the same id or unique key"
        raise Conflict(f"cannot store the record: {cause}", code="DUPLICATE") from error
    except DocumentTooLarge as error:
        raise TooLarge(f"cannot store the record: {error}") from error
    except _AWAY as error:
        raise _unavailable("the database does not answer; check that it runs and is reachable", error) from error
    except OperationFailure as error:
        if error.code not in _OPERATOR and not error.has_error_label("RetryableError"):
            raise
        raise _unavailable("the database refused; check its user, rights and disk", error) from error
    except InvalidOperation as error:
        raise _unavailable("it is closed", error) from error
    except (UnicodeEncodeError, BSONError) as error:
        raise Invalid(f"cannot use the text: it is not valid Unicode ({error})") from error


def _unavailable(cause: str, error: PyMongoError) -> Unavailable:
    return Unavailable(f"cannot use the store: {cause}", details={"reason": str(error)[:300]})


class MongoStore:
    """`Store` on MongoDB."""

    def __init__(self, client: AsyncMongoClient[Document]) -> None:
        self._client = client
        self._database = client.get_default_database(
            default=DEFAULT_DATABASE,
            codec_options=CodecOptions(document_class=dict[str, Any], tz_aware=True, tzinfo=UTC),
            # Acknowledged means: on most members, and in the journal.
            write_concern=WriteConcern(w="majority", j=True),
        )

    def _collection(self, name: str) -> AsyncCollection[Document]:
        return self._database[documents.collection_name(name)]

    async def insert(self, collection: str, record: Record) -> None:
        documents.record_id(record)
        document = to_document(record, 1)
        with _translated():
            await self._collection(collection).insert_one(document)

    async def get(self, collection: str, record_id: str) -> Record | None:
        with _translated():
            document = await self._collection(collection).find_one({"_id": record_id})
        return None if document is None else from_document(document)

    async def replace(self, collection: str, record: Record, *, version: int) -> bool:
        documents.record_id(record)
        document = to_document(record, version + 1)
        with _translated():
            result = await self._collection(collection).replace_one({"_id": record["id"], "version": version}, document)
        return result.matched_count == 1

    async def find(self, collection: str, query: Query) -> list[Record]:
        condition, order = mongo_query.matching(query.where), mongo_query.order(query.sort)
        if query.limit == 0:
            return []
        with _translated():
            cursor = self._collection(collection).find(condition, sort=order, skip=query.skip, limit=query.limit or 0)
            return [from_document(document) async for document in cursor]

    async def count(self, collection: str, where: Sequence[Condition] = ()) -> int:
        condition = mongo_query.matching(where)
        with _translated():
            return await self._collection(collection).count_documents(condition)

    async def delete(self, collection: str, record_id: str) -> bool:
        with _translated():
            result = await self._collection(collection).delete_one({"_id": record_id})
        return result.deleted_count == 1

    async def delete_range(self, collection: str, where: Sequence[Condition]) -> int:
        if not where:
            raise ValueError("delete_range needs a condition")
        condition = mongo_query.matching(where)
        with _translated():
            return (await self._collection(collection).delete_many(condition)).deleted_count

    async def ensure_index(self, index: Index) -> None:
        name, keys = documents.index_name(index), mongo_query.index_keys(index)
        with _translated():
            await self._collection(index.collection).create_index(
                keys, name=name, unique=index.unique, sparse=index.unique
            )

    async def ping(self) -> None:
        with _translated():
            await self._client.admin.command("ping")

    async def close(self) -> None:
        await self._client.close()
