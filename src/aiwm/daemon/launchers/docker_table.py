"""What is known of each replica's container, whether Docker can be asked or not.

A small file in the replica's folder says that it has a container, and which: with that, a daemon that starts while
Docker is away takes the engine to run on. What cannot be known is never an end.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiwm.daemon import keeper
from aiwm.daemon.launchers.docker_logs import microseconds
from aiwm.daemon.launchers.docker_words import DOCKER_RESTARTED, MACHINE_RESTARTED, REMOVED, end_of
from aiwm.daemon.launchers.port import Ended, Running

NOTE = "container.json"
_LIVING = ("running", "paused", "restarting")


@dataclass(slots=True)
class Known:
    """A container. `status` None: it was never started.

    `began` is Docker's word for its latest start, `killed` the last signal that others had it sent since.
    """

    name: str
    id: str = ""
    status: Running | Ended | None = None
    began: str = ""
    killed: int = 0
    ending: bool = False


class Table:
    """By replica folder. `listed` once Docker has said which containers there are."""

    def __init__(
        self, start_time: Callable[[int], int | None] = keeper.start_time, boot: Callable[[], str] = keeper.boot_id
    ) -> None:
        self._start_time, self._boot = start_time, boot()
        self._known: dict[Path, Known] = {}
        self.listed = False

    @property
    def used(self) -> bool:
        """Whether any folder has a container."""
        return bool(self._known)

    def find(self, folder: Path) -> Known | None:
        """None when the folder has no container, as far as anybody knows."""
        if folder not in self._known and (noted := self._noted(folder)) is not None:
            self._known[folder] = noted
        return self._known.get(folder)

    def begin(self, folder: Path, name: str) -> Known:
        """A container is about to be made. Raises `OSError`."""
        keeper.write_atomically(folder / NOTE, {"name": name})
        self._known[folder] = Known(name)
        return self._known[folder]

    def note(self, folder: Path, known: Known) -> None:
        """Writes down what runs. Raises `OSError`."""
        content: dict[str, Any] = {"name": known.name, "id": known.id, "bootId": self._boot}
        if isinstance(known.status, Running):
            content |= {"pid": known.status.pid, "startTime": known.status.start_time}
        keeper.write_atomically(folder / NOTE, content)

    def forget(self, folder: Path) -> None:
        """Nothing of it is left."""
        self._known.pop(folder, None)
        (folder / NOTE).unlink(missing_ok=True)

    def see(self, folder: Path, inspected: dict[str, Any], *, outage: bool = False) -> None:
        """Takes in what Docker says of a container; `outage` when it was away since the last time."""
        known = self.find(folder)
        if known is None:
            known = self._known[folder] = Known(inspected["Name"].lstrip("/"))
        if known.id not in ("", inspected["Id"]) and not isinstance(known.status, Ended):
            return
        before, now, began = known.status, self._status(inspected, known), str(inspected["State"]["StartedAt"])
        if isinstance(before, Ended) and isinstance(now, Running) and known.began == began:
            # Two answers came in the wrong order: what has ended runs again only after a new start.
            return
        if known.began != began:
            known.killed = 0
        if isinstance(now, Ended) and not inspected["State"].get("OOMKilled"):
            if before == MACHINE_RESTARTED:
                now = before
            elif outage and isinstance(before, Running):
                now = DOCKER_RESTARTED
        known.id, known.status, known.began = inspected["Id"], now, began

    def lose(self, folder: Path, container: str) -> None:
        """A container is gone; that is news unless it had ended before or we ended it."""
        known = self._known.get(folder)
        if known is not None and known.id == container and not known.ending and isinstance(known.status, Running):
            known.status = REMOVED

    def forgotten(self, replicas: Path) -> list[str]:
        """Names of containers that run for a replica below `replicas` of which nothing else is left there."""
        return sorted(
            known.name
            for folder, known in self._known.items()
            if isinstance(known.status, Running) and folder.parent == replicas and not folder.is_dir()
        )

    def containers(self) -> dict[Path, str]:
        """Every folder's container, by id."""
        return {folder: known.id for folder, known in self._known.items()}

    def _status(self, inspected: dict[str, Any], known: Known) -> Running | Ended | None:
        state = inspected["State"]
        if state["Status"] == "created":
            return None
        if state["Status"] not in _LIVING:
            return end_of(inspected, killed=known.killed)
        note = f"somebody paused its container; docker unpause {known.name}" if state["Paused"] else None
        pid = int(state["Pid"])
        return Running(pid, self._start_time(pid) or microseconds(state["StartedAt"]), note)

    def _noted(self, folder: Path) -> Known | None:
        try:
            note = json.loads((folder / NOTE).read_bytes())
            known = Known(str(note["name"]), str(note.get("id", "")))
            if "pid" in note:
                known.status = self._remembered(int(note["pid"]), int(note["startTime"]), note["bootId"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # It has one; which, its label will say.
            return Known("")
        return known

    def _remembered(self, pid: int, start_time: int, boot: str) -> Running | Ended:
        if boot != self._boot:
            return MACHINE_RESTARTED
        return REMOVED if self.listed else Running(pid, start_time)
