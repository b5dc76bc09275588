"""The controller: REST, node channel, inference gateway and reconciler, composed from the nouns."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from aiwm.access.accounts import Accounts
from aiwm.access.attempts import Attempts
from aiwm.access.audit.log import AuditLog
from aiwm.access.audit.routes import audit_router
from aiwm.access.build import Access, compose_access
from aiwm.access.first_run import first_run
from aiwm.access.guard import Guard
from aiwm.access.organizations import Organizations
from aiwm.access.routes import access_router
from aiwm.access.routes_api_keys import api_keys_router
from aiwm.access.routes_organizations import organizations_router
from aiwm.access.routes_users import users_router
from aiwm.access.service import Users
from aiwm.apps.local_node import ensure_local_node
from aiwm.deployments.book import Book
from aiwm.deployments.channel import Reports
from aiwm.deployments.following import DEPLOYMENT, NODE, follow, planning, telling
from aiwm.deployments.logs import Logs
from aiwm.deployments.reconciler import Parts, Reconciler
from aiwm.deployments.records import DEPLOYMENTS, STATES
from aiwm.deployments.routes import deployments_router
from aiwm.deployments.service import DeploymentService
from aiwm.gateway.directory import Directory
from aiwm.gateway.relay import Relay as Inference
from aiwm.gateway.routes import gateway_routers
from aiwm.gateway.upstream import Upstream
from aiwm.gateway.usage import UsageMeter
from aiwm.http.app import create_app
from aiwm.http.idempotency import IdempotencyKeys
from aiwm.http.serve import serve, warn_plain
from aiwm.http.sockets import mount, socket_server
from aiwm.http.tls import certificate
from aiwm.infra.build import Infra, open_infra
from aiwm.infra.bus.calls import Calls
from aiwm.infra.bus.circle import Circle
from aiwm.infra.bus.feed import Feed
from aiwm.infra.bus.lease import Lease
from aiwm.infra.store.outbox import Relay
from aiwm.kit.ids import new_id
from aiwm.kit.machine import machine_mark
from aiwm.kit.settings import Settings
from aiwm.kit.tasks import Tasks
from aiwm.models.artifacts import Artifacts
from aiwm.models.blobs import blobs_router
from aiwm.models.records import CONTENTS, MODELS
from aiwm.models.routes import models_router
from aiwm.models.service import ModelService
from aiwm.models.uploads import UploadService
from aiwm.nodes.channel import NodeChannel
from aiwm.nodes.history import History
from aiwm.nodes.join_tokens import JoinTokens
from aiwm.nodes.joining import Joining
from aiwm.nodes.losses import Losses
from aiwm.nodes.metrics import NodeCollector
from aiwm.nodes.peers import Peers
from aiwm.nodes.presence import Presence
from aiwm.nodes.records import NODES, OBSERVATIONS
from aiwm.nodes.roster import Roster
from aiwm.nodes.routes import nodes_router
from aiwm.nodes.routes_join import join_router, join_tokens_router
from aiwm.nodes.routes_metrics import metrics_router
from aiwm.nodes.rules import dial_host
from aiwm.nodes.service import NodeService
from aiwm.nodes.vigil import VIGILS, Vigil
from aiwm.protocol.node_channel import PING_INTERVAL_SECONDS, PING_TIMEOUT_SECONDS
from aiwm.protocol.states import NodeStatus


@dataclass(frozen=True, slots=True)
class Controller:
    """The parts of one controller, wired together; nothing runs until `background` and a server do."""

    infra: Infra
    tasks: Tasks
    access: Access
    users: Users
    organizations: Organizations
    accounts: Accounts
    guard: Guard
    roster: Roster
    nodes: NodeService
    join_tokens: JoinTokens
    joining: Joining
    presence: Presence
    vigil: Vigil
    channel: NodeChannel
    history: History
    losses: Losses
    models: ModelService
    book: Book
    deployments: DeploymentService
    reconciler: Reconciler
    reports: Reports
    directory: Directory
    relay: Relay
    usage: UsageMeter
    keys: IdempotencyKeys
    audit: AuditLog
    circle: Circle
    feed: Feed
    lease: Lease

    async def prepare(self) -> None:
        """Makes indexes and first records, and reads what is there."""
        stored = (
            self.access,
            self.join_tokens,
            self.history,
            self.models,
            self.relay,
            self.keys,
            self.audit,
            self.vigil,
        )
        for part in stored:
            await part.prepare()
        await first_run(self.users, self.access.passwords, self.infra.settings, self.infra.clock)
        await self.roster.load()
        await self.book.load()
        await self.deployments.last_logs.prepare()
        for node, seen in self.nodes.fleet():
            if seen.status is not NodeStatus.OFFLINE:
                self.presence.reached_at(node.id, dial_host(seen, own_machine=machine_mark()))

    def application(self, upstream: Upstream) -> Any:
        """The ASGI application: REST and inference, with the node channel beside them."""
        infra, guard = self.infra, self.guard
        inference = Inference(self.directory, upstream, self.usage)
        raw, named = gateway_routers(self.directory, inference, guard)
        uploads = UploadService(infra.store, infra.objects, infra.clock, self.relay.wake)
        logs = Logs(self.channel.commands, self.deployments.last_logs, infra.clock)
        routers = (
            access_router(self.access.sessions, guard),
            api_keys_router(self.access.api_keys, guard),
            audit_router(self.audit, guard),
            users_router(self.accounts, guard),
            organizations_router(self.organizations, guard),
            join_router(self.joining),
            join_tokens_router(self.join_tokens, self.nodes, guard),
            nodes_router(self.nodes, guard, self.channel.close_node, self.deployments.on_node, self.history.forget),
            metrics_router(self.nodes, self.history, guard, infra.clock),
            models_router(self.models, uploads, guard, self.deployments.uses),
            blobs_router(infra.objects, infra.tickets),
            raw,
            deployments_router(
                self.deployments,
                self.book,
                self.models,
                self.nodes,
                logs,
                self.reconciler.fleet,
                self.presence.usage,
                guard,
            ),
        )
        registry = CollectorRegistry()
        registry.register(NodeCollector(self.nodes.fleet, self.presence))
        app = create_app(
            title="AIWM",
            routers=routers,
            root_routers=(named,),
            ready={"store": infra.store.ping, "redis": infra.queues.ping, "objects": infra.objects.ping},
            guard=guard,
            settings=infra.settings,
            idempotency=self.keys,
            recorder=self.audit,
            registry=registry,
        )
        sio = socket_server(
            settings=infra.settings,
            ping_interval=PING_INTERVAL_SECONDS,
            ping_timeout=PING_TIMEOUT_SECONDS,
            recorder=self.audit,
        )
        sio.register_namespace(self.channel)
        return mount(app, sio)

    def background(self, upstream: Upstream) -> None:
        """Starts what runs beside the server."""
        self.tasks.spawn("other controllers", self.circle.run())
        self.tasks.spawn("changes of other controllers", self.feed.run())
        self.tasks.spawn("lease", self.lease.run())
        self.tasks.spawn("outbox relay", self.relay.run())
        self.tasks.spawn("reconciler", self.reconciler.run())
        self.tasks.spawn("health checks", self.reports.ask_around())
        self.tasks.spawn("usage", self.usage.run())
        self.tasks.spawn("connections to engines", upstream.keep_only(self.directory.urls))
        self.tasks.spawn("open connections", self.channel.watch())
        self.tasks.spawn("node telemetry", self.roster.run())
        self.tasks.spawn("missing nodes", self.vigil.run())
        self.tasks.spawn("lost nodes", self.losses.run())
        self.tasks.spawn("history", self.history.run())

    async def say_when_closing(self, stop: asyncio.Event) -> None:
        """Tells the channel and the other controllers before the server ends its connections."""
        await stop.wait()
        self.circle.leave()
        self.channel.closing()


def compose(infra: Infra, tasks: Tasks) -> Controller:
    """Wires a controller."""
    clock, base_url = infra.clock, infra.settings.own_url
    access = compose_access(infra.store, infra.tokens, clock, infra.external)
    store = access.store
    relay = Relay(store, infra.queues, (OBSERVATIONS, CONTENTS, STATES, VIGILS))
    circle = Circle(infra.bus, clock, new_id("controller"))
    feed, calls = Feed(circle, clock), Calls(circle, clock, tasks)
    lease = Lease(infra.bus, clock, "planner", circle.own_id)
    dirty, presence, book = planning(feed, lease), Presence(), Book(store, relay.wake, telling(feed, DEPLOYMENT))
    organizations = Organizations(store, clock, (NODES, MODELS, DEPLOYMENTS))
    roster = Roster(store, clock, relay.wake, telling(feed, NODE))
    nodes = NodeService(store, roster, infra.tokens, clock, lambda node_id: dirty.mark_each(book.concerned(node_id)))
    vigil = Vigil(store, nodes, presence, clock, relay.wake, lambda: lease.held)
    join_tokens = JoinTokens(store, clock)
    joins = Attempts(clock, doing="join", code="JOIN_DELAYED")
    history = History(store, clock)
    channel = NodeChannel(nodes, presence, history, clock, circle.own_id)
    models = ModelService(store, clock, relay.wake)
    deployments = DeploymentService(store, book, clock, base_url, dirty)
    artifacts = Artifacts(infra.objects, infra.tickets, base_url)
    parts = Parts(book, deployments, models, artifacts, nodes, presence, vigil, channel.commands, clock)
    reports = Reports(book, dirty, presence, channel.commands, clock, tasks, deployments.last_logs)
    channel.listen(reports)

    def moved(node_id: str | None, deployment_ids: set[str]) -> None:
        if lease.held:
            reports.elsewhere(node_id, deployment_ids)

    Peers(circle, calls, presence, channel.commands, channel.replaced, moved, tasks)
    follow(feed, lease, roster, book, dirty)
    return Controller(
        infra=infra,
        tasks=tasks,
        access=access,
        users=access.users,
        organizations=organizations,
        accounts=Accounts(store, organizations, access.passwords, clock),
        guard=access.guard,
        roster=roster,
        nodes=nodes,
        join_tokens=join_tokens,
        joining=Joining(join_tokens, nodes, access.users, joins, clock),
        presence=presence,
        vigil=vigil,
        channel=channel,
        history=history,
        losses=Losses(nodes, deployments.nodes_in_use, vigil.isolated, lambda: lease.held, clock),
        models=models,
        book=book,
        deployments=deployments,
        reconciler=Reconciler(parts, dirty, tasks),
        reports=reports,
        directory=Directory(book, presence),
        relay=relay,
        usage=UsageMeter(store, clock),
        keys=IdempotencyKeys(store, clock),
        audit=AuditLog(store, clock),
        circle=circle,
        feed=feed,
        lease=lease,
    )


async def run(settings: Settings, stop: asyncio.Event, *, local_node_file: str | None = None) -> None:
    """Runs a controller until `stop` is set; with `local_node_file`, it keeps a token for a node `local` there."""
    tls = certificate(settings)
    warn_plain(settings)
    async with AsyncExitStack() as stack:
        infra = await stack.enter_async_context(open_infra(settings))
        tasks = await stack.enter_async_context(Tasks())
        upstream = await stack.enter_async_context(Upstream(infra.clock))
        controller = compose(infra, tasks)
        stack.callback(controller.access.passwords.close)
        await controller.prepare()
        if local_node_file is not None:
            await ensure_local_node(controller.nodes, controller.users, Path(local_node_file))
        controller.background(upstream)
        tasks.spawn("closing", controller.say_when_closing(stop))
        async with tasks.until_failure(stop):
            application = controller.application(upstream)
            await serve(application, host=settings.host, port=settings.port, stop=stop, tls=tls)
        await controller.usage.flush()
        await controller.roster.flush()
