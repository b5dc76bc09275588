"""Wishes, states and fleets for tests of the pure core, with only what a test names in them."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from aiwm.deployments.placement import Fleet, Gpu, NodeFacts
from aiwm.deployments.planner import ModelFacts
from aiwm.deployments.records import DeploymentState, Replica, Wish
from aiwm.protocol.node_channel import ReplicaReport
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.resources.deployments import Resources
from aiwm.protocol.states import (
    DeploymentType,
    Desired,
    EngineName,
    Environment,
    HardwareProfile,
    ReplicaState,
)

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
READY_MODEL = ModelFacts(name="digits", problem=None)
HERE, ELSEWHERE = "org-here", "org-elsewhere"


def later(seconds: float) -> datetime:
    """A moment after `NOW`."""
    return NOW + timedelta(seconds=seconds)


def a_wish(deployment_id: str = "deploy-1", /, **changes: object) -> Wish:
    """A deployment that should run one replica on one GPU of any node."""
    fields: dict[str, object] = {
        "id": deployment_id,
        "owner": Owner(org_id=HERE, user_id="user-1"),
        "created_by": "user-1",
        "created_at": NOW,
        "updated_at": NOW,
        "name": "digits",
        "description": "",
        "model_id": "model-1",
        "environment": Environment.DEV,
        "deployment_type": DeploymentType.SINGLE,
        "replicas": 1,
        "hardware_profile": HardwareProfile.GPU,
        "engine": EngineName.TRITON,
        "desired": Desired.RUNNING,
    }
    return Wish.model_validate({**fields, **changes})


def a_replica(replica_id: str = "replica-1", node_id: str = "node-1", **changes: object) -> Replica:
    return Replica.model_validate(
        {"replica_id": replica_id, "node_id": node_id, "generation": 1, "revision": 1, **changes}
    )


def a_state(*replicas: Replica, **changes: object) -> DeploymentState:
    return DeploymentState.model_validate(
        {"id": "deploy-1", "model_name": "digits", "replicas": list(replicas), **changes}
    )


def a_report(
    replica_id: str = "replica-1", state: ReplicaState = ReplicaState.RUNNING, **more: object
) -> ReplicaReport:
    fields = {"deployment_id": "deploy-1", "replica_id": replica_id, "generation": 1, "state": state}
    return ReplicaReport.model_validate({**fields, **more})


def a_node(
    node_id: str = "node-1", *, gpus: int = 1, runs: Iterable[ReplicaReport] | None = (), **changes: object
) -> NodeFacts:
    """A worker everybody may use that can run Triton; `runs=None` is a node that is offline."""
    fields: dict[str, object] = {
        "node_id": node_id,
        "name": f"name of {node_id}",
        "org_id": None,
        "worker": True,
        "schedulable": True,
        "labels": {},
        "engines": frozenset({"triton"}),
        "launchers": frozenset({"process"}),
        "gpus": tuple(Gpu(str(number), 16_384) for number in range(gpus)),
        "ram_free": 32_768,
        "inventory": None if runs is None else {report.replica_id: report for report in runs},
        "offline": runs is None,
    }
    return NodeFacts(**{**fields, **changes})  # type: ignore[arg-type]


def a_fleet(*nodes: NodeFacts, states: Iterable[DeploymentState] = ()) -> Fleet:
    """The nodes, with the devices that the active replicas of `states` hold."""
    fleet = Fleet({node.node_id: node for node in nodes})
    for state in states:
        for replica in state.replicas:
            if replica.active:
                fleet.take(replica.node_id, replica.gpu_device_ids, replica.replica_id, replica.gpu_share)
    return fleet


def overfull(fleet: Fleet) -> list[tuple[str, str]]:
    """The devices of which more is held than there is, or that one has for itself and another uses too."""
    found = []
    for (node_id, device), claims in fleet.taken.items():
        whole = any(each.memory is None for each in claims)
        held = sum(each.memory or 0 for each in claims)
        total = fleet.nodes[node_id].memory_of(device) or 0
        if (whole and len(claims) > 1) or held > total * 0.95:
            found.append((node_id, device))
    return found


class Ids:
    """`replica-new-1`, `replica-new-2`, …"""

    def __init__(self, prefix: str = "replica-new") -> None:
        self._prefix, self._count = prefix, 0

    def __call__(self) -> str:
        self._count += 1
        return f"{self._prefix}-{self._count}"


tried = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""How often a property is tried: examples cost time on a shared machine, and a slow one is no failure."""

NODE_IDS = ("node-1", "node-2", "node-3", "node-4")
REPLICA_IDS = tuple(f"replica-{number}" for number in range(1, 7))

SHARES = st.sampled_from([None, None, 0, 1, 4_096, 7_000, 15_564, 15_565])
"""Of a GPU of `a_node`, which has 15,564 MiB to share."""

_states = st.sampled_from(list(ReplicaState))


@st.composite
def some_replicas(draw: st.DrawFn) -> list[Replica]:
    """Replicas in any state, on nodes that may or may not exist."""
    ids = draw(st.lists(st.sampled_from(REPLICA_IDS), unique=True, max_size=5))
    return [
        a_replica(
            each,
            draw(st.sampled_from(NODE_IDS)),
            state=draw(_states),
            revision=draw(st.integers(1, 2)),
            gpu_device_ids=[],
            message=draw(st.sampled_from([None, "why"])),
        )
        for each in ids
    ]


@st.composite
def some_node(draw: st.DrawFn, node_id: str, known: list[Replica]) -> NodeFacts:
    """A node as it may be found: silent, cordoned, of another organization, running this and that."""
    silent = draw(st.booleans())
    own = [each.replica_id for each in known if each.node_id == node_id]
    runs = draw(st.lists(st.sampled_from([*own, "replica-stray"]), unique=True, max_size=4))
    return a_node(
        node_id,
        gpus=draw(st.integers(0, 3)),
        runs=None if silent else [a_report(each, draw(_states), generation=draw(st.integers(0, 2))) for each in runs],
        worker=draw(st.integers(0, 3)) > 0,
        schedulable=draw(st.integers(0, 3)) > 0,
        org_id=draw(st.sampled_from([None, HERE, ELSEWHERE])),
        labels=draw(st.sampled_from([{}, {"zone": "a"}])),
        engines=frozenset(draw(st.sampled_from([(), ("triton",), ("triton", "vllm")]))),
        launchers=frozenset(draw(st.sampled_from([("process",), ("docker",), ("docker", "process")]))),
        ram_free=draw(st.sampled_from([None, 0, 32_768])),
    )


@st.composite
def some_nodes(draw: st.DrawFn, known: list[Replica]) -> list[NodeFacts]:
    ids = draw(st.lists(st.sampled_from(NODE_IDS), unique=True, max_size=4))
    return [draw(some_node(each, known)) for each in ids]


@st.composite
def some_wish(draw: st.DrawFn) -> Wish:
    revision = draw(st.integers(1, 2))
    return a_wish(
        replicas=draw(st.integers(0, 4)),
        desired=draw(st.sampled_from(list(Desired))),
        deleting=draw(st.integers(0, 5)) == 0,
        stop_force=draw(st.integers(0, 5)) == 0,
        hardware_profile=draw(st.sampled_from(list(HardwareProfile))),
        resources=Resources(
            gpu_count=draw(st.sampled_from([None, 0, 1, 2])),
            gpu_memory=draw(SHARES),
            ram=draw(st.sampled_from([None, 1024])),
        ),
        image=draw(st.sampled_from([None, None, "registry.local/triton:1"])),
        node_selector=draw(st.sampled_from([{}, {"zone": "a"}])),
        pinned_node_id=draw(st.sampled_from([None, None, "node-1"])),
        generation=max(revision, draw(st.integers(1, 3))),
        revision=revision,
    )
