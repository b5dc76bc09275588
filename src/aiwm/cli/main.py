"""`aiwm`: the commands people type."""

from importlib.metadata import version as version_of
from typing import Annotated

import typer

from aiwm.cli import demo, deployments, login, models, nodes, notifications

_PROCESSES = (
    "Processes, each with its own --help: aiwm up (everything on this machine), controller, noti, worker, node; "
    "simulate (many nodes without machines).\n\n"
    "On the GPU machines: aiwm node install (the daemon as a service), aiwm doctor (what is wrong here).\n\n"
    "On the servers: aiwm keys rotate (the keys that sign tokens), aiwm audit verify (the chain of the audit log)."
)

app = typer.Typer(
    name="aiwm",
    help="AI on your own machines: nodes, models, deployments. Sign in with `aiwm login` first.",
    epilog=_PROCESSES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(login.login)
app.command()(login.logout)
app.add_typer(nodes.app, name="nodes")
app.add_typer(models.app, name="models")
app.add_typer(deployments.app, name="deployments")
app.add_typer(notifications.app, name="notifications")
app.command()(notifications.watch)
app.command()(demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"aiwm {version_of('aiwm')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that come before a command."""
