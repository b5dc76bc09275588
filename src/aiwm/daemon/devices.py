"""Which GPU is which: a device keeps the id it was first seen under, so that one that vanishes renames no other.

NVML counts the devices it sees. Where the first of two falls out and the driver is loaded again, the second becomes
number 0, while engines run on it as "1". So ids follow UUIDs for as long as the machine is up. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiwm.protocol.xids import XIDS_OF_LOST_GPUS, XIDS_OF_PROGRAMS


@dataclass(frozen=True, slots=True)
class Named:
    """Ids of the devices that NVML counts (by position; None: only there as one of `lost`), and of those it lost."""

    known: Mapping[str, str]
    ids: tuple[str | None, ...]
    lost: Mapping[str, str]


def name_devices(known: Mapping[str, str], found: Sequence[str | None]) -> Named:
    """`known` is UUID to id; `found` the UUIDs that NVML's devices say now, None for one that does not answer."""
    unique = [uuid if uuid not in found[:place] else None for place, uuid in enumerate(found)]
    lost = {uuid: each for uuid, each in known.items() if uuid not in unique}
    named = dict(known)
    ids: list[str | None] = [named.get(uuid) if uuid is not None else None for uuid in unique]
    silent = [place for place, uuid in enumerate(unique) if uuid is None]
    for place in _strangers(silent, set(lost.values())):
        ids[place] = _free(place, {*named.values(), *(each for each in ids if each is not None)})
    for place, uuid in enumerate(unique):
        if uuid is not None and uuid not in named:
            named[uuid] = _free(place, {*named.values(), *(each for each in ids if each is not None)})
            ids[place] = named[uuid]
    return Named(named, tuple(ids), lost)


def _strangers(silent: list[int], lost: set[str]) -> list[int]:
    """The silent devices that cannot be lost ones: each lost one accounts for one, best for that at its own place."""
    apart = [place for place in silent if str(place) not in lost]
    unaccounted = len(lost) - (len(silent) - len(apart))
    return apart[max(0, unaccounted) :]


def _free(place: int, taken: set[str]) -> str:
    number = place
    while str(number) in taken:
        number += 1
    return str(number)


def health_of(*, answers: bool, ecc_errors: int | None, xid: int | None) -> str:
    """`ok`, `warning` (it works, somebody should look) or `error` (nothing more should be started on it)."""
    if not answers or xid in XIDS_OF_LOST_GPUS:
        return "error"
    return "warning" if ecc_errors or (xid is not None and xid not in XIDS_OF_PROGRAMS) else "ok"
