"""`aiwm notifications` and `aiwm watch`: what happened, and what happens now."""

import json
import sys
from typing import Annotated

import typer
import yaml
from rich.markup import escape

from aiwm.cli.output import Column, Format, Output, age, console, say, show_json, show_rows
from aiwm.cli.session import run, signed_in
from aiwm.protocol.notifications import Delivery, Notification
from aiwm.sdk.nouns import listing, page_as

_COLUMNS: tuple[Column[Notification], ...] = (
    Column("AGE", lambda each: age(each.created_at)),
    Column("READ", lambda each: "yes" if each.read else "no"),
    Column("SEVERITY", lambda each: each.severity.value),
    Column("WHAT", lambda each: each.name or each.title or each.event),
    Column("TEXT", lambda each: each.message or summary(each.data)),
    Column("ID", lambda each: each.notification_id),
)

app = typer.Typer(help="Notifications: your inbox.", no_args_is_help=True)


@app.command("ls")
def list_inbox(
    unread: Annotated[bool, typer.Option(help="Only what is not read yet.")] = False,
    page: Annotated[int, typer.Option(min=1, help="Which page.")] = 1,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many on a page.")] = 50,
    output: Output = Format.TABLE,
) -> None:
    """List your notifications, newest first."""

    async def work() -> None:
        query = listing(page, limit, None, None, None) | ({"unread": "true"} if unread else {})
        async with signed_in() as client:
            payload = await client.request("GET", client.notifications.path, params=query, noti=True)
        if output is Format.TABLE:
            show_rows(page_as(Notification, payload).data, _COLUMNS)
        else:
            show_json(payload, output)

    run(work())


@app.command()
def read(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Which ones.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
) -> None:
    """Mark notifications as read."""
    if bool(ids) == everything:
        raise typer.BadParameter("give ids, or --all")

    async def work() -> None:
        async with signed_in() as client:
            if everything:
                await client.notifications.read_all()
            for each in ids or []:
                await client.notifications.read(each)
        say("read")

    run(work())


def watch(output: Output = Format.TABLE) -> None:
    """Show what happens, as it happens, one line each; Ctrl-C ends it."""

    async def work() -> None:
        async with signed_in() as client, client.live() as live:
            say(f"watching {client.noti_url}; Ctrl-C ends it")
            async for event, delivery in live:
                show_event(event, delivery, output)

    run(work(), endless=True)


def show_event(event: str, delivery: Delivery, form: Format) -> None:
    """One live event: a line of text, a line of JSON, or a YAML document."""
    payload = {"event": event, **delivery.to_wire()}
    if form is Format.JSON:
        print(json.dumps(payload, ensure_ascii=False), flush=True)
    elif form is Format.YAML:
        print("---\n" + yaml.safe_dump(payload, sort_keys=False, allow_unicode=True), end="", flush=True)
    else:
        console().print(event_line(event, delivery), soft_wrap=True)
        sys.stdout.flush()


def event_line(event: str, delivery: Delivery) -> str:
    """Local time, what happened, and its particulars, as rich markup."""
    moment = delivery.notification_metadata.created_at.astimezone()
    what = delivery.name or delivery.title or event
    text = delivery.message or summary(delivery.data)
    return f"[dim]{moment:%H:%M:%S}[/]  [bold]{escape(what)}[/]  {escape(text)}"


def summary(data: dict[str, object] | None) -> str:
    """`data` as `key=value` pairs."""
    return " ".join(f"{key}={_brief(value)}" for key, value in (data or {}).items() if value is not None)


def _brief(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
