"""Finding a Triton server on this machine, and what it needs around it.

The wheel `nvidia-pytriton` carries a real server with the Python backend, but keeps the backend's helper program
apart, one per Python version; the server wants it beside the backend. So a backend folder of our own is put together.
"""

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
    python = _python()
    stub = _stubs(binary) / python / _STUB
    if not stub.exists():
        have = ", ".join(sorted(path.name for path in _stubs(binary).iterdir()))
        raise Unavailable(f"cannot run triton: its Python backend knows Python {have}, and this is {python}")
    libraries = own / "lib"
    _alias(_names_of_libpython(stub), _libpython(), libraries)
    backends = own / "backends"
    _lay_out_backend(binary.parent.parent / "backends/python", stub, backends / "python")
    environment = {
        # The backend's helper ignores PYTHONPATH and takes the environment of the first python3 on PATH.
        "PATH": f"{Path(sys.executable).parent}:{_SYSTEM_PATH}",
        "LD_LIBRARY_PATH": f"{libraries}:{binary.parents[3] / 'nvidia_pytriton.libs'}",
    }
    return TritonInstall(binary, backends, environment, find_version(binary))


def _lay_out_backend(source: Path, stub: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for original in (*source.iterdir(), stub):
        link = target / original.name
        if original.name == _UTILITIES:
            _keep_text(link, original.read_text() + _NUMPY_2.read_text() + _TAKE)
            continue
        if original is stub:
            _copy(original, link)
        else:
            _link(link, original)


def _copy(source: Path, target: Path) -> None:
    """A copy, as the helper's loader looks beside the real file first, past the library folder it is given."""
    if not target.is_symlink() and target.is_file() and target.read_bytes() == source.read_bytes():
        return
    draft = target.with_name(f"{target.name}.{os.getpid()}.new")
    shutil.copy2(source, draft)
    draft.replace(target)


def _keep_text(path: Path, text: str) -> None:
    """Replaced whole, as an engine may be reading it, and only when it differs."""
    if path.is_file() and not path.is_symlink() and path.read_text() == text:
        return
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.write_text(text)
    draft.replace(path)


def _names_of_libpython(stub: Path) -> set[str]:
    """The names under which the helper may look for the Python library, its plain one among them."""
    return {found.decode() for found in re.findall(rb"libpython3[\w.-]*\.so[\d.]*", stub.read_bytes())}


def find_libpython() -> Path | None:
    """This interpreter's own shared library; also where set-up puts it when the system has none.

    The wheel's copy for 3.13 will not do: what Debian builds into its interpreter is missing there and on disk.
    """
    name = f"libpython{_python()}.so.1.0"
    multiarch = str(sysconfig.get_config_var("MULTIARCH") or "")
    folders = (Path(str(sysconfig.get_config_var("LIBDIR"))), Path(sys.base_prefix) / "lib", Path("/usr/lib"))
    fetched = Path(sys.prefix) / "share/aiwm/libpython/usr/lib"
    for folder in (*folders, *(each / multiarch for each in (*folders, fetched))):
        if (folder / name).is_file():
            return folder / name
    return None


def _libpython() -> Path:
    found = find_libpython()
    if found is None:
        raise Unavailable(
            f"cannot run triton: libpython{_python()}.so.1.0 is missing, which its Python backend needs; "
            f"install it with: apt-get install libpython{_python()}"
        )
    return found


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _alias(names: set[str], library: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        _link(folder / name, library)


def _link(link: Path, target: Path) -> None:
    if link.is_symlink() and link.readlink() == target:
        return
    link.unlink(missing_ok=True)
    link.symlink_to(target)
