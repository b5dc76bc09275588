"""A dockerd of the tests' own: its data, its bridge and its socket are apart from any other, and it leaves no trace.

It publishes ports through its proxy alone and writes no firewall rule, so several can run side by side: containers
reach the host and each other, and nothing beyond. As on Debian its containerd is a service apart.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests import servers
from tests.engines import docker_api
from tests.engines.docker_api import DockerError

_READY_SECONDS = 30.0
_END_SECONDS = 20.0
_CONTAINERD = """
version = 2
root = "{folder}/r"
state = "{folder}/s"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "{folder}/c.sock"
"""


def needed() -> None:
    """Skips the test where no dockerd can run."""
    if shutil.which("dockerd") is None:
        pytest.skip("no dockerd: apt-get install docker.io")
    if os.geteuid() != 0:
        pytest.skip("no dockerd without being root: run the tests as root")
    if shutil.which("ip") is None:
        pytest.skip("no ip: apt-get install iproute2")


class Dockerd:
    """Runs from `start` to `close`; `restart`, `stop` and `kill` are what happens to a dockerd in between.

    With `live_restore` containers outlive it. `pids` gets the pids of all that it starts.
    """

    def __init__(self, *, live_restore: bool = True, pids: set[int] | None = None) -> None:
        # A socket's path has 107 bytes: not below a test's own folder.
        self.folder = Path(tempfile.mkdtemp(prefix="dk"))
        self.socket = self.folder / "docker.sock"
        self.live_restore = live_restore
        self.name = f"aiwm{secrets.token_hex(3)}"
        self.gateway = f"10.{secrets.randbelow(55) + 200}.{secrets.randbelow(256)}.1"
        self._pids = set() if pids is None else pids
        self._process: subprocess.Popen[bytes] | None = None
        self._containerd: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What makes any Docker client talk to this one."""
        return {"DOCKER_HOST": f"unix://{self.socket}"}

    @property
    def log(self) -> str:
        """What it has said so far."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Returns once it answers."""
        if self._containerd is None:
            self._lay_bridge()
            (self.folder / "containerd.toml").write_text(_CONTAINERD.format(folder=self.folder))
            self._containerd = self._run(["containerd", f"--config={self.folder}/containerd.toml"])
            self._wait(self._containerd, (self.folder / "c.sock").exists)
        self._process = self._run(self._command())
        self._wait(self._process, self._answers)

    def stop(self) -> None:
        """As a service manager does it: SIGTERM, and a while to end."""
        if self._process is not None:
            servers.stop(self._process, _END_SECONDS)
            self._process = None

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def hung(self) -> Iterator[None]:
        """It is there and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stopped and started again."""
        self.stop()
        self.start()

    def call(self, method: str, route: str, **given: Any) -> Any:
        """Docker's answer as JSON, None when it is empty: `call("GET", "/info")`."""
        text = docker_api.call(self.socket, method, route, **given)
        return json.loads(text) if text.strip() else None

    def pull(self, image: str, headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
        """The events of pulling `image`; raises when it went wrong."""
        return docker_api.lines(
            docker_api.call(self.socket, "POST", "/images/create", query={"fromImage": image}, headers=headers)
        )

    def push(self, image: str, where: str, headers: dict[str, str]) -> None:
        """Puts a local image into a registry under the name `where`, `HOST:PORT/NAME:TAG`."""
        repository, tag = where.rsplit(":", 1)
        self.call("POST", f"/images/{image}/tag", query={"repo": repository, "tag": tag})
        route = f"/images/{repository}/push"
        docker_api.lines(
            docker_api.call(
                self.socket, "POST", route, query={"tag": tag}, headers={"X-Registry-Auth": "e30="} | headers
            )
        )
        self.call("DELETE", f"/images/{where}")

    def add_image(self, name: str, root: Iterable[bytes], changes: Iterable[str] = ()) -> None:
        """An image of one layer from the tar of a root file system; `changes` are lines of a Dockerfile."""
        repository, tag = name.rsplit(":", 1)
        query = {"fromSrc": "-", "repo": repository, "tag": tag, "changes": "\n".join(changes)}
        docker_api.lines(docker_api.call(self.socket, "POST", "/images/create", query=query, stream=root))

    def run(
        self, image: str, *command: str, port: int | None = None, env: dict[str, str] | None = None, **host: Any
    ) -> str:
        """Starts a container and returns its id; `host` goes into its HostConfig, `port` to a free one of 127.0.0.1."""
        variables = [f"{name}={value}" for name, value in (env or {}).items()]
        body: dict[str, Any] = {"Image": image, "Cmd": list(command), "Env": variables, "HostConfig": host}
        if port is not None:
            body["ExposedPorts"] = {f"{port}/tcp": {}}
            host["PortBindings"] = {f"{port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
        container = str(self.call("POST", "/containers/create", body=body)["Id"])
        self.call("POST", f"/containers/{container}/start")
        return container

    def state(self, container: str) -> dict[str, Any]:
        """`Status`, `Running`, `OOMKilled`, `ExitCode`, …"""
        found: dict[str, Any] = self.call("GET", f"/containers/{container}/json")["State"]
        return found

    def logs(self, container: str) -> str:
        """What it has printed, on both streams."""
        query = {"stdout": "1", "stderr": "1"}
        framed = docker_api.call(self.socket, "GET", f"/containers/{container}/logs", query=query)
        return docker_api.unframed(framed).decode(errors="replace")

    def url(self, container: str, port: int) -> str:
        """Where the container's `port` is published."""
        ports = self.call("GET", f"/containers/{container}/json")["NetworkSettings"]["Ports"]
        return f"http://127.0.0.1:{ports[f'{port}/tcp'][0]['HostPort']}"

    def remove(self, container: str) -> None:
        """Whatever it does just now."""
        self.call("DELETE", f"/containers/{container}", query={"force": "1", "v": "1"})

    def left_behind(self) -> list[str]:
        """Containers and volumes there are, and removes them."""
        containers = self.call("GET", "/containers/json", query={"all": "1"})
        for each in containers:
            self.remove(each["Id"])
        volumes = self.call("GET", "/volumes")["Volumes"] or []
        for each in volumes:
            self.call("DELETE", f"/volumes/{each['Name']}")
        return [each["Names"][0] for each in containers] + [each["Name"] for each in volumes]

    def close(self) -> None:
        """Takes it down with everything that it started and made, in whatever state it is."""
        with suppress(RuntimeError, OSError):
            if self._process is None:
                self.start()
            self.left_behind()
            # A bridge outlives whoever made it.
            for each in self.call("GET", "/networks", query={"filters": '{"label": ["ai.aiwm.managed=1"]}'}):
                self.call("DELETE", f"/networks/{each['Id']}")
        self.stop()
        if self._containerd is not None:
            servers.stop(self._containerd, _END_SECONDS)
        _end_shims(str(self.folder))
        _unmount(str(self.folder))
        _remove_cgroups(self.name)
        subprocess.run(["ip", "link", "delete", self.name], capture_output=True, check=False)
        shutil.rmtree(self.folder)

    def _command(self) -> list[str]:
        folder = self.folder
        settings = folder / "settings.json"
        settings.write_text("{}")
        options = {
            "config-file": settings,
            "host": f"unix://{self.socket}",
            "data-root": folder / "data",
            "exec-root": folder / "x",
            "containerd": folder / "c.sock",
            "pidfile": folder / "pid",
            "bridge": self.name,
            "cgroup-parent": f"/{self.name}",
            "exec-opt": "native.cgroupdriver=cgroupfs",
            "live-restore": str(self.live_restore).lower(),
            "iptables": "false",
            "ip6tables": "false",
            "ip-forward": "false",
            "ip-masq": "false",
            "shutdown-timeout": "5",
        }
        return ["dockerd", *(f"--{name}={value}" for name, value in options.items())]

    def _run(self, command: list[str]) -> "subprocess.Popen[bytes]":
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._pids.add(process.pid)
        return process

    def _wait(self, process: "subprocess.Popen[bytes]", ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dockerd did not start:\n{self.log[-2000:]}")
            time.sleep(0.02)

    def _lay_bridge(self) -> None:
        if not Path("/sys/class/net", self.name).exists():
            for words in (
                f"link add name {self.name} type bridge",
                f"address add {self.gateway}/24 dev {self.name}",
                f"link set {self.name} up",
            ):
                subprocess.run(["ip", *words.split()], capture_output=True, check=True)

    def _answers(self) -> bool:
        with suppress(OSError, DockerError):
            docker_api.call(self.socket, "GET", "/_ping", timeout=2)
            return True
        return False


def lives(process: psutil.Process) -> bool:
    """Whether it still runs, and does not merely wait for someone to take note of its end."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _end_shims(folder: str) -> None:
    """Those that no dockerd ended, with their sockets; a container's processes are below its shim."""
    ended: list[psutil.Process] = []
    for each in psutil.process_iter(["name", "cmdline"]):
        if str(each.info["name"]).startswith("containerd-shim") and folder in " ".join(each.info["cmdline"] or ()):
            with suppress(psutil.NoSuchProcess):
                sockets = [str(connection.laddr) for connection in each.net_connections("unix")]
                family = [*each.children(recursive=True), each]
                for process in family:
                    process.send_signal(signal.SIGKILL)
                ended += family
                for socket in filter(None, sockets):
                    Path(socket).unlink(missing_ok=True)
    deadline = time.monotonic() + _END_SECONDS
    while any(lives(each) for each in ended) and time.monotonic() < deadline:
        time.sleep(0.02)


def _unmount(folder: str) -> None:
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for each in reversed([path for path in mounted if path.startswith(f"{folder}/")]):
        subprocess.run(["umount", "--lazy", each], capture_output=True, check=False)


def _remove_cgroups(name: str) -> None:
    for top in (*Path("/sys/fs/cgroup").glob(f"*/{name}"), Path("/sys/fs/cgroup", name)):
        for folder, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)


@contextmanager
def dockerd(*, live_restore: bool = True, pids: set[int] | None = None) -> Iterator[Dockerd]:
    """One that answers, gone afterwards; skips where none can run."""
    needed()
    one = Dockerd(live_restore=live_restore, pids=pids)
    try:
        try:
            one.start()
        except (RuntimeError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no dockerd that runs here: {str(error)[-300:]}")
        yield one
    finally:
        one.close()
