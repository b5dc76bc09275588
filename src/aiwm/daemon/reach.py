"""Whether a node can reach its controller, step by step, so that the failing step is named; what its token says."""

import base64
import binascii
import http.client
import json
import socket
import ssl
import time
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from aiwm.daemon.checks import Check
from aiwm.kit.trust import distrusted

_SECONDS = 5.0
_SKEW_WARN, _SKEW_FAIL = 5.0, 60.0
_SOON_SECONDS = 3 * 86_400


def controller(url: str, trust: ssl.SSLContext | None) -> list[Check]:
    """Name, connection, certificate, answer and clock; ends with the first that fails."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    what = "controller"
    try:
        addresses = sorted({str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except (OSError, UnicodeError) as error:
        advice = "correct AIWM_CONTROLLER_URL, or this machine's DNS"
        return [Check("fail", what, f"the name {host!r} is not known: {error}", advice)]
    try:
        with socket.create_connection((host, port), timeout=_SECONDS) as plain:
            peer = plain.getpeername()[0]
    except OSError as error:
        advice = "see that it runs and that no firewall is between"
        tried = ", ".join(addresses)
        return [Check("fail", what, f"no connection to {host} port {port} ({tried}): {_said(error)}", advice)]
    reached = Check("ok", what, f"{host} port {port} at {peer} takes connections")
    return [reached, *_answer(url, host, port, trust)]


def _answer(url: str, host: str, port: int, trust: ssl.SSLContext | None) -> list[Check]:
    secure = urlsplit(url).scheme == "https"
    context = trust or ssl.create_default_context()
    connection = (
        http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=context)
        if secure
        else http.client.HTTPConnection(host, port, timeout=_SECONDS)
    )
    path = f"{urlsplit(url).path}/health/live"
    try:
        began = time.time()
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read(65_536)
        middle = (began + time.time()) / 2
    except ssl.SSLError as error:
        cause, _, advice = (distrusted(error) or _said(error)).partition("; ")
        return [Check("fail", "certificate", cause, advice or "see that AIWM_CONTROLLER_URL names a port for HTTPS")]
    except (OSError, http.client.HTTPException) as error:
        advice = "see that AIWM_CONTROLLER_URL names AIWM's controller, and https:// where it speaks that"
        return [Check("fail", "answer", f"nothing sensible on {path}: {_said(error)}", advice)]
    finally:
        connection.close()
    checks = [Check("ok", "certificate", "trusted")] if secure else []
    if answer.status != 200:
        advice = "see that AIWM_CONTROLLER_URL names AIWM's controller, and see its log"
        return [*checks, Check("fail", "answer", f"{path} says {answer.status}", advice)]
    return [*checks, Check("ok", "answer", f"{path} says 200"), clock(answer.headers.get("Date"), middle)]


def clock(date: str | None, now: float) -> Check:
    """This machine's clock beside the controller's `Date`, which is cut to whole seconds."""
    try:
        theirs = parsedate_to_datetime(date or "").timestamp() + 0.5
    except ValueError:
        return Check("warn", "clock", "cannot be compared: the controller does not say its time")
    skew = now - theirs
    off = max(0.0, abs(skew) - 0.5)
    value = f"{off:.0f} s {'ahead of' if skew > 0 else 'behind'} the controller's" if off >= 1 else "right"
    advice = "keep both right with chrony or systemd-timesyncd"
    if off > _SKEW_FAIL:
        return Check("fail", "clock", value, f"{advice}: tokens and certificates fail")
    return Check("warn", "clock", value, advice) if off > _SKEW_WARN else Check("ok", "clock", value)


def token(text: str, now: float) -> Check:
    """When it ends, as it says itself: only the controller can tell whether it is genuine."""
    if not text:
        return Check(
            "fail", "token", "none", "set AIWM_JOIN_TOKEN (from `aiwm nodes join-token`) or the node's AIWM_NODE_TOKEN"
        )
    expires = _expiry(text)
    if expires is None:
        return Check("warn", "token", "there, but not in a form that says when it ends", "see that it is whole")
    left = expires - now
    until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(expires))
    if left <= 0:
        return Check("fail", "token", f"ended {until}", "make a new one with `aiwm nodes token NAME`")
    if left < _SOON_SECONDS:
        return Check("warn", "token", f"ends {until}", "it is renewed while the node is connected; see that it is")
    return Check("ok", "token", f"there, until {until}")


def _expiry(text: str) -> float | None:
    pieces = text.split(".")
    if len(pieces) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(pieces[1] + "=" * (-len(pieces[1]) % 4)))
        expires = float(claims["exp"])
        time.gmtime(expires)
    except (ValueError, KeyError, TypeError, OverflowError, OSError, binascii.Error, RecursionError):
        return None
    return expires


def _said(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
