"""Nodes and what is seen of them, for tests of pure parts, with only what a test names in them."""

from tests.unit.deployments.builders import HERE, NOW

from aiwm.nodes.records import NodeObservation, NodeRecord
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.resources.nodes import Condition, GpuDevice
from aiwm.protocol.states import NodeRole, NodeStatus


def a_record(**changes: object) -> NodeRecord:
    fields: dict[str, object] = {
        "id": "node-1",
        "name": "gpu-1",
        "owner": Owner(org_id=HERE, user_id="user-1"),
        "created_by": "user-1",
        "created_at": NOW,
        "updated_at": NOW,
        "role": [NodeRole.WORKER],
    }
    return NodeRecord.model_validate({**fields, **changes})


def gpu(device_id: str = "0", **said: object) -> GpuDevice:
    return GpuDevice.model_validate({"deviceId": device_id, **said})


def online(*gpus: GpuDevice, **changes: object) -> NodeObservation:
    fields: dict[str, object] = {"id": "node-1", "status": NodeStatus.ONLINE, "gpu_devices": list(gpus)}
    return NodeObservation.model_validate({**fields, **changes})


def said_of(seen: NodeObservation, type_: str) -> Condition:
    """The one condition of that type."""
    (found,) = [each for each in seen.conditions if each.type == type_]
    return found


def holding(seen: NodeObservation) -> set[str]:
    """The types of the conditions that hold."""
    return {each.type for each in seen.conditions if each.status}
