"""What all wire models share: camelCase names, strict or tolerant reading, times with milliseconds and `Z`."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel

from aiwm.kit.clock import iso, whole_milliseconds


def _as_utc(moment: datetime) -> datetime:
    """A time without a zone is UTC, as the source's own frames mean it."""
    try:
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is out of the range of times") from error
    return whole_milliseconds(moment)


Json = dict[str, object]

Timestamp = Annotated[
    datetime,
    AfterValidator(_as_utc),
    PlainSerializer(iso, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=128, pattern=r"^[^\x00-\x1f/\\]+$")
]
Text = Annotated[str, StringConstraints(max_length=4096)]
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
# Up to what every JSON reader and every store takes for a whole number.
Count = Annotated[int, Field(ge=0, le=2**53)]
Short = Annotated[str, StringConstraints(max_length=256)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class Wire(BaseModel):
    """Read from other programs: unknown fields are ignored, so that versions may differ."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    def to_wire(self) -> dict[str, object]:
        """As JSON-ready camelCase, without fields that were never given a value."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Params(Wire):
    """Accepted from users: an unknown field is an error that names it."""

    model_config = ConfigDict(extra="forbid")


class View(Wire):
    """Returned to users: every field present, null where there is no value."""

    def to_wire(self) -> dict[str, object]:
        return self.model_dump(mode="json", by_alias=True)
