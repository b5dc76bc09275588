"""One command's run: the signed-in client, errors as one line, and a clean end on Ctrl-C and SIGTERM."""

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

import typer

from aiwm.cli.credentials import load_credentials, renewing, save_credentials
from aiwm.cli.output import say, show_error
from aiwm.kit.context import accept_correlation_id
from aiwm.protocol.errors import AiwmError
from aiwm.protocol.resources.access import TokenPair
from aiwm.sdk.client import Client


@asynccontextmanager
async def signed_in() -> AsyncIterator[Client]:
    """A client with the kept credentials; renewed tokens are kept again. Each command has one correlation id."""
    kept = load_credentials()

    def keep(tokens: TokenPair) -> None:
        save_credentials(kept.renewed(tokens))

    async with Client(
        kept.url,
        token=kept.access_token,
        refresh_token=kept.refresh_token,
        noti_url=kept.noti_url,
        correlation_id=accept_correlation_id(None),
        on_tokens=keep,
        shared=renewing,
    ) as client:
        yield client


def run(work: Coroutine[object, object, None], *, endless: bool = False) -> None:
    """Runs a command. `endless` ones (watch, follow) are ended by their user, which is no failure."""
    try:
        asyncio.run(_until_told(work))
    except AiwmError as error:
        show_error(error)
        raise typer.Exit(1) from error
    except (KeyboardInterrupt, asyncio.CancelledError):
        if endless:
            return
        say("interrupted")
        raise typer.Exit(1) from None


async def _until_told(work: Coroutine[object, object, None]) -> None:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a command runs inside a task")
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await work
