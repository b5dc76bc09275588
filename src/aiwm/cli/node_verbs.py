"""`aiwm nodes`: what an operator does to one that is there."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Annotated

import typer

from aiwm.cli.nouns import Reference, Spec
from aiwm.cli.output import Format, Output
from aiwm.cli.session import run, signed_in
from aiwm.protocol.resources.nodes import Node
from aiwm.sdk.client import Client

Act = Callable[[Client, str], Awaitable[Node]]


class Switch(StrEnum):
    ON = "on"
    OFF = "off"


def add_verbs(app: typer.Typer, spec: Spec[Node]) -> None:
    """cordon, uncordon, maintenance, label."""

    def act(reference: str, what: Act, output: Format) -> None:
        async def work() -> None:
            async with signed_in() as client:
                spec.show([await what(client, await client.nodes.resolve(reference))], output)

        run(work())

    @app.command()
    def cordon(reference: Reference, output: Output = Format.TABLE) -> None:
        """Give a node no more replicas; those it has go on."""
        act(reference, lambda client, each: client.nodes.cordon(each), output)

    @app.command()
    def uncordon(reference: Reference, output: Output = Format.TABLE) -> None:
        """Give a node replicas again."""
        act(reference, lambda client, each: client.nodes.uncordon(each), output)

    @app.command()
    def maintenance(
        reference: Reference,
        switch: Annotated[Switch, typer.Argument(help="Whether somebody works on it.")],
        output: Output = Format.TABLE,
    ) -> None:
        """Say that a node is being worked on, or no longer; meanwhile it gets no more replicas."""
        act(reference, lambda client, each: client.nodes.maintenance(each, switch is Switch.ON), output)

    @app.command()
    def label(
        reference: Reference,
        changes: Annotated[list[str], typer.Argument(metavar="KEY=VALUE|KEY-...", help="To set, and to remove.")],
        output: Output = Format.TABLE,
    ) -> None:
        """Set and remove labels of a node; the others stay."""
        labels = dict(label_change(each) for each in changes)
        act(reference, lambda client, each: client.nodes.label(each, labels), output)


def label_change(text: str) -> tuple[str, str | None]:
    """`KEY=VALUE` sets; `KEY-` removes, as no value."""
    key, sign, value = text.partition("=")
    if sign and key:
        return key, value
    if not sign and text.endswith("-") and text != "-":
        return text.removesuffix("-"), None
    raise typer.BadParameter(f"{text!r} is neither KEY=VALUE nor KEY-", param_hint="KEY=VALUE|KEY-...")
