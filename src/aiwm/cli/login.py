"""`aiwm login` and `aiwm logout`."""

import contextlib
import sys
from typing import Annotated

import typer

from aiwm.cli.credentials import Credentials, forget_credentials, save_credentials
from aiwm.cli.output import say
from aiwm.cli.session import run, signed_in
from aiwm.protocol.errors import AiwmError
from aiwm.sdk.client import Client


def login(
    url: Annotated[str, typer.Option(help="The controller's address.")] = "http://127.0.0.1:3003",
    noti_url: Annotated[
        str | None, typer.Option(help="NOTI's address; the same host, port 3002, when not given.")
    ] = None,
    username: Annotated[str, typer.Option("--username", "-u", help="Who signs in.")] = "admin",
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
) -> None:
    """Sign in; later commands use this login."""
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = typer.prompt(f"Password of {username}", hide_input=True, err=True)
    if not password:
        raise typer.BadParameter("the password is empty")

    async def work() -> None:
        async with Client(url, noti_url=noti_url) as client:
            tokens = await client.login(username, password)
            who = await client.me()
        save_credentials(
            Credentials(
                url=client.url,
                noti_url=client.noti_url,
                username=who.username,
                access_token=tokens.access_token,
                refresh_token=tokens.refresh_token,
            )
        )
        say(f"signed in to {client.url} as {who.username} ({', '.join(who.roles)})")

    run(work())


def logout() -> None:
    """Forget this login."""

    async def work() -> None:
        async with signed_in() as client:
            # A session that ended already, or a server that is away, is no reason to keep the tokens.
            with contextlib.suppress(AiwmError):
                await client.logout()
        forget_credentials()
        say("signed out")

    run(work())
