"""`aiwm nodes join-token` and `join-tokens`: letting machines in."""

from typing import Annotated
from urllib.parse import urlsplit

import typer

from aiwm.cli.nouns import Spec, noun_app, pairs
from aiwm.cli.output import Column, Format, Output, age, say, show_fields, show_json
from aiwm.cli.session import run, signed_in
from aiwm.protocol.resources.join_tokens import JoinToken, JoinTokenMade
from aiwm.protocol.states import NodeRole

_SHOWN = ("token", "expiresAt", "nodeId", "role", "labels", "joinTokenId")

SPEC: Spec[JoinToken] = Spec(
    singular="join token",
    plural="join tokens",
    of=lambda client: client.join_tokens,
    columns=(
        Column("ID", lambda token: token.join_token_id),
        Column("STATUS", lambda token: token.status.value),
        Column("ENDS", lambda token: f"…{token.hint}"),
        Column("ROLE", lambda token: ",".join(role.value for role in token.role) or "-"),
        Column("FOR", lambda token: token.node_id or "a new node"),
        Column("EXPIRES", lambda token: f"{token.expires_at:%Y-%m-%d %H:%M:%S}"),
        Column("USED BY", lambda token: token.used_by or "-"),
        Column("AGE", lambda token: age(token.created_at)),
    ),
)


def command_for(url: str, token: str) -> str:
    """What is to be typed on the machine that is to join."""
    return f"AIWM_JOIN_TOKEN={token} aiwm node --controller-url {url}"


def add_joining(app: typer.Typer) -> None:
    """join-token, and join-tokens with its own ls, get and rm."""
    app.add_typer(noun_app(SPEC, applies=False), name="join-tokens")

    @app.command("join-token")
    def join_token(
        expires_in: Annotated[
            int | None, typer.Option(min=60, max=3600, help="Seconds it is good for; 15 minutes when not given.")
        ] = None,
        role: Annotated[list[NodeRole] | None, typer.Option(help="worker when not given; may be repeated.")] = None,
        label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; may be repeated.")] = None,
        shared: Annotated[bool, typer.Option(help="The node is to be everybody's.")] = False,
        node: Annotated[
            str | None, typer.Option(metavar="NAME|ID", help="Let this node in again, instead of a new one.")
        ] = None,
        output: Output = Format.TABLE,
    ) -> None:
        """Make a token that lets one machine join, once, and say what to type there."""
        given: dict[str, object] = {
            "expiresIn": expires_in,
            "role": [each.value for each in role or []],
            "labels": pairs(label or [], "--label"),
            "shared": shared or None,
        }
        params = {name: value for name, value in given.items() if value not in (None, [], {})}

        async def work() -> None:
            async with signed_in() as client:
                if node is not None:
                    params["nodeId"] = await client.nodes.resolve(node)
                _show(await client.join_tokens.create(params), client.url, output)

        run(work())


def _show(made: JoinTokenMade, url: str, output: Format) -> None:
    if output is not Format.TABLE:
        show_json(made.to_wire(), output)
        return
    show_fields({name: value for name, value in made.to_wire().items() if name in _SHOWN})
    say(f"on the machine that is to join: {command_for(url, made.token)}")
    if urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1"):
        say("on another machine than this one, give the controller's address as it is seen from there")
