"""Images made on this machine, as no public registry is assumed to be there. Their tars are kept under `.cache/engines`
until what they are made of changes.

`BUSYBOX` pretends to be an engine, in all the ways that one can misbehave; `TRITON` has the layout of NVIDIA's image
and `VLLM` that of vLLM's, both with the real server in them.
"""

import hashlib
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

import pytest
from tests.engines import rootfs
from tests.engines.dockerd import Dockerd
from tests.engines.vllm import vllm_needed

from aiwm.daemon.engines.triton_install import find_libpython, open_install

BUSYBOX = "lab/busybox:1"
TRITON = "lab/tritonserver:2.51.0"
VLLM = "lab/vllm-openai:0.32.0"

_CACHE = Path(__file__).resolve().parents[2] / ".cache/engines"
_CHUNK = 1 << 20
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_APPLETS = ("cat", "env", "head", "httpd", "id", "ls", "nc", "ps", "sh", "sleep", "tail", "touch", "wget", "yes")
# Every verb that serves answers /health on PORT, 8080 unless it is given.
_ENGINE = """#!/bin/sh
serve() { httpd -f -p "${PORT:-8080}" -h /www & }
case "$1" in
    serve) trap 'exit 0' TERM; serve; wait ;;
    stubborn) trap '' TERM; serve; while :; do sleep 1; done ;;
    finish) exit 0 ;;
    fail) echo "cannot load the model: ${2:-it is broken}" >&2; exit 1 ;;
    eat) serve; exec tail /dev/zero ;;
    flood) trap 'exit 0' TERM; serve; yes "a line of a log that nobody reads" | head -c "${2:-1073741824}"; wait ;;
    *) exec "$@" ;;
esac
"""


def add_busybox(docker: Dockerd) -> str:
    """The verbs of `_ENGINE` are its commands: serve, stubborn, finish, fail WORDS, eat, flood BYTES."""
    binary = shutil.which("busybox")
    if binary is None:
        pytest.skip("no busybox: apt-get install busybox-static")

    def fill(path: Path) -> None:
        with rootfs.rootfs(path) as root:
            root.file(Path(binary), "/bin/busybox")
            for applet in _APPLETS:
                root.link(f"/bin/{applet}", "busybox")
            root.text("/bin/engine", _ENGINE, 0o755)
            root.text("/www/health", "ok\n")

    key = str(Path(binary).stat().st_mtime_ns)
    return _add(docker, BUSYBOX, key, fill, ['ENTRYPOINT ["/bin/engine"]', 'CMD ["serve"]'])


def add_triton(docker: Dockerd) -> str:
    """`tritonserver` is on PATH, its Python backend has numpy."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        pytest.skip("no tritonserver; install it with: pip install 'aiwm[triton]'")
    if find_libpython() is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        pytest.skip(f"no libpython{version}: apt-get install libpython{version}")
    site = Path(spec.origin).parents[1]

    def fill(path: Path) -> None:
        with tempfile.TemporaryDirectory() as own:
            binary = site / "pytriton/tritonserver/bin/tritonserver"
            install = open_install(binary, Path(own))
            aliases, libraries = Path(own, "lib"), site / "nvidia_pytriton.libs"
            with rootfs.rootfs(path, [aliases, libraries]) as root:
                root.file(binary, "/opt/tritonserver/bin/tritonserver")
                root.folder(install.backends or Path(own), "/opt/tritonserver/backends")
                root.text("/opt/tritonserver/TRITON_VERSION", f"{install.version}\n")
                for program in ("bash", "sh"):
                    root.program(program, f"/bin/{program}")
                root.python([site / "numpy", site / "numpy.libs"])

    key = f"{metadata.version('nvidia-pytriton')} {metadata.version('numpy')}"
    return _add(docker, TRITON, key, fill, [f"ENV PATH=/opt/tritonserver/bin:{_PATH}"])


def add_vllm(docker: Dockerd) -> str:
    """Takes vLLM's arguments, as vLLM's own image does. It has no compiler: give it --enforce-eager."""
    venv = vllm_needed()
    site = next(venv.glob("lib/python3*/site-packages"))

    def fill(path: Path) -> None:
        with rootfs.rootfs(path) as root:
            for program in ("bash", "sh", "lscpu"):
                root.program(program, f"/bin/{program}")
            root.python([site])
            script = (venv / "bin/vllm").read_text().partition("\n")[2]
            root.text("/usr/local/bin/vllm", f"#!/usr/local/bin/python3\n{script}", 0o755)

    key = (venv / ".aiwm-vllm").read_text()
    return _add(docker, VLLM, key, fill, ['ENTRYPOINT ["vllm", "serve"]'])


def _add(docker: Dockerd, name: str, key: str, fill: Callable[[Path], None], changes: Sequence[str]) -> str:
    recipe = "".join(Path(each).read_text() for each in (__file__, str(rootfs.__file__)))
    digest = hashlib.sha256(f"{key} {sys.version} {recipe}".encode()).hexdigest()[:16]
    stem = name.split("/")[1].split(":")[0]
    path = _CACHE / f"{stem}-{digest}.tar"
    if not path.exists():
        for outdated in _CACHE.glob(f"{stem}-*.tar"):
            outdated.unlink()
        fill(path)
    docker.add_image(name, _chunks(path), changes)
    return name


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
