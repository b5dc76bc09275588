"""How often Python looks for garbage in cycles: by default a third of a busy controller's time goes there.

What most messages leave behind is freed by counting alone. The collector, started by every 700 new objects, looks again
and again at all that a thousand nodes are known by, and finds nothing.
"""

import gc

_YOUNG, _MIDDLE, _OLD = 20_000, 20, 100


def collect_seldom() -> None:
    """What is loaded by now is looked at no more; the rest at a thirtieth of the usual pace, and old things at less."""
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
