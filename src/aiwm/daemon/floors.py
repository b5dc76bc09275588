"""From which version on the software around the daemon is known to work; what is older is a condition, not a refusal.

Pure. A version that cannot be read is taken for new: a false alarm on every node teaches people to look away.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from aiwm.protocol.resources.nodes import ConditionReport

_NUMBERS = re.compile(r"\s*v?(\d{1,9}(?:\.\d{1,9})*)")


@dataclass(frozen=True, slots=True)
class Floor:
    """`since` is the lowest version that counts as new; `advice` what to do about an older one."""

    name: str
    condition: str
    since: tuple[int, ...]
    advice: str


FLOORS = {
    "docker": Floor("Docker", "ContainerRuntimeOld", (24,), "install Docker 24 or newer"),
    "toolkit": Floor(
        "the NVIDIA container toolkit", "ContainerToolkitOld", (1, 17), "install nvidia-container-toolkit 1.17 or newer"
    ),
    "triton": Floor("Triton", "EngineOld", (2, 40), "install Triton 2.40 or newer"),
    "vllm": Floor("vLLM", "EngineOld", (0, 6), "install vLLM 0.6 or newer"),
}


def numbers(version: str) -> tuple[int, ...] | None:
    """The leading numbers of "24.0.7", "20.10.24+dfsg1", "v1.17.0-rc.1"; a candidate counts as what it leads to."""
    found = _NUMBERS.match(version)
    return None if found is None else tuple(int(each) for each in found.group(1).split("."))


def is_old(what: str, version: str | None) -> bool:
    """`what` is a key of `FLOORS`, or something without a floor."""
    floor, given = FLOORS.get(what), None if version is None else numbers(version)
    return floor is not None and given is not None and given < floor.since


def sentence(what: str, version: str) -> str:
    """Says of something old that it is, and what to do."""
    floor = FLOORS[what]
    return f"{floor.name} {version} is older than {'.'.join(map(str, floor.since))} and may still work; {floor.advice}"


def old_software(found: Iterable[tuple[str, str | None]]) -> list[ConditionReport]:
    """A condition for each that is old of what was `found`: names of `FLOORS` and versions."""
    return [
        ConditionReport(
            type=FLOORS[what].condition, status=True, reason="VersionTooLow", message=sentence(what, version)
        )
        for what, version in found
        if version is not None and is_old(what, version)
    ]


def merged(conditions: Iterable[ConditionReport]) -> list[ConditionReport]:
    """One of each type, which says all that those of its type said."""
    by_type: dict[str, ConditionReport] = {}
    for each in conditions:
        if (first := by_type.get(each.type)) is not None:
            each = first.model_copy(update={"message": f"{first.message}. {each.message}"[:4096]})
        by_type[each.type] = each
    return list(by_type.values())
