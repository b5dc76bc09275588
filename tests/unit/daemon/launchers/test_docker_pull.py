"""How far a pull is, from what Docker tells layer by layer."""

from hypothesis import given
from hypothesis import strategies as st

from aiwm.daemon.launchers.docker_pull import Progress

MIB = 2**20
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["a", "b", "latest"]),
        "status": st.sampled_from(["Downloading", "Extracting", "Download complete", "Pull complete", "Waiting"]),
        "progressDetail": st.none()
        | st.fixed_dictionaries({}, optional={"current": st.integers(0, 9), "total": st.integers(0, 9)}),
    },
)


def test_layers_are_added_up() -> None:
    progress = Progress("a/b:1")
    assert progress.words == "pulling a/b:1"
    for layer, done in (("x", 10), ("y", 100), ("x", 20)):
        detail = {"current": done * MIB, "total": 400 * MIB}
        progress.take({"status": "Downloading", "id": layer, "progressDetail": detail})
    assert progress.words == "pulling a/b:1: 120 MiB of 800 MiB"
    progress.take({"status": "Download complete", "id": "y", "progressDetail": {}})
    assert progress.words == "pulling a/b:1: 420 MiB of 800 MiB"


@given(st.lists(EVENTS, max_size=30))
def test_whatever_docker_tells_can_be_said(events: list[dict[str, object]]) -> None:
    progress = Progress("a")
    for each in events:
        progress.take(each)
    assert progress.words.startswith("pulling a")
