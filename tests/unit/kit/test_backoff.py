import random
from itertools import islice

from aiwm.kit.backoff import delays


def test_delays_double_up_to_the_most_and_stay_in_the_upper_half() -> None:
    drawn = list(islice(delays(1.0, 8.0, rng=random.Random(7)), 6))
    for delay, ceiling in zip(drawn, [1, 2, 4, 8, 8, 8], strict=True):
        assert ceiling / 2 <= delay <= ceiling


def test_two_sequences_do_not_beat_in_time() -> None:
    assert list(islice(delays(1, 60), 8)) != list(islice(delays(1, 60), 8))
