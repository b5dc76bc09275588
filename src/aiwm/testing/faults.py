"""Which fault strikes whom and when, drawn from a seed: pure, so that a run can be had again."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

SKEWED_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Faults:
    """None by default. Shares are of all nodes and a minute, in percent; times in seconds.

    `cut` is for how long, and once in how long, all links are down. `skew` is by how much the clocks of a tenth of the
    nodes are wrong. `slow` is added to every message. `crash` ends engines, in percent of those that run.
    """

    flap: float = 0.0
    cut: tuple[float, float] | None = None
    skew: float = 0.0
    slow: float = 0.0
    crash: float = 0.0


class Lots:
    """Draws `share` percent a minute out of whoever there is, evenly over time: no minute has more than its share."""

    def __init__(self, share: float, rng: random.Random) -> None:
        self._share, self._rng, self._owed = share, rng, 0.0

    def draw(self, names: Sequence[str], seconds: float) -> list[str]:
        """Who is struck in the `seconds` since the last draw."""
        self._owed += len(names) * self._share / 100 * seconds / 60
        due = min(int(self._owed), len(names))
        self._owed -= due
        return self._rng.sample(list(names), due)


def skew_of(number: int, nodes: int, faults: Faults, rng: random.Random) -> float:
    """By how many seconds the clock of node `number` (from 0) is off: ahead or behind, for one in ten, one at least."""
    skewed = max(1, round(nodes * SKEWED_SHARE))
    if not faults.skew or number >= skewed:
        return 0.0
    return faults.skew if rng.random() < 0.5 else -faults.skew
