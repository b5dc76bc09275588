"""Opens the object store that a setting names."""

from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from aiwm.infra.objects.local import LocalObjects
from aiwm.infra.objects.port import Objects
from aiwm.infra.objects.presign import Presigner
from aiwm.infra.objects.s3 import S3Objects
from aiwm.infra.objects.tickets import BlobTickets
from aiwm.kit.settings import SettingsError

_OPTIONS = frozenset({"endpoint", "publicEndpoint", "region"})


async def open_objects(
    url: str, *, access_key: str, secret_key: str, public_base: str, tickets: BlobTickets
) -> Objects:
    """`file:///FOLDER`, or `s3://BUCKET?endpoint=…&publicEndpoint=…&region=…` (without endpoint: AWS).

    `public_base` and `tickets` are for the URLs of a local folder, the keys for S3. Raises `SettingsError` for a URL
    that cannot be used, `Unavailable` when the server cannot be reached.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            raise SettingsError("cannot use AIWM_OBJECTS_URL: a folder is written file:///ABSOLUTE/PATH")
        return LocalObjects(Path(unquote(parts.path)), public_base, b"", tickets=tickets)
    if parts.scheme == "s3" and parts.netloc and parts.path in ("", "/"):
        if not access_key or not secret_key:
            raise SettingsError("cannot use AIWM_OBJECTS_URL: set AIWM_S3_ACCESS_KEY and AIWM_S3_SECRET_KEY too")
        options = _options(parts.query)
        region = options.get("region", "us-east-1")
        endpoint = options.get("endpoint", f"https://s3.{region}.amazonaws.com")
        signer = Presigner(endpoint, parts.netloc, region, access_key, secret_key)
        return await S3Objects.open(signer, options.get("publicEndpoint", ""))
    raise SettingsError("cannot use AIWM_OBJECTS_URL: it must be file:///FOLDER or s3://BUCKET?endpoint=…")


def _options(query: str) -> dict[str, str]:
    options = {name: values[-1] for name, values in parse_qs(query).items()}
    for name in options:
        if name not in _OPTIONS:
            raise SettingsError(f"cannot use AIWM_OBJECTS_URL: unknown option {name!r}; known: {sorted(_OPTIONS)}")
    for name in ("endpoint", "publicEndpoint"):
        if name in options:
            options[name] = _origin(name, options[name])
    return options


def _origin(name: str, url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise SettingsError(f"cannot use AIWM_OBJECTS_URL: {name} must be like http://HOST:PORT, without a path")
    return f"{parts.scheme}://{parts.netloc}"
