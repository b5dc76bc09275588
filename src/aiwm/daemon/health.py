"""What the readings of an engine say about its health. Pure.

Started: it runs and answers nothing yet. Loading: it answers, but not that it serves. Degraded: it serves, but not as
it should. Unhealthy: it does not serve. Hung: there is work in flight, and nothing that it counts has moved for long.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from aiwm.daemon.engines.base import Trial, Verdict
from aiwm.daemon.replicas import Policy
from aiwm.protocol.node_channel import EngineNumbers

# Each moves while an engine works; the cache also while it reads a very long prompt.
_MOVING = ("requests", "failures", "prompt_tokens", "generated_tokens", "first_token_count", "cache_used")


class Health(StrEnum):
    """How an engine does, as reports say it."""

    STARTED = "started"
    LOADING = "loading"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    HUNG = "hung"


SERVING = frozenset({Health.HEALTHY, Health.DEGRADED})


class Answer(StrEnum):
    """What an engine's own readiness says: nothing at all, not yet, or that it serves."""

    NONE = "none"
    NOT_READY = "not ready"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at an engine; `numbers` None where they could not be read. `at` is monotonic."""

    at: float
    answer: Answer
    numbers: EngineNumbers | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What all readings of one run of an engine come to.

    `numbers` were `read_at`; `known` says that this was at the last look.
    `still_since` is the moment since which work is in flight and nothing has moved, and `still_for` how long that was
    at the last numbers. `trouble` is how a trial went wrong, `unanswered` says that it had no answer at all.
    """

    tried_at: float
    trouble: str | None = None
    unanswered: bool = False
    triable: bool = True
    answer: Answer = Answer.READY
    misses: int = 0
    numbers: EngineNumbers | None = None
    known: bool = False
    read_at: float = 0.0
    moved: bool = True
    still_since: float | None = None
    still_for: float = 0.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """`words` for people; `given_up` when the engine is to be ended and started again."""

    health: Health
    words: str
    given_up: bool = False


def seen(memory: Memory, reading: Reading) -> Memory:
    """`memory` with one more reading."""
    misses = 0 if reading.answer is Answer.READY else memory.misses + 1
    after = replace(memory, answer=reading.answer, misses=misses, known=reading.numbers is not None)
    if reading.numbers is None:
        # Nothing is concluded from numbers that are missing, neither that work goes on nor that it does not.
        return after
    before = memory.numbers
    moved = before is None or _counted(before) != _counted(reading.numbers)
    if before is not None and _succeeded(reading.numbers) > _succeeded(before):
        after = _proven(after)
    unseen = 0.0 if memory.known else reading.at - memory.read_at
    after = replace(after, numbers=reading.numbers, read_at=reading.at, moved=moved)
    return _stillness(after, reading, unseen)


def tried(memory: Memory, trial: Trial, at: float) -> Memory:
    """`memory` with a trial that ended at `at`."""
    after = replace(memory, tried_at=at, unanswered=trial.verdict is Verdict.SILENT)
    if trial.verdict is Verdict.UNTRIED:
        return replace(after, triable=False)
    if trial.verdict is Verdict.WORKED:
        return replace(after, trouble=None)
    return replace(after, trouble=trial.words or "it said nothing of why")


def due(memory: Memory, now: float, policy: Policy) -> bool:
    """Whether to try the engine out: only while it serves and has nothing to do, so that users never wait for it."""
    if not memory.triable or not memory.known or memory.answer is not Answer.READY:
        return False
    return in_flight(memory.numbers) == 0 and not memory.moved and now - memory.tried_at >= policy.trial_interval


def judge(memory: Memory, policy: Policy) -> Judgement:
    """How the engine does."""
    patience = _patience(memory.numbers, policy)
    if memory.still_since is not None and memory.still_for >= patience:
        words = f"{_work(memory)} and nothing has moved for {memory.still_for:.0f} s"
        return Judgement(Health.HUNG, words, given_up=memory.still_for >= patience + policy.hung_end)
    if memory.misses >= policy.unhealthy_after:
        said = "did not answer" if memory.answer is Answer.NONE else "was not ready at"
        return Judgement(Health.UNHEALTHY, f"the engine {said} {memory.misses} health checks")
    if memory.answer is Answer.NOT_READY:
        return Judgement(Health.DEGRADED, "serving, but the engine says that it is not ready")
    if memory.trouble is not None:
        return Judgement(Health.DEGRADED, f"serving, but a trial request failed: {memory.trouble}")
    return Judgement(Health.HEALTHY, "serving")


def starting(answer: Answer, spent: float, limit: float) -> Judgement:
    """How an engine does that has not served yet, `spent` seconds after its start."""
    health = Health.STARTED if answer is Answer.NONE else Health.LOADING
    doing = {
        Answer.NONE: "started, answers nothing yet",
        Answer.NOT_READY: "loading",
        Answer.READY: "ready, but a trial request has no answer yet",
    }
    return Judgement(health, f"{doing[answer]}, {spent:.0f} s of at most {limit:.0f} s")


def in_flight(numbers: EngineNumbers | None) -> int:
    """Requests that are being worked on or wait, as far as that is told."""
    return 0 if numbers is None else (numbers.running or 0) + (numbers.queued or 0)


def _stillness(memory: Memory, reading: Reading, unseen: float) -> Memory:
    """`unseen` is how long nothing could be read before this, which counts neither way."""
    countless = memory.numbers is None or all(each is None for each in _counted(memory.numbers))
    if countless or not (in_flight(memory.numbers) or memory.unanswered):
        return replace(memory, still_since=None, still_for=0.0)
    if memory.moved or memory.still_since is None:
        return replace(memory, still_since=reading.at, still_for=0.0)
    since = memory.still_since + unseen
    return replace(memory, still_since=since, still_for=reading.at - since)


def _proven(memory: Memory) -> Memory:
    """A request succeeded: that says more than a trial, and an input that was made up is none for this model."""
    doubtful = memory.trouble is not None and not memory.unanswered
    return replace(memory, trouble=None, unanswered=False, triable=memory.triable and not doubtful)


def _patience(numbers: EngineNumbers | None, policy: Policy) -> float:
    """An engine that counts the tokens it writes moves with each of them; others only when a request is done."""
    stepwise = numbers is not None and numbers.generated_tokens is not None
    return policy.hung_after_tokens if stepwise else policy.hung_after


def _work(memory: Memory) -> str:
    number = in_flight(memory.numbers)
    if number == 0:
        return "a trial request has no answer"
    return f"{number} request{' is' if number == 1 else 's are'} in flight"


def _counted(numbers: EngineNumbers) -> tuple[float | None, ...]:
    return tuple(getattr(numbers, name) for name in _MOVING)


def _succeeded(numbers: EngineNumbers) -> int:
    return (numbers.requests or 0) - (numbers.failures or 0)
