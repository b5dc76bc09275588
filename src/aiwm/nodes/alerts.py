"""Which conditions people are told of, when, and in which words: pure.

The comparison is with what was told last, not with what was seen last, and what was told is kept with the node: so
nothing is told twice by a restart, what flaps is told at most every five minutes, and its last turn is always told.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from aiwm.kit.clock import iso
from aiwm.kit.context import correlation_id
from aiwm.nodes import conditions
from aiwm.nodes.records import GPU_LOST, AlertMark, NodeObservation, NodeRecord
from aiwm.protocol.resources.nodes import Condition
from aiwm.protocol.states import Severity

JOB = "service.alert"
QUIET = timedelta(minutes=5)
"""The least time between two alerts of one condition of one node."""

Facts = list[tuple[str, dict[str, object]]]


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    title: str
    severity: Severity


_KINDS = {
    conditions.GPU_TEMPERATURE: _Kind("gpu.temperature", "GPU too hot", Severity.HIGH),
    conditions.GPU_MEMORY: _Kind("gpu.memory", "GPU memory full", Severity.NORMAL),
    conditions.GPU_ERRORS: _Kind("gpu.errors", "GPU errors", Severity.HIGH),
    GPU_LOST: _Kind("gpu.lost", "GPU lost", Severity.CRITICAL),
    conditions.DISK_LOW: _Kind("storage.low", "Disk nearly full", Severity.HIGH),
    conditions.CLOCK_SKEW: _Kind("node.clockSkew", "Clock is wrong", Severity.NORMAL),
    conditions.VERSION_SKEW: _Kind("node.versionSkew", "Releases too far apart", Severity.NORMAL),
    conditions.IDENTITY_CLONED: _Kind("node.cloned", "Identity used twice", Severity.CRITICAL),
    conditions.NODE_LOST: _Kind("node.lost", "Node lost", Severity.CRITICAL),
    # The daemon's own word for a disk on which nothing can be written.
    "DiskFull": _Kind("storage.low", "Disk full", Severity.CRITICAL),
    "DriverBroken": _Kind("node.condition", "GPU driver broken", Severity.HIGH),
    "LedgerUnreadable": _Kind("node.condition", "The daemon's ledger cannot be read", Severity.HIGH),
}


def told(node: NodeRecord, seen: NodeObservation, *, at: datetime) -> tuple[NodeObservation, Facts]:
    """The observation with what is told now marked in it, and the jobs that tell it: their names and data."""
    marks, facts = dict(seen.alerted), Facts()
    for condition in seen.conditions:
        kind = _KINDS.get(condition.type)
        devices = seen.condition_devices.get(condition.type, [])
        mark = marks.get(condition.type)
        if kind is None or not _news(mark, condition, devices, at):
            continue
        known = mark.devices if mark is not None and mark.status and condition.status else []
        marks[condition.type] = AlertMark(status=condition.status, at=at, devices=sorted({*known, *devices}))
        facts += _fact(node, condition, kind, devices, at)
    return (seen, facts) if marks == seen.alerted else (seen.model_copy(update={"alerted": marks}), facts)


def _news(mark: AlertMark | None, condition: Condition, devices: Sequence[str], at: datetime) -> bool:
    if mark is None:
        return condition.status
    if timedelta(0) <= at - mark.at < QUIET:
        return False
    if condition.status is not mark.status:
        return True
    return condition.status and not {*devices} <= {*mark.devices}


def _fact(node: NodeRecord, condition: Condition, kind: _Kind, devices: Sequence[str], at: datetime) -> Facts:
    recipients: dict[str, object] = {"userIds": [node.created_by]} if node.created_by else {}
    if node.owner.org_id:
        recipients["orgIds"] = [node.owner.org_id]
    if not recipients:
        # A shared node that no user made: there is nobody to tell.
        return []
    about = {"nodeId": node.id, "name": node.name, "condition": condition.type, "status": condition.status}
    data: dict[str, object] = {
        "name": kind.name,
        "title": f"{kind.title} on {node.name}" + ("" if condition.status else " is over"),
        "message": f"{node.name}: {condition.message}"[:4096],
        "severity": (kind.severity if condition.status else Severity.LOW).value,
        "data": {**about, "devices": list(devices), "since": iso(condition.since)},
        "metadata": {"correlationId": correlation_id(), "orgId": node.owner.org_id, "timestamp": iso(at)},
        "recipients": recipients,
    }
    return [(JOB, {"event": JOB, "data": data})]
