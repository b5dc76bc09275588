"""Decisions about replicas."""

import pytest
from tests.daemon_support import order

from aiwm.daemon.replicas import (
    Moment,
    Next,
    Policy,
    ReplicaRecord,
    Verdict,
    after_end,
    judge_deploy,
    judge_stop,
    passing,
    pause_after,
    proven,
    report,
    status_report,
    time_left,
)
from aiwm.protocol.states import DeploymentStatus, ReplicaState

POLICY = Policy(most_failures=3, stable=60)


def record(state: ReplicaState, generation: int = 5) -> ReplicaRecord:
    return ReplicaRecord(order=order(generation=generation), state=state)


@pytest.mark.parametrize(
    ("known", "buried", "generation", "verdict"),
    [
        (None, None, 1, Verdict.ACT),
        (None, 4, 4, Verdict.GONE),
        (None, 4, 5, Verdict.ACT),
        (record(ReplicaState.RUNNING), None, 4, Verdict.STALE),
        (record(ReplicaState.RUNNING), None, 5, Verdict.ALREADY),
        (record(ReplicaState.RUNNING), None, 6, Verdict.ACT),
        (record(ReplicaState.PREPARING), None, 5, Verdict.ALREADY),
        (record(ReplicaState.FAILED), None, 5, Verdict.ACT),
        (record(ReplicaState.FAILED), None, 4, Verdict.STALE),
        (record(ReplicaState.STOPPING), None, 5, Verdict.GONE),
        (record(ReplicaState.STOPPING), None, 6, Verdict.ACT),
    ],
)
def test_a_deploy_counts_by_its_generation(
    known: ReplicaRecord | None, buried: int | None, generation: int, verdict: Verdict
) -> None:
    assert judge_deploy(known, buried, generation) is verdict


@pytest.mark.parametrize(
    ("known", "generation", "verdict"),
    [
        (None, 1, Verdict.ALREADY),
        (record(ReplicaState.RUNNING), None, Verdict.ACT),
        (record(ReplicaState.RUNNING), 4, Verdict.STALE),
        (record(ReplicaState.RUNNING), 5, Verdict.ACT),
    ],
)
def test_a_stop_older_than_what_runs_changes_nothing(
    known: ReplicaRecord | None, generation: int | None, verdict: Verdict
) -> None:
    assert judge_stop(known, generation) is verdict


@pytest.mark.parametrize(
    ("served", "failures", "step", "count"),
    [
        (False, 0, Next.FAIL, 1),
        (True, 0, Next.RESTART, 1),
        (False, 1, Next.RESTART, 2),
        (True, 2, Next.RESTART, 3),
        (True, 3, Next.FAIL, 4),
    ],
)
def test_an_engine_that_served_gets_more_chances_than_one_that_never_did(
    served: bool, failures: int, step: Next, count: int
) -> None:
    assert after_end(served=served, failures=failures, policy=POLICY) == (step, count)


def test_every_state_has_a_status_and_reports_survive_the_wire() -> None:
    for state in ReplicaState:
        one = record(state)
        assert status_report(one).status in DeploymentStatus
        assert report(one).to_wire()["state"] == state
        assert ReplicaRecord.model_validate(one.to_wire()) == one


@pytest.mark.parametrize(
    ("failures", "least", "most"),
    [(1, 10, 20), (2, 20, 40), (3, 40, 80), (4, 80, 160), (5, 150, 300), (6, 150, 300), (5000, 150, 300)],
)
def test_pauses_double_from_ten_seconds_to_five_minutes(failures: int, least: float, most: float) -> None:
    assert pause_after(failures, Policy(), min) == least
    assert pause_after(failures, Policy(), max) == most


@pytest.mark.parametrize(
    ("due", "left"),
    [
        (Moment(boot_id="this", at=130), 30),
        (Moment(boot_id="this", at=90), 0),
        (Moment(boot_id="this", at=1e9), 300),
        (Moment(boot_id="another", at=130), 0),
    ],
)
def test_what_is_left_of_a_pause_is_the_same_for_the_next_daemon(due: Moment, left: float) -> None:
    assert time_left(due, Moment(boot_id="this", at=100), Policy()) == left


@pytest.mark.parametrize(
    ("since", "so"),
    [
        (None, False),
        (Moment(boot_id="this", at=41), False),
        (Moment(boot_id="this", at=40), True),
        (Moment(boot_id="another", at=1), False),
    ],
)
def test_an_engine_is_proven_by_how_long_it_served_in_this_boot(since: Moment | None, so: bool) -> None:
    one = record(ReplicaState.RUNNING)
    one.served_from = since
    assert proven(one, Moment(boot_id="this", at=100), POLICY) is so


def test_a_full_disk_and_a_lost_network_pass_and_a_broken_engine_does_not() -> None:
    assert passing("RESOURCE_EXHAUSTED", retryable=False)
    assert passing("NETWORK_ERROR", retryable=True)
    assert not passing("CONTAINER_START_FAILED", retryable=False)
    assert not passing("CHECKSUM_MISMATCH", retryable=False)
