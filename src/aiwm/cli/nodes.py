"""`aiwm nodes`."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from aiwm.cli.join_tokens import add_joining
from aiwm.cli.node_verbs import add_verbs
from aiwm.cli.nouns import FileOption, Reference, Spec, documents_or, noun_app, pairs, show_view
from aiwm.cli.output import Column, Format, Output, age, show_json, show_rows, size
from aiwm.cli.session import run, signed_in
from aiwm.protocol.resources.node_metrics import MetricSeries
from aiwm.protocol.resources.nodes import Condition, Node
from aiwm.protocol.states import NodeRole


def _status(node: Node) -> str:
    """As it is, and why it gets no replicas where that was asked for."""
    held = "maintenance" if node.maintenance else None if node.schedulable else "cordoned"
    return node.status.value if held is None else f"{node.status.value}, {held}"


SPEC: Spec[Node] = Spec(
    singular="node",
    plural="nodes",
    of=lambda client: client.nodes,
    columns=(
        Column("NAME", lambda node: node.name),
        Column("STATUS", _status),
        Column("ROLE", lambda node: ",".join(role.value for role in node.role)),
        Column("GPUS", lambda node: str(len(node.gpu_devices))),
        Column("CORES", lambda node: str(node.cpu_cores or "-")),
        Column("RAM", lambda node: size(node.ram_total, "MiB")),
        Column("ENGINES", lambda node: ",".join(engine.name for engine in node.engines) or "-"),
        Column("SEEN", lambda node: age(node.last_heartbeat)),
        Column("ID", lambda node: node.node_id),
    ),
)

_CONDITIONS: tuple[Column[Condition], ...] = (
    Column("CONDITION", lambda each: each.type),
    Column("HOLDS", lambda each: "yes" if each.status else "no"),
    Column("SINCE", lambda each: age(each.since)),
    Column("MESSAGE", lambda each: each.message),
)
_SERIES: tuple[Column[MetricSeries], ...] = (
    Column("METRIC", lambda each: each.metric),
    Column("GPU", lambda each: each.device_id or "-"),
    Column("LAST", lambda each: _number(_known(each)[-1:])),
    Column("MEAN", lambda each: _number([sum(_known(each)) / max(1, len(_known(each)))])),
    Column("LEAST", lambda each: _number([min(_known(each), default=0.0)])),
    Column("MOST", lambda each: _number([max(_known(each), default=0.0)])),
    Column("UNIT", lambda each: each.unit),
)

app = noun_app(SPEC)
add_joining(app)
add_verbs(app, SPEC)


@app.command()
def create(
    name: Annotated[str | None, typer.Argument(help="Its name, unique in your organization.")] = None,
    file: FileOption = None,
    role: Annotated[list[NodeRole] | None, typer.Option(help="worker when not given; may be repeated.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; may be repeated.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Register a node. Then: `aiwm nodes token NAME`, and `aiwm node` on that machine."""
    fields: dict[str, object] = {"role": [each.value for each in role or []], "labels": pairs(label or [], "--label")}
    documents = documents_or(file, name, fields)

    async def work() -> None:
        async with signed_in() as client:
            SPEC.show(await SPEC.created(client, documents), output)

    run(work())


@app.command()
def token(
    reference: Reference,
    expires_in: Annotated[int | None, typer.Option(help="Seconds it is good for; 30 days when not given.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a token for the node's daemon (AIWM_NODE_TOKEN); it is shown this once."""

    async def work() -> None:
        async with signed_in() as client:
            node_id = await client.nodes.resolve(reference)
            show_view(await client.nodes.token(node_id, expires_in=expires_in), output)

    run(work())


@app.command()
def revoke(reference: Reference, output: Output = Format.TABLE) -> None:
    """End a node's connection and all tokens made for it until now; it returns with a new one."""

    async def work() -> None:
        async with signed_in() as client:
            SPEC.show([await client.nodes.revoke(await client.nodes.resolve(reference))], output)

    run(work())


@app.command()
def conditions(reference: Reference, output: Output = Format.TABLE) -> None:
    """What is wrong with a node, and what was within the last day."""

    async def work() -> None:
        async with signed_in() as client:
            node = await client.nodes.get(await client.nodes.resolve(reference))
            if output is Format.TABLE:
                show_rows(node.conditions, _CONDITIONS)
            else:
                show_json([each.to_wire() for each in node.conditions], output)

    run(work())


@app.command()
def metrics(
    reference: Reference,
    hours: Annotated[float, typer.Option(min=0.01, max=168, help="How far back; a week at most.")] = 1,
    step: Annotated[int | None, typer.Option(min=10, help="Seconds that each value is the mean of.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """What a node and its GPUs measured, each metric in one line; all values with `-o json`."""

    async def work() -> None:
        async with signed_in() as client:
            begin = datetime.now(UTC) - timedelta(hours=hours)
            found = await client.nodes.metrics(await client.nodes.resolve(reference), begin=begin, step=step)
            if output is Format.TABLE:
                show_rows(found.series, _SERIES)
            else:
                show_json(found.to_wire(), output)

    run(work())


def _known(series: MetricSeries) -> list[float]:
    return [value for value in series.values if value is not None]


def _number(values: list[float]) -> str:
    return f"{values[0]:.1f}" if values else "-"
