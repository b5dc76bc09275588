"""A simulated node is a real daemon but for its launcher and its telemetry, and its machine is a plausible one."""

import ast
import random
from pathlib import Path

from aiwm.daemon.daemon import Daemon
from aiwm.daemon.launchers.fake import FakeLauncher
from aiwm.daemon.telemetry import judge_health
from aiwm.kit.clock import SystemClock
from aiwm.kit.settings import Settings
from aiwm.protocol.states import Health
from aiwm.testing.fleet import Fleet
from aiwm.testing.simulated import SimulatedTelemetry, SkewedClock

_SIMULATOR = Path(__file__).parents[3] / "src" / "aiwm" / "testing"
_ALLOWED = {
    "aiwm.daemon.daemon": {"Daemon"},
    "aiwm.daemon.launchers.fake": {"FakeLauncher"},
    "aiwm.daemon.launchers.port": {"Running"},
}
_REPLACED = {"launcher", "telemetry", "clock"}


def _trees() -> list[ast.AST]:
    """The modules that `aiwm simulate` is made of: its own, and those of `testing` that they import."""
    wanted, seen = ["simulate"], dict[str, ast.AST]()
    while wanted:
        name = wanted.pop()
        tree = seen[name] = ast.parse((_SIMULATOR / f"{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aiwm.testing"):
                below = str(node.module).removeprefix("aiwm.testing").strip(".")
                names = [below] if below else [each.name for each in node.names]
                wanted += [each for each in names if each not in seen]
    assert {"simulated", "fleet", "weather", "enrolment"} <= seen.keys()
    return list(seen.values())


def test_the_simulator_takes_nothing_of_the_daemon_but_itself_and_its_fake_launcher() -> None:
    taken: dict[str, set[str]] = {}
    for tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aiwm.daemon"):
                taken.setdefault(str(node.module), set()).update(each.name for each in node.names)
            assert not (isinstance(node, ast.Import) and any(each.name.startswith("aiwm") for each in node.names))
    assert taken == _ALLOWED


def test_the_simulator_gives_a_daemon_nothing_but_launcher_telemetry_and_clock() -> None:
    calls = [
        node
        for tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Daemon"
    ]
    assert len(calls) == 1
    assert {keyword.arg for keyword in calls[0].keywords} == _REPLACED


def test_nobody_derives_from_the_daemon_or_changes_its_parts() -> None:
    for tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                assert not {base.id for base in node.bases if isinstance(base, ast.Name)} & {"Daemon", "FakeLauncher"}
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
                assert not (node.value.attr == "daemon" and node.attr.startswith("_"))


async def test_every_other_part_of_a_simulated_daemon_is_the_real_one(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "real", controller_url="http://127.0.0.1:9", node_token="t")
    real = Daemon(settings)
    fleet = Fleet(settings, tmp_path / "fleet")
    async with fleet:
        fleet.start("sim-0001", "t", nodes=1)
        (simulated,) = (member.daemon for member in fleet._members)
        parts = {name: type(part) for name, part in vars(simulated).items()}
        assert parts.pop("_launcher") is FakeLauncher
        assert parts.pop("_telemetry") is SimulatedTelemetry
        others = {name: type(part) for name, part in vars(real).items() if name not in ("_launcher", "_telemetry")}
        assert parts == others


def test_a_simulated_machine_wanders_but_stays_a_machine() -> None:
    telemetry = SimulatedTelemetry("sim-0001", 8, random.Random(1))
    facts, seen = telemetry.facts(), [telemetry.metrics() for _ in range(1000)]
    assert [gpu.device_id for gpu in facts.gpu_devices or []] == [str(number) for number in range(8)]
    assert telemetry.gpu_ids() == {str(number) for number in range(8)}
    loads = [gpu.utilization for each in seen for gpu in each.gpu_devices or []]
    assert len(set(loads)) > 100
    assert all(each.ram_free is not None and each.ram_free <= (facts.ram_total or 0) for each in seen)
    for gpu in (gpu for each in seen for gpu in each.gpu_devices or []):
        assert (gpu.memory_used or 0) + (gpu.memory_free or 0) == gpu.memory_total
        assert 30 < (gpu.temperature or 0) < 80
        assert (gpu.memory_used or 0) < 0.95 * (gpu.memory_total or 0)
    assert {judge_health(each) for each in seen} == {Health.HEALTHY}


def test_a_machine_without_gpus_is_one_too() -> None:
    telemetry = SimulatedTelemetry("sim-0001", 0, random.Random(1))
    assert telemetry.metrics().gpu_devices == []
    assert telemetry.gpu_ids() == set()


def test_the_same_name_and_seed_make_the_same_machine() -> None:
    one, same = (SimulatedTelemetry("sim-0001", 2, random.Random("0 sim-0001")).facts() for _ in range(2))
    assert one.gpu_devices == same.gpu_devices
    assert one.ip_address == same.ip_address


def test_a_skewed_clock_is_off_by_its_skew() -> None:
    off = (SkewedClock(90).now() - SystemClock().now()).total_seconds()
    assert 89 < off < 91
