"""AWS Signature Version 4 in a URL's query: what lets anyone who holds the URL make exactly that request."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

_ALGORITHM = "AWS4-HMAC-SHA256"
_DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_EXPIRES = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Presigner:
    """Signs requests to one bucket, addressed by path (`<endpoint>/<bucket>/<key>`)."""

    endpoint: str
    bucket: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)

    def url(
        self,
        method: str,
        key: str = "",
        *,
        expires: int,
        query: Mapping[str, str] | None = None,
        now: datetime | None = None,
    ) -> str:
        """The signed URL of `key` (of the bucket itself when empty), good for `expires` seconds, at most a week."""
        origin = urlsplit(self.endpoint)
        host = _host(origin.scheme, origin.hostname or "", origin.port)
        path = quote(f"/{self.bucket}/{key}" if key else f"/{self.bucket}", safe="/-_.~")
        stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{stamp[:8]}/{self.region}/s3/aws4_request"
        fields = {
            **(query or {}),
            "X-Amz-Algorithm": _ALGORITHM,
            "X-Amz-Credential": f"{self.access_key}/{scope}",
            "X-Amz-Date": stamp,
            "X-Amz-Expires": str(min(expires, MAX_EXPIRES)),
            "X-Amz-SignedHeaders": "host",
        }
        text = "&".join(f"{_escaped(name)}={_escaped(value)}" for name, value in sorted(fields.items()))
        request = "\n".join((method, path, text, f"host:{host}\n", "host", "UNSIGNED-PAYLOAD"))
        to_sign = "\n".join((_ALGORITHM, stamp, scope, hashlib.sha256(request.encode()).hexdigest()))
        signature = hmac.new(self._signing_key(scope), to_sign.encode(), hashlib.sha256).hexdigest()
        return f"{origin.scheme}://{host}{path}?{text}&X-Amz-Signature={signature}"

    def _signing_key(self, scope: str) -> bytes:
        key = f"AWS4{self.secret_key}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), hashlib.sha256)
        return key


def _escaped(text: str) -> str:
    return quote(text, safe="-_.~")


def _host(scheme: str, name: str, port: int | None) -> str:
    """What clients send as `Host`: they leave out a scheme's own port, so the signature must too."""
    shown = f"[{name}]" if ":" in name else name
    return shown if port is None or port == _DEFAULT_PORTS.get(scheme) else f"{shown}:{port}"
