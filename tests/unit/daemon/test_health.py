"""What readings of an engine come to."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwm.daemon.engines.base import Trial, Verdict
from aiwm.daemon.health import (
    SERVING,
    Answer,
    Health,
    Judgement,
    Memory,
    Reading,
    due,
    in_flight,
    judge,
    seen,
    starting,
    tried,
)
from aiwm.daemon.replicas import Policy
from aiwm.protocol.node_channel import EngineNumbers

POLICY = Policy(hung_after=30, hung_after_tokens=10, hung_end=20, trial_interval=60, unhealthy_after=3)

COUNTS = st.one_of(st.none(), st.integers(0, 3))
NUMBERS = st.builds(
    EngineNumbers,
    requests=COUNTS,
    failures=COUNTS,
    generated_tokens=COUNTS,
    running=COUNTS,
    queued=COUNTS,
    cache_used=st.one_of(st.none(), st.floats(0, 100)),
)
STEPS = st.lists(
    st.tuples(st.floats(1, 15), st.sampled_from(Answer), st.one_of(st.none(), NUMBERS)), min_size=1, max_size=30
)
TRIALS = st.builds(Trial, st.sampled_from(Verdict), st.sampled_from(["", "no such layer"]))


def told(*numbers: EngineNumbers | None, every: float = 10, memory: Memory | None = None) -> Memory:
    """What an engine that is ready comes to when it counts `numbers`, one after the other."""
    memory = memory or Memory(tried_at=0)
    for step, each in enumerate(numbers):
        memory = seen(memory, Reading(step * every, Answer.READY, each))
    return memory


def stuck(**numbers: int) -> EngineNumbers:
    return EngineNumbers(**{"requests": 5, "failures": 0, "queued": 3, **numbers})


def moves(before: EngineNumbers, after: EngineNumbers) -> bool:
    names = ("requests", "failures", "generated_tokens", "cache_used")
    return any(getattr(before, name) != getattr(after, name) for name in names)


@given(STEPS)
def test_hung_means_work_in_flight_at_every_reading_and_nothing_moved_for_that_long(
    steps: list[tuple[float, Answer, EngineNumbers | None]],
) -> None:
    memory, now, known = Memory(tried_at=0), 0.0, list[tuple[float, EngineNumbers]]()
    for seconds, answer, numbers in steps:
        now += seconds
        memory = seen(memory, Reading(now, answer, numbers))
        if numbers is not None:
            known.append((now, numbers))
        if judge(memory, POLICY).health is not Health.HUNG:
            continue
        last = known[-1]
        still = [(at, each) for at, each in known if at > last[0] - POLICY.hung_after_tokens]
        assert all(in_flight(each) > 0 for _, each in still)
        assert not any(moves(each, last[1]) for _, each in still)


@given(STEPS)
def test_an_engine_that_counts_nothing_or_has_nothing_to_do_is_never_hung(
    steps: list[tuple[float, Answer, EngineNumbers | None]],
) -> None:
    for changes in ({"running": None, "queued": 0}, dict.fromkeys(("requests", "failures", "generated_tokens"))):
        memory, now = Memory(tried_at=0), 0.0
        for seconds, answer, numbers in steps:
            now += seconds
            bare = None if numbers is None else numbers.model_copy(update={"cache_used": None, **changes})
            memory = seen(memory, Reading(now, answer, bare))
            assert judge(memory, POLICY).health is not Health.HUNG


@given(STEPS, st.lists(TRIALS, max_size=5))
def test_serving_is_said_only_of_what_said_so_lately(
    steps: list[tuple[float, Answer, EngineNumbers | None]], trials: list[Trial]
) -> None:
    memory, now, misses = Memory(tried_at=0), 0.0, 0
    for seconds, answer, numbers in steps:
        now += seconds
        misses = 0 if answer is Answer.READY else misses + 1
        memory = seen(memory, Reading(now, answer, numbers))
        if trials:
            memory = tried(memory, trials.pop(), now)
        judgement = judge(memory, POLICY)
        if judgement.health in SERVING:
            assert misses < POLICY.unhealthy_after
        if judgement.health is Health.HEALTHY:
            assert memory.trouble is None
            assert answer is not Answer.NOT_READY
        assert judgement.words
        assert not judgement.given_up or judgement.health is Health.HUNG


@given(STEPS, st.floats(0, 1000))
def test_a_trial_is_due_only_for_an_engine_known_to_be_idle_and_not_too_often(
    steps: list[tuple[float, Answer, EngineNumbers | None]], tried_at: float
) -> None:
    memory, now, before = Memory(tried_at=tried_at), 0.0, None
    for seconds, answer, numbers in steps:
        now += seconds
        memory = seen(memory, Reading(now, answer, numbers))
        if due(memory, now, POLICY):
            assert now - tried_at >= POLICY.trial_interval
            assert answer is Answer.READY
            assert numbers is not None
            assert in_flight(numbers) == 0
            assert before is not None
            assert not moves(before, numbers)
        before = numbers or before


def test_work_that_does_not_move_is_hung_in_words_and_given_up_when_it_goes_on() -> None:
    memory = told(*[stuck()] * 4)
    assert judge(memory, POLICY) == Judgement(Health.HUNG, "3 requests are in flight and nothing has moved for 30 s")
    assert judge(told(*[stuck()] * 3), POLICY).health is Health.HEALTHY
    assert judge(told(*[stuck()] * 6), POLICY).given_up
    assert not judge(told(*[stuck()] * 5), POLICY).given_up
    assert judge(told(*[stuck()] * 4, stuck(requests=6)), POLICY).health is Health.HEALTHY


def test_an_engine_that_counts_tokens_is_waited_for_less() -> None:
    one = stuck(generated_tokens=7, queued=0, running=1)
    assert judge(told(one, one), POLICY).words == "1 request is in flight and nothing has moved for 10 s"
    filling = EngineNumbers(requests=5, generated_tokens=7, running=1, cache_used=50)
    assert judge(told(one, filling), POLICY).health is Health.HEALTHY


def test_the_time_in_which_nothing_could_be_read_is_no_stillness() -> None:
    """Such as that of a container which somebody paused, and let go on."""
    paused = seen(told(*[stuck()] * 2), Reading(20, Answer.NONE, None))
    woken = seen(paused, Reading(1000, Answer.READY, stuck()))
    assert (judge(woken, POLICY).health, woken.still_for) == (Health.HEALTHY, 10)


def test_numbers_that_cannot_be_read_neither_accuse_nor_acquit() -> None:
    hung = told(*[stuck()] * 4)
    assert judge(seen(hung, Reading(40, Answer.READY, None)), POLICY).health is Health.HUNG
    assert not judge(seen(hung, Reading(900, Answer.READY, None)), POLICY).given_up
    assert judge(told(stuck(), None, None, None, None), POLICY).health is Health.HEALTHY


@pytest.mark.parametrize(
    ("answers", "health", "words"),
    [
        ([Answer.NONE], Health.HEALTHY, "serving"),
        ([Answer.NONE] * 3, Health.UNHEALTHY, "the engine did not answer 3 health checks"),
        ([Answer.NOT_READY], Health.DEGRADED, "serving, but the engine says that it is not ready"),
        ([Answer.NOT_READY] * 3, Health.UNHEALTHY, "the engine was not ready at 3 health checks"),
        ([Answer.NONE] * 3 + [Answer.READY], Health.HEALTHY, "serving"),
    ],
)
def test_an_engine_that_does_not_answer_and_one_that_is_not_ready_are_told_apart(
    answers: list[Answer], health: Health, words: str
) -> None:
    memory = Memory(tried_at=0)
    for step, answer in enumerate(answers):
        memory = seen(memory, Reading(step, answer))
    assert judge(memory, POLICY) == Judgement(health, words)


def test_a_trial_that_failed_degrades_until_one_works_or_a_users_request_does() -> None:
    idle = EngineNumbers(requests=1, failures=1, queued=0)
    bad = tried(told(idle), Trial(Verdict.DOUBTED, "no such layer"), 0)
    assert judge(bad, POLICY).health is Health.DEGRADED
    assert judge(bad, POLICY).words == "serving, but a trial request failed: no such layer"
    assert judge(tried(bad, Trial(Verdict.WORKED), 60), POLICY).health is Health.HEALTHY
    own = told(idle.model_copy(update={"requests": 2, "failures": 2}), memory=bad)
    assert judge(own, POLICY).health is Health.DEGRADED, "the trial itself was counted, and failed"
    served = told(idle.model_copy(update={"requests": 3, "failures": 2}), memory=own)
    assert judge(served, POLICY).health is Health.HEALTHY
    assert not due(told(*[idle] * 3, memory=served), 1000, POLICY), "what was made up is no request for this model"


def test_a_trial_without_an_answer_is_work_in_flight() -> None:
    idle = EngineNumbers(requests=1, failures=0, queued=0)
    silent = tried(told(idle), Trial(Verdict.SILENT, "it had no answer within 30 s"), 0)
    assert judge(silent, POLICY).health is Health.DEGRADED
    assert judge(told(*[idle] * 4, memory=silent), POLICY).words == (
        "a trial request has no answer and nothing has moved for 30 s"
    )
    late = told(idle, idle, idle.model_copy(update={"requests": 2}), memory=silent)
    assert judge(late, POLICY).health is Health.HEALTHY
    assert due(told(*[idle] * 3, memory=replace(late, tried_at=0)), 60, POLICY)


def test_a_model_that_cannot_be_tried_is_not_tried_again() -> None:
    idle = EngineNumbers(requests=1, queued=0)
    assert due(told(idle, idle), 60, POLICY)
    assert not due(told(idle, idle), 59, POLICY)
    assert not due(told(idle, idle, None), 60, POLICY), "nobody knows whether it is idle"
    busy = EngineNumbers(requests=1, queued=1)
    assert not due(told(busy, busy), 60, POLICY)
    assert not due(tried(told(idle, idle), Trial(Verdict.UNTRIED), 0), 1000, POLICY)


def test_an_engine_on_its_way_says_how_far_it_is() -> None:
    assert starting(Answer.NONE, 20, 960) == Judgement(
        Health.STARTED, "started, answers nothing yet, 20 s of at most 960 s"
    )
    assert starting(Answer.NOT_READY, 120, 960) == Judgement(Health.LOADING, "loading, 120 s of at most 960 s")
    assert starting(Answer.READY, 130, 960).health is Health.LOADING
