"""`aiwm demo`: the main job end to end on an installation of its own; 0 when all of it went well, else 1 and why."""

import asyncio
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from aiwm.cli.demo_digits import Digits
from aiwm.cli.demo_events import Witness
from aiwm.cli.demo_road import Road, reported
from aiwm.cli.demo_stack import DemoStack
from aiwm.cli.demo_subjects import Subject
from aiwm.cli.demo_talker import Talker
from aiwm.cli.notifications import summary
from aiwm.cli.output import console
from aiwm.cli.session import run
from aiwm.protocol.errors import AiwmError
from aiwm.protocol.notifications import Delivery
from aiwm.sdk.client import Client

_NEXT = """
What to try next:
  aiwm up                          the same, and it stays: controller, NOTI, worker and a node on this machine
  aiwm login                       sign in with the password that `aiwm up` shows once
  aiwm models create my-model --framework triton
  aiwm models push my-model DIR    a Triton model: config.pbtxt and 1/
  aiwm deployments create my-model --model my-model --wait
  aiwm watch                       everything as it happens"""


@dataclass(slots=True)
class _Story:
    """What is printed: steps with the time since the start, events set apart."""

    out: Console = field(default_factory=console)
    began: float = field(default_factory=time.monotonic)

    def step(self, text: str) -> None:
        self._line(f"[green]{self.seconds:5.1f} s[/]  {escape(text)}")

    def event(self, delivery: Delivery) -> None:
        what = escape(delivery.name or delivery.title or "event")
        self._line(f"[green]{self.seconds:5.1f} s[/]  [cyan]  ~ live: {what}[/]  {escape(summary(delivery.data))}")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def _line(self, markup: str) -> None:
        self.out.print(markup, soft_wrap=True)


class DemoEngine(StrEnum):
    """The engines that the demo has a model for."""

    TRITON = "triton"
    VLLM = "vllm"


def demo(
    engine: Annotated[DemoEngine, typer.Option(help="which engine serves, where it is installed")] = DemoEngine.TRITON,
) -> None:
    """Run the main job end to end on a stack of its own: join, register, deploy, infer, watch, stop."""
    run(_demo(engine))


async def _demo(engine: DemoEngine) -> None:
    story = _Story()
    task = asyncio.current_task()
    stack = DemoStack()
    subject = Digits() if engine is DemoEngine.TRITON else Talker(stack.folder / "tiny-llm")
    story.step(f"AIWM starts in {stack.folder}")
    try:
        async with stack:
            story.step(f"controller {stack.url} and NOTI {stack.noti_url} are ready")
            await _walk(stack, story, subject)
    except AiwmError:
        story.out.print(f"the demo failed; its logs are in {stack.logs}", soft_wrap=True)
        raise
    finally:
        if task is not None and task.cancelling():
            story.out.print(f"the demo was interrupted; its logs are in {stack.logs}", soft_wrap=True)
    story.step("everything ended, nothing is left behind: the demo went well")
    print(_NEXT)


async def _walk(stack: DemoStack, story: _Story, subject: Subject) -> None:
    async with Client(stack.url, noti_url=stack.noti_url) as client:
        await client.login("admin", stack.password)
        who = await client.me()
        story.step(f"signed in as {who.username} ({', '.join(who.roles)})")
        async with Witness(client.live(), story.event) as witness:
            story.step("listening to live events over Socket.IO")
            try:
                await Road(subject, client, witness, stack.join, story.step).walk()
            except AiwmError as error:
                if more := await reported(client, subject.deployment, error):
                    story.step(f"the deployment says: {more}")
                raise
