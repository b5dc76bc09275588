"""For the walk over every route: callers of every role, and things of the organizations they belong to and do not."""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from aiwm.access.principal import Principal
from aiwm.access.records import UserRecord
from aiwm.deployments.placement import Fleet
from aiwm.infra.objects.local import LocalObjects
from aiwm.infra.store.records import new_base
from aiwm.kit.ids import new_id
from aiwm.models.uploads import UploadService
from aiwm.notifications.records import InboxRecord
from aiwm.notifications.rules import inbox_id
from aiwm.notifications.streams import Streams
from aiwm.protocol.notifications import Recipients
from aiwm.protocol.resources.api_keys import ApiKeyCreate
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.resources.deployments import DeploymentCreate
from aiwm.protocol.resources.join_tokens import JoinTokenCreate
from aiwm.protocol.resources.models import ModelCreate, UploadCreate, UploadFile
from aiwm.protocol.resources.nodes import NodeCreate
from aiwm.protocol.states import Desired, Framework, PrincipalKind, Role, Severity
from aiwm.testing.world import World

PASSWORD = "correct horse battery"
ROLES = tuple(role.value for role in Role)
CALLERS = (*ROLES, "anonymous", "node")


def an_address() -> str:
    """One that nobody had before: what fails often from one address has to wait there."""
    return f"2001:db8:{secrets.token_hex(2)}:{secrets.token_hex(2)}::1"


@dataclass(frozen=True)
class Caller:
    user_id: str
    username: str
    token: str | None


@dataclass(frozen=True)
class Ask:
    """What to send: values for the path's parameters, a body, headers. `caller` where it is another than usual."""

    values: dict[str, str] = field(default_factory=dict)
    body: object = None
    caller: Caller | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Tenants:
    """Two organizations in a world, and one caller of each kind in the first."""

    world: World
    noti_url: str
    own: str
    foreign: str
    callers: dict[str, Caller] = field(default_factory=dict)

    def org_id(self, record: str) -> str | None:
        return {"own": self.own, "foreign": self.foreign, "shared": None}.get(record, self.own)

    async def caller(self, role: str) -> Caller:
        """A new user of the first organization, signed in."""
        if role == "anonymous":
            return Caller("", "", None)
        if role == "node":
            node = self.world.controller.nodes.record(await self.node(self.own))
            return Caller(node.id, node.name, self.world.controller.nodes.token(node, 3600).token)
        name = new_id("user")
        made = {"username": name, "password": PASSWORD, "roles": [role], "orgId": self.own}
        user = await self.world.call("POST", "/api/v1/users", json=made, expect=201)
        return Caller(str(user["userId"]), name, await self.sign_in(name))

    async def sign_in(self, username: str, password: str = PASSWORD) -> str:
        """A user's access token; each signs in from an address of its own, as one address may not do so this often."""
        sessions = self.world.controller.access.sessions
        return (await sessions.login(username, password, an_address())).access_token

    async def organization(self) -> str:
        made = await self.world.call("POST", "/api/v1/organizations", json={"name": new_id("org")}, expect=201)
        return str(made["orgId"])

    async def user(self, org_id: str | None, role: Role = Role.ORGANIZATION_VIEWER) -> str:
        """A user's id; it has no password, so that making it is quick."""
        base = new_base("user", owner=Owner(org_id=org_id), by=None, at=self.world.infra.clock.now())
        name = new_id("user")
        own = {"username": name, "unique_key": name, "password_hash": "", "org_id": org_id, "roles": [role]}
        return (await self.world.controller.users.users.insert(UserRecord.model_validate({**base, **own}))).id

    async def node(self, org_id: str | None) -> str:
        params = NodeCreate(name=new_id("node"))
        return (await self.world.controller.nodes.create(params, owner=Owner(org_id=org_id), by=None)).node_id

    async def join_token(self, org_id: str | None, node_id: str | None = None) -> tuple[str, str]:
        """A join token's id and the token; an owner of its organization made it."""
        maker = await self.user(org_id, Role.ORGANIZATION_OWNER)
        params, owner = JoinTokenCreate(node_id=node_id), Owner(org_id=org_id, user_id=maker)
        made = await self.world.controller.join_tokens.create(params, owner=owner, by=maker)
        return made.join_token_id, made.token

    async def model(self, org_id: str | None) -> str:
        params = ModelCreate(name=new_id("model"), framework=Framework.TRITON)
        return (await self.world.controller.models.create(params, owner=Owner(org_id=org_id), by=None)).model_id

    async def deployment(self, org_id: str | None) -> tuple[str, str]:
        """A stopped deployment's id and name."""
        model = await self.world.controller.models.record(await self.model(org_id))
        params = DeploymentCreate(name=new_id("d"), model_id=model.id, desired=Desired.STOPPED)
        owner, deployments = Owner(org_id=org_id), self.world.controller.deployments
        made = await deployments.create(params, model, Fleet({}), owner=owner, by=None)
        return made.deployment_id, made.name

    async def upload(self, org_id: str | None) -> tuple[str, str, dict[str, object]]:
        """An upload whose only part is there: its model's id, its own, and what completes it."""
        world = self.world
        uploads = UploadService(world.infra.store, world.infra.objects, world.infra.clock, world.controller.relay.wake)
        model = await world.controller.models.record(await self.model(org_id))
        made = await uploads.create(model, UploadCreate(files=[UploadFile(path="x", size=1)]), by=None)
        async with world.http.put(made.files[0].parts[0].url, data=b"x") as answer:
            part = {"partNumber": 1, "etag": answer.headers["ETag"]}
        return model.id, made.upload_id, {"files": [{"path": "x", "parts": [part]}]}

    async def blob(self, method: str) -> str:
        """A ticket to put a part, or to get a blob that is there."""
        objects, key = self.world.infra.objects, f"walk/{new_id('blob')}"
        assert isinstance(objects, LocalObjects)
        upload_id = await objects.create_upload(key)
        if method == "PUT":
            return objects.part_url(key, upload_id, 1, expires=60).rpartition("/")[2]
        async with self.world.http.put(objects.part_url(key, upload_id, 1, expires=60), data=b"x") as answer:
            await objects.complete_upload(key, upload_id, [(1, answer.headers["ETag"].strip('"'))])
        return self.world.infra.tickets.sign("GET", key, expires=60)

    async def api_key(self, user_id: str, org_id: str | None) -> str:
        """A key of a user."""
        who = Principal(PrincipalKind.USER, user_id, "whoever", org_id, frozenset())
        params = ApiKeyCreate(name=new_id("key"), scopes=["inference"])
        return (await self.world.controller.access.api_keys.create(who, params)).api_key_id

    async def notification(self, user_id: str) -> str:
        """A notification in a user's inbox."""
        store, clock = self.world.infra.store, self.world.infra.clock
        stream, told = await Streams(store, clock).stream(user_id), new_id("note")
        entry = InboxRecord(
            id=inbox_id(user_id, told),
            user_id=user_id,
            notification_id=told,
            event="system.notification",
            severity=Severity.NORMAL,
            recipients=Recipients(),
            seq=1,
            epoch=stream.epoch,
            created_at=clock.now(),
            correlation_id="walk",
        )
        await store.insert("notificationInbox", entry.model_dump(mode="python", by_alias=True, exclude_none=True))
        return told

    async def status(self, service: str, method: str, path: str, ask: Ask, caller: Caller) -> int:
        """What a caller is answered."""
        for name, value in ask.values.items():
            path = path.replace("{" + name + "}", value)
        url = (self.world.url if service == "aiwm" else self.noti_url) + path
        signed = {} if caller.token is None else {"Authorization": f"Bearer {caller.token}"}
        headers = {**signed, **ask.headers}
        options: dict[str, Any] = {} if ask.body is None else {"json": ask.body}
        if method == "PUT" and "/blobs/" in path:
            options = {"data": b"x"}
        async with aiohttp.request(method, url, headers=headers, **options) as answer:
            await answer.read()
            return answer.status


Recipe = Callable[[Tenants, str, str], Awaitable[Ask]]


def _of(make: Callable[[Tenants, str | None], Awaitable[str]], name: str, body: object = None) -> Recipe:
    async def recipe(tenants: Tenants, record: str, _caller: str) -> Ask:
        return Ask({name: await make(tenants, tenants.org_id(record))}, body)

    return recipe


def _sends(body: object) -> Recipe:
    async def recipe(_tenants: Tenants, _record: str, _caller: str) -> Ask:
        return Ask(body=body)

    return recipe


def _deployment(body: object = None) -> Recipe:
    async def recipe(tenants: Tenants, record: str, _caller: str) -> Ask:
        deployment_id, _ = await tenants.deployment(tenants.org_id(record))
        return Ask({"deployment_id": deployment_id, "path": "v2/models/x"}, body)

    return recipe


async def _named_model(tenants: Tenants, record: str, _caller: str) -> Ask:
    _, name = await tenants.deployment(tenants.org_id(record))
    return Ask({"path": name if record == "own" else f"{tenants.foreign}/{name}"})


async def _wish(tenants: Tenants, record: str, _caller: str) -> Ask:
    model_id = await tenants.model(tenants.org_id(record))
    return Ask(body={"name": new_id("d"), "modelId": model_id, "desired": "stopped"})


def _user(body: object = None) -> Recipe:
    async def recipe(tenants: Tenants, record: str, caller: str) -> Ask:
        if record == "self":
            alone = await tenants.caller(caller)
            return Ask({"user_id": alone.user_id or tenants.callers["organization.owner"].user_id}, body, alone)
        role = Role.UNIVERSE_VIEWER if record == "universe" else Role.ORGANIZATION_VIEWER
        return Ask({"user_id": await tenants.user(tenants.org_id(record), role)}, body)

    return recipe


async def _new_user(tenants: Tenants, record: str, _caller: str) -> Ask:
    role = Role.UNIVERSE_VIEWER if record == "universe" else Role.ORGANIZATION_VIEWER
    org_id = tenants.org_id(record)
    return Ask(body={"username": new_id("user"), "password": PASSWORD, "roles": [role.value], "orgId": org_id})


async def _new_organization(_tenants: Tenants, _record: str, _caller: str) -> Ask:
    return Ask(body={"name": new_id("org")})


def _organization(body: object = None) -> Recipe:
    async def recipe(tenants: Tenants, record: str, _caller: str) -> Ask:
        return Ask({"org_id": tenants.own if record == "own" else await tenants.organization()}, body)

    return recipe


def _shareable(**more: object) -> Recipe:
    async def recipe(_tenants: Tenants, record: str, _caller: str) -> Ask:
        return Ask(body={"name": new_id("new"), "shared": record == "shared", **more})

    return recipe


def _join_token(body: object = None) -> Recipe:
    async def recipe(tenants: Tenants, record: str, _caller: str) -> Ask:
        token_id, _ = await tenants.join_token(tenants.org_id(record))
        return Ask({"join_token_id": token_id}, body)

    return recipe


async def _new_join_token(tenants: Tenants, record: str, _caller: str) -> Ask:
    """For a node of the caller's, one of everybody's, and to let a foreign one in again."""
    return Ask(
        body={"nodeId": await tenants.node(tenants.foreign)} if record == "foreign" else {"shared": record == "shared"}
    )


async def _join(tenants: Tenants, record: str, _caller: str) -> Ask:
    token = (await tenants.join_token(tenants.own))[1] if record == "own" else "aiwm_join_none_of-ours"
    return Ask(body={"joinToken": token, "name": new_id("node")}, headers={"X-Forwarded-For": an_address()})


def _upload(complete: bool = False) -> Recipe:
    async def recipe(tenants: Tenants, record: str, _caller: str) -> Ask:
        model_id, upload_id, done = await tenants.upload(tenants.org_id(record))
        return Ask({"model_id": model_id, "upload_id": upload_id}, done if complete else None)

    return recipe


def _blob(method: str) -> Recipe:
    async def recipe(tenants: Tenants, record: str, _caller: str) -> Ask:
        return Ask({"token": await tenants.blob(method) if record == "own" else "none.of-ours"})

    return recipe


async def _login(tenants: Tenants, _record: str, _caller: str) -> Ask:
    return Ask(body={"username": tenants.callers["organization.viewer"].username, "password": PASSWORD})


async def _alone(tenants: Tenants, _record: str, caller: str) -> Ask:
    return Ask(caller=await tenants.caller(caller))


async def _notification(tenants: Tenants, record: str, caller: str) -> Ask:
    whose = {"self": tenants.callers[caller].user_id, "own": await tenants.user(tenants.own)}.get(record)
    return Ask({"notification_id": await tenants.notification(whose or await tenants.user(tenants.foreign))})


async def _new_key(_tenants: Tenants, _record: str, _caller: str) -> Ask:
    return Ask(body={"name": new_id("key"), "scopes": ["manage"]})


def _api_key(body: object = None) -> Recipe:
    async def recipe(tenants: Tenants, record: str, caller: str) -> Ask:
        org_id = tenants.org_id(record)
        user_id = tenants.callers[caller].user_id if record == "self" else await tenants.user(org_id)
        return Ask({"api_key_id": await tenants.api_key(user_id, org_id)}, body)

    return recipe


_TOUCH = {"metadata": {"touched": True}}
_NODE, _MODEL = "/api/v1/nodes/{node_id}", "/api/v1/models/{model_id}"
_JOIN_TOKEN = "/api/v1/join-tokens/{join_token_id}"
_DEPLOYMENT, _UPLOAD = "/api/v1/deployments/{deployment_id}", "/api/v1/models/{model_id}/uploads/{upload_id}"
_NEWS = {"title": "t", "message": "m", "recipients": {"orgIds": ["org-of-nobody"]}}

RECIPES: dict[tuple[str, str], Recipe] = {
    ("POST", "/api/v1/auth/login"): _login,
    ("POST", "/api/v1/auth/refresh"): _sends({"refreshToken": "not.a.token"}),
    ("POST", "/api/v1/auth/logout"): _alone,
    ("POST", "/api/v1/users"): _new_user,
    ("GET", "/api/v1/users/{user_id}"): _user(),
    ("PATCH", "/api/v1/users/{user_id}"): _user(_TOUCH),
    ("DELETE", "/api/v1/users/{user_id}"): _user(),
    ("POST", "/api/v1/users/{user_id}/password"): _user({"password": PASSWORD}),
    ("POST", "/api/v1/organizations"): _new_organization,
    ("GET", "/api/v1/organizations/{org_id}"): _organization(),
    ("PATCH", "/api/v1/organizations/{org_id}"): _organization(_TOUCH),
    ("DELETE", "/api/v1/organizations/{org_id}"): _organization(),
    ("POST", "/api/v1/api-keys"): _new_key,
    ("GET", "/api/v1/api-keys/{api_key_id}"): _api_key(),
    ("PATCH", "/api/v1/api-keys/{api_key_id}"): _api_key(_TOUCH),
    ("DELETE", "/api/v1/api-keys/{api_key_id}"): _api_key(),
    ("POST", "/api/v1/nodes"): _shareable(),
    ("GET", _NODE): _of(Tenants.node, "node_id"),
    ("GET", f"{_NODE}/metrics"): _of(Tenants.node, "node_id"),
    ("PATCH", _NODE): _of(Tenants.node, "node_id", _TOUCH),
    ("DELETE", _NODE): _of(Tenants.node, "node_id"),
    ("POST", f"{_NODE}/token"): _of(Tenants.node, "node_id", {}),
    ("POST", f"{_NODE}/revoke"): _of(Tenants.node, "node_id"),
    ("POST", f"{_NODE}/cordon"): _of(Tenants.node, "node_id"),
    ("POST", f"{_NODE}/uncordon"): _of(Tenants.node, "node_id"),
    ("POST", "/api/v1/nodes/join"): _join,
    ("POST", "/api/v1/join-tokens"): _new_join_token,
    ("GET", _JOIN_TOKEN): _join_token(),
    ("PATCH", _JOIN_TOKEN): _join_token(_TOUCH),
    ("DELETE", _JOIN_TOKEN): _join_token(),
    ("POST", "/api/v1/models"): _shareable(),
    ("GET", _MODEL): _of(Tenants.model, "model_id"),
    ("PATCH", _MODEL): _of(Tenants.model, "model_id", _TOUCH),
    ("DELETE", _MODEL): _of(Tenants.model, "model_id"),
    ("GET", f"{_MODEL}/files"): _of(Tenants.model, "model_id"),
    ("POST", f"{_MODEL}/uploads"): _of(Tenants.model, "model_id", {"files": [{"path": "x", "size": 1}]}),
    ("GET", _UPLOAD): _upload(),
    ("DELETE", _UPLOAD): _upload(),
    ("POST", f"{_UPLOAD}/complete"): _upload(complete=True),
    ("PUT", "/api/v1/blobs/{token}"): _blob("PUT"),
    ("GET", "/api/v1/blobs/{token}"): _blob("GET"),
    ("POST", "/api/v1/deployments"): _wish,
    ("POST", "/api/v1/deployments/plan"): _wish,
    ("GET", _DEPLOYMENT): _deployment(),
    ("PATCH", _DEPLOYMENT): _deployment(_TOUCH),
    ("DELETE", _DEPLOYMENT): _deployment(),
    ("POST", f"{_DEPLOYMENT}/start"): _deployment(),
    ("POST", f"{_DEPLOYMENT}/stop"): _deployment(),
    ("POST", f"{_DEPLOYMENT}/restart"): _deployment(),
    ("POST", f"{_DEPLOYMENT}/scale"): _deployment({"replicas": 1}),
    ("GET", f"{_DEPLOYMENT}/replicas"): _deployment(),
    ("GET", f"{_DEPLOYMENT}/events"): _deployment(),
    ("GET", f"{_DEPLOYMENT}/logs"): _deployment(),
    **{
        (method, f"{_DEPLOYMENT}/inference/{{path}}"): _deployment()
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    },
    **{(method, "/v2/models/{path}"): _named_model for method in ("GET", "HEAD", "POST")},
    ("PATCH", "/api/v1/notifications/{notification_id}/read"): _notification,
    ("POST", "/api/v1/notifications"): _sends(_NEWS),
}
"""How to ask each route; those that need nothing are not here."""
