"""`aiwm deployments`: their list and how they come to be."""

from typing import Annotated

import typer

from aiwm.cli.deployment_verbs import add_reading, add_verbs
from aiwm.cli.nouns import FileOption, Spec, documents_or, noun_app, pairs, show_view
from aiwm.cli.output import Column, Format, Output, age
from aiwm.cli.progress import StartMeter
from aiwm.cli.session import run, signed_in
from aiwm.protocol.resources.deployments import Deployment
from aiwm.protocol.states import Environment
from aiwm.sdk.client import Client

Name = Annotated[str | None, typer.Argument(help="Its name, under which it is asked.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Name or id of the model.")]
NodeOption = Annotated[str | None, typer.Option("--node", help="Name or id of the node it must run on.")]
ReplicasOption = Annotated[int | None, typer.Option(help="How many engines; 1 when not given.")]
EnvironmentOption = Annotated[Environment | None, typer.Option(help="dev when not given.")]
SelectorOption = Annotated[list[str] | None, typer.Option(help="KEY=VALUE label a node must have; may be repeated.")]
WaitOption = Annotated[bool, typer.Option(help="Wait until it runs, showing what happens.")]


async def _with_ids(client: Client, document: dict[str, object]) -> dict[str, object]:
    """Names of models and nodes as their ids."""
    found = dict(document)
    if isinstance(model := found.get("modelId"), str):
        found["modelId"] = await client.models.resolve(model)
    if isinstance(node := found.get("nodeId"), str):
        found["nodeId"] = await client.nodes.resolve(node)
    return found


SPEC: Spec[Deployment] = Spec(
    singular="deployment",
    plural="deployments",
    of=lambda client: client.deployments,
    columns=(
        Column("NAME", lambda each: each.name),
        Column("STATUS", lambda each: each.status.value),
        Column("REPLICAS", lambda each: str(each.replicas)),
        Column("ENGINE", lambda each: each.engine.value),
        Column("ENVIRONMENT", lambda each: each.environment.value),
        Column("AGE", lambda each: age(each.created_at)),
        Column("ID", lambda each: each.deployment_id),
        Column("REASON", lambda each: each.status_reason or ""),
    ),
    prepare=_with_ids,
)

app = noun_app(SPEC)
add_verbs(app, SPEC)
add_reading(app)


@app.command()
def create(
    name: Name = None,
    file: FileOption = None,
    model: ModelOption = None,
    node: NodeOption = None,
    replicas: ReplicasOption = None,
    environment: EnvironmentOption = None,
    selector: SelectorOption = None,
    wait: WaitOption = False,
    output: Output = Format.TABLE,
) -> None:
    """Deploy a model; it starts at once."""
    documents = documents_or(file, name, _fields(model, node, replicas, environment, selector))

    async def work() -> None:
        async with signed_in() as client:
            made = await SPEC.created(client, documents)
            if wait:
                with StartMeter() as meter:
                    ids = [each.deployment_id for each in made]
                    made = [await client.deployments.wait(each, on_change=meter) for each in ids]
            SPEC.show(made, output)

    run(work())


@app.command()
def plan(
    name: Name = None,
    file: FileOption = None,
    model: ModelOption = None,
    node: NodeOption = None,
    replicas: ReplicasOption = None,
    environment: EnvironmentOption = None,
    selector: SelectorOption = None,
    output: Output = Format.TABLE,
) -> None:
    """Say where a deployment would go, and why; nothing is created."""
    documents = documents_or(file, name, _fields(model, node, replicas, environment, selector))

    async def work() -> None:
        async with signed_in() as client:
            for each in documents:
                show_view(await client.deployments.plan(await _with_ids(client, each)), output)

    run(work())


def _fields(
    model: str | None,
    node: str | None,
    replicas: int | None,
    environment: Environment | None,
    selector: list[str] | None,
) -> dict[str, object]:
    return {
        "modelId": model,
        "nodeId": node,
        "replicas": replicas,
        "environment": environment and environment.value,
        "nodeSelector": pairs(selector or [], "--selector"),
    }
