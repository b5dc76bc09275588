"""Models as records: what users may do with them."""

from collections.abc import Sequence

from aiwm.infra.store.port import Condition, Index, Query, Store, Where
from aiwm.infra.store.records import Records, changed_by_user, new_base, soft_deleted
from aiwm.kit.clock import Clock
from aiwm.kit.context import correlation_id
from aiwm.kit.wake import Wake
from aiwm.models.records import CONTENTS, MODELS, UPLOADS, ModelContent, ModelRecord, model_view
from aiwm.protocol.errors import Conflict, Invalid, NotFound
from aiwm.protocol.jobs import MODELS_QUEUE, REMOVE_FILES, RemoveFiles
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.resources.models import Model, ModelCreate
from aiwm.protocol.states import ModelSource


class ModelService:
    """One registry; `relay` is woken when there are facts to tell."""

    def __init__(self, store: Store, clock: Clock, relay: Wake) -> None:
        self._store, self._clock, self._relay = store, clock, relay
        self._models = Records(store, MODELS, ModelRecord)
        self._contents = Records(store, CONTENTS, ModelContent)

    async def prepare(self) -> None:
        """Makes the indexes."""
        await self._store.ensure_index(Index(MODELS, ("uniqueKey",), unique=True))
        await self._store.ensure_index(Index(MODELS, ("owner.orgId", "createdAt")))
        await self._store.ensure_index(Index(UPLOADS, ("modelId",)))

    async def create(self, params: ModelCreate, *, owner: Owner, by: str | None) -> Model:
        """Registers a model; `Conflict` NAME_TAKEN for a name and version that exist."""
        if params.source is ModelSource.HUGGINGFACE:
            raise Invalid(
                "cannot download from HuggingFace: this release takes uploads only; create a custom model",
                code="SOURCE_NOT_SUPPORTED",
            )
        base = new_base("model", owner=owner, by=by, at=self._clock.now())
        named = {**dict(params), "model_version": params.version}
        del named["version"]
        record = ModelRecord.model_validate(
            {**base, **named, "unique_key": _unique_key(owner, params.name, params.version)}
        )
        await self._contents.insert(ModelContent(id=record.id))
        try:
            record = await self._models.insert(record)
        except Conflict as taken:
            await self._contents.delete(record.id)
            raise _name_taken(record) from taken
        return model_view(record, ModelContent(id=record.id))

    async def find(self, model_id: str) -> ModelRecord | None:
        """The model's record, unless it was deleted or never was."""
        found = await self._models.get(model_id)
        return None if found is None or found.deleted_at is not None else found

    async def record(self, model_id: str) -> ModelRecord:
        """The model's record; `NotFound` also when it was deleted."""
        found = await self.find(model_id)
        if found is None:
            raise NotFound(f"cannot find model {model_id}: there is none of that id", code="MODEL_NOT_FOUND")
        return found

    async def content(self, model_id: str) -> ModelContent:
        """What is known of the model's files."""
        return await self._contents.get(model_id) or ModelContent(id=model_id)

    async def view(self, record: ModelRecord) -> Model:
        """The resource of a record."""
        return model_view(record, await self.content(record.id))

    async def with_status(self, status: str | None) -> tuple[Condition, ...]:
        """The condition that keeps a query of models to those of that download status; none without one."""
        if status is None:
            return ()
        known = await self._contents.find(Query((Where("downloadStatus", "eq", status),)))
        return (Where("id", "in", tuple(each.id for each in known)),)

    async def page(self, query: Query) -> tuple[Sequence[Model], int]:
        """A page of models and how many there are in all."""
        records = await self._models.find(query)
        ids = tuple(record.id for record in records)
        known = {each.id: each for each in await self._contents.find(Query((Where("id", "in", ids),)))}
        views = [model_view(record, known.get(record.id, ModelContent(id=record.id))) for record in records]
        return views, await self._models.count(query.where)

    async def change(self, record: ModelRecord, changes: dict[str, object], *, by: str | None) -> Model:
        """Applies what a user set; `Stale` when somebody else did so first, `Conflict` NAME_TAKEN."""
        changed = changed_by_user(record, changes, by=by, at=self._clock.now())
        changed = changed.model_copy(
            update={"unique_key": _unique_key(changed.owner, changed.name, changed.model_version)}
        )
        try:
            changed = await self._models.replace(changed)
        except Conflict as taken:
            raise _name_taken(changed) from taken
        return await self.view(changed)

    async def delete(self, record: ModelRecord, *, by: str | None) -> None:
        """Deletes softly; the worker removes its files. `Stale` when it changed in the meantime."""
        now = self._clock.now()
        await self._models.replace(soft_deleted(record, by=by, at=now))
        job = RemoveFiles(model_id=record.id, correlation_id=correlation_id()).to_wire()
        await self._contents.update(record.id, lambda content: content.telling(MODELS_QUEUE, REMOVE_FILES, job, at=now))
        self._relay.set()


def _unique_key(owner: Owner, name: str, version: str) -> str:
    return f"{owner.org_id or ''}/{name}/{version}"


def _name_taken(record: ModelRecord) -> Conflict:
    return Conflict(
        f"cannot use the name {record.name!r} with version {record.model_version!r}: another model has both",
        code="NAME_TAKEN",
    )
