"""What is stored of a node's history: one record for each hour, with the mean of each minute."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from aiwm.infra.store.port import Record
from aiwm.nodes.resampling import order, tidy
from aiwm.nodes.rings import MINUTES, Hour, Key
from aiwm.protocol.base import Timestamp

HISTORY = "nodeHistory"
_HOUR_SECONDS = 3600


class StoredSeries(BaseModel):
    """One metric's 60 minutes; None where nothing is known."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    metric: str
    device_id: str | None = None
    values: list[float | None]

    @property
    def key(self) -> Key:
        """Which series it is."""
        return self.metric, self.device_id


class StoredHour(BaseModel):
    """One node's hour. `hour` is when it begins."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    id: str
    version: int = 0
    node_id: str
    hour: Timestamp
    series: list[StoredSeries] = []

    def known(self) -> dict[Key, dict[int, float]]:
        """What it knows, by series and minute."""
        return {
            each.key: {minute: value for minute, value in enumerate(each.values[:MINUTES]) if value is not None}
            for each in self.series
        }


def begin_of(hour: int) -> datetime:
    """When an hour, counted since 1970, begins."""
    return datetime.fromtimestamp(hour * _HOUR_SECONDS, UTC)


def record_id(node_id: str, hour: int) -> str:
    """`<nodeId>.<YYYYMMDDHH>`."""
    return f"{node_id}.{begin_of(hour):%Y%m%d%H}"


def document(node_id: str, hour: Hour) -> Record:
    """The record of an hour, ready for the store; written too often to take the way through a model."""
    keys = sorted(hour.minutes, key=order)
    series = [{"metric": key[0], "deviceId": key[1], "values": _values(hour.minutes[key])} for key in keys]
    return {
        "id": record_id(node_id, hour.number),
        "nodeId": node_id,
        "hour": begin_of(hour.number),
        "series": series,
    }


def _values(minutes: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(value) else tidy(value) for value in minutes]
