"""Commands that come twice, late, from before, or too many at once."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.daemon_support import QUICK, controller, order, running, settings_for, until

from aiwm.daemon.commands import Commands
from aiwm.daemon.daemon import Daemon
from aiwm.daemon.launchers.fake import FakeLauncher
from aiwm.daemon.tally import Tally
from aiwm.kit.tasks import Tasks
from aiwm.protocol import node_channel as channel
from aiwm.protocol.base import Wire

Sent = list[tuple[str, dict[str, Any]]]


def message(number: int, **metadata: object) -> dict[str, object]:
    return {
        "type": "command.work",
        "messageId": f"msg-{number}",
        "timestamp": "2026-01-01T00:00:00.000Z",
        "data": {},
        "metadata": metadata,
    }


def commands(sent: Sent, tasks: Tasks, gate: asyncio.Event, epoch: Callable[[], int | None]) -> Commands:
    async def send(type_: str, data: Wire) -> bool:
        sent.append((type_, data.to_wire()))
        return True

    async def work(data: dict[str, object]) -> dict[str, object]:
        await gate.wait()
        return {}

    return Commands({"command.work": work}, send, tasks, Tally(), epoch=epoch, most_under_way=3)


async def test_too_many_at_once_are_refused_and_far_too_many_are_not_even_read() -> None:
    sent: Sent = []
    gate = asyncio.Event()
    async with Tasks() as tasks:
        one = commands(sent, tasks, gate, lambda: 1)
        for number in range(20):
            one.receive("command.work", message(number))
        await until(lambda: len(results(sent)) == 3)
        assert {each["error"]["code"] for each in results(sent)} == {"RESOURCE_EXHAUSTED"}
        assert all(each["error"]["retryable"] for each in results(sent))
        gate.set()
        await until(lambda: len(results(sent)) == 6)
        assert [each["status"] for each in results(sent)].count("success") == 3
        one.receive("command.work", message(99))
        await until(lambda: results(sent)[-1]["originalMessageId"] == "msg-99")
        assert results(sent)[-1]["status"] == "success"


def results(sent: Sent) -> list[dict[str, Any]]:
    return [data for type_, data in sent if type_ == channel.COMMAND_RESULT]


@pytest.mark.parametrize(("epoch", "done"), [(6, False), (7, True), (8, True), (None, True)])
async def test_a_command_of_an_earlier_session_is_dropped(epoch: int | None, done: bool) -> None:
    sent: Sent = []
    gate = asyncio.Event()
    gate.set()
    async with Tasks() as tasks:
        one = commands(sent, tasks, gate, lambda: 7)
        one.receive("command.work", message(1) if epoch is None else message(1, epoch=epoch))
        one.receive("command.work", message(2))
        await until(lambda: any(each["originalMessageId"] == "msg-2" for each in results(sent)))
        assert any(data["originalMessageId"] == "msg-1" for _, data in sent) is done


async def test_a_result_is_not_told_to_a_session_that_did_not_ask() -> None:
    sent: Sent = []
    gate, epoch = asyncio.Event(), 1
    async with Tasks() as tasks:
        one = commands(sent, tasks, gate, lambda: epoch)
        one.receive("command.work", message(1))
        await until(lambda: sent)
        epoch = 2
        gate.set()
        one.receive("command.work", message(2))
        await until(lambda: results(sent))
        assert [each["originalMessageId"] for each in results(sent)] == ["msg-2"]


async def test_a_late_command_on_a_new_connection_changes_nothing(tmp_path: Path) -> None:
    launcher = FakeLauncher()
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=launcher, policy=QUICK)):
        await until(lambda: one.of(channel.NODE_REGISTER))
        await one.disconnect()
        await until(lambda: len(one.of(channel.NODE_REGISTER)) == 2)
        late = await one.command("command.deploy", order().to_wire(), metadata={"epoch": 1})
        present = await one.command("command.healthCheck", {}, metadata={"epoch": 2})
        assert (await one.result(present))["status"] == "success"
        assert one.results(late) == []
        assert launcher.starts == 0


async def test_a_node_has_a_most_of_replicas_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiwm.daemon.supervisor.MOST_REPLICAS", 2)
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=FakeLauncher(), policy=QUICK)):
        await until(lambda: one.of(channel.NODE_REGISTER))
        for number in (1, 2):
            await one.result(await one.command("command.deploy", order(replica_id=f"replica-{number}").to_wire()))
        refused = await one.result(await one.command("command.deploy", order(replica_id="replica-3").to_wire()))
        assert refused["error"]["code"] == "RESOURCE_EXHAUSTED"
        newer = await one.command("command.deploy", order(replica_id="replica-2", generation=2).to_wire())
        assert (await one.result(newer))["status"] == "success"
        await one.result(await one.command("command.stop", {"deploymentId": "deploy-1", "replicaId": "replica-1"}))
        again = await one.command("command.deploy", order(replica_id="replica-3").to_wire())
        assert (await one.result(again))["status"] == "success"


async def test_few_models_are_fetched_at_once_and_all_arrive(tmp_path: Path) -> None:
    async with controller() as one, running(Daemon(settings_for(one, tmp_path), launcher=FakeLauncher(), policy=QUICK)):
        await until(lambda: one.of(channel.NODE_REGISTER))
        one.hold = asyncio.Event()
        sent = []
        for number in range(7):
            artifact = one.add_files({f"m{number}/model.py": b"%d" % number})
            sent.append(await one.command("command.deploy", order(artifact, replica_id=f"r-{number}").to_wire()))
        await until(lambda: len(one.fetched) == 4)
        # The fifth would have come by the time that an answer to a later command is here.
        await one.result(await one.command("command.healthCheck", {}))
        assert len(one.fetched) == 4
        one.hold.set()
        assert [(await one.result(each))["status"] for each in sent] == ["success"] * 7
        assert len(one.fetched) == 7
