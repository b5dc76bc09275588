"""Servers look for garbage seldom, and still find it."""

import gc
import weakref

from aiwm.kit.garbage import collect_seldom


class Knot:
    def __init__(self) -> None:
        self.itself = self


def test_cycles_are_still_collected_though_seldom() -> None:
    before = gc.get_threshold()
    try:
        collect_seldom()
        assert gc.isenabled()
        assert gc.get_threshold()[0] > before[0]
        knot = weakref.ref(Knot())
        kept = [[number] for number in range(3 * gc.get_threshold()[0])]
        assert knot() is None
        assert kept
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
