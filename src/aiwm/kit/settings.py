"""Settings: flags over environment over `aiwm.toml` over defaults, read once, refused when unknown or wrong.

Every setting is one field of `Settings`; its variable is `AIWM_` and the field's name in capitals unless it says
otherwise. A secret may come from a file: `<VARIABLE>_FILE`.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_IGNORED = re.compile(r"AIWM_(TEST|BUILD)_")
_INJECTED = re.compile(r"AIWM_\w*_(SERVICE|PORT)(_\w+)?")
_FILES = ("tls_cert", "tls_key", "tls_ca", "registry_auth_file")
DOCKER_FORMS = "unix:///PATH, tcp://HOST:PORT or http(s)://HOST:PORT"
MIN_SECRET_BYTES = 32
OF_ENGINES = (
    *("triton_server", "vllm_server", "trust_remote_code", "custom_commands"),
    *("docker_host", "allowed_images", "registry_auth_file", "triton_image", "vllm_image"),
)
"""What a node is told of the engines it runs."""


class SettingsError(Exception):
    """A setting that cannot be used; the message is one line that says which and what to do."""


def _setting(
    default: object,
    about: str,
    *,
    secret: bool = False,
    variable: str | None = None,
    aliases: tuple[str, ...] = (),
    derived: bool = False,
) -> Any:
    return field(
        default=default,
        repr=not secret,
        metadata={"about": about, "secret": secret, "variable": variable, "aliases": aliases, "derived": derived},
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of all processes; what a process does not need it does not look at."""

    data_dir: Path = _setting(Path("~/.aiwm"), "everything the embedded defaults keep")
    store_url: str = _setting("", "sqlite:///PATH or mongodb://…/hydra-aiwm", secret=True)
    redis_url: str = _setting("", "redis://HOST:PORT/DB", secret=True)
    objects_url: str = _setting("", "file://PATH or s3://bucket?endpoint=…")
    s3_access_key: str = _setting("", "access key of an S3 object store", secret=True)
    s3_secret_key: str = _setting("", "secret key of an S3 object store", secret=True)
    host: str = _setting("127.0.0.1", "listen address")
    port: int = _setting(3003, "port of the controller")
    noti_port: int = _setting(3002, "port of NOTI")
    public_url: str = _setting("", "what clients and nodes are told; from host and port when empty")
    jwt_secret: str = _setting("", "signs tokens; several lines are a key ring", secret=True)
    jwt_secret_file: str = _setting("", "the file that jwt_secret came from; read again when it changes", derived=True)
    jwks_url: str = _setting("", "where an external IAM publishes its keys; with jwt_issuer and jwt_audience")
    jwt_issuer: str = _setting("", "the external IAM's issuer (iss)")
    jwt_audience: str = _setting("", "what its tokens for us name as audience (aud)")
    encryption_key: str = _setting("", "seals stored secrets; same form", secret=True)
    tls_cert: str = _setting("", "file of the certificate, PEM with its chain: serve HTTPS and WSS with it")
    tls_key: str = _setting("", "file of its key, PEM without a passphrase")
    tls_ca: str = _setting("", "file of authorities that clients and nodes trust besides the system's, PEM")
    allowed_origins: str = _setting("", "browser origins for REST and sockets, comma-separated")
    allowed_addresses: str = _setting("", "private networks that URLs of users may name: CIDRs, comma-separated")
    rate_limit: int = _setting(300, "requests a second for each principal, five times as many at once; 0: no limit")
    rate_limit_address: int = _setting(600, "the same for each address")
    admin_password: str = _setting("", "password of the first user, admin", secret=True)
    controller_url: str = _setting("", "where the node daemon dials")
    node_token: str = _setting("", "the node daemon's token", secret=True, aliases=("NODE_TOKEN",))
    join_token: str = _setting("", "makes this machine a node, once", secret=True)
    node_name: str = _setting("", "what the node is called when it joins; the host's name when empty")
    advertise_host: str = _setting("", "this node's address that the gateway may dial")
    triton_server: str = _setting("", "path of the tritonserver binary; found by itself when empty")
    vllm_server: str = _setting("", "path of the vllm command; found by itself when empty")
    trust_remote_code: bool = _setting(False, "whether deployments may run Python code that comes with a model")
    custom_commands: bool = _setting(False, "whether deployments of engine custom may run commands on this node")
    docker_host: str = _setting("", "Docker for engines in containers; DOCKER_HOST when empty; off: none")
    allowed_images: str = _setting("", "images that may run, comma-separated patterns; empty: the engines' own")
    registry_auth_file: str = _setting("", "file of registries' credentials, as docker login writes it")
    triton_image: str = _setting("nvcr.io/nvidia/tritonserver:24.10-py3", "image where Triton is not installed")
    vllm_image: str = _setting("vllm/vllm-openai:v0.11.0", "image where vLLM is not installed")
    log_level: str = _setting("INFO", "DEBUG, INFO, WARNING or ERROR")
    hf_endpoint: str = _setting("https://huggingface.co", "HuggingFace hub", variable="HF_ENDPOINT")
    hf_token: str = _setting("", "token for the hub", secret=True, variable="HF_TOKEN")

    @property
    def own_url(self) -> str:
        """The controller's public URL, without a trailing slash."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104 - compared, not bound
        return (self.public_url or f"{self.scheme}://{host}:{self.port}").rstrip("/")

    @property
    def scheme(self) -> str:
        """What controller and NOTI speak."""
        return "https" if self.tls_cert else "http"

    @property
    def plain_abroad(self) -> bool:
        """Whether tokens and passwords travel unencrypted beyond this machine."""
        return not self.tls_cert and self.host != "localhost" and not _is_loopback(self.host)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _variable(name: str, given: str | None) -> str:
    return given or f"AIWM_{name.upper()}"


def settable() -> list["Field[Any]"]:
    """The settings somebody can give; the others follow from these."""
    return [each for each in fields(Settings) if not each.metadata["derived"]]


def variables() -> dict[str, str]:
    """Every variable's name and the field it sets, aliases and `_FILE` forms of secrets included."""
    known: dict[str, str] = {}
    for each in settable():
        names = (_variable(each.name, each.metadata["variable"]), *each.metadata["aliases"])
        for variable in names:
            known[variable] = each.name
            if each.metadata["secret"]:
                known[f"{variable}_FILE"] = each.name
    return known


def load_settings(
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    config: Path | None = None,
) -> Settings:
    """The settings in force.

    `flags` are by field name, None meaning "not given"; `config` defaults to `aiwm.toml` in the working folder, where
    there is one. Raises `SettingsError`.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, object] = {}
    values.update(_from_file(config))
    values.update(_from_environment(environment))
    values.update({name: value for name, value in (flags or {}).items() if value is not None})
    return Settings(**_typed(values))  # type: ignore[arg-type]


def _from_file(config: Path | None) -> dict[str, object]:
    path = config or Path("aiwm.toml")
    if not path.exists():
        if config is not None:
            raise SettingsError(f"cannot read the settings file {path}: it does not exist")
        return {}
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the settings file {path}: {error}") from error
    names = [each.name for each in settable()]
    for key in values:
        if key not in names:
            raise SettingsError(f"unknown key {key!r} in {path}{_nearest(key, names)}")
    return values


def _from_environment(environment: Mapping[str, str]) -> dict[str, object]:
    known = variables()
    values: dict[str, object] = {}
    for variable, value in environment.items():
        if variable in known:
            if value:
                values.update(_given(known[variable], variable, value))
        elif variable.startswith("AIWM_") and not _IGNORED.match(variable) and not _INJECTED.fullmatch(variable):
            raise SettingsError(f"unknown setting {variable}{_nearest(variable, list(known))}")
    return values


def injected(environment: Mapping[str, str]) -> list[str]:
    """Variables that container links injected under our prefix: not settings, worth a warning."""
    known = variables()
    return sorted(name for name in environment if name not in known and _INJECTED.fullmatch(name))


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"; the nearest valid one is {close[0]}" if close else ""


def read_secret(variable: str, path: str) -> str:
    """The secret in the file that a variable or flag names. Raises `SettingsError`."""
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the file that {variable} names: {error}") from error


def _given(name: str, variable: str, value: str) -> dict[str, object]:
    """What one variable sets: of the key ring also where it came from, as that is read again when it changes."""
    is_file = variable.endswith("_FILE")
    given: dict[str, object] = {name: read_secret(variable, value) if is_file else value}
    if name == "jwt_secret":
        given["jwt_secret_file"] = str(Path(value).absolute()) if is_file else ""
    return given


def _typed(values: Mapping[str, object]) -> dict[str, object]:
    typed: dict[str, object] = {}
    for name, value in values.items():
        if name in ("port", "noti_port"):
            typed[name] = _port(name, value)
        elif name in ("rate_limit", "rate_limit_address"):
            typed[name] = _count(name, value)
        elif name in ("trust_remote_code", "custom_commands"):
            typed[name] = _truth(name, value)
        elif name == "data_dir":
            typed[name] = Path(str(value)).expanduser().absolute()
        elif name in _FILES:
            typed[name] = str(Path(str(value)).expanduser().absolute()) if value else ""
        elif isinstance(value, str):
            typed[name] = value
        else:
            raise SettingsError(f"the setting {name} must be text, not {value!r}")
    typed.setdefault("data_dir", Path("~/.aiwm").expanduser())
    _check_choice(typed)
    return typed


def _port(name: str, value: object) -> int:
    try:
        port = int(str(value))
    except ValueError:
        port = -1
    if not 1 <= port <= 65_535:
        raise SettingsError(f"the setting {name} must be a port from 1 to 65535, not {value!r}")
    return port


def _count(name: str, value: object) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise SettingsError(f"the setting {name} must be a whole number from 0, not {value!r}")
    return int(text)


def _truth(name: str, value: object) -> bool:
    text = str(value).lower()
    if text not in ("true", "false"):
        raise SettingsError(f"the setting {name} must be true or false, not {value!r}")
    return text == "true"


def _check_choice(values: Mapping[str, object]) -> None:
    if bool(values.get("tls_cert")) is not bool(values.get("tls_key")):
        raise SettingsError("AIWM_TLS_CERT and AIWM_TLS_KEY go together: set both or none")
    level = values.get("log_level", "INFO")
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise SettingsError(f"the setting log_level must be DEBUG, INFO, WARNING or ERROR, not {level!r}")
    schemes = {
        "store_url": ("sqlite:", "mongodb:", "mongodb+srv:"),
        "redis_url": ("redis:", "rediss:"),
        "objects_url": ("file:", "s3:"),
        "public_url": ("http:", "https:"),
        "controller_url": ("http:", "https:", "ws:", "wss:"),
        "hf_endpoint": ("http:", "https:"),
        "jwks_url": ("http:", "https:"),
    }
    for name, allowed in schemes.items():
        value = str(values.get(name, ""))
        if value and not value.startswith(tuple(f"{scheme}//" for scheme in allowed)):
            raise SettingsError(f"the setting {name} must begin with {' or '.join(f'{each}//' for each in allowed)}")
    docker_host = str(values.get("docker_host", ""))
    if docker_host not in ("", "off") and not names_docker(docker_host):
        raise SettingsError(f"the setting docker_host must be off or {DOCKER_FORMS}, not {docker_host!r}")


def names_docker(host: str) -> bool:
    """Whether Docker can be asked at `host`, which is then of one of `DOCKER_FORMS`."""
    try:
        parts = urlsplit(host)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme == "unix":
        return host.startswith("unix:///") and len(parts.path) > 1
    return parts.scheme in ("tcp", "http", "https") and bool(parts.hostname) and port != 0


def key_ring(text: str, variable: str) -> tuple[bytes, ...]:
    """The keys in a secret, one a line: the first signs, all verify. Raises `SettingsError` for a short one."""
    keys = tuple(line.strip().encode() for line in text.splitlines() if line.strip())
    if not keys:
        raise SettingsError(f"{variable} is not set; make one with: openssl rand -hex 32")
    if any(len(key) < MIN_SECRET_BYTES for key in keys):
        raise SettingsError(
            f"{variable} must hold keys of at least {MIN_SECRET_BYTES} bytes; make one with: openssl rand -hex 32"
        )
    return keys
