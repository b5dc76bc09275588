"""Nodes for Prometheus: gauges made from what the controller has in memory, at the moment they are asked for."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from aiwm.nodes.presence import Presence, Session
from aiwm.nodes.records import NodeObservation, NodeRecord
from aiwm.protocol.node_channel import EngineNumbers
from aiwm.protocol.resources.nodes import GpuDevice
from aiwm.protocol.states import NodeStatus

Fleet = Callable[[], Iterable[tuple[NodeRecord, NodeObservation]]]

_MIB = 2**20
_NODE, _GPU = ("node", "node_id"), ("node", "node_id", "gpu", "uuid")
_REPLICA = ("node", "node_id", "replica_id", "deployment_id")

_Value = float | int | None


class NodeCollector(Collector):
    """`fleet()` is every node that is known. Of those online, the ones that are connected to this controller are shown.

    So each is shown by one of several controllers, and one that is offline as down by them all.
    """

    def __init__(self, fleet: Fleet, presence: Presence) -> None:
        self._fleet, self._presence = fleet, presence

    def collect(self) -> Iterator[Metric]:
        """Everything, as it is now."""
        fleet = list(self._fleet())
        yield _counted(fleet)
        held = [
            (node, seen, session)
            for node, seen in fleet
            if (session := self._presence.of(node.id)) is not None and session.holder is None
        ]
        away = [(node, seen) for node, seen in fleet if seen.status is NodeStatus.OFFLINE]
        yield from _of_nodes([(node, seen) for node, seen, _ in held if seen.status is not NodeStatus.OFFLINE] + away)
        yield from _of_gpus([(node, seen) for node, seen, _ in held])
        sessions = [(node, session) for node, _, session in held]
        yield from _of_replicas(sessions)
        yield from _of_engines(sessions)


def _counted(fleet: list[tuple[NodeRecord, NodeObservation]]) -> Metric:
    counts = dict.fromkeys(NodeStatus, 0)
    for _, seen in fleet:
        counts[seen.status] += 1
    family = GaugeMetricFamily("aiwm_nodes", "Nodes that are registered, by status.", labels=("status",))
    for status, count in counts.items():
        family.add_metric((status.value,), count)
    return family


def _of_nodes(nodes: list[tuple[NodeRecord, NodeObservation]]) -> Iterator[Metric]:
    up = GaugeMetricFamily("aiwm_node_up", "Whether the node is connected.", labels=_NODE)
    conditions = GaugeMetricFamily(
        "aiwm_node_condition", "Whether a condition holds; one that never did is not shown.", labels=(*_NODE, "type")
    )
    for node, seen in nodes:
        up.add_metric((node.name, node.id), float(seen.status is not NodeStatus.OFFLINE))
        for each in seen.conditions:
            conditions.add_metric((node.name, node.id, each.type), float(each.status))
    yield up
    yield conditions
    online = [(node, seen) for node, seen in nodes if seen.status is not NodeStatus.OFFLINE]
    for name, text, value in _MEASURED:
        family = GaugeMetricFamily(f"aiwm_node_{name}", text, labels=_NODE)
        for node, seen in online:
            _add(family, (node.name, node.id), value(seen))
        yield family


def _of_gpus(nodes: list[tuple[NodeRecord, NodeObservation]]) -> Iterator[Metric]:
    labelled = [
        ((node.name, node.id, gpu.device_id, gpu.uuid or ""), gpu) for node, seen in nodes for gpu in seen.gpu_devices
    ]
    for name, text, value in _OF_GPU:
        family = GaugeMetricFamily(f"aiwm_node_gpu_{name}", text, labels=_GPU)
        for labels, gpu in labelled:
            _add(family, labels, value(gpu))
        yield family
    errors = CounterMetricFamily(
        "aiwm_node_gpu_ecc_errors", "Memory errors that were not corrected, since the driver was loaded.", labels=_GPU
    )
    for labels, gpu in labelled:
        _add(errors, labels, gpu.ecc_errors)
    yield errors


def _of_replicas(sessions: list[tuple[NodeRecord, Session]]) -> Iterator[Metric]:
    families = (
        GaugeMetricFamily("aiwm_replica_cpu_ratio", "Processor time used, of one core.", labels=_REPLICA),
        GaugeMetricFamily("aiwm_replica_memory_bytes", "Memory used.", labels=_REPLICA),
        GaugeMetricFamily("aiwm_replica_gpu_memory_bytes", "GPU memory used.", labels=_REPLICA),
    )
    for node, session in sessions:
        for replica_id, usage in list(session.usage.items()):
            labels = (node.name, node.id, replica_id, _deployment_of(session, replica_id))
            values = _share(usage.cpu_utilization), _bytes(usage.ram_used), _bytes(usage.gpu_memory_used)
            for family, value in zip(families, values, strict=True):
                _add(family, labels, value)
    yield from families


def _of_engines(sessions: list[tuple[NodeRecord, Session]]) -> Iterator[Metric]:
    labelled = [
        ((node.name, node.id, replica_id, _deployment_of(session, replica_id)), usage.engine)
        for node, session in sessions
        for replica_id, usage in list(session.usage.items())
        if usage.engine is not None
    ]
    for kind, name, text, value in _COUNTED:
        family = kind(f"aiwm_replica_{name}", text, labels=_REPLICA)
        for labels, numbers in labelled:
            _add(family, labels, value(numbers))
        yield family
    for name, text, timed in _TIMED:
        summary = SummaryMetricFamily(f"aiwm_replica_{name}", text, labels=_REPLICA)
        for labels, numbers in labelled:
            total, count = timed(numbers)
            if total is not None and count is not None:
                summary.add_metric(labels, count, total)
        yield summary


def _deployment_of(session: Session, replica_id: str) -> str:
    report = session.inventory.get(replica_id)
    return report.deployment_id if report is not None else ""


def _add(family: GaugeMetricFamily | CounterMetricFamily, labels: tuple[str, ...], value: _Value) -> None:
    if value is not None:
        family.add_metric(labels, float(value))


def _share(percent: _Value) -> _Value:
    return None if percent is None else percent / 100


def _bytes(mebibytes: _Value) -> _Value:
    return None if mebibytes is None else mebibytes * _MIB


_Of = Callable[[NodeObservation], _Value]
_OfGpu = Callable[[GpuDevice], _Value]
_OfEngine = Callable[[EngineNumbers], _Value]
_Timed = Callable[[EngineNumbers], tuple[float | None, int | None]]
_Kind = type[CounterMetricFamily] | type[GaugeMetricFamily]

_MEASURED: tuple[tuple[str, str, _Of], ...] = (
    ("cpu_utilization_ratio", "Processor time used, of all cores.", lambda seen: _share(seen.cpu_utilization)),
    ("memory_total_bytes", "Main memory.", lambda seen: _bytes(seen.ram_total)),
    ("memory_free_bytes", "Main memory that is available.", lambda seen: _bytes(seen.ram_free)),
    ("disk_total_bytes", "The disk of the daemon's data.", lambda seen: _bytes(seen.disk_total)),
    ("disk_free_bytes", "What is free of it.", lambda seen: _bytes(seen.disk_free)),
    ("clock_skew_seconds", "How far the node's clock was ahead.", lambda seen: seen.clock_skew),
)
_OF_GPU: tuple[tuple[str, str, _OfGpu], ...] = (
    ("up", "Whether the GPU answers.", lambda gpu: float(gpu.health != "error")),
    ("utilization_ratio", "How busy it is.", lambda gpu: _share(gpu.utilization)),
    ("memory_total_bytes", "Its memory.", lambda gpu: _bytes(gpu.memory_total)),
    ("memory_used_bytes", "What is used of it.", lambda gpu: _bytes(gpu.memory_used)),
    ("temperature_celsius", "How hot it is.", lambda gpu: gpu.temperature),
)
_COUNTED: tuple[tuple[_Kind, str, str, _OfEngine], ...] = (
    (CounterMetricFamily, "requests", "Requests that the engine answered.", lambda seen: seen.requests),
    (CounterMetricFamily, "request_failures", "Those among them that failed.", lambda seen: seen.failures),
    (CounterMetricFamily, "prompt_tokens", "Tokens it read.", lambda seen: seen.prompt_tokens),
    (CounterMetricFamily, "generated_tokens", "Tokens it wrote.", lambda seen: seen.generated_tokens),
    (GaugeMetricFamily, "requests_running", "Requests it works on.", lambda seen: seen.running),
    (GaugeMetricFamily, "requests_queued", "Requests that wait.", lambda seen: seen.queued),
    (GaugeMetricFamily, "cache_used_ratio", "How much of its cache is used.", lambda seen: _share(seen.cache_used)),
)
_TIMED: tuple[tuple[str, str, _Timed], ...] = (
    (
        "first_token_seconds",
        "From a request to its first token.",
        lambda seen: (seen.first_token_seconds, seen.first_token_count),
    ),
    ("request_seconds", "From a request to its end.", lambda seen: (seen.request_seconds, seen.request_count)),
)
