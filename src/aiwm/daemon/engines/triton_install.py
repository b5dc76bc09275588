"""Finding a Triton server on this machine, and what it needs around it.

The wheel `nvidia-pytriton` carries a real server with the Python backend, but keeps the backend's helper program
apart, one per Python version; the server wants it beside the backend. So a backend folder of our own is put together.
"""

import ctypes.util
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from aiwm.daemon.engines import triton_numpy2
from aiwm.protocol.errors import Unavailable

_SYSTEM = Path("/opt/tritonserver/bin/tritonserver")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_WHEEL = "nvidia-pytriton"
# The wheel does not say which server it carries.
_WHEEL_SERVERS = {"0.7.0": "2.51.0"}
_UTILITIES = "triton_python_backend_utils.py"
_NUMPY_2 = Path(triton_numpy2.__file__)
_TAKE = """
import c_python_backend_utils
take_dlpack(c_python_backend_utils, np)
"""
_STUB = "triton_python_backend_stub"


@dataclass(frozen=True, slots=True)
class TritonInstall:
    """A server to run. `backends` is its backend folder, if it must be named."""

    binary: Path
    backends: Path | None
    environment: dict[str, str]
    version: str | None


def find_binary(setting: str) -> Path | None:
    """The server that the setting names, or the first found: on PATH, in NVIDIA's image, in the wheel."""
    if setting:
        return Path(setting)
    if found := shutil.which("tritonserver"):
        return Path(found)
    if _SYSTEM.exists():
        return _SYSTEM
    spec = importlib.util.find_spec("pytriton")
    for place in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(place) / "tritonserver/bin/tritonserver"
        if binary.exists():
            return binary
    return None


def find_version(binary: Path) -> str | None:
    """The server's version, without starting it."""
    if _stubs(binary).is_dir():
        try:
            return _WHEEL_SERVERS.get(metadata.version(_WHEEL))
        except metadata.PackageNotFoundError:
            return None
    try:
        return (binary.parent.parent / "TRITON_VERSION").read_text().strip()
    except OSError:
        return None


def open_install(binary: Path, own: Path) -> TritonInstall:
    """The server made ready to run, with what must be put together below `own`. Raises `Unavailable`."""
    if not binary.is_file():
        raise Unavailable(f"cannot run triton: {binary} is not there; check AIWM_TRITON_SERVER")
    if _stubs(binary).is_dir():
        return _open_wheel(binary, own)
    home = binary.resolve().parent.parent
    backends = home / "backends"
    libraries = [str(path) for path in (home / "lib",) if path.is_dir()]
    environment = {"PATH": _SYSTEM_PATH}
    if libraries:
        environment["LD_LIBRARY_PATH"] = ":".join(libraries)
    return TritonInstall(binary, backends if backends.is_dir() else None, environment, find_version(binary))


def _stubs(binary: Path) -> Path:
    return binary.parent.parent / "python_backend_stubs"


def _open_wheel(binary: Path, own: Path) -> TritonInstall:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = _stubs(binary) / python / _STUB
    if not stub.exists():
        have = ", ".join(sorted(path.name for path in _stubs(binary).iterdir()))
        raise Unavailable(f"cannot run triton: its Python backend knows Python {have}, and this is {python}")
    bundled = binary.parents[3] / "nvidia_pytriton.libs"
    libraries = [str(path) for path in (_libpython_folder(stub, bundled), bundled) if path]
    backends = own / "backends"
    _lay_out_backend(binary.parent.parent / "backends/python", stub, backends / "python")
    environment = {
        # The backend's helper ignores PYTHONPATH and takes the environment of the first python3 on PATH.
        "PATH": f"{Path(sys.executable).parent}:{_SYSTEM_PATH}",
        "LD_LIBRARY_PATH": ":".join(dict.fromkeys(libraries)),
    }
    return TritonInstall(binary, backends, environment, find_version(binary))


def _lay_out_backend(source: Path, stub: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for original in (*source.iterdir(), stub):
        link = target / original.name
        if original.name == _UTILITIES:
            _keep_text(link, original.read_text() + _NUMPY_2.read_text() + _TAKE)
            continue
        if link.is_symlink() and link.readlink() == original:
            continue
        link.unlink(missing_ok=True)
        link.symlink_to(original)


def _keep_text(path: Path, text: str) -> None:
    """Replaced whole, as an engine may be reading it, and only when it differs."""
    if path.is_file() and not path.is_symlink() and path.read_text() == text:
        return
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.write_text(text)
    draft.replace(path)


def _libpython_folder(stub: Path, bundled: Path) -> Path | None:
    """Where the Python library is that the stub is linked to; None when the system's loader finds it by itself."""
    # The wheel's own copy has another name, and the helper that is linked to it still holds the plain one as well.
    names = {found.decode() for found in re.findall(rb"libpython3[\w.-]*\.so[\d.]*", stub.read_bytes())}
    for folder in (bundled, Path(str(sysconfig.get_config_var("LIBDIR"))), Path(sys.base_prefix) / "lib"):
        if any((folder / name).is_file() for name in names):
            return folder
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if ctypes.util.find_library(f"python{python}"):
        return None
    raise Unavailable(
        f"cannot run triton: libpython{python}.so is missing, which its Python backend needs; "
        f"install it with: apt-get install libpython{python}"
    )
