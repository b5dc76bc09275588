"""What people are told of a node, and how often."""

import itertools
from datetime import datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.deployments.builders import HERE, NOW, later
from tests.unit.nodes.node_builders import a_record, gpu, online

from aiwm.nodes import alerts
from aiwm.nodes.alerts import QUIET, told
from aiwm.nodes.conditions import judged
from aiwm.nodes.records import NodeObservation
from aiwm.protocol.notifications import NotificationJob
from aiwm.protocol.resources.base import Owner
from aiwm.protocol.resources.nodes import ConditionReport

LOST, WELL = gpu("0", health="error", model="H100"), gpu("0", health="ok", model="H100")


class Story:
    """A node to which things happen; `said` is what people were told, as they get it."""

    def __init__(self) -> None:
        self.seen = online()
        self.said: list[Any] = []

    def goes(self, at: datetime, *gpus: object, **changes: object) -> list[str]:
        changed = self.seen.model_copy(update={"gpu_devices": list(gpus), **changes})
        self.seen, facts = told(a_record(), judged(changed, at=at), at=at)
        for name, job in facts:
            assert name == "service.alert"
            self.said.append(NotificationJob.model_validate(job).to_wire()["data"])
        return [job["data"]["title"] for _, job in facts]  # type: ignore[index]


def test_a_lost_gpu_is_told_at_once_with_all_that_a_program_needs() -> None:
    story = Story()
    story.goes(NOW, LOST)
    (alert,) = story.said
    assert alert["name"] == "gpu.lost"
    assert alert["severity"] == "critical"
    assert alert["title"] == "GPU lost on gpu-1"
    assert alert["message"].startswith("gpu-1: GPU 0 (H100) no longer answers")
    assert alert["data"] == {
        "nodeId": "node-1",
        "name": "gpu-1",
        "condition": "GPULost",
        "status": True,
        "devices": ["0"],
        "since": "2026-01-01T12:00:00.000Z",
    }
    assert alert["recipients"] == {"userIds": ["user-1"], "orgIds": [HERE]}
    assert alert["metadata"]["orgId"] == HERE


def test_it_is_not_told_again_while_it_lasts_and_its_end_once_with_low_severity() -> None:
    story = Story()
    for minute in range(60):
        story.goes(later(60 * minute), LOST)
    assert len(story.said) == 1
    assert story.goes(later(3600), WELL) == ["GPU lost on gpu-1 is over"]
    assert story.said[-1]["severity"] == "low"
    assert story.said[-1]["data"]["status"] is False
    assert story.goes(later(7200), WELL) == []


def test_another_device_is_told_of_too_once() -> None:
    story = Story()
    story.goes(NOW, LOST, gpu("1"))
    other = gpu("1", health="error")
    assert story.goes(later(10), LOST, other) == []
    assert story.goes(later(300), LOST, other) == ["GPU lost on gpu-1"]
    assert story.said[-1]["data"]["devices"] == ["0", "1"]
    assert story.goes(later(900), WELL, other) == []
    assert story.goes(later(1500), LOST, other) == []


def test_a_turn_within_five_minutes_waits_and_is_told_if_it_lasts() -> None:
    story = Story()
    story.goes(NOW, LOST)
    assert story.goes(later(60), WELL) == []
    assert story.goes(later(120), WELL) == []
    assert story.goes(later(300), WELL) == ["GPU lost on gpu-1 is over"]


def test_what_was_told_outlives_the_controller() -> None:
    story = Story()
    story.goes(NOW, LOST)
    story.seen = NodeObservation.model_validate_json(story.seen.model_dump_json(by_alias=True))
    assert story.goes(later(600), LOST) == []


def test_conditions_do_not_quiet_each_other() -> None:
    story = Story()
    story.goes(NOW, LOST, disk_free=100)
    assert sorted(each["name"] for each in story.said) == ["gpu.lost", "storage.low"]


def test_a_condition_that_is_only_shown_is_told_to_nobody() -> None:
    reported = [ConditionReport(type="EngineOld", status=True, reason="Old", message="it is old")]
    seen = judged(online(), at=NOW, reported=reported)
    assert told(a_record(), seen, at=NOW) == (seen, [])


def test_of_a_shared_node_that_no_user_made_there_is_nobody_to_tell() -> None:
    shared = a_record(owner=Owner(org_id=None), created_by=None)
    _, facts = told(shared, judged(online(LOST), at=NOW), at=NOW)
    assert facts == []
    mine = a_record(owner=Owner(org_id=None))
    ((_, job),) = told(mine, judged(online(LOST), at=NOW), at=NOW)[1]
    assert NotificationJob.model_validate(job).data.recipients.to_wire() == {"userIds": ["user-1"]}


def test_every_condition_that_is_told_has_a_name_of_its_own_kind() -> None:
    names = {kind.name for kind in alerts._KINDS.values()}
    assert {"gpu.temperature", "gpu.memory", "gpu.lost", "node.lost", "storage.low"} <= names


@given(st.lists(st.tuples(st.integers(1, 200), st.booleans()), min_size=1, max_size=40))
def test_however_it_flaps_alerts_alternate_keep_their_distance_and_end_with_how_it_is(
    turns: list[tuple[int, bool]],
) -> None:
    story, at, heard = Story(), NOW, list[tuple[datetime, bool]]()
    for seconds, broken in turns:
        at += timedelta(seconds=seconds)
        before = len(story.said)
        story.goes(at, LOST if broken else WELL)
        heard += [(at, each["data"]["status"]) for each in story.said[before:]]
    last = turns[-1][1]
    before = len(story.said)
    at += QUIET
    story.goes(at, LOST if last else WELL)
    heard += [(at, each["data"]["status"]) for each in story.said[before:]]
    assert all(later_ - earlier >= QUIET for (earlier, _), (later_, _) in itertools.pairwise(heard))
    assert [status for _, status in heard] == [index % 2 == 0 for index in range(len(heard))]
    assert (heard[-1][1] if heard else False) is last
