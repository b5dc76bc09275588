"""Where a replica goes, and why not elsewhere: pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aiwm.deployments.claims import Claim, room, standing
from aiwm.protocol.node_channel import ReplicaReport
from aiwm.protocol.resources.deployments import Resources
from aiwm.protocol.states import EngineName, HardwareProfile


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device of a node; memory in MiB."""

    device_id: str
    memory_total: int | None


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What placement knows of a node. `inventory` is None while the node has not reported in its current session.

    `offline` is known, not guessed: a controller that has just started waits for nodes before it calls them so.
    `fault` is why nothing new goes there, whatever its user wishes.
    """

    node_id: str
    name: str
    org_id: str | None
    worker: bool
    schedulable: bool
    labels: Mapping[str, str]
    engines: frozenset[str]
    launchers: frozenset[str]
    gpus: tuple[Gpu, ...]
    ram_free: int | None
    inventory: Mapping[str, ReplicaReport] | None
    offline: bool
    fault: str | None = None

    @property
    def reachable(self) -> bool:
        """Whether commands reach it and its inventory is known."""
        return self.inventory is not None

    def memory_of(self, device_id: str) -> int | None:
        """A device's memory in MiB; None when it does not tell, or is not there."""
        return next((gpu.memory_total for gpu in self.gpus if gpu.device_id == device_id), None)


@dataclass(slots=True)
class Fleet:
    """All nodes, and which replicas hold which device, by node and device.

    While the controller is `isolated`, a node that is away is away, and nothing more is known of it.
    """

    nodes: dict[str, NodeFacts]
    taken: dict[tuple[str, str], tuple[Claim, ...]] = field(default_factory=dict)
    load: dict[str, int] = field(default_factory=dict)
    isolated: bool = False
    _reported: dict[str, list[tuple[str, ReplicaReport]]] | None = None

    def reported(self, deployment_id: str) -> list[tuple[str, ReplicaReport]]:
        """What nodes say they run of a deployment, each with its node's id."""
        if self._reported is None:
            self._reported = {}
            for node in self.nodes.values():
                for report in (node.inventory or {}).values():
                    self._reported.setdefault(report.deployment_id, []).append((node.node_id, report))
        return self._reported.get(deployment_id, [])

    def take(self, node_id: str, devices: list[str], replica_id: str, memory: int | None = None) -> None:
        """Marks a node's devices as held by a replica: `memory` MiB of each, or the whole."""
        self.load[node_id] = self.load.get(node_id, 0) + 1
        for device in devices:
            self.taken[node_id, device] = (*self._claims(node_id, device), Claim(replica_id, memory))

    def _claims(self, node_id: str, device: str) -> tuple[Claim, ...]:
        return self.taken.get((node_id, device), ())

    def copy(self) -> "Fleet":
        """The same fleet, on which devices may be taken on trial."""
        return Fleet(self.nodes, dict(self.taken), dict(self.load), self.isolated, self._reported)

    def free(self, node: NodeFacts) -> list[str]:
        """The node's devices that nobody holds, by id."""
        return [gpu.device_id for gpu in node.gpus if not self._claims(node.node_id, gpu.device_id)]

    def shareable(self, node: NodeFacts, memory: int) -> list[tuple[bool, int, str]]:
        """The devices with `memory` MiB to spare: whether nobody holds any of it yet, how much there is, and the id.

        Fullest first, so that small parts gather on few devices.
        """
        found = []
        for gpu in node.gpus:
            claims = self._claims(node.node_id, gpu.device_id)
            if gpu.memory_total is not None and (left := room(claims, gpu.memory_total)) >= memory:
                found.append((not claims, left, gpu.device_id))
        return sorted(found)

    def stands(self, node_id: str, devices: list[str], replica_id: str, memory: int | None) -> bool:
        """Whether a replica may have what it claims, or others that claim the same were there before it."""
        node, own = self.nodes.get(node_id), Claim(replica_id, memory)
        for device in devices:
            total = None if node is None else node.memory_of(device)
            if replica_id not in standing({*self._claims(node_id, device), own}, total):
                return False
        return True


@dataclass(frozen=True, slots=True)
class Need:
    """What one replica asks of a node."""

    org_id: str | None
    engine: EngineName
    profile: HardwareProfile
    resources: Resources
    selector: Mapping[str, str]
    pinned_node_id: str | None
    image: str | None = None

    @property
    def gpu_count(self) -> int:
        """How many devices; without a number one for who wants memory of a GPU, else what the profile says."""
        if self.resources.gpu_count is not None:
            return self.resources.gpu_count
        if self.resources.gpu_memory:
            return 1
        return {HardwareProfile.CPU: 0, HardwareProfile.GPU: 1, HardwareProfile.MULTI_GPU: 2}[self.profile]

    @property
    def gpu_share(self) -> int | None:
        """How many MiB of each device it takes beside others; None when it wants its devices for itself."""
        return self.resources.gpu_memory or None if self.gpu_count else None


@dataclass(frozen=True, slots=True)
class Placement:
    node_id: str
    gpu_device_ids: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Rejection:
    node_id: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Offer:
    """The devices of a node that a replica could have, best first, and how dear they are: the least is taken."""

    devices: list[str]
    cost: tuple[int, int]
    how: str


def place(need: Need, fleet: Fleet) -> tuple[Placement | None, list[Rejection]]:
    """The fitting node that keeps the most devices of other nodes free (then the least loaded); why not the rest."""
    fitting: list[tuple[tuple[object, ...], NodeFacts, _Offer]] = []
    rejected: list[Rejection] = []
    for node in fleet.nodes.values():
        if not _may_see(need, node):
            continue
        offer = _offer(need, node, fleet)
        reason = _objection(need, node, offer.devices)
        if reason is not None:
            rejected.append(Rejection(node.node_id, node.name, reason))
            continue
        rank = (*offer.cost, fleet.load.get(node.node_id, 0), -(node.ram_free or 0), node.node_id)
        fitting.append((rank, node, offer))
    if not fitting:
        return None, rejected
    _, node, offer = min(fitting, key=lambda each: each[0])
    devices = tuple(offer.devices[: need.gpu_count])
    return Placement(node.node_id, devices, f"{node.name} fits best: {offer.how}"), rejected


def _offer(need: Need, node: NodeFacts, fleet: Fleet) -> _Offer:
    if need.gpu_share is None:
        free = fleet.free(node)
        how = f"{len(free)} free GPUs" if need.gpu_count else f"{fleet.load.get(node.node_id, 0)} replicas there"
        return _Offer(free, (len(free), 0), how)
    shareable = fleet.shareable(node, need.gpu_share)
    chosen = shareable[: need.gpu_count]
    parts = ", ".join(f"{left} MiB of GPU {device}" for _, left, device in chosen)
    return _Offer(
        devices=[device for _, _, device in shareable],
        cost=(sum(untouched for untouched, _, _ in chosen), sum(left for _, left, _ in chosen)),
        how=f"{need.gpu_share} MiB of the free {parts}",
    )


def _may_see(need: Need, node: NodeFacts) -> bool:
    return node.org_id is None or node.org_id == need.org_id


def _objection(need: Need, node: NodeFacts, devices: list[str]) -> str | None:
    fitting = "fitting free GPUs" if need.gpu_share is None else f"GPUs with {need.gpu_share} MiB to spare"
    checks = (
        (need.pinned_node_id not in (None, node.node_id), "the deployment is pinned to another node"),
        (not node.worker, "it has no worker role"),
        (not node.schedulable, "it is cordoned or in maintenance"),
        (not node.reachable, "it is not connected"),
        (node.fault is not None, node.fault or ""),
        (any(node.labels.get(key) != value for key, value in need.selector.items()), "its labels do not match"),
        (need.image is not None and "docker" not in node.launchers, "it runs no containers, which an image needs"),
        (need.image is None and need.engine.value not in node.engines, f"it cannot run {need.engine.value}"),
        (len(devices) < need.gpu_count, f"it has {len(devices)} {fitting} of the {need.gpu_count} needed"),
        (
            need.resources.ram is not None and node.ram_free is not None and node.ram_free < need.resources.ram,
            f"it has {node.ram_free} MiB of free memory of the {need.resources.ram} needed",
        ),
    )
    return next((reason for wrong, reason in checks if wrong), None)


def why_nowhere(rejected: list[Rejection]) -> str:
    """One sentence for users: what stands in the way, most frequent objection first."""
    if not rejected:
        return "no node is registered; join one first"
    reasons = [each.reason for each in rejected]
    counted = sorted(set(reasons), key=lambda reason: (-reasons.count(reason), reason))
    told = "; ".join(f"{reasons.count(reason)} x {reason}" for reason in counted[:4])
    return f"no node fits: {told}"


def engine_for(framework: str, task_type: str) -> EngineName:
    """The engine that serves a model when the user names none."""
    if framework in ("safetensors", "gguf") or task_type == "llm":
        return EngineName.VLLM
    return EngineName.CUSTOM if framework == "custom" else EngineName.TRITON


def profile_for(resources: Resources, fleet: Fleet, org_id: str | None) -> HardwareProfile:
    """The hardware profile when the user names none: the devices asked for, else whether `org_id` can have any."""
    if resources.gpu_count is not None:
        count = resources.gpu_count
        return (HardwareProfile.CPU, HardwareProfile.GPU)[count] if count < 2 else HardwareProfile.MULTI_GPU
    if resources.gpu_memory:
        return HardwareProfile.GPU
    theirs = any(node.gpus for node in fleet.nodes.values() if node.org_id in (None, org_id))
    return HardwareProfile.GPU if theirs else HardwareProfile.CPU
