"""Every request that matters is put on record by the service itself, so that no route can forget to.

On record go sign-ins, refusals (401, 403), whatever may have changed something, and tokens given out. What changes
something is answered only once its entry is kept; when that fails the answer is 503 and says that the work was done.
A refusal stands even when its entry cannot be kept.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aiwm.http.gate import API
from aiwm.http.paths import takes_raw_body
from aiwm.http.problems import problem
from aiwm.kit.acting import Act, current_act
from aiwm.protocol.audit import AuditTarget, Category, Outcome
from aiwm.protocol.errors import AiwmError, Unavailable

log = logging.getLogger(__name__)

_SIGN_IN = f"{API}/auth/"
_MUTATING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_VERBS = {"POST": "create", "PUT": "replace", "PATCH": "update", "DELETE": "delete"}
_PARAMETER = re.compile(r"\{[^}]*\}")
_IDS = {"organizations": "orgId"}
_MAX_BODY_READ = 262_144


@dataclass(frozen=True, slots=True)
class Deed:
    """What goes on record; who, whence and when are the log's to add."""

    category: Category
    action: str
    target: AuditTarget
    outcome: Outcome
    status: int | None = None
    code: str | None = None


async def _unrecorded(request: Request) -> None:
    request.state.unrecorded = True


UNRECORDED = Depends(_unrecorded)
"""On a route that changes nothing, or only what its caller has read: it needs no entry, whatever its method says."""


class Recorder(Protocol):
    """Keeps the record."""

    async def record(self, deed: Deed, act: Act) -> None:
        """Returns when it is kept; raises `AiwmError` when it cannot be."""
        ...


class Audited:
    """The middleware; it stands inside the edge, which says who acts, and outside of everything that may refuse."""

    def __init__(self, app: ASGIApp, recorder: Recorder) -> None:
        self._app, self._recorder = app, recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        act = current_act()
        if scope["type"] != "http" or act is None:
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, receive, send, act, self._recorder)
        try:
            await self._app(scope, receive, answer.send)
        except Exception:
            await answer.broke()
            raise


class _Answer:
    """One answer on its way out, held back until its entry is kept where it needs one."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, act: Act, recorder: Recorder) -> None:
        self._scope, self._receive, self._send, self._act, self._recorder = scope, receive, send, act, recorder
        self._held: Message | None = None
        self._begun = self._replaced = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            if category_of(self._scope, message["status"]) is not None:
                self._held = message
                return
        elif self._held is not None:
            start, self._held = self._held, None
            if not await self._kept(start, message):
                return
            await self._send(start)
        if not self._replaced:
            await self._send(message)

    async def broke(self) -> None:
        """The service failed in the middle: what it changed until then is not known."""
        category = None if self._begun else category_of(self._scope, 500)
        if category is not None:
            await self._record(
                Deed(category, action_of(self._scope), _target(self._scope, self._act, {}), "failed", 500)
            )

    async def _kept(self, start: Message, body: Message) -> bool:
        status = int(start["status"])
        category = category_of(self._scope, status)
        assert category is not None  # noqa: S101 - it was held for that
        payload = _payload(start, body)
        code = payload.get("code") if status >= 400 else None
        deed = Deed(
            category,
            action_of(self._scope),
            _target(self._scope, self._act, {} if status >= 400 else payload),
            "ok" if status < 400 else "failed" if status >= 500 else "denied",
            status,
            code if isinstance(code, str) else None,
        )
        if await self._record(deed) or status >= 400:
            return True
        self._replaced = True
        error = Unavailable(
            "cannot confirm the request: it was carried out, but could not be put on record; "
            "look at what is there before you send it again",
            code="AUDIT_UNAVAILABLE",
        )
        await problem(error, self._scope["path"])(self._scope, self._receive, self._send)
        return False

    async def _record(self, deed: Deed) -> bool:
        try:
            await self._recorder.record(deed, self._act)
        except AiwmError as error:
            log.error("cannot put on record", extra={"action": deed.action, "code": error.code})  # noqa: TRY400
            return False
        return True


def category_of(scope: Scope, status: int) -> Category | None:
    """What kind of entry a request with this answer needs, None for none."""
    path, method = str(scope["path"]), str(scope["method"])
    signs_in = path.startswith(_SIGN_IN) and method == "POST"
    if signs_in and status != 422 and _route(scope) is not None:
        return "token" if path.endswith("/refresh") and status < 400 else "signin"
    if status in (401, 403):
        return "denial"
    state = scope.get("state", {})
    if method not in _MUTATING or takes_raw_body(path) or 400 <= status < 500 or state.get("unrecorded"):
        return None
    return "token" if state.get("answer_is_secret") else "mutation"


def action_of(scope: Scope) -> str:
    """`nodes.create`, `nodes.token`, `models.uploads.complete`: the path's words, and the method's verb."""
    template = _route(scope)
    path = str(scope["path"]) if template is None else template
    steps = [step for step in path.removeprefix(API).split("/") if step]
    if template is None:
        steps = steps[:1]
    words = [step for step in steps if not _PARAMETER.fullmatch(step)]
    method = str(scope["method"])
    says_verb = len(words) > 1 and not _PARAMETER.fullmatch(steps[-1]) and method == "POST"
    return ".".join(words if says_verb else [*words, _VERBS.get(method, "read")])


def _route(scope: Scope) -> str | None:
    """The template of the path that a route took, with the prefix of the API or without."""
    path: str | None = getattr(scope.get("route"), "path", None)
    return path


def _target(scope: Scope, act: Act, payload: Mapping[str, object]) -> AuditTarget:
    steps = [step for step in str(scope["path"]).removeprefix(API).split("/") if step]
    kind = steps[0] if steps else "service"
    # A blob's path names a token that opens it, and no id.
    named = None if kind == "blobs" else next(iter(scope.get("path_params", {}).values()), None)
    target_id = act.target_id or named or payload.get(_id_field(kind))
    owner = payload.get("owner")
    org_id = act.target_org_id or (owner.get("orgId") if isinstance(owner, dict) else None)
    return AuditTarget(
        kind=kind[:64],
        id=target_id[:128] if isinstance(target_id, str) else None,
        org_id=org_id if isinstance(org_id, str) else None,
    )


def _id_field(kind: str) -> str:
    first, *others = kind.removesuffix("s").split("-")
    return _IDS.get(kind) or first + "".join(each.capitalize() for each in others) + "Id"


def _payload(start: Message, body: Message) -> dict[str, object]:
    content = body.get("body", b"")
    kind = Headers(raw=list(start["headers"])).get("content-type", "")
    if body.get("more_body") or "json" not in kind or len(content) > _MAX_BODY_READ:
        return {}
    try:
        payload = json.loads(content)
    except ValueError:
        return {}
    return payload if isinstance(payload, dict) else {}
