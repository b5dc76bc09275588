"""Long work, as it goes: bars and a spinner on a terminal, plain lines elsewhere; always on standard error."""

import contextlib
import sys
from collections.abc import Iterator

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from aiwm.cli.output import console, say, size
from aiwm.protocol.resources.deployments import Deployment, DeploymentEvent
from aiwm.sdk.uploads import OnProgress, UploadProgress

_QUARTER = 4


@contextlib.contextmanager
def upload_meter() -> Iterator[OnProgress]:
    """Shows an upload's progress."""
    if not sys.stderr.isatty():
        yield _PlainUpload()
        return
    columns = (TextColumn("{task.description:<8}"), BarColumn(), DownloadColumn(binary_units=True))
    with Progress(*columns, TransferSpeedColumn(), console=console(stderr=True)) as bars:
        tasks: dict[str, object] = {}

        def told(progress: UploadProgress) -> None:
            if progress.phase not in tasks:
                tasks[progress.phase] = bars.add_task(progress.phase, total=progress.bytes_total)
            bars.update(tasks[progress.phase], completed=progress.bytes_done)  # type: ignore[arg-type]

        yield told


class _PlainUpload:
    """A line when a phase begins, and at each quarter of it."""

    def __init__(self) -> None:
        self._phase = ""
        self._quarter = 0

    def __call__(self, progress: UploadProgress) -> None:
        quarter = progress.bytes_done * _QUARTER // progress.bytes_total if progress.bytes_total else _QUARTER
        if progress.phase != self._phase:
            self._phase, self._quarter = progress.phase, 0
            say(f"{progress.phase} {progress.files} files, {size(progress.bytes_total)}")
        if quarter > self._quarter:
            self._quarter = quarter
            say(f"{progress.phase} {100 * quarter // _QUARTER} %")


class StartMeter:
    """What happens to a deployment while one waits for it: its events as lines, its status beside a spinner.

    What it had told `before` is not told again.
    """

    def __init__(self, before: Deployment | None = None) -> None:
        self._seen = set(map(_key, before.events)) if before else set()
        self._status = ""
        out = console(stderr=True)
        self._spinner = out.status("waiting") if out.is_terminal else None

    def __enter__(self) -> "StartMeter":
        if self._spinner is not None:
            self._spinner.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._spinner is not None:
            self._spinner.stop()

    def __call__(self, deployment: Deployment) -> None:
        """To be told of every look at it."""
        for event in deployment.events:
            if _key(event) not in self._seen:
                self._seen.add(_key(event))
                self._line(f"{event.timestamp.astimezone():%H:%M:%S}  {event.message}")
        status = deployment.status.value + (f": {deployment.status_reason}" if deployment.status_reason else "")
        if status != self._status:
            self._status = status
            if self._spinner is not None:
                self._spinner.update(status)
            else:
                self._line(status)

    def _line(self, text: str) -> None:
        if self._spinner is not None:
            self._spinner.console.print(text, markup=False)
        else:
            say(text)


def _key(event: DeploymentEvent) -> tuple[object, ...]:
    """Deployments embed only their latest events, so a place in that list means nothing."""
    return (event.timestamp, event.event, event.message)
