"""What is wrong with a node, judged from what it reports and from its connection: pure.

A condition is about the whole node; its message names the devices, and says no measured value, so that it changes only
when something has. Limits have a lower one at which a condition ends, so that a value on the edge does not flap. What
the daemon judges itself (its driver, its runtime, its own disk) is taken as it says, of types that are not judged here.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from aiwm import __version__
from aiwm.kit.clock import seconds_between
from aiwm.nodes.records import GPU_LOST, NodeObservation
from aiwm.protocol.resources.nodes import Condition, ConditionReport, GpuDevice
from aiwm.protocol.states import NodeStatus
from aiwm.protocol.xids import XIDS_OF_LOST_GPUS, XIDS_OF_PROGRAMS

GPU_TEMPERATURE = "GPUTemperature"
GPU_MEMORY = "GPUMemory"
GPU_ERRORS = "GPUErrors"
DISK_LOW = "DiskLow"
CLOCK_SKEW = "ClockSkew"
VERSION_SKEW = "VersionSkew"
IDENTITY_CLONED = "IdentityCloned"
NODE_LOST = "NodeLost"
OURS = frozenset(
    {
        GPU_TEMPERATURE,
        GPU_MEMORY,
        GPU_ERRORS,
        GPU_LOST,
        DISK_LOW,
        CLOCK_SKEW,
        VERSION_SKEW,
        IDENTITY_CLONED,
        NODE_LOST,
    }
)
MOST = 64
"""How many conditions a node shows."""

CLEARED_SHOWN = timedelta(days=1)
CLONED_SHOWN = timedelta(minutes=5)
LOST_AFTER_SECONDS = 60
HOT, COOL = 90.0, 85.0
# A model that fills its GPU is normal (vLLM takes 90 % and more), one that leaves nothing is about to fail.
FULL, ROOMY = 99.0, 97.0
SKEWED_SECONDS, AGREED_SECONDS = 10, 5
_LEAST_DISK, _MUCH_DISK, _DISK_SHARE, _DISK_RELIEF = 512, 10_240, 0.05, 1.25
_TOO_OLD = 2
_NAMED = 8


@dataclass(frozen=True, slots=True)
class _Finding:
    reason: str
    message: str
    devices: tuple[str, ...] = ()


_Findings = dict[str, _Finding | None]


def judged(
    seen: NodeObservation,
    *,
    at: datetime,
    reported: Iterable[ConditionReport] | None = None,
    lost: bool | None = None,
    release: str = __version__,
) -> NodeObservation:
    """The observation with its conditions brought up to date; itself when they are.

    `reported` is all that the daemon says of itself, None when it did not say; `lost` whether the node's absence costs
    replicas, None when that was not looked at. Of a node that is away, what was known last stays.
    """
    found: _Findings = {IDENTITY_CLONED: _cloned(seen, at)}
    if lost is not None:
        found[NODE_LOST] = _AWAY if lost else None
    if seen.status is not NodeStatus.OFFLINE:
        found |= _measured(seen, release)
        found[NODE_LOST] = None
    if reported is not None:
        found |= _said(seen, reported)
    conditions = _turned(seen.conditions, found, at)
    devices = _devices(seen.condition_devices, found)
    if conditions == seen.conditions and devices == seen.condition_devices:
        return seen
    return seen.model_copy(update={"conditions": conditions, "condition_devices": devices})


def timed(seen: NodeObservation, sent: datetime | None, *, at: datetime) -> NodeObservation:
    """What a heartbeat `sent` by the node's clock and received `at` says of that clock."""
    if sent is None:
        return seen
    skew = round(seconds_between(at, sent), 3)
    # One late heartbeat is a slow link; two in a row are a clock.
    beats = min(seen.skewed_beats + 1, 2) if abs(skew) > SKEWED_SECONDS else 0
    return seen.model_copy(update={"clock_skew": skew, "skewed_beats": beats})


def lost(seen: NodeObservation, *, replicas: bool, isolated: bool, at: datetime) -> bool | None:
    """Whether the node's absence costs replicas; None while that cannot be said."""
    if seen.status is not NodeStatus.OFFLINE or not replicas:
        return False
    if isolated or seen.offline_since is None or seconds_between(seen.offline_since, at) < LOST_AFTER_SECONDS:
        return None
    return True


_AWAY = _Finding("Away", f"it has been away for {LOST_AFTER_SECONDS} s, and replicas are placed on it")


def _cloned(seen: NodeObservation, at: datetime) -> _Finding | None:
    if seen.cloned_at is None or at - seen.cloned_at >= CLONED_SHOWN:
        return None
    text = (
        "two daemons use this node's identity, the older one is kept out; give one machine a node and token of its own"
    )
    return _Finding("SecondDaemon", text)


def _measured(seen: NodeObservation, release: str) -> _Findings:
    hot = _above(seen, GPU_TEMPERATURE, lambda gpu: gpu.temperature, on=HOT, off=COOL)
    full = _above(seen, GPU_MEMORY, _memory_percent, on=FULL, off=ROOMY)
    return {
        GPU_TEMPERATURE: _of(hot, "Hot", f"at {HOT:.0f} °C or more; see to its cooling"),
        GPU_MEMORY: _of(full, "Full", f"used its memory to {FULL:.0f} % or more; what runs there may fail"),
        GPU_LOST: _losses(seen.gpu_devices),
        GPU_ERRORS: _errors([gpu for gpu in seen.gpu_devices if not _is_lost(gpu)]),
        DISK_LOW: _disk(seen),
        CLOCK_SKEW: _skew(seen),
        VERSION_SKEW: _version(seen.daemon_version, release),
    }


def _above(
    seen: NodeObservation, type_: str, value: Callable[[GpuDevice], float | None], *, on: float, off: float
) -> list[GpuDevice]:
    """The devices that went over the limit `on` and have not come below `off` since."""
    before = seen.condition_devices.get(type_, ())
    limits = [(gpu, value(gpu), off if gpu.device_id in before else on) for gpu in seen.gpu_devices]
    return [gpu for gpu, measured, limit in limits if measured is not None and measured >= limit]


def _memory_percent(gpu: GpuDevice) -> float | None:
    return 100 * gpu.memory_used / gpu.memory_total if gpu.memory_used is not None and gpu.memory_total else None


def _is_lost(gpu: GpuDevice) -> bool:
    return gpu.health == "error" or gpu.xid in XIDS_OF_LOST_GPUS


def _losses(gpus: list[GpuDevice]) -> _Finding | None:
    broken = [gpu for gpu in gpus if gpu.xid in XIDS_OF_LOST_GPUS]
    silent = [gpu for gpu in gpus if _is_lost(gpu) and gpu not in broken]
    found = (
        _of(broken, "Xid", f"reported Xid {_codes(broken)} and must be reset, so nothing new is placed on its node"),
        _of(silent, "NoAnswer", "no longer answers, so nothing new is placed on its node"),
    )
    return _together(found)


def _errors(gpus: list[GpuDevice]) -> _Finding | None:
    xids = [gpu for gpu in gpus if gpu.xid and gpu.xid not in XIDS_OF_PROGRAMS]
    ecc = [gpu for gpu in gpus if gpu.ecc_errors and gpu not in xids]
    warned = [gpu for gpu in gpus if gpu.health == "warning" and gpu not in xids and gpu not in ecc]
    found = (
        _of(xids, "Xid", f"reported Xid {_codes(xids)}, an error of its hardware or driver"),
        _of(ecc, "Ecc", "had memory errors that were not corrected"),
        _of(warned, "Warning", "is not well, its driver says"),
    )
    return _together(found)


def _codes(gpus: list[GpuDevice]) -> str:
    return ", ".join(sorted({str(gpu.xid) for gpu in gpus}))


def _together(found: Iterable[_Finding | None]) -> _Finding | None:
    told = [each for each in found if each is not None]
    if not told:
        return None
    devices = tuple(device for each in told for device in each.devices)
    return _Finding(told[0].reason, "; ".join(each.message for each in told), devices)


def _disk(seen: NodeObservation) -> _Finding | None:
    if seen.disk_free is None:
        return None
    limit = max(_LEAST_DISK, min(int((seen.disk_total or 0) * _DISK_SHARE), _MUCH_DISK))
    low = any(each.type == DISK_LOW and each.status for each in seen.conditions)
    if seen.disk_free >= (limit * _DISK_RELIEF if low else limit):
        return None
    return _Finding("BelowLimit", f"less than {limit} MiB of its disk are free; remove what it no longer needs")


def _skew(seen: NodeObservation) -> _Finding | None:
    if seen.clock_skew is None:
        return None
    skewed = any(each.type == CLOCK_SKEW and each.status for each in seen.conditions)
    if not (seen.skewed_beats > 1 or (skewed and abs(seen.clock_skew) > AGREED_SECONDS)):
        return None
    reason, where = ("Ahead", "ahead of") if seen.clock_skew > 0 else ("Behind", "behind")
    text = f"its clock is more than {SKEWED_SECONDS} s {where} the controller's; let both take their time from NTP"
    return _Finding(reason, text)


def _version(daemon: str | None, release: str) -> _Finding | None:
    theirs, ours = _release(daemon), _release(release)
    if theirs is None or ours is None:
        return None
    if theirs[0] == ours[0] and abs(theirs[1] - ours[1]) < _TOO_OLD:
        return None
    older, newer = ("daemon", "controller") if theirs < ours else ("controller", "daemon")
    text = f"its daemon is of release {daemon}, the controller of {release}: more than one apart; upgrade the {older}"
    return _Finding(f"{older.capitalize()}Older", f"{text}, or take an older {newer}")


def _release(version: str | None) -> tuple[int, int] | None:
    found = re.match(r"(\d{1,6})\.(\d{1,6})(?!\d)", version or "")
    return None if found is None else (int(found[1]), int(found[2]))


def _of(gpus: list[GpuDevice], reason: str, what: str) -> _Finding | None:
    if not gpus:
        return None
    named = [f"{gpu.device_id} ({gpu.model})" if gpu.model else gpu.device_id for gpu in gpus]
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    who = f"GPU {named[0]}" if len(named) == 1 else f"each of the GPUs {', '.join(named[:_NAMED])}{more}"
    verb = "is " if what.startswith("at ") else ""
    return _Finding(reason, f"{who} {verb}{what}", tuple(gpu.device_id for gpu in gpus))


def _said(seen: NodeObservation, reported: Iterable[ConditionReport]) -> _Findings:
    found: _Findings = {each.type: None for each in seen.conditions if each.status and each.type not in OURS}
    for each in reported:
        if each.type not in OURS:
            found[each.type] = _Finding(each.reason, each.message) if each.status else None
    return found


def _turned(conditions: list[Condition], found: _Findings, at: datetime) -> list[Condition]:
    known = {each.type: each for each in conditions if each.status or at - each.since < CLEARED_SHOWN}
    for type_, finding in found.items():
        old = known.get(type_)
        so = old is not None and old.status
        if finding is not None:
            since = old.since if old is not None and so else at
            known[type_] = Condition(
                type=type_, status=True, reason=finding.reason, message=finding.message, since=since
            )
        elif old is not None and so:
            known[type_] = Condition(
                type=type_, status=False, reason="Over", message=f"no longer: {old.message}"[:4096], since=at
            )
    # What the node says of itself never pushes out what is judged here.
    order = sorted(known.values(), key=lambda each: (not each.status, each.type not in OURS, each.type))
    return order[:MOST]


def _devices(before: dict[str, list[str]], found: _Findings) -> dict[str, list[str]]:
    after = {type_: devices for type_, devices in before.items() if type_ not in found}
    named = {type_: list(each.devices) for type_, each in found.items() if each is not None and each.devices}
    return after | named
