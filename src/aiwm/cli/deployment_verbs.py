"""`aiwm deployments`: what is done to one, and what can be read of one."""

import sys
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from aiwm.cli.nouns import Reference, Spec
from aiwm.cli.output import Column, Format, Output, show_json, show_rows
from aiwm.cli.progress import StartMeter
from aiwm.cli.session import run, signed_in
from aiwm.protocol.resources.deployments import Deployment, DeploymentEvent, ReplicaDetail
from aiwm.protocol.states import DeploymentStatus
from aiwm.sdk.client import Client

Wait = Annotated[bool, typer.Option(help="Wait until it is so, showing what happens.")]
Act = Callable[[Client, str], Awaitable[Deployment]]

_EVENT_COLUMNS: tuple[Column[DeploymentEvent], ...] = (
    Column("TIME", lambda event: f"{event.timestamp:%Y-%m-%d %H:%M:%S}"),
    Column("SEVERITY", lambda event: event.severity.value),
    Column("EVENT", lambda event: event.event),
    Column("MESSAGE", lambda event: event.message),
)
_REPLICA_COLUMNS: tuple[Column[ReplicaDetail], ...] = (
    Column("REPLICA", lambda each: each.replica_id),
    Column("STATE", lambda each: each.state.value),
    Column("NODE", lambda each: each.node_id or "-"),
    Column("GPUS", lambda each: ",".join(each.gpu_device_ids) or "-"),
    Column("ENDPOINT", lambda each: each.endpoint or "-"),
    Column("RESTARTS", lambda each: str(each.restarts)),
    Column("MESSAGE", lambda each: each.message or ""),
)


def add_verbs(app: typer.Typer, spec: Spec[Deployment]) -> None:
    """start, stop, restart, scale."""

    def act(reference: str, what: Act, status: DeploymentStatus | None, output: Format) -> None:
        async def work() -> None:
            async with signed_in() as client:
                deployment_id = await client.deployments.resolve(reference)
                before = await client.deployments.get(deployment_id)
                deployment = await what(client, deployment_id)
                if status is not None:
                    with StartMeter(before) as meter:
                        deployment = await client.deployments.wait(deployment_id, status, on_change=meter)
                spec.show([deployment], output)

        run(work())

    @app.command()
    def start(reference: Reference, wait: Wait = False, output: Output = Format.TABLE) -> None:
        """Start a stopped deployment."""
        act(
            reference,
            lambda client, each: client.deployments.start(each),
            DeploymentStatus.RUNNING if wait else None,
            output,
        )

    @app.command()
    def stop(
        reference: Reference,
        force: Annotated[bool, typer.Option(help="End engines at once.")] = False,
        timeout: Annotated[int, typer.Option(min=0, max=3600, help="Seconds that engines get to end.")] = 30,
        wait: Wait = False,
        output: Output = Format.TABLE,
    ) -> None:
        """Stop a deployment; it is kept and can be started again."""
        act(
            reference,
            lambda client, each: client.deployments.stop(each, force=force, timeout_seconds=timeout),
            DeploymentStatus.STOPPED if wait else None,
            output,
        )

    @app.command()
    def restart(reference: Reference, wait: Wait = False, output: Output = Format.TABLE) -> None:
        """Replace a deployment's engines by new ones."""
        act(
            reference,
            lambda client, each: client.deployments.restart(each),
            DeploymentStatus.RUNNING if wait else None,
            output,
        )

    @app.command()
    def scale(
        reference: Reference,
        replicas: Annotated[int, typer.Argument(min=0, max=100, help="How many engines it shall have.")],
        wait: Wait = False,
        output: Output = Format.TABLE,
    ) -> None:
        """Change how many replicas a deployment has."""
        status = DeploymentStatus.RUNNING if replicas else DeploymentStatus.STOPPED
        act(
            reference,
            lambda client, each: client.deployments.scale(each, replicas),
            status if wait else None,
            output,
        )


def add_reading(app: typer.Typer) -> None:
    """logs, events, replicas."""

    @app.command()
    def logs(
        reference: Reference,
        follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is added.")] = False,
        tail: Annotated[int, typer.Option(min=0, max=10_000, help="How many lines of the past.")] = 100,
    ) -> None:
        """Show the log of a deployment's engine."""

        async def work() -> None:
            async with signed_in() as client:
                deployment_id = await client.deployments.resolve(reference)
                async for text in client.deployments.logs(deployment_id, follow=follow, tail=tail):
                    sys.stdout.write(text)
                    sys.stdout.flush()

        run(work(), endless=follow)

    @app.command()
    def events(reference: Reference, output: Output = Format.TABLE) -> None:
        """Tell a deployment's story, oldest first."""

        async def work() -> None:
            async with signed_in() as client:
                found = await client.deployments.events(await client.deployments.resolve(reference))
            if output is Format.TABLE:
                show_rows(found, _EVENT_COLUMNS)
            else:
                show_json([each.to_wire() for each in found], output)

        run(work())

    @app.command()
    def replicas(reference: Reference, output: Output = Format.TABLE) -> None:
        """Show a deployment's engines: where each runs, and on which GPUs."""

        async def work() -> None:
            async with signed_in() as client:
                found = await client.deployments.replicas(await client.deployments.resolve(reference))
            if output is Format.TABLE:
                show_rows(found, _REPLICA_COLUMNS)
            else:
                show_json([each.to_wire() for each in found], output)

        run(work())
