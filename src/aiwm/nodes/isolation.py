"""Whether nodes have left this controller or this controller has left its nodes: pure.

Machines fail one by one; when most of a fleet vanishes within a minute, it is the controller's own link, switch or
site that failed. Then nothing may be concluded about the nodes: what they run goes on, and nothing is to be started
elsewhere. The verdict stays until most of those that vanished are back, however long that takes.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta

WINDOW = timedelta(seconds=60)
FEWEST = 3


@dataclass(frozen=True, slots=True)
class Outlook:
    """What was seen until now: who was there, who left lately and when, and, while isolated, who is missing.

    `population` is how many nodes there were when the isolation began, None when there is none.
    """

    there: frozenset[str] = frozenset()
    left: Mapping[str, datetime] = field(default_factory=dict)
    missing: frozenset[str] = frozenset()
    population: int | None = None

    @property
    def isolated(self) -> bool:
        """Whether the controller takes itself, and not its nodes, for what is gone."""
        return self.population is not None


def looked(before: Outlook, there: Set[str], registered: Set[str], *, at: datetime) -> Outlook:
    """The outlook after a look: `there` are connected nodes, `registered` all that are not deleted."""
    left = {node_id: when for node_id, when in before.left.items() if at - when <= WINDOW}
    left.update(dict.fromkeys(before.there - there, at))
    left = {node_id: when for node_id, when in left.items() if node_id in registered and node_id not in there}
    missing = frozenset((before.missing | left.keys()) & registered - there) if before.isolated else frozenset(left)
    population = before.population if before.isolated else len(left) + len(there)
    isolated = population is not None and len(missing) >= FEWEST and 2 * len(missing) > population
    return Outlook(
        there=frozenset(there),
        left=left,
        missing=missing if isolated else frozenset(),
        population=population if isolated else None,
    )
