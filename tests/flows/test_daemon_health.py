"""An engine is told to run only when it serves and a tiny inference was tried; later, how it does is told apart."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.daemon_support import QUICK, Controller, TinyEngine, controller, order, running, settings_for, until

from aiwm.daemon.daemon import Daemon
from aiwm.daemon.engines.base import Address, EnginePlan, Ports, Trial, Verdict
from aiwm.daemon.launchers.process import ProcessLauncher
from aiwm.daemon.replicas import Policy
from aiwm.protocol.node_channel import DeployCommand, EngineNumbers
from aiwm.protocol.states import EngineName

SAYS_ITS_FILE = (
    "said = lambda path: open(path).read() if os.path.exists(path) else ''",
    "Answer.do_GET = lambda self: (self.send_response(int(said(os.environ['STATUS']) or 503)), self.end_headers(),"
    " self.wfile.write(said(os.environ['PAGE']).encode()))",
)


class TriedEngine(TinyEngine):
    """Answers with the status that is in a file, and with a page that a test writes; `trials` are what trials say."""

    def __init__(self, folder: Path, *trials: Trial | Exception) -> None:
        super().__init__(*SAYS_ITS_FILE)
        self.status, self.page = folder / "status", folder / "page"
        self.trials, self.bases, self.unread = list(trials), list[str](), 0

    def says(self, status: int, **numbers: int) -> None:
        draft = self.page.with_suffix(".new")
        draft.write_text(EngineNumbers(**numbers).model_dump_json())
        draft.replace(self.page)
        self.status.write_text(str(status))

    def prepare(
        self, order: DeployCommand, artifact: Path, workspace: Path, ports: Ports, address: Address
    ) -> EnginePlan:
        plan = super().prepare(order, artifact, workspace, ports, address)
        return replace(
            plan,
            environment={**plan.environment, "STATUS": str(self.status), "PAGE": str(self.page)},
            metrics=plan.ready[0],
        )

    async def try_out(self, order: DeployCommand, base: str) -> Trial:
        self.bases.append(base)
        trial = self.trials.pop(0) if self.trials else Trial(Verdict.WORKED)
        if isinstance(trial, Exception):
            raise trial
        return trial

    def numbers(self, order: DeployCommand, page: str) -> EngineNumbers:
        self.unread += page == ""
        return EngineNumbers.model_validate_json(page)


def daemon_of(one: Controller, data_dir: Path, engine: TriedEngine, policy: Policy = QUICK) -> Daemon:
    launcher = ProcessLauncher({EngineName.TRITON: engine})
    return Daemon(settings_for(one, data_dir), launcher=launcher, policy=policy)


def told(one: Controller) -> list[dict[str, Any]]:
    return [each["data"] for each in one.of("deployment.status")]


def last(one: Controller) -> tuple[str, str | None, str | None]:
    state, health, message = (told(one)[-1].get(name) for name in ("state", "health", "message"))
    return str(state), health, message


async def stopped(one: Controller) -> None:
    await one.result(await one.command("command.stop", {"deploymentId": "deploy-1", "graceSeconds": 0}))


def is_last(one: Controller, health: str) -> Callable[[], bool]:
    return lambda: told(one)[-1].get("health") == health


async def test_an_engine_that_loads_is_told_apart_from_one_that_answers_nothing(tmp_path: Path) -> None:
    engine = TriedEngine(tmp_path)
    async with controller() as one, running(daemon_of(one, tmp_path, engine, replace(QUICK, tell_interval=0.05))):
        await until(lambda: one.of("node.register"))
        sent = await one.command("command.deploy", order().to_wire())
        await until(lambda: one.states("replica-1")[-1:] == ["starting"] and is_last(one, "loading")())
        assert str(last(one)[2]).startswith("loading, 0 s of at most 900 s")
        assert engine.bases == []
        engine.says(200)
        result = await one.result(sent)
        assert last(one) == ("running", "healthy", "serving")
        assert engine.bases == [result["result"]["endpoint"]]
        await stopped(one)


async def test_an_engine_whose_first_inference_fails_never_runs(tmp_path: Path) -> None:
    engine = TriedEngine(tmp_path, Trial(Verdict.FAILED, "no kernel image for this GPU"))
    engine.says(200)
    async with controller() as one, running(daemon_of(one, tmp_path, engine)):
        await until(lambda: one.of("node.register"))
        result = await one.result(await one.command("command.deploy", order().to_wire()))
        assert result["error"]["code"] == "CONTAINER_START_FAILED"
        assert "answered a trial request with an error: no kernel image for this GPU" in result["error"]["message"]
        assert one.states("replica-1") == ["preparing", "starting", "failed"]


async def test_an_answer_to_a_trial_is_waited_for_until_the_start_limit(tmp_path: Path) -> None:
    engine = TriedEngine(tmp_path, TimeoutError(), ConnectionRefusedError("nobody is there"))
    engine.says(200)
    async with controller() as one, running(daemon_of(one, tmp_path, engine)):
        await until(lambda: one.of("node.register"))
        result = await one.result(await one.command("command.deploy", order().to_wire()))
        assert result["status"] == "success"
        assert len(engine.bases) == 3
        assert last(one) == ("running", "healthy", "serving")
        await stopped(one)
        engine.trials = [TimeoutError()] * 1000
    policy = replace(QUICK, start_timeout=0.5, grace=0)
    async with controller() as one, running(daemon_of(one, tmp_path / "2", engine, policy)):
        await until(lambda: one.of("node.register"))
        result = await one.result(await one.command("command.deploy", order().to_wire()))
        assert "did not answer a trial request within 0 s" in result["error"]["message"]


async def test_how_a_running_engine_does_is_told_when_it_changes(tmp_path: Path) -> None:
    engine = TriedEngine(tmp_path)
    engine.says(200, requests=5, queued=0)
    policy = replace(QUICK, trial_interval=0.3, hung_after=0.4, hung_end=0.4, grace=0)
    async with controller() as one, running(daemon_of(one, tmp_path, engine, policy)):
        await until(lambda: one.of("node.register"))
        await one.result(await one.command("command.deploy", order().to_wire()))
        engine.trials = [Trial(Verdict.DOUBTED, "no such layer")]
        await until(is_last(one, "degraded"))
        assert last(one) == ("running", "degraded", "serving, but a trial request failed: no such layer")
        await until(is_last(one, "healthy"))
        assert last(one) == ("running", "healthy", "serving again")
        engine.says(503)
        await until(is_last(one, "unhealthy"))
        assert last(one)[::2] == ("unhealthy", "the engine was not ready at 3 health checks")
        degraded = [each for each in told(one) if each.get("health") == "degraded"]
        assert degraded[-1]["message"] == "serving, but the engine says that it is not ready"
        engine.says(200, requests=5, queued=0)
        await until(is_last(one, "healthy"))
        before = len(engine.bases)
        engine.says(200, requests=6, queued=2)
        await until(is_last(one, "hung"))
        assert last(one)[0] == "unhealthy"
        assert str(last(one)[2]).startswith("2 requests are in flight and nothing has moved for 0 s")
        assert len(engine.bases) == before, "an engine with work is left alone"
        engine.says(200, requests=7, queued=0)
        await until(lambda: one.states("replica-1")[-1] == "running" and is_last(one, "healthy")())
        await stopped(one)


async def test_an_engine_that_stays_hung_is_ended_and_started_again(tmp_path: Path) -> None:
    engine = TriedEngine(tmp_path)
    engine.says(200, requests=6, queued=0)
    policy = replace(QUICK, hung_after=0.2, hung_end=0.2, grace=0)
    async with controller() as one, running(daemon_of(one, tmp_path, engine, policy)):
        await until(lambda: one.of("node.register"))
        await one.result(await one.command("command.deploy", order().to_wire()))
        engine.says(200, requests=6, queued=1)
        await until(is_last(one, "hung"))
        await until(lambda: one.states("replica-1")[-1] == "starting")
        engine.says(200, requests=0, queued=0)
        await until(lambda: one.states("replica-1").count("running") == 2)
        assert "started again because the engine was hung: 1 request is in flight" in str(last(one)[2])
        await stopped(one)


async def test_a_page_that_cannot_be_read_ends_nothing(tmp_path: Path) -> None:
    engine = TriedEngine(tmp_path)
    engine.says(200)
    async with controller() as one, running(daemon_of(one, tmp_path, engine)):
        await until(lambda: one.of("node.register"))
        await one.result(await one.command("command.deploy", order().to_wire()))
        os.truncate(engine.page, 0)
        engine.trials = [Trial(Verdict.DOUBTED, "never asked")]
        await until(lambda: engine.unread > QUICK.unhealthy_after)
        assert last(one) == ("running", "healthy", "serving")
        await stopped(one)


async def test_a_daemon_that_comes_back_knows_that_a_trial_had_failed(tmp_path: Path) -> None:
    engine = TriedEngine(tmp_path, Trial(Verdict.DOUBTED, "no such layer"))
    engine.says(200, requests=5, queued=0)
    async with controller() as one:
        async with running(daemon_of(one, tmp_path, engine)):
            await until(lambda: one.of("node.register"))
            await one.result(await one.command("command.deploy", order().to_wire()))
            assert last(one)[1] == "degraded"
        async with running(daemon_of(one, tmp_path, engine)):
            await until(lambda: len(one.of("node.register")) == 2)
            (replica,) = one.of("node.register")[1]["data"]["replicas"]
            assert (replica["state"], replica["health"]) == ("running", "degraded")
            await stopped(one)


async def test_what_an_engine_counts_is_in_the_metrics_until_it_cannot_be_read(tmp_path: Path) -> None:
    engine = TriedEngine(tmp_path)
    engine.says(200, requests=5, queued=0)

    def counted(one: Controller) -> object:
        (usage,) = (one.of("telemetry.metrics") or [{"data": {"replicas": [{}]}}])[-1]["data"]["replicas"] or [{}]
        return usage.get("engine")

    async with controller() as one:
        one.metrics_ms = 50
        async with running(daemon_of(one, tmp_path, engine)):
            await until(lambda: one.of("node.register"))
            await one.result(await one.command("command.deploy", order().to_wire()))
            await until(lambda: counted(one) == {"requests": 5, "queued": 0})
            engine.says(200, requests=6, queued=0)
            await until(lambda: counted(one) == {"requests": 6, "queued": 0})
            os.truncate(engine.page, 0)
            await until(lambda: counted(one) is None)
            await stopped(one)
