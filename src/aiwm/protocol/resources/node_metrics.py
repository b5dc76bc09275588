"""What a node's measurements were over time."""

from typing import Annotated, Literal

from pydantic import Field

from aiwm.protocol.base import Timestamp, View

Metric = Literal["cpuUtilization", "ramFree", "diskFree", "utilization", "memoryUsed", "temperature"]
Unit = Literal["percent", "MiB", "celsius"]

UNITS: dict[Metric, Unit] = {
    "cpuUtilization": "percent",
    "ramFree": "MiB",
    "diskFree": "MiB",
    "utilization": "percent",
    "memoryUsed": "MiB",
    "temperature": "celsius",
}
MOST_POINTS = 1500
SHORTEST_STEP_SECONDS = 10
KEPT_SECONDS = 7 * 86_400


class MetricSeries(View):
    """One metric of the node, or of its GPU `deviceId`: a value for each of the answer's times, null where unknown."""

    metric: Metric
    device_id: str | None
    unit: Unit
    values: list[float | None]


class NodeMetrics(View):
    """`times[i]` is when the `step` seconds begin of which `series[].values[i]` is the mean."""

    node_id: str
    from_: Annotated[Timestamp, Field(alias="from")]
    to: Timestamp
    step: int
    times: list[Timestamp]
    series: list[MetricSeries]
