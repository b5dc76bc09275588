"""How long to wait before trying again: exponential, bounded, jittered so that a fleet does not stampede."""

import random
from collections.abc import Iterator


def delays(first: float, most: float, *, rng: random.Random | None = None) -> Iterator[float]:
    """Endless delays in seconds: doubling from `first` up to `most`, each drawn from the upper half of its range."""
    draw = (rng or random.Random()).uniform
    ceiling = first
    while True:
        yield draw(ceiling / 2, ceiling)
        ceiling = min(ceiling * 2, most)
