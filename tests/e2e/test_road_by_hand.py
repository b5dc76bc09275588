"""The README's road with curl is run as it stands, in one shell, against a real `aiwm up`."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.servers import free_port

from aiwm.daemon.engines.triton_install import find_binary

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Up:
    """A running `aiwm up`."""

    data: Path
    url: str
    noti: str


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    port, noti_port = free_port(), free_port()
    arguments = ["--data-dir", str(tmp_path / "data"), "--port", str(port), "--noti-port", str(noti_port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "aiwm", "up", *arguments], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stdout is not None
    try:
        assert any(line.startswith("ready in") for line in process.stdout), "aiwm up ended before it was ready"
        yield Up(tmp_path / "data", f"http://127.0.0.1:{port}", f"http://127.0.0.1:{noti_port}")
    finally:
        process.send_signal(signal.SIGINT)
        process.stdout.close()
        assert process.wait(15) == 0


def test_every_command_of_the_page_does_what_it_says(up: Up) -> None:
    if find_binary("") is None:
        pytest.skip("no tritonserver: pip install nvidia-pytriton==0.7.0")
    for tool in ("bash", "curl", "tar"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: apt-get install {tool}")
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    environment = {**os.environ, "URL": up.url, "NOTI": up.noti, "DATA": str(up.data)}
    walked = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert walked.returncode == 0, walked.stderr + walked.stdout
    assert walked.stdout.startswith("[{'name': 'triton'")
    assert walked.stdout.count('"LABEL","datatype":"INT64","shape":[1,1],"data":[8]') == 2
    for service in ("controller", "noti", "node"):
        assert f"{service}.log" in walked.stdout
