"""What `aiwm up` runs: the services of one machine, derived from its settings; secrets never go by argument."""

import asyncio
import json
import os
import ssl
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from aiwm.apps.up.folder import free_port
from aiwm.apps.up.supervisor import Service
from aiwm.infra.redis_server import prepare_redis, redis_answers
from aiwm.infra.secret_files import made_once, write_private
from aiwm.kit.settings import OF_ENGINES, Settings, key_ring, settable, variables

_PRODUCT = (sys.executable, "-P", "-m", "aiwm")
_NODE_SETTINGS = ("tls_ca", "advertise_host", *OF_ENGINES, "log_level")
# A daemon that ends engines gives them four seconds.
_NODE_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Stack:
    """The services, in groups that may start together; `settings` are complete."""

    settings: Settings
    redis: Service | None
    servers: tuple[Service, ...]
    node: Service | None
    controller_url: str
    noti_url: str


def describe(settings: Settings, *, node: bool, lock: int, lifeline: int) -> Stack:
    """Completes the settings with what is embedded (making secrets once) and says what to run.

    `lock` is inherited by every child, `lifeline` (the read end) by the node. Raises `SettingsError`.
    """
    folder = settings.data_dir
    made = {"jwt_secret": folder / "jwt-secret", "encryption_key": folder / "encryption-key"}
    complete = replace(
        settings,
        store_url=settings.store_url or f"sqlite://{folder}/aiwm.db",
        objects_url=settings.objects_url or f"file://{folder}/objects",
        jwt_secret=settings.jwt_secret or made_once(made["jwt_secret"]),
        encryption_key=settings.encryption_key or made_once(made["encryption_key"]),
    )
    key_ring(complete.jwt_secret, "AIWM_JWT_SECRET")
    key_ring(complete.encryption_key, "AIWM_ENCRYPTION_KEY")
    files = {name: path for name, path in made.items() if not getattr(settings, name)}
    if settings.jwt_secret_file:
        files["jwt_secret"] = Path(settings.jwt_secret_file)
    redis = None
    if not settings.redis_url:
        redis, url = _redis(folder, lock)
        complete = replace(complete, redis_url=url)
        files["redis_url"] = folder / "run" / "redis-url"
        write_private(files["redis_url"], url + "\n")
    reach = _reachable(settings.host)
    controller_url, noti_url = _urls(settings, reach)
    environment = _environment(complete, files)
    tls = _anybody() if settings.tls_cert else None
    token = folder / "node" / "token"
    controller = ("controller", *(("--local-node-file", str(token)) if node else ()))
    servers = (
        _server(folder, controller, environment, lock, partial(_http_missing, reach, settings.port, tls)),
        _server(folder, ("noti",), environment, lock, partial(_http_missing, reach, settings.noti_port, tls)),
        _server(folder, ("worker",), environment, lock, None),
    )
    return Stack(
        settings=complete,
        redis=redis,
        servers=servers,
        node=_node(complete, controller_url, token, lock, lifeline) if node else None,
        controller_url=controller_url,
        noti_url=noti_url,
    )


def _redis(folder: Path, lock: int) -> tuple[Service, str]:
    password = made_once(folder / "redis-password")
    port = free_port()
    service = Service(
        name="redis",
        arguments=prepare_redis(folder / "redis", port, password),
        environment=_inherited(),
        log=folder / "logs" / "redis.log",
        missing=partial(_redis_missing, port, password),
        inherit=(lock,),
    )
    return service, f"redis://:{password}@127.0.0.1:{port}/0"


def _server(
    folder: Path,
    arguments: tuple[str, ...],
    environment: Mapping[str, str],
    lock: int,
    missing: Callable[[], Awaitable[str]] | None,
) -> Service:
    name = arguments[0]
    command = (*_PRODUCT, *arguments)
    return Service(name, command, environment, folder / "logs" / f"{name}.log", missing, (lock,))


def _node(settings: Settings, controller_url: str, token: Path, lock: int, lifeline: int) -> Service:
    folder = settings.data_dir
    given = {f"AIWM_{name.upper()}": str(value) for name in _NODE_SETTINGS if (value := getattr(settings, name))}
    flags = ("--data-dir", str(folder), "--controller-url", controller_url, "--lifeline-fd", str(lifeline))
    return Service(
        name="node",
        arguments=(*_PRODUCT, "node", *flags),
        environment={**_inherited(), **given, "AIWM_NODE_TOKEN_FILE": str(token)},
        log=folder / "logs" / "node.log",
        inherit=(lock, lifeline),
        patience=_NODE_PATIENCE,
    )


def _environment(settings: Settings, files: Mapping[str, Path]) -> dict[str, str]:
    """Every setting by its variable, so that the child reads the same whatever its folder holds."""
    environment = _inherited()
    for each in settable():
        variable = each.metadata["variable"] or f"AIWM_{each.name.upper()}"
        if each.name in files:
            environment[f"{variable}_FILE"] = str(files[each.name])
        elif value := getattr(settings, each.name):
            environment[variable] = str(value)
    return environment


def _inherited() -> dict[str, str]:
    """Our environment without any setting."""
    known = variables()
    return {name: value for name, value in os.environ.items() if name not in known}


def _urls(settings: Settings, reach: str) -> tuple[str, str]:
    """Controller and NOTI as one calls them on this machine; over TLS by the name the certificate is for."""
    host = urlsplit(settings.own_url).hostname or reach if settings.tls_cert else reach.strip("[]")
    host = f"[{host}]" if ":" in host else host
    own = settings.own_url if settings.tls_cert else f"http://{host}:{settings.port}"
    return own, f"{settings.scheme}://{host}:{settings.noti_port}"


def _anybody() -> ssl.SSLContext:
    """Believes every certificate: our own children are asked, on this machine, whether they are ready, and no more."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _reachable(host: str) -> str:
    """An address of this machine by which a listener on `host` is reached."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


async def _redis_missing(port: int, password: str) -> str:
    return "" if await redis_answers(port, password) else "it does not answer"


async def _http_missing(host: str, port: int, tls: ssl.SSLContext | None = None) -> str:
    """What `/health/ready` names as not ready; nothing when it answers 200."""
    try:
        async with asyncio.timeout(5.0):
            reader, writer = await asyncio.open_connection(host.strip("[]"), port, ssl=tls)
            try:
                writer.write(f"GET /health/ready HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return "it does not answer"
    return "" if head.split()[1:2] == [b"200"] else _named(body)


def _named(body: bytes) -> str:
    """`redis is UNAVAILABLE, …` of a health report."""
    try:
        checks: dict[str, str] = json.loads(body)["checks"]
        return ", ".join(f"{name} is {answer}" for name, answer in checks.items() if answer != "ok")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "it says that it is not ready"
