"""No engine is started again, whatever happens to the link between its node and the controller."""

from pathlib import Path

import pytest
from tests.e2e.nat_show import missing, show


async def test_two_real_tritons_behind_nat_outlive_every_cut(tmp_path: Path) -> None:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    told: list[str] = []

    def say(text: str) -> None:
        told.append(text)
        print(text, flush=True)

    assert await show(tmp_path, say) == 0
    assert told[-1] == "engine restarts: 0"
