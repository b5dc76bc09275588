"""`aiwm node install` and `uninstall`, below a folder in the place of the machine's root."""

import asyncio
import getpass
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from tests.daemon_support import TOKEN, controller, order, until
from tests.faults.test_daemon_engines import alive, identity, start_daemon, stop

from aiwm.daemon import install as installing
from aiwm.daemon import keeper, service_command
from aiwm.daemon import uninstall as uninstalling
from aiwm.daemon.envfile import read_environment
from aiwm.daemon.keeper import ENGINE_OOM_SCORE
from aiwm.daemon.main import run_module
from aiwm.daemon.service import ENVIRONMENT, UNIT, Machine, Refused
from aiwm.protocol import node_channel as channel

PYTHON = sys.executable
URL = ("--controller-url", "https://aiwm.example.org:3003")


class Systemctl:
    """Answers like a machine on which the service can be enabled, and notes what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.runs = False

    def __call__(self, *command: str) -> int:
        line = " ".join(command)
        if line in ("systemctl is-active --quiet aiwm-node", "systemctl is-enabled --quiet aiwm-node"):
            return 0 if self.runs else 3
        self.told.append(line)
        if line.startswith(("systemctl enable", "systemctl disable")):
            self.runs = line.startswith("systemctl enable")
        return 0


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("a-secret-token\n")
    return path


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in os.environ if each.startswith("AIWM_") and not each.startswith("AIWM_TEST_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine run by systemd, on which this user is root and has the service's name."""
    root = tmp_path / "root"
    (root / "run/systemd/system").mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sys, "executable", "/bin/sh")
    monkeypatch.setattr(installing, "USER", getpass.getuser())
    return Machine(root, Systemctl())


def install(machine: Machine, *arguments: str) -> list[str]:
    return installing.install(service_command.parser("install").parse_args(arguments), os.environ, machine)


def staged(root: Path, verb: str, *arguments: str) -> int:
    """The command as an image is built with it."""
    return run_module([verb, "--root", str(root), *arguments])


def files_below(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_the_service_is_written_enabled_and_started(machine: Machine, token: Path) -> None:
    said = install(machine, *URL, "--token-file", str(token), "--advertise-host", "10.0.0.5", "--node-name", "gpu 1")
    assert machine.run is not None
    assert machine.at(ENVIRONMENT).read_text().splitlines()[1:] == [
        'AIWM_ADVERTISE_HOST="10.0.0.5"',
        'AIWM_CONTROLLER_URL="https://aiwm.example.org:3003"',
        'AIWM_DATA_DIR="/var/lib/aiwm"',
        'AIWM_NODE_NAME="gpu 1"',
        'AIWM_NODE_TOKEN="a-secret-token"',
    ]
    assert machine.at(ENVIRONMENT).stat().st_mode & 0o777 == 0o600
    assert machine.at(UNIT).stat().st_mode & 0o777 == 0o644
    assert "a-secret-token" not in machine.at(UNIT).read_text()
    assert machine.at(Path("/var/lib/aiwm")).stat().st_mode & 0o777 == 0o700
    assert machine.run.told == ["systemctl daemon-reload", "systemctl enable --now aiwm-node"]  # type: ignore[attr-defined]
    assert "is started" in said[-1]


def test_a_second_run_changes_nothing_and_says_so(machine: Machine, token: Path) -> None:
    arguments = (*URL, "--token-file", str(token), "--docker")
    install(machine, *arguments)
    before = files_below(machine.root)
    machine.run.told.clear()  # type: ignore[union-attr]
    for again in (arguments, ()):
        assert install(machine, *again) == ["nothing to change: the service is installed and runs"]
    assert files_below(machine.root) == before
    assert machine.run.told == []  # type: ignore[union-attr]


def test_a_changed_setting_is_written_and_the_restart_left_to_the_operator(machine: Machine, token: Path) -> None:
    install(machine, *URL, "--token-file", str(token))
    said = install(machine, "--advertise-host", "10.0.0.6", "--docker")
    assert said == [
        f"changed {machine.at(ENVIRONMENT)}",
        f"changed {machine.at(UNIT)}",
        "to use it: systemctl restart aiwm-node (engines go on)",
    ]
    assert 'AIWM_NODE_TOKEN="a-secret-token"' in machine.at(ENVIRONMENT).read_text()
    assert "SupplementaryGroups=docker" in machine.at(UNIT).read_text()
    install(machine, "--no-docker")
    assert "SupplementaryGroups" not in machine.at(UNIT).read_text()


def test_a_settings_file_that_was_opened_to_others_is_closed_again(machine: Machine, token: Path) -> None:
    install(machine, *URL, "--token-file", str(token))
    machine.at(ENVIRONMENT).chmod(0o644)
    assert install(machine)[0] == f"changed {machine.at(ENVIRONMENT)}"
    assert machine.at(ENVIRONMENT).stat().st_mode & 0o777 == 0o600


def test_another_way_in_takes_the_place_of_the_first(machine: Machine, token: Path) -> None:
    install(machine, *URL, "--join-token-file", str(token))
    assert 'AIWM_JOIN_TOKEN="a-secret-token"' in machine.at(ENVIRONMENT).read_text()
    install(machine, "--token-file", str(token))
    assert "AIWM_JOIN_TOKEN" not in machine.at(ENVIRONMENT).read_text()


def test_a_token_may_come_from_the_environment(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIWM_JOIN_TOKEN", "from-the-shell")
    install(machine, *URL)
    assert 'AIWM_JOIN_TOKEN="from-the-shell"' in machine.at(ENVIRONMENT).read_text()


def test_a_missing_user_is_made(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    monkeypatch.setattr(installing, "USER", "no-such-user-here")
    installing.ensure_user(machine, Path("/var/lib/aiwm"))
    assert machine.run.told == [  # type: ignore[union-attr]
        "useradd --system --user-group --no-create-home --home-dir /var/lib/aiwm --shell /usr/sbin/nologin "
        "no-such-user-here"
    ]


def not_root(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def no_systemd(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    (machine.root / "run/systemd/system").rmdir()


def in_a_home(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    monkeypatch.setattr(sys, "executable", "/home/user/venv/bin/python")


def folder_of_another(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    (machine.root / "var/lib/aiwm/node").mkdir(parents=True)
    monkeypatch.setattr(installing, "owner_of", lambda path: 4711)


def as_it_is(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    pass


@pytest.mark.parametrize(
    ("arrange", "arguments", "sentence"),
    [
        (not_root, [], "needs root: run it with sudo"),
        (no_systemd, [], "not run by systemd"),
        (in_a_home, [], "where the service's user"),
        (folder_of_another, [], "chown -R"),
        (as_it_is, ["--data-dir", "/"], "a folder of its own"),
        (as_it_is, ["--data-dir", "/var/lib"], "a folder of its own"),
        (as_it_is, ["--data-dir", "/srv/my data"], "letters, digits"),
        (as_it_is, ["--data-dir", "relative"], "absolute path"),
        (as_it_is, ["--data-dir", "/srv/%h"], "letters, digits"),
        (as_it_is, ["--token-file", "/nowhere"], "cannot read the token"),
        (as_it_is, ["--token-file", "/dev/null"], "is empty"),
        (as_it_is, ["--controller-url", "aiwm:3003"], "give the controller's address"),
        (as_it_is, ["--node-name", "two\nlines"], "control character"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence_and_nothing_is_written(
    arrange: Callable[[pytest.MonkeyPatch, Machine], None],
    arguments: list[str],
    sentence: str,
    machine: Machine,
    token: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrange(monkeypatch, machine)
    with pytest.raises(Refused, match=sentence):
        install(machine, *URL, "--token-file", str(token), *arguments)
    assert files_below(machine.root) == {}


def test_a_node_without_a_token_is_told_where_to_get_one(machine: Machine) -> None:
    with pytest.raises(Refused, match="aiwm nodes join-token"):
        install(machine, *URL)


def test_an_image_is_laid_out_without_running_anything(
    tmp_path: Path, token: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert staged(tmp_path / "image", "install", *URL, "--token-file", str(token)) == 0
    assert set(files_below(tmp_path / "image")) == {
        "etc/aiwm/node.env",
        "etc/systemd/system/aiwm-node.service",
    }
    assert "useradd --system" in capsys.readouterr().out
    assert staged(tmp_path / "image", "install") == 0
    assert "nothing to change" in capsys.readouterr().out
    assert staged(tmp_path / "image", "uninstall") == 0
    assert files_below(tmp_path / "image") == {}


def test_the_unit_is_shown_without_a_token_or_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert staged(tmp_path / "image", "install", "--print", "--data-dir", "/srv/aiwm") == 0
    assert "ReadWritePaths=/srv/aiwm " in capsys.readouterr().out
    assert not (tmp_path / "image").exists()


def test_what_is_called_wrongly_is_2_and_what_cannot_be_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        staged(tmp_path, "install", "--token", "on-the-command-line")
    assert ended.value.code == 2
    assert staged(tmp_path, "install") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("aiwm node install: give the controller's address")


def test_uninstall_ends_the_service_and_leaves_what_the_node_keeps(machine: Machine, token: Path) -> None:
    install(machine, *URL, "--token-file", str(token))
    own = machine.at(Path("/var/lib/aiwm/node"))
    own.mkdir()
    machine.run.told.clear()  # type: ignore[union-attr]
    said = uninstalling.uninstall(machine, purge=False)
    assert machine.run.told == ["systemctl disable --now aiwm-node", "systemctl daemon-reload"]  # type: ignore[union-attr]
    assert f"left {own}" in said[-1]
    assert files_below(machine.root) == {}
    assert own.is_dir()
    uninstalling.uninstall(machine, purge=True)
    assert not own.parent.exists()
    assert uninstalling.uninstall(machine, purge=False) == ["nothing to remove: the service is not installed"]


def test_purging_leaves_what_is_not_the_node_s(machine: Machine) -> None:
    own = machine.at(Path("/var/lib/aiwm/node"))
    own.mkdir(parents=True)
    (own.parent / "aiwm.db").write_text("the controller's")
    uninstalling.uninstall(machine, purge=True)
    assert [path.name for path in own.parent.iterdir()] == ["aiwm.db"]


@pytest.mark.parametrize(
    ("note", "runs"),
    [
        ({"name": "a", "id": "1", "bootId": keeper.boot_id(), "pid": 7, "startTime": 8}, True),
        ({"name": "a", "id": "1", "bootId": keeper.boot_id()}, False),
        ({"name": "a", "id": "1", "bootId": "another", "pid": 7, "startTime": 8}, False),
        ({"name": "a"}, False),
    ],
)
def test_a_container_that_ran_forbids_a_purge(machine: Machine, note: dict[str, object], runs: bool) -> None:
    folder = machine.at(Path("/var/lib/aiwm/node/replicas/replica-1"))
    folder.mkdir(parents=True)
    (folder / "container.json").write_text(json.dumps(note))
    with pytest.raises(Refused, match="1 engine runs here") if runs else nullcontext():
        uninstalling.uninstall(machine, purge=True)
    assert folder.exists() is runs


async def test_engines_go_on_when_the_service_is_removed_and_forbid_a_purge(tmp_path: Path) -> None:
    image, data_dir = tmp_path / "image", tmp_path / "image/var/lib/aiwm"
    data_dir.mkdir(parents=True)
    async with controller() as one:
        daemon = await start_daemon(one, data_dir)
        await until(lambda: one.of(channel.NODE_REGISTER))
        await one.result(await one.command("command.deploy", order().to_wire()))
        engine = identity(data_dir)
        with pytest.raises(Refused, match=r"1 engine runs here \(replica-1\): stop their deployments first"):
            uninstalling.uninstall(Machine(image), purge=True)
        assert any("now as before" in line for line in uninstalling.uninstall(Machine(image), purge=False))
        assert alive(engine)
        await stop(one)
        assert uninstalling.running_engines(data_dir / "node") == []
        daemon.terminate()
        await daemon.wait()
    uninstalling.uninstall(Machine(image), purge=True)
    assert not data_dir.exists()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


async def test_the_daemon_comes_up_as_the_service_starts_it(machine: Machine, data_dir: Path) -> None:
    async with controller() as one:
        given = ("--controller-url", one.url, "--data-dir", str(data_dir))
        parsed = service_command.parser("install").parse_args(given)
        installing.install(parsed, {"AIWM_NODE_TOKEN": TOKEN}, Machine(machine.root))
        unit = dict(line.split("=", 1) for line in files_below(machine.root)[str(UNIT)[1:]].splitlines() if "=" in line)
        command = unit["ExecStart"].replace(sys.executable, PYTHON).split()
        environment = read_environment(files_below(machine.root)[str(ENVIRONMENT)[1:]])
        daemon = await asyncio.create_subprocess_exec(
            *command, env=environment | {"PATH": os.environ["PATH"]}, cwd=unit["WorkingDirectory"]
        )
        await until(lambda: one.of(channel.NODE_REGISTER))
        daemon.terminate()
        assert await daemon.wait() == 0


def score(pid: int | str, new: str | None = None) -> str:
    """How gladly the kernel ends a process for want of memory; set to `new` before."""
    path = Path(f"/proc/{pid}/oom_score_adj")
    if new is not None:
        path.write_text(new)
    return path.read_text().strip()


async def test_an_engine_is_not_shielded_from_the_kernel_as_the_daemon_is(data_dir: Path) -> None:
    before = score("self")
    async with controller() as one:
        try:
            score("self", "200")
            daemon = await start_daemon(one, data_dir)
        finally:
            score("self", before)
        await until(lambda: one.of(channel.NODE_REGISTER))
        await one.result(await one.command("command.deploy", order().to_wire()))
        scores = [score(pid) for pid in (daemon.pid, identity(data_dir)[0])]
        await stop(one)
        daemon.terminate()
        await daemon.wait()
    assert scores == ["200", str(ENGINE_OOM_SCORE)]


def test_aiwm_node_names_both_commands() -> None:
    done = subprocess.run([sys.executable, "-m", "aiwm", "node", "--help"], capture_output=True, text=True, check=True)
    assert "aiwm node install" in done.stdout
    assert "aiwm doctor" in done.stdout
