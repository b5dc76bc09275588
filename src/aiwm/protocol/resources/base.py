"""What every resource carries (the source's BaseSchema), and how lists are answered."""

from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, Field, model_validator

from aiwm.protocol.base import Params, Timestamp, View


def _bounded(metadata: dict[str, object]) -> dict[str, object]:
    if len(str(metadata)) > 16_384:
        raise ValueError("metadata may hold 16 KiB at most")
    return metadata


Metadata = Annotated[dict[str, object], AfterValidator(_bounded)]

T = TypeVar("T", bound=BaseModel)


class Owner(View):
    """Whose it is; `orgId` null means shared with all organizations."""

    org_id: str | None = None
    user_id: str | None = None


class Resource(View):
    owner: Owner
    created_by: str | None
    updated_by: str | None
    created_at: Timestamp
    updated_at: Timestamp
    deleted_at: Timestamp | None = None
    resource_version: int
    metadata: Metadata = Field(default_factory=dict)


class Patch(Params):
    """A partial resource: only fields that were sent count, and null is sent only where a field may be null."""

    @model_validator(mode="after")
    def _something(self) -> "Patch":
        if not self.model_fields_set:
            raise ValueError("a patch must name at least one field")
        return self

    def changes(self) -> dict[str, object]:
        """The fields that were sent, under their Python names."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class Pagination(View):
    page: int
    limit: int
    total: int


class Page(View, Generic[T]):
    """One page of a list."""

    data: list[T]
    pagination: Pagination
