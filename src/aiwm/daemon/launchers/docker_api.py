"""Docker's API, as much of it as engines need.

A Docker that is away is `Unavailable`; what it answers instead is `Refused`, in its own words, or `Failed`.
"""

import asyncio
import contextlib
import json
import math
import os
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from aiodocker import Docker
from aiodocker.exceptions import DockerError

from aiwm.daemon.launchers.docker_config import FOLDER, MANAGED
from aiwm.daemon.replicas import shorten
from aiwm.kit.settings import DOCKER_FORMS, names_docker
from aiwm.protocol.errors import AiwmError, Unavailable

_SOCKET = "unix:///var/run/docker.sock"
_UNIX = "unix://"
_SECONDS = 30.0
PING_SECONDS = 5.0
_START_SECONDS = 120.0
_GONE_SECONDS = 30.0
_NO_LIMIT = aiohttp.ClientTimeout()
_WATCHED = ["start", "die", "destroy", "kill", "oom", "pause", "unpause"]

Inspected = dict[str, Any]
T = TypeVar("T")


class Refused(AiwmError):
    """Docker does not do it: `answer` is the status it gave, `words` are its own."""

    default_code = "CONTAINER_START_FAILED"

    def __init__(self, answer: int, words: str) -> None:
        super().__init__(
            shorten(f"cannot use Docker: {words}; what it does besides is said by: journalctl --unit docker")
        )
        self.answer, self.words = answer, words


class Failed(Refused, Unavailable):
    """Docker could not do it: the same may work later."""

    default_code = "NETWORK_ERROR"


class DockerApi:
    """One Docker, by `host` as DOCKER_HOST has it; empty: where DOCKER_HOST says, else the usual socket."""

    def __init__(self, host: str = "") -> None:
        self.host = host or os.environ.get("DOCKER_HOST") or _SOCKET
        self._opened: tuple[Docker, aiohttp.BaseConnector | None] | None = None

    @property
    def local(self) -> bool:
        """Whether there is a socket of it on this machine that this user may use."""
        path = self.host.removeprefix(_UNIX)
        return self.host.startswith(_UNIX) and Path(path).is_socket() and os.access(path, os.W_OK)

    @property
    def named(self) -> bool:
        """Whether `host` is something that can be asked at all."""
        return names_docker(self.host)

    def _docker(self) -> Docker:
        if self._opened is None:
            if not self.named:
                raise self._away(f"DOCKER_HOST must be {DOCKER_FORMS}; set it, or AIWM_DOCKER_HOST to it or to off")
            if self.host.startswith(_UNIX):
                # A connection for each request: one that a Docker in its shutdown kept open would still answer, and
                # what it says of the containers it is just ending is not how they ended.
                connector = aiohttp.UnixConnector(self.host.removeprefix(_UNIX), force_close=True, limit=0)
                self._opened = Docker(url=f"{_UNIX}localhost", connector=connector), connector
            else:
                with self._translated(_SECONDS):
                    self._opened = Docker(url=self.host), None
        return self._opened[0]

    async def close(self) -> None:
        """Every connection ends; the next request opens anew."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened[0].close()
            if opened[1] is not None:
                await opened[1].close()

    async def ping(self) -> None:
        """Returns soon, if Docker answers."""
        async with self._stream("GET", "_ping", {}, seconds=PING_SECONDS):
            pass

    async def ours(self, folder: Path | None = None) -> list[str]:
        """The ids of our containers, in whatever state, or of those of one replica's folder."""
        labels = [f"{MANAGED}=1"] + ([] if folder is None else [f"{FOLDER}={folder}"])
        filters = json.dumps({"label": labels})
        found = await self._ask(self._docker().containers.list(all=True, filters=filters))
        return [each.id for each in found]

    async def inspect(self, container: str) -> Inspected | None:
        """Everything about a container, by id or name; None when there is none."""
        with _absent():
            found: Inspected = await self._ask(self._docker().containers.container(container).show())
            return found
        return None

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        """A new container's id."""
        made = await self._ask(self._docker().containers.create(config, name=name), _START_SECONDS)
        return made.id

    async def start(self, container: str) -> None:
        await self._ask(self._docker().containers.container(container).start(), _START_SECONDS)

    async def stop(self, container: str, grace: float) -> None:
        """Returns once it has ended, or does not exist; by force after `grace` seconds."""
        one = self._docker().containers.container(container)
        with _absent():
            found = await self.inspect(container)
            if found is not None and found["State"]["Paused"]:
                # It takes no signal, not even the last.
                await self._ask(one.unpause())
            await self._ask(one.stop(t=math.ceil(grace)), grace + _SECONDS)

    async def remove(self, container: str) -> None:
        """Ended by force where it runs, and gone with its anonymous volumes when this returns."""
        with _absent():
            await self._ask(self._docker().containers.container(container).delete(force=True, v=True), _GONE_SECONDS)

    async def image(self, reference: str) -> Inspected | None:
        """An image that is here; None when it is not."""
        with _absent():
            return await self._ask(self._docker().images.inspect(reference))
        return None

    async def networks(self, name: str) -> list[Inspected]:
        """Those of this name: Docker may know several."""
        found = await self._ask(self._docker().networks.list(filters={"name": [name]}))
        return [each for each in found if each["Name"] == name]

    async def make_network(self, config: Mapping[str, Any]) -> None:
        await self._ask(self._docker().networks.create(dict(config)))

    @contextlib.asynccontextmanager
    async def pull(
        self, reference: str, headers: Mapping[str, str], seconds: float
    ) -> AsyncIterator[AsyncIterator[Inspected]]:
        """What Docker tells while it pulls, as soon as its registry answers. An `error` among that is the pull's."""
        params = {"fromImage": reference}
        async with self._stream("POST", "images/create", params, headers, seconds) as answer:
            yield _lines(answer)

    @contextlib.asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[Inspected]]:
        """What happens to our containers from now on."""
        filters = {"type": ["container"], "label": [f"{MANAGED}=1"], "event": _WATCHED}
        async with self._stream("GET", "events", {"filters": json.dumps(filters)}) as answer:
            yield _lines(answer)

    @contextlib.asynccontextmanager
    async def log(self, container: str, **params: str) -> AsyncIterator[aiohttp.StreamReader]:
        """What a container wrote, each line with its time, in Docker's frames."""
        asked = {"stdout": "1", "stderr": "1", "timestamps": "1", **params}
        async with self._stream("GET", f"containers/{container}/logs", asked) as answer:
            yield answer.content

    @contextlib.asynccontextmanager
    async def _stream(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
        seconds: float = _SECONDS,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        # The library reads some of these into memory as a whole, and leaves the others open when they are left early.
        docker = self._docker()
        if docker.api_version == "auto":
            await self._ask(docker.version())
        url = f"{docker.docker_host}/{docker.api_version}/{path}"
        asked = docker.session.request(method, url, params=params, headers=headers, timeout=_NO_LIMIT)
        with self._translated(seconds):
            async with asyncio.timeout(seconds):
                answer = await asked
            async with answer:
                if answer.status >= 400:
                    raise DockerError(answer.status, _message(await answer.read()))
                yield answer

    async def _ask(self, question: Awaitable[T], seconds: float = _SECONDS) -> T:
        with self._translated(seconds):
            async with asyncio.timeout(seconds):
                return await question

    @contextlib.contextmanager
    def _translated(self, seconds: float) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise Unavailable(
                f"cannot reach Docker at {self.host}: no answer for {seconds:.0f} s", code="TIMEOUT"
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._away(str(error)) from error
        except DockerError as error:
            # The library's own number for "no connection".
            if error.status == 900:
                raise self._away(error.message) from error
            refusal = Failed if error.status >= 500 else Refused
            raise refusal(error.status, error.message) from error

    def _away(self, reason: str) -> Unavailable:
        why = next((words for sign, words in _REASONS.items() if sign in reason), reason)
        return Unavailable(f"cannot reach Docker at {self.host}: {why}", code="NETWORK_ERROR")


_REASONS = {
    "No such file": "it does not run; start it with: systemctl start docker",
    "Connection refused": "it does not run; start it with: systemctl start docker",
    "payload is not completed": "it ended the connection",
    "Permission denied": "this user may not; add it to the group docker",
}


@contextlib.contextmanager
def _absent() -> Iterator[None]:
    """A container or image that is not there is no failure."""
    try:
        yield
    except Refused as error:
        if error.answer != 404:
            raise


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[Inspected]:
    async for line in answer.content:
        try:
            yield json.loads(line)
        except ValueError as error:
            raise DockerError(answer.status, "the connection to Docker was cut") from error


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")
