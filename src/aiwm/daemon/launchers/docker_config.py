"""A container as Docker is asked for it: only what the replica was given, and no right of any kind beyond that."""

from pathlib import Path
from typing import Any

from aiwm.daemon.engines.base import EnginePlan
from aiwm.daemon.launchers.port import Room

MANAGED, FOLDER, REPLICA = "ai.aiwm.managed", "ai.aiwm.folder", "ai.aiwm.replica"
_MIB = 2**20
_SHARED_MEMORY = 1024 * _MIB
_MOST_PROCESSES = 4096
# Before the daemon, should the machine itself run out of memory.
_OOM_SCORE = 500


def container_config(
    folder: Path, plan: EnginePlan, room: Room, *, network: str, abroad: str, memlock: bool
) -> dict[str, Any]:
    """For the engine of `folder` in `network`.

    `abroad` is where others reach it, `memlock` whether it may pin memory.
    """
    config: dict[str, Any] = {
        "Image": plan.image,
        "Env": [f"{name}={value}" for name, value in _environment(plan, room).items()],
        "Labels": {MANAGED: "1", FOLDER: str(folder), REPLICA: folder.name},
        "ExposedPorts": {f"{each.inside or each.port}/tcp": {} for each in plan.listens},
        # Whether it serves is for the daemon to judge; a probe of the image's own costs a process each time.
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {"NetworkMode": network, **_host(plan, room, abroad, memlock)},
    }
    if plan.argv and plan.entrypoint:
        config |= {"Entrypoint": list(plan.argv), "Cmd": []}
    elif plan.argv:
        config["Cmd"] = list(plan.argv)
    return config


def _environment(plan: EnginePlan, room: Room) -> dict[str, str]:
    # Images for GPUs ask for all of them, and a machine whose default runtime is NVIDIA's would give them.
    devices = {"NVIDIA_VISIBLE_DEVICES": ",".join(room.gpus) or "void"}
    return {"HOME": "/tmp", **plan.environment, **devices}  # noqa: S108 - the container's own


def _host(plan: EnginePlan, room: Room, abroad: str, memlock: bool) -> dict[str, Any]:
    memory = None if room.ram is None else room.ram * _MIB
    host: dict[str, Any] = {
        "PortBindings": {
            f"{each.inside or each.port}/tcp": [
                {"HostIp": abroad if each.abroad else "127.0.0.1", "HostPort": str(each.port)}
            ]
            for each in plan.listens
        },
        "Mounts": [
            {"Type": "bind", "Source": str(each), "Target": str(each), "ReadOnly": True} for each in room.folders
        ],
        "PidsLimit": _MOST_PROCESSES,
        "ShmSize": _SHARED_MEMORY if memory is None else min(_SHARED_MEMORY, memory),
        "OomScoreAdj": _OOM_SCORE,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Privileged": False,
        "RestartPolicy": {"Name": "no"},
        "Init": True,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
    }
    if memory is not None:
        # As much swap in all: none.
        host |= {"Memory": memory, "MemorySwap": memory}
    if room.cpu_cores is not None:
        host["NanoCpus"] = round(room.cpu_cores * 1e9)
    if room.gpus:
        host["DeviceRequests"] = [{"Driver": "", "DeviceIDs": list(room.gpus), "Capabilities": [["gpu"]]}]
    if memlock:
        host["Ulimits"] = [{"Name": "memlock", "Soft": -1, "Hard": -1}]
    return host
